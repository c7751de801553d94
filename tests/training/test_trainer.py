"""Training on tiny pairs: it learns, its numbers are right, and nothing that interrupts it changes where it ends."""

import errno
import itertools
import math
import shutil
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from dposcope.errors import DposcopeError
from dposcope.model.language_model import LanguageModel
from dposcope.training import trainer
from dposcope.training.batches.examples import Example, neutral_windows, tokenise
from dposcope.training.checkpoints import COMPLETE
from dposcope.training.collator import Material
from dposcope.training.objective import Objective
from dposcope.training.schedule import Schedule
from dposcope.training.train import Trained, train_policy
from dposcope.training.trainable import Trainable, all_weights, low_rank, neuron_gains
from helpers.damage import flip
from helpers.families import TEXTS, assert_close
from helpers.preferences import tiny_pairs

WAYS = {"full": all_weights, "lora": low_rank, "gains": neuron_gains}
RATES: dict[str, dict[str, Any]] = {
    "full": {"optimizer": "rmsprop", "learning_rate": 2e-3},
    "lora": {"optimizer": "adamw", "learning_rate": 1e-2},
    "gains": {"optimizer": "adamw", "learning_rate": 5e-2},
}
ON_PAIRS = Objective(kl_weight=0.05)
VARIANTS: dict[str, tuple[Objective, dict[str, Any]]] = {
    "whole batches": (ON_PAIRS, {}),
    "micro-batches": (ON_PAIRS, {"micro_batch_size": 2}),
    "neutral text": (Objective(kl_weight=0.5, kl_on="neutral"), {"micro_batch_size": 3}),
}
STEPS, EVERY, BATCH, TRAIN = 10, 4, 6, 20
"""An epoch is four steps, the last of them short; the end is neither an epoch's nor a validation's."""


def material(lm: LanguageModel) -> Material:
    examples = tokenise(lm, tiny_pairs())
    windows = neutral_windows(lm, "\n".join(TEXTS), count=9, length=12)
    return Material(examples[:TRAIN], examples[TRAIN:], windows)


@dataclass(frozen=True)
class Outcome:
    trained: Trained
    values: dict[str, torch.Tensor]
    """The trained parameters."""
    lm: LanguageModel
    """What was exported; with gains, the base."""

    @property
    def bits(self) -> dict[str, bytes]:
        return {name: value.numpy().tobytes() for name, value in self.values.items()}


def run(
    lm: LanguageModel,
    way: str,
    folder: Path,
    *,
    objective: Objective = ON_PAIRS,
    given: Material | None = None,
    callbacks: tuple[TrainerCallback, ...] = (),
    save: bool = True,
    progress=None,
    of_way: dict[str, Any] | None = None,
    **schedule,
) -> Outcome:
    """One training from its beginning, or from where `folder` has got to."""
    wanted = Schedule(
        **{
            "steps": STEPS,
            "validate_every": EVERY,
            "batch_size": BATCH,
            "warmup_steps": 2,
            "max_grad_norm": 1.0,
            **RATES[way],
            **schedule,
        }
    )
    context: AbstractContextManager[Trainable] = WAYS[way](lm, objective, **(of_way or {}))
    with context as trainable:
        trained = train_policy(
            lm,
            trainable,
            given or material(lm),
            wanted,
            folder=folder,
            callbacks=callbacks,
            save=save,
            progress=progress,
        )
        values = {name: value.detach().clone() for name, value in trainable.policy.trainable.items()}
        return Outcome(trained, values, trainable.export().lm)


def test_the_folder_may_be_a_text(llama, tmp_path):
    assert run(llama, "gains", str(tmp_path / "mine"), steps=2, validate_every=2).trained.steps == 2


class Stopped(BaseException):
    """What ends a process: no `except` of ours catches it."""


class StopAt(TrainerCallback):
    """Ends training after a step, before anything is validated or saved."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self._step:
            raise Stopped


class After(TrainerCallback):
    """Does something after a step, before anything is validated or saved."""

    def __init__(self, step: int, action) -> None:
        self._step, self._action = step, action

    def on_step_end(self, args, state, control, model, **kwargs):
        if state.global_step == self._step:
            self._action(model)


def checkpoints(folder: Path) -> dict[int, bool]:
    """Step → whether it is whole."""
    return {int(path.name.split("-")[1]): (path / COMPLETE).exists() for path in folder.glob("checkpoint-*")}


def logged(outcome: Outcome, name: str) -> list[float]:
    return [entry[name] for entry in outcome.trained.history if name in entry]


# It learns


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "way"),
    [
        *(("gpt2", "gains"), ("llama", "full"), ("gemma2", "full"), ("gemma3", "gains")),
        *(("mistral", "lora"), ("qwen2", "full"), ("qwen3", "gains"), ("smollm", "lora")),
    ],
)
def test_the_loss_falls_and_the_pairs_are_told_apart(family_lm, family, way, tmp_path, capfd):
    """Every family in some way."""
    lm = family_lm(family)
    rate = {"full": 5e-3, "lora": 1e-2, "gains": 0.3}[way]
    done = run(lm, way, tmp_path, save=False, steps=24, warmup_steps=0, learning_rate=rate)
    losses, accuracies = logged(done, "dpo"), logged(done, "accuracy")
    assert losses[-1] < 0.85 * losses[0]
    assert accuracies[-1] >= 0.8 > accuracies[0] + 0.1
    assert logged(done, "margin")[-1] > logged(done, "margin")[0] + 0.2
    assert logged(done, "kl")[-1] > 0
    assert (done.trained.steps, done.trained.best_step) == (24, None)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_both_start_as_the_same_model(lm, tmp_path):
    """log 2, no reward, no KL: at the first step the policy is the reference."""
    first = run(lm, "full", tmp_path, save=False, steps=1, validate_every=1).trained.history[0]
    assert first["dpo"] == pytest.approx(math.log(2), abs=1e-6)
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    for name in ("margin", "preferred_reward", "dispreferred_reward", "kl"):
        assert first[name] == pytest.approx(0, abs=1e-6)


def test_bfloat16_computation_learns_too(llama, tmp_path):
    done = run(llama, "full", tmp_path, save=False, steps=12, validate_every=2, warmup_steps=0, autocast=True)
    assert logged(done, "dpo")[-1] < 0.5 * logged(done, "dpo")[0]
    assert {value.dtype for value in done.values.values()} == {torch.float32}


# Its numbers


@torch.no_grad()
def naive_distributions(lm: LanguageModel, prompt, completion) -> torch.Tensor:
    """Log-probabilities over the vocabulary at each token of a completion, `[n, V]`, by one plain pass."""
    ids = torch.tensor([[*prompt, *completion]])
    return lm.model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].double().log_softmax(-1)


def naive_numbers(tuned: LanguageModel, base: LanguageModel, pairs: list[Example], objective: Objective, kl_of=None):
    """What is logged, from the paper's equations, one pair and one token at a time; means over pairs."""
    rows = []
    for example in pairs:
        rewards, divergences = [], []
        for completion in example.completions:
            new, old = (naive_distributions(one, example.prompt, completion) for one in (tuned, base))
            rewards.append(
                objective.beta * sum(float(new[i, token] - old[i, token]) for i, token in enumerate(completion))
            )
            divergences.append(
                sum(float((old[i].exp() * (old[i] - new[i])).sum()) for i in range(len(completion))) / len(completion)
            )
        margin = rewards[0] - rewards[1]
        dpo = math.log1p(math.exp(-margin))
        kl = sum(divergences) if kl_of is None else kl_of
        rows.append(
            {
                "loss": dpo + objective.kl_weight * kl,
                "dpo": dpo,
                "accuracy": float(margin > 0),
                "margin": margin,
                "preferred_reward": rewards[0],
                "dispreferred_reward": rewards[1],
                "kl": kl,
            }
        )
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


@pytest.mark.slow
def test_validation_is_the_mean_over_pairs_of_the_papers_loss(lm, tmp_path):
    """In parts of 2 of which the last may be 1 and must not weigh more."""
    _validation_is_naive(lm, tmp_path, micro=2)


def test_validation_in_one_part(llama, tmp_path):
    _validation_is_naive(llama, tmp_path, micro=None)


def _validation_is_naive(lm: LanguageModel, folder: Path, *, micro: int | None) -> None:
    whole = material(lm)
    given = replace(whole, validation=whole.validation[:5])
    done = run(lm, "full", folder, given=given, steps=4, micro_batch_size=micro, save=False)
    expected = naive_numbers(done.lm, lm, list(given.validation), ON_PAIRS)
    assert {name: logged(done, f"eval_{name}")[-1] for name in expected} == pytest.approx(expected, rel=2e-5, abs=2e-6)


@torch.no_grad()
def published_kl(tuned: LanguageModel, base: LanguageModel, pairs: list[Example], at_once: int) -> float:
    """SPEC 6, reference: the KL of both rows of a pair, averaged over all positions, padding to the longest row of a
    batch among them; the mean over pairs."""
    found = []
    for start in range(0, len(pairs), at_once):
        texts = [[*one.prompt, *completion] for one in pairs[start : start + at_once] for completion in one.completions]
        width = max(map(len, texts))
        ids = torch.tensor([[*text, *[base.pad_id] * (width - len(text))] for text in texts])
        new, old = (one.model(input_ids=ids, use_cache=False).logits.double().log_softmax(-1) for one in (tuned, base))
        rows = (old.exp() * (old - new)).sum(-1).mean(1).tolist()
        found += [a + b for a, b in zip(rows[::2], rows[1::2], strict=True)]
    return sum(found) / len(found)


def test_the_reference_protocol_validates_in_batches_of_their_own(llama, tmp_path):
    """Whatever the micro-batch: the paper reads 8 at a time."""
    whole = material(llama)
    given = replace(whole, validation=whole.validation[:5])
    objective = Objective(kl_weight=0.05, protocol="reference")
    sizes = {"micro_batch_size": 1, "validation_batch_size": 4}
    done = run(llama, "full", tmp_path, objective=objective, given=given, steps=4, save=False, **sizes)
    together, apart = (published_kl(done.lm, llama, list(given.validation), at_once) for at_once in (4, 1))
    assert logged(done, "eval_kl")[-1] == pytest.approx(together, rel=2e-5)
    assert together != pytest.approx(apart, rel=1e-2)


def test_the_neutral_kl_is_that_of_its_windows(llama, tmp_path):
    objective = Objective(kl_weight=0.5, kl_on="neutral")
    whole = material(llama)
    given = replace(whole, windows=whole.windows[:1])
    done = run(llama, "full", tmp_path, objective=objective, given=given, steps=4, save=False)
    (window,) = given.windows
    new, old = (naive_distributions(one, window.prompt[:1], window.prompt[1:]) for one in (done.lm, llama))
    kl = float((old.exp() * (old - new)).sum(1).mean())
    expected = naive_numbers(done.lm, llama, list(given.validation), objective, kl_of=kl)
    assert {name: logged(done, f"eval_{name}")[-1] for name in expected} == pytest.approx(expected, rel=2e-5, abs=2e-6)
    assert kl > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "way"), [("gpt2", "gains"), ("llama", "full"), ("gemma2", "full"), ("qwen3", "gains")]
)
def test_micro_batches_give_the_gradient_of_the_whole_batch(family_lm, tmp_path, family, way):
    lm = family_lm(family)
    whole = material(lm)
    given = replace(whole, train=whole.train[:8])
    gradients: dict[int | None, dict[str, torch.Tensor]] = {}

    class Keep(TrainerCallback):
        def __init__(self, micro):
            self._micro = micro

        def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
            gradients[self._micro] = {name: value.grad.clone() for name, value in model.trainable.items()}

    # Two steps, as all rewards are zero at the first; gradients are seen before they are cut to length 10⁶.
    common = {
        "steps": 2,
        "validate_every": 2,
        "batch_size": 8,
        "warmup_steps": 0,
        "max_grad_norm": 1e6,
        "save": False,
        "given": given,
    }
    runs = {
        micro: run(lm, way, tmp_path / str(micro), callbacks=(Keep(micro),), micro_batch_size=micro, **common)
        for micro in (None, 2)
    }
    for name, gradient in gradients[None].items():
        assert_close(gradients[2][name], gradient, 1e-4)
    assert runs[2].trained.history[0]["loss"] == pytest.approx(runs[None].trained.history[0]["loss"], rel=1e-5)
    if way == "gains":  # RMSprop moves a weight whose gradient is rounding noise by as much as any other
        assert_close(runs[2].values["gains"], runs[None].values["gains"], 1e-4)


def test_the_logged_loss_is_the_mean_over_steps_and_its_parts_are_means_over_pairs(llama, tmp_path):
    """Of six pairs and one: docs/reference/files.md says so."""
    whole = material(llama)
    common = {"given": replace(whole, train=whole.train[:7]), "steps": 2, "warmup_steps": 0, "save": False}
    each, both = (
        run(llama, "gains", tmp_path / str(every), validate_every=every, **common).trained.history for every in (1, 2)
    )
    six, one = (entry for entry in each if "loss" in entry)
    (joint,) = (entry for entry in both if "loss" in entry)
    assert six["dpo"] != pytest.approx(one["dpo"], rel=1e-3)
    assert joint["loss"] == pytest.approx((six["loss"] + one["loss"]) / 2)
    for name in ("dpo", "kl", "margin", "accuracy"):
        assert joint[name] == pytest.approx((6 * six[name] + one[name]) / 7)


def test_another_seed_is_another_order(llama, tmp_path):
    runs = [run(llama, "gains", tmp_path / str(seed), seed=seed, save=False, steps=3) for seed in (0, 1, 0)]
    assert runs[0].bits == runs[2].bits != runs[1].bits


def test_the_rate_warms_up_and_stays(llama, tmp_path):
    done = run(llama, "gains", tmp_path, save=False, validate_every=1, steps=6, warmup_steps=4)
    rate = RATES["gains"]["learning_rate"]
    assert logged(done, "learning_rate") == pytest.approx([0, rate / 4, rate / 2, rate * 3 / 4, rate, rate])


def test_the_rate_falls_in_a_line_where_that_is_asked(llama, tmp_path):
    done = run(llama, "gains", tmp_path, save=False, validate_every=1, steps=6, warmup_steps=2, decay="linear")
    rate = RATES["gains"]["learning_rate"]
    assert logged(done, "learning_rate") == pytest.approx([0, rate / 2, rate, rate * 3 / 4, rate / 2, rate / 4])


# Sparse gains


def test_a_penalty_is_taken_exactly_after_each_step(llama, tmp_path):
    """One step without it, then every change nearer to 0 by rate × μ, and none past it."""
    plain = run(llama, "gains", tmp_path / "a", save=False, steps=1, warmup_steps=0)
    sparse = run(llama, "gains", tmp_path / "b", save=False, steps=1, warmup_steps=0, of_way={"sparsity": 0.4})
    step, back = plain.values["gains"] - 1, 0.4 * RATES["gains"]["learning_rate"]
    naive = torch.tensor(
        [[max(abs(float(d)) - back, 0.0) * (1 if d > 0 else -1) for d in row] for row in step], dtype=torch.float32
    )
    torch.testing.assert_close(sparse.values["gains"], 1 + naive, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_larger_penalty_leaves_more_gains_at_exactly_one(family_lm, tmp_path, family):
    lm = family_lm(family)
    untouched = [
        float((run(lm, "gains", tmp_path / str(mu), save=False, of_way={"sparsity": mu}).values["gains"] == 1).sum())
        for mu in (0.0, 0.3, 0.7)
    ]
    size = lm.n_blocks * lm.d_mlp
    assert untouched[0] < 0.05 * size
    assert untouched[0] < untouched[1] < untouched[2] <= size


def test_sparse_gains_resume_with_the_same_bits(llama, tmp_path):
    sparse = {"sparsity": 0.3}
    expected = run(llama, "gains", tmp_path / "undisturbed", of_way=sparse)
    with pytest.raises(Stopped):
        run(llama, "gains", tmp_path / "stopped", callbacks=(StopAt(6),), of_way=sparse)
    assert run(llama, "gains", tmp_path / "stopped", of_way=sparse).bits == expected.bits


def test_progress_counts_steps(llama, tmp_path):
    seen: list[tuple[int, int]] = []
    run(llama, "gains", tmp_path, save=False, steps=3, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


# Interruptions


@pytest.fixture
def undisturbed(llama, tmp_path):
    """(way, variant) → a training that nothing interrupts."""

    def make(way: str, variant: str, **more) -> Outcome:
        objective, options = VARIANTS[variant]
        return run(llama, way, tmp_path / "undisturbed", objective=objective, **options, **more)

    return make


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "variant"),
    [
        ("full", "neutral text"),
        ("gains", "whole batches"),
        ("lora", "micro-batches"),
    ],
)
def test_stopped_again_and_again_it_ends_with_the_same_bits(llama, undisturbed, tmp_path, monkeypatch, way, variant):
    expected = undisturbed(way, variant)
    objective, options = VARIANTS[variant]
    folder = tmp_path / "stopped"

    def stopped(*callbacks: TrainerCallback) -> None:
        with pytest.raises(Stopped):
            run(llama, way, folder, objective=objective, callbacks=callbacks, **options)

    stopped(StopAt(2))
    assert checkpoints(folder) == {}
    stopped(StopAt(6))
    assert checkpoints(folder) == {4: True}
    with monkeypatch.context() as patch:  # while checkpoint 8 is written
        patch.setattr(trainer, "seal", _stop)
        stopped()
    assert checkpoints(folder) == {4: True, 8: False}
    for file in (folder / "checkpoint-8").iterdir():
        file.write_bytes(file.read_bytes()[:20])
    stopped(StopAt(9))
    assert checkpoints(folder) == {4: True, 8: True}
    with monkeypatch.context() as patch:  # while checkpoint 4, no longer needed, is removed
        patch.setattr("dposcope.training.checkpoints.shutil", _HalfRemoves)
        stopped()
    assert checkpoints(folder) == {4: False, 8: True, 10: True}
    resumed = run(llama, way, folder, objective=objective, **options)
    assert resumed.bits == expected.bits
    assert resumed.trained == expected.trained
    assert checkpoints(folder) == {8: True, 10: True}


def _stop(*_: Any) -> None:
    raise Stopped


class _HalfRemoves:
    """`shutil` of a process that is killed while it removes a folder."""

    @staticmethod
    def rmtree(path: Path, ignore_errors: bool = False) -> None:
        (path / "optimizer.pt").unlink()
        raise Stopped


@pytest.mark.parametrize(("way", "steps"), [("full", 8), ("lora", 10), ("gains", 8), ("gains", 10)])
def test_started_again_after_its_end_it_changes_nothing(llama, tmp_path, way, steps):
    """At the end of an epoch and in the midst of one: no step more is made."""
    first = run(llama, way, tmp_path, steps=steps)
    seen = []
    again = run(llama, way, tmp_path, steps=steps, progress=lambda *step: seen.append(step))
    assert again.bits == first.bits
    assert again.trained == first.trained
    assert seen == []


def stopping(**more) -> dict[str, Any]:
    """Settings under which the validation loss soon rises."""
    return {"steps": 40, "validate_every": 2, "patience": 2, **more}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_early_stopping_takes_the_best(llama, tmp_path, way):
    rate = {"full": 5e-3, "lora": 5e-2, "gains": 0.5}[way]
    done = run(llama, way, tmp_path / "a", **stopping(learning_rate=rate))
    losses = {entry["step"]: entry["eval_loss"] for entry in done.trained.history if "eval_loss" in entry}
    best = min(losses, key=losses.__getitem__)
    assert done.trained.best_step == best
    assert done.trained.steps == best + 2 * 2 < 40
    assert checkpoints(tmp_path / "a") == dict.fromkeys((best, best + 2, done.trained.steps), True)
    shorter = run(llama, way, tmp_path / "b", **stopping(learning_rate=rate, steps=best, patience=None))
    assert done.bits == shorter.bits
    assert shorter.trained.best_step is None


@pytest.mark.slow
def test_interrupted_early_stopping_is_the_same(llama, tmp_path, monkeypatch):
    """Also where it stopped between the best and the last, whose patience is partly used up."""
    expected = run(llama, "gains", tmp_path / "undisturbed", **stopping(learning_rate=0.5))
    best, last = expected.trained.best_step, expected.trained.steps
    for step in range(1, last + 1):
        with pytest.raises(Stopped):
            run(llama, "gains", tmp_path / "stopped", callbacks=(StopAt(step),), **stopping(learning_rate=0.5))
    assert checkpoints(tmp_path / "stopped") == {best: True, last - 2: True}
    monkeypatch.chdir(tmp_path)  # the same folder by another name
    for _ in range(2):
        again = run(llama, "gains", Path("stopped"), **stopping(learning_rate=0.5))
        assert again.bits == expected.bits
        assert again.trained == expected.trained


def test_a_stale_checkpoint_is_not_taken_when_the_best_is_kept(llama, tmp_path, monkeypatch):
    """Killed while a checkpoint between the best and the newest is removed."""
    settings = stopping(learning_rate=0.5, patience=3)
    expected = run(llama, "gains", tmp_path / "undisturbed", **settings)
    best = expected.trained.best_step
    folder = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr("dposcope.training.checkpoints.shutil", _RemovesOnly(best))
        with pytest.raises(Stopped):
            run(llama, "gains", folder, **settings)
    assert {step for step, whole in checkpoints(folder).items() if not whole} == {best + 2}
    assert run(llama, "gains", folder, **settings).bits == expected.bits


@dataclass(frozen=True)
class _RemovesOnly:
    """Removes checkpoints up to a step; is killed in the first later one."""

    last: int

    def rmtree(self, path: Path, ignore_errors: bool = False) -> None:
        if int(path.name.split("-")[1]) > self.last:
            (path / "optimizer.pt").unlink()
            raise Stopped
        shutil.rmtree(path)


def test_checkpoints_hold_only_what_is_trained(llama, tmp_path):
    done = run(llama, "gains", tmp_path)
    stored = load_file(tmp_path / "checkpoint-10/trained.safetensors")
    assert {name: value.numpy().tobytes() for name, value in stored.items()} == done.bits
    assert sum(value.numel() for value in stored.values()) == llama.n_blocks * llama.d_mlp


# What goes wrong


def test_a_loss_that_is_no_number_stops_it_and_leaves_the_last_good_checkpoint(llama, undisturbed, tmp_path):
    def spoil(model) -> None:
        with torch.no_grad():
            next(iter(model.trainable.values())).fill_(math.nan)

    expected = undisturbed("gains", "whole batches")
    folder = tmp_path / "spoiled"
    # At step 6 the next pairs notice, at step 8 the validation does, before anything is saved.
    for step, noticed in ((6, 7), (8, 9)):
        with pytest.raises(DposcopeError, match=rf"the loss became nan at step {noticed}; .*lower --learning-rate"):
            run(llama, "gains", folder, callbacks=(After(step, spoil),))
        assert checkpoints(folder) == {4: True}
    stored = load_file(folder / "checkpoint-4/trained.safetensors")
    assert all(bool(value.isfinite().all()) for value in stored.values())
    assert run(llama, "gains", folder).bits == expected.bits


def test_a_rate_far_too_high_is_told(llama, tmp_path):
    with pytest.raises(
        DposcopeError, match=r"(the loss|a weight) became .*; there is no checkpoint yet: lower --learn"
    ):
        run(llama, "full", tmp_path, learning_rate=1e30, warmup_steps=0)
    assert checkpoints(tmp_path) == {}


def test_a_weight_that_is_no_number_is_never_saved(llama, tmp_path):
    """One that no loss has noticed: the embedding of a token that no text has."""
    used = {
        token for example in material(llama).train for part in (example.prompt, *example.completions) for token in part
    }
    used |= {t for e in material(llama).validation for part in (e.prompt, *e.completions) for t in part}
    unused = next(token for token in range(96) if token not in used)

    def spoil(model) -> None:
        with torch.no_grad():
            model.trainable["model.embed_tokens.weight"][unused] = math.inf

    with pytest.raises(DposcopeError, match="a weight became NaN or infinite by step 8; the last good checkpoint"):
        run(llama, "full", tmp_path, callbacks=(After(6, spoil),))
    assert checkpoints(tmp_path) == {4: True}


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("weights", OSError(errno.ENOSPC, "No space left on device")),
        ("optimizer", RuntimeError("[enforce fail at inline_container.cc] . PytorchStreamWriter failed\nand more")),
    ],
)
def test_a_full_disk_keeps_the_last_good_checkpoint(llama, undisturbed, tmp_path, monkeypatch, where, error):
    expected = undisturbed("gains", "whole batches")
    folder = tmp_path / "full"
    with pytest.raises(Stopped):
        run(llama, "gains", folder, callbacks=(StopAt(6),))

    def fail(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(*((trainer, "save_file") if where == "weights" else (torch, "save")), fail)
        with pytest.raises(DposcopeError, match=r"cannot write .*checkpoint-8: .*; .* free some space") as told:
            run(llama, "gains", folder)
    assert "\n" not in str(told.value)
    assert checkpoints(folder) == {4: True}
    assert run(llama, "gains", folder).bits == expected.bits


def test_checkpoints_of_another_training_are_refused(llama, tmp_path):
    for way, other in itertools.permutations(["gains", "full"]):
        folder = tmp_path / way
        with pytest.raises(Stopped):
            run(llama, way, folder, callbacks=(StopAt(6),))
        with pytest.raises(DposcopeError, match="holds other parameters than this training; choose another --out"):
            run(llama, other, folder)


def test_checkpoints_of_another_shape_are_refused(llama, tmp_path):
    """Rank 1 and rank 16 have the same names, and one could be broadcast to the other."""
    given, schedule = material(llama), Schedule(**RATES["lora"], steps=2, validate_every=1, batch_size=BATCH)
    with low_rank(llama, ON_PAIRS, rank=1) as trainable:
        train_policy(llama, trainable, given, schedule, folder=tmp_path)
    with low_rank(llama, ON_PAIRS, rank=16) as trainable, pytest.raises(DposcopeError, match="other parameters"):
        train_policy(llama, trainable, given, replace(schedule, steps=3), folder=tmp_path)


@pytest.mark.parametrize("file", ["trained.safetensors", "optimizer.pt", "trainer_state.json", COMPLETE])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(llama, undisturbed, tmp_path, file):
    expected = undisturbed("gains", "whole batches")
    with pytest.raises(Stopped):
        run(llama, "gains", tmp_path, callbacks=(StopAt(9),))
    flip(tmp_path / "checkpoint-8" / file)
    seen: list[int] = []
    again = run(llama, "gains", tmp_path, progress=lambda done, _: seen.append(done))
    assert seen[0] == 5
    assert again.bits == expected.bits
