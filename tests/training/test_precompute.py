"""The reference read from disk instead of run: the same states, the same loss, the same training."""

from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from dposcope.errors import DposcopeError
from dposcope.model.language_model import LanguageModel
from dposcope.processes.group import Processes
from dposcope.training import precompute
from dposcope.training.batches.examples import Example, neutral_windows, tokenise
from dposcope.training.batches.packing import PackedBatch
from dposcope.training.collator import VALIDATION, Collator, Material
from dposcope.training.objective import Objective
from dposcope.training.policy import BatchLoss
from dposcope.training.precompute import ReferenceStates, precompute_reference, shards
from dposcope.training.schedule import Schedule
from dposcope.training.train import train_policy
from dposcope.training.trainable import Trainable, all_weights, low_rank, neuron_gains
from helpers.damage import flip
from helpers.families import TEXTS, assert_close, copied
from helpers.preferences import tiny_pairs

OBJECTIVES = {"pairs": Objective(kl_weight=0.3), "neutral": Objective(kl_weight=0.3, kl_on="neutral")}
SCHEDULE = Schedule(optimizer="adamw", learning_rate=2e-2, batch_size=4, warmup_steps=0, steps=6, validate_every=3)
WAYS = {"full": all_weights, "lora": low_rank, "gains": neuron_gains}


def material(lm: LanguageModel, *, train: int = 11, validation: int = 5, windows: int = 7) -> Material:
    examples = tokenise(lm, tiny_pairs(train + validation))
    pool = neutral_windows(lm, "\n".join(TEXTS), count=windows, length=12)
    return Material(examples[:train], examples[train:], pool)


def parts(given: Material) -> dict:
    return {"train": given.train, "validation": given.validation, "window": given.windows}


def computed(lm: LanguageModel, trainable: Trainable, given: Material, path: Path, **options) -> ReferenceStates:
    precompute_reference(lm, trainable.policy, parts(given), path, **options)
    return ReferenceStates(path, validation_offset=VALIDATION)


def change(trainable: Trainable) -> None:
    """Move the policy away from its reference."""
    stream = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in trainable.policy.trainable.values():
            value.add_(torch.randn(value.shape, generator=stream), alpha=0.05)


@torch.no_grad()
def naive_states(lm: LanguageModel, prompt, completion) -> torch.Tensor:
    """Final-norm outputs at the places that predict a completion, `[n, d]`, by one plain pass."""
    ids = torch.tensor([[*prompt, *completion]])
    return lm.model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0, len(prompt) - 1 : -1]


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_states_are_those_of_plain_passes_in_the_order_of_a_batch(lm, tmp_path, batch_size):
    given = material(lm)
    with neuron_gains(lm, OBJECTIVES["pairs"]) as trainable:
        change(trainable)
        states = computed(lm, trainable, given, tmp_path / "r", batch_size=batch_size)
    found = states.of_batch([4, VALIDATION + 2, 0], [6, 1])
    pairs = [given.train[4], given.validation[2], given.train[0]]
    expected = [naive_states(lm, pair.prompt, pair.completions[side]) for side in (0, 1) for pair in pairs]
    expected += [naive_states(lm, given.windows[w].prompt[:1], given.windows[w].prompt[1:]) for w in (6, 1)]
    assert_close(found, torch.cat(expected), 1e-5)


@pytest.mark.parametrize("kl_on", OBJECTIVES)
@pytest.mark.parametrize("way", WAYS)
def test_the_loss_and_its_gradients_are_those_of_a_live_reference(lm, tmp_path, way, kl_on):
    """With all weights the base itself is trained: its old outputs and its old unembedding must stand in."""
    given, objective = material(lm), OBJECTIVES[kl_on]
    found: list[tuple[BatchLoss, dict[str, torch.Tensor]]] = []
    for stored in (False, True):
        base = copied(lm)
        options = {"in_place": True} if way == "full" and stored else {}
        with WAYS[way](base, objective, **options) as trainable:
            states = computed(base, trainable, given, tmp_path / "r") if stored else None
            change(trainable)
            collate = Collator(base, given, objective, SCHEDULE, states)
            tensors = collate([3, VALIDATION + 1, 7])
            assert ("reference_hidden" in tensors) == stored
            batch = PackedBatch(*(tensors[name] for name in PackedBatch.__dataclass_fields__))
            loss = trainable.policy(batch, int(tensors["windows"]), tensors.get("reference_hidden"))
            loss.loss.backward()
            found.append((loss, {name: value.grad.clone() for name, value in trainable.policy.trainable.items()}))
    (live, live_gradients), (kept, kept_gradients) = found
    assert_close(kept.loss.detach(), live.loss.detach(), 1e-5)
    assert_close(kept.penalty, live.penalty, 1e-5)
    assert_close(kept.terms.margins, live.terms.margins, 1e-5)
    assert float(live.penalty) > 1e-4
    assert float(live.terms.margins.abs().min()) > 1e-5
    for name, gradient in live_gradients.items():
        assert_close(kept_gradients[name], gradient, 1e-4)


@pytest.mark.parametrize("kl_on", OBJECTIVES)
def test_training_ends_the_same(llama, tmp_path, kl_on):
    given, objective = material(llama), OBJECTIVES[kl_on]
    ends = {}
    for stored in (False, True):
        base = copied(llama)
        # RMSprop's first steps go by the sign of a gradient, however near to 0; float32 would round some over it.
        base.model.double()
        with all_weights(base, objective, in_place=stored) as trainable:
            states = computed(base, trainable, given, tmp_path / "r") if stored else None
            schedule = Schedule(learning_rate=1e-4, batch_size=4, warmup_steps=0, steps=6, validate_every=3)
            done = train_policy(
                base, trainable, given, schedule, folder=tmp_path / str(stored), reference=states, save=False
            )
            values = {name: value.detach().clone() for name, value in trainable.policy.trainable.items()}
            ends[stored] = (done.history, values)
    (live, live_values), (kept, kept_values) = ends[False], ends[True]
    assert len(live) == len(kept) == 4
    for mine, theirs in zip(kept, live, strict=True):
        # At the first step margins are 0 up to rounding, and their signs are nobody's.
        del mine[accuracy := "eval_accuracy" if "eval_loss" in mine else "accuracy"], theirs[accuracy]
        assert mine == pytest.approx(theirs, rel=1e-5, abs=1e-6)
    base = {name: value.detach() for name, value in llama.model.named_parameters()}
    moved = sum(float((value - base[name]).square().sum()) for name, value in live_values.items())
    apart = sum(float((value - kept_values[name]).square().sum()) for name, value in live_values.items())
    assert moved > 0
    assert apart < 1e-4**2 * moved


def test_no_second_copy_is_held(llama):
    with ExitStack() as stack:
        base = copied(llama)
        trainable = stack.enter_context(all_weights(base, OBJECTIVES["pairs"], in_place=True))
        mine = {value.data_ptr() for value in base.model.parameters()}
        assert {value.data_ptr() for value in trainable.policy.trainable.values()} <= mine


def test_progress_counts_examples(llama, tmp_path):
    seen: list[tuple[int, int]] = []
    with neuron_gains(llama, OBJECTIVES["pairs"]) as trainable:
        given = material(llama)
        computed(llama, trainable, given, tmp_path / "r", progress=lambda *step: seen.append(step), batch_size=4)
    assert seen == [(4, 23), (8, 23), (11, 23), (15, 23), (16, 23), (20, 23), (23, 23)]


def test_no_file_holds_more_than_its_bound_and_a_killed_computation_goes_on(llama, tmp_path):
    """Six batches' worth of files where a batch is the least there can be; one whose files went is made alike."""
    given = parts(material(llama))
    seen: list[tuple[int, int]] = []

    def compute(folder: Path, **options) -> dict[str, bytes]:
        precompute_reference(llama, trainable.policy, given, folder, batch_size=4, shard_bytes=1, **options)
        return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}

    def kill(done: int, _: int) -> None:
        if done == 15:
            raise KeyboardInterrupt

    with neuron_gains(llama, OBJECTIVES["pairs"]) as trainable:
        whole = compute(tmp_path / "whole")
        names = ["train-00000000", "train-00000004", "train-00000008", "validation-00000000", "validation-00000004"]
        assert sorted(whole) == [f"{name}.safetensors" for name in [*names, "window-00000000", "window-00000004"]]
        with pytest.raises(KeyboardInterrupt):
            compute(tmp_path / "killed", progress=kill)
        assert sorted(path.stem for path in (tmp_path / "killed").glob("*.safetensors")) == names[:3]
        assert compute(tmp_path / "killed", progress=lambda *step: seen.append(step)) == whole
        assert seen == [(15, 23), (16, 23), (20, 23), (23, 23)]
        # Several processes make every so many files each.
        for rank in (0, 1):
            compute(tmp_path / "shared", processes=Processes(rank, 2))
            assert len(list((tmp_path / "shared").glob("*.safetensors"))) == (4, 7)[rank]
        assert compute(tmp_path / "shared") == whole
        flip(tmp_path / "shared/train-00000004.safetensors")
        seen.clear()
        assert compute(tmp_path / "shared", progress=lambda *step: seen.append(step)) == whole
        assert seen == [(23, 23)]  # the damaged one alone


def test_files_are_as_large_as_was_asked_and_hold_whole_batches(tmp_path):
    pair = Example((1, 2), ((3,) * 5, (4,) * 7))
    given = {"train": [pair] * 50, "window": [Example((1, 2, 3))] * 10}
    # 4 bytes × 16 wide × 12 tokens × 8 pairs = 6,144 bytes a batch.
    found = shards(given, tmp_path, width=16, shard_bytes=13_000)
    assert [(one.part, one.start, one.stop) for one in found] == [
        *(("train", start, min(start + 16, 50)) for start in (0, 16, 32, 48)),
        ("window", 0, 10),
    ]


def test_a_damaged_or_missing_file_is_told(llama, tmp_path):
    folder = tmp_path / "r"
    with neuron_gains(llama, OBJECTIVES["pairs"]) as trainable:
        precompute_reference(llama, trainable.policy, parts(material(llama)), folder)
    path = folder / "train-00000000.safetensors"
    whole = path.read_bytes()
    for content in (whole[:-100], whole[:5], b""):
        path.write_bytes(content)
        with pytest.raises(DposcopeError, match=r"cannot read .*0\.safetensors: .*; delete it and run again") as told:
            ReferenceStates(folder, validation_offset=VALIDATION)
        assert "\n" not in str(told.value)
    with pytest.raises(DposcopeError, match="holds no outputs of a reference"):
        ReferenceStates(tmp_path / "other", validation_offset=VALIDATION)


def test_a_full_disk_leaves_no_part(llama, tmp_path, monkeypatch):
    def fail(*_) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(precompute, "save_file", fail)
    with neuron_gains(llama, OBJECTIVES["pairs"]) as trainable:
        given = parts(material(llama))
        with pytest.raises(DposcopeError, match=r"cannot write .*0\.safetensors: No space left .*; free some space"):
            precompute_reference(llama, trainable.policy, given, tmp_path)
    assert list(tmp_path.iterdir()) == []
