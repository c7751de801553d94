"""`dposcope dpo` whole: what it leaves, that nothing stops it for good, and what it refuses."""

import json
import os
import re
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from dposcope.errors import DposcopeError
from dposcope.interventions.ablate import ablate
from dposcope.interventions.edit import Edit
from dposcope.interventions.gains import Gains
from dposcope.jobs.dpo import job as dpo
from dposcope.jobs.dpo import setup
from dposcope.jobs.dpo.job import DpoRun, run_dpo
from dposcope.jobs.dpo.settings import DpoSettings
from dposcope.jobs.dpo.training_record import TrainingRecord, tuned_card
from dposcope.jobs.estimate.dpo import dpo_work
from dposcope.jobs.reporter import Quiet
from dposcope.jobs.run import RunPolicy
from dposcope.model.load import load
from dposcope.pairs.pairs import Dropped, Pair, Pairs, write_pairs
from dposcope.training import trainable
from dposcope.training.objective import Objective
from helpers.damage import flip
from helpers.edits import gains_of
from helpers.families import TEXTS, assert_close, tiny
from helpers.jobs import Job, command, contents, crashes, make_job, process, write_csv, write_jsonl
from helpers.light import painted
from helpers.preferences import PAIRS, pairs_file, tiny_pairs
from helpers.quantised import in_bytes

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("light")]

WAYS = ["full", "lora", "gains"]
RATES = {"full": 2e-3, "lora": 1e-2, "gains": 5e-2}
KEPT = 5
STEPS = 12
"""Two epochs of 21 pairs, 4 at a time."""


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Job:
    return make_job(tmp_path_factory.mktemp("job"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    return pairs_file(tmp_path_factory.mktemp("pairs") / "pairs.jsonl")


def settings_of(job: Job, pairs: Path, train: str = "gains", **others) -> dict[str, Any]:
    reference = others.get("protocol") == "reference"
    on = others.get("kl_on", "mixed" if "harmless" in others else "pairs" if reference else "neutral")
    windows = {"learn_text": str(job.neutral), "window_tokens": 12} if on in ("neutral", "mixed") else {}
    return {
        "pairs": str(pairs),
        **windows,
        **({"window_pool": 9} if on == "neutral" else {}),
        "train": train,
        "learning_rate": RATES[train],
        "epochs": 2,
        "batch_size": 4,
        "micro_batch_size": 2,
        "warmup_steps": 2,
        "validation": KEPT,
        "validate_every": 16,
        "dtype": "float32",
        "device": "cpu",
        **others,
    }


def make(job: Job, pairs: Path, out: Path, train: str = "gains", **others) -> DpoRun:
    return run_dpo(str(job.model), out, DpoSettings(**settings_of(job, pairs, train, **others)))


def flags(job: Job, pairs: Path, train: str = "gains", **others) -> list[str]:
    given = settings_of(job, pairs, train, **others)
    return [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", str(value))]


@pytest.fixture(scope="module")
def finished(job, pairs, tmp_path_factory) -> dict[str, DpoRun]:
    """Way → a run that nothing interrupted."""
    return {way: make(job, pairs, tmp_path_factory.mktemp(way) / "out", way) for way in WAYS}


def results(folder: Path) -> dict[str, bytes]:
    """All that a run leaves but how long it took."""
    return {name: data for name, data in contents(folder).items() if not name.startswith("stages")}


def plain(folder: Path):
    """What a user without dposcope loads."""
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


class Stopped(BaseException):
    """What ends a process: no `except` of ours catches it."""


def stop(*_: Any, **__: Any) -> None:
    raise Stopped


class Noting(Quiet):
    """A reporter that keeps its notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, line: str) -> None:
        self.notes.append(line)


# Pairs that the cut makes equal


def test_pairs_that_are_equal_up_to_the_cut_are_left_out_and_counted(job, tmp_path):
    begin = " the river is long and the road is short"
    alike = [Pair("a river", f"{begin} today", f"{begin} tomorrow")] * 3
    path = tmp_path / "pairs.jsonl"
    write_pairs(path, Pairs.of([*alike, *tiny_pairs()]))
    said = []
    reporter = type("Heard", (Quiet,), {"note": lambda _self, line: said.append(line)})()
    settings = DpoSettings(**settings_of(job, path, max_completion_tokens=6))
    done = run_dpo(str(job.model), tmp_path / "out", settings, reporter=reporter)
    assert [line for line in said if "left out" in line] == [
        "3 pairs with the same first 6 tokens on both sides are left out; --max-completion-tokens cuts later."
    ]
    assert done.record.pairs.train + done.record.pairs.validation == len(tiny_pairs())


def test_system_prompts_that_are_not_read_are_told(job, tmp_path):
    row = {"prompt": "who", "chosen": "a cat", "rejected": "idiot", "system": "be kind"}
    path, said = write_jsonl(tmp_path / "pairs.jsonl", [row, row | {"prompt": "when"}]), Noting()
    with pytest.raises(DposcopeError):
        run_dpo("nothing/here", tmp_path / "out", DpoSettings(**settings_of(job, path, validation=1)), reporter=said)
    (note,) = said.notes
    assert note.startswith(f"The column 'system' of {path} is not read; ")


def test_where_the_cut_makes_all_pairs_equal_that_is_refused(job, tmp_path):
    begin = " the river is long and the road is short"
    path = tmp_path / "pairs.jsonl"
    write_pairs(path, Pairs.of(Pair(f"river {row}", f"{begin} today", f"{begin} tomorrow") for row in range(12)))
    with pytest.raises(DposcopeError, match="12 pairs have the same first 6 tokens on both sides"):
        make(job, path, tmp_path / "out", max_completion_tokens=6)


# A teacher


@pytest.mark.parametrize("way", ["gains", "lora"])
def test_a_teacher_is_imitated_and_named(job, pairs, finished, tmp_path, way):
    teacher = finished["full"].folder / "model"
    taught = make(job, pairs, tmp_path / "taught", way, teacher=str(teacher), teacher_weight=3.0)
    alone = finished[way]
    assert taught.record.settings.teacher == str(teacher)
    assert taught.record.objective.teacher_weight == 3
    distillation = [entry["distillation"] for entry in taught.record.curves if "distillation" in entry]
    assert distillation[-1] < distillation[0]
    assert not any("distillation" in name for entry in alone.record.curves for name in entry)
    card = (tmp_path / "taught/model/README.md").read_text()
    assert f"And 3 × KL(teacher‖tuned) on both completions; the teacher: `{teacher}`." in card
    assert "teacher" not in (alone.folder / "model/README.md").read_text()

    base = load(job.model, dtype="float32", device="cpu")
    its, ours, without = (
        load(folder, base=base) for folder in (teacher, tmp_path / "taught/model", alone.folder / "model")
    )

    def distance(lm) -> float:
        """Mean KL(teacher‖lm) per token of the pairs' texts."""
        found = []
        pairs = tiny_pairs()
        for prompt, text in zip(pairs.prompts, pairs.preferred, strict=True):
            ids = torch.tensor([base.tokenizer(prompt + text).input_ids])
            with torch.no_grad():
                there, here = (one.model(ids).logits.log_softmax(-1) for one in (its, lm))
            found.append(float((there.exp() * (there - here)).sum(-1).mean()))
        return sum(found) / len(found)

    assert distance(ours) < distance(without)


def test_another_teacher_is_another_training(job, pairs, finished, tmp_path):
    make(job, pairs, tmp_path / "out", teacher=str(finished["full"].folder / "model"))
    with pytest.raises(DposcopeError, match="holds another run's results"):
        make(job, pairs, tmp_path / "out", teacher=str(finished["lora"].folder / "model"))


def test_a_stronger_teacher_is_one_whose_weights_went_further(job, pairs, finished, tmp_path):
    folder = finished["full"].folder / "model"
    base = load(str(job.model), dtype="float32", device="cpu")
    further = load(str(folder), base=base)
    before = dict(base.model.named_parameters())
    with torch.no_grad():
        for name, parameter in further.model.named_parameters():
            parameter.copy_(torch.lerp(before[name], parameter, 2.0))
    shutil.copytree(folder, tmp_path / "further")
    further.model.save_pretrained(tmp_path / "further")
    named = make(job, pairs, tmp_path / "named", teacher=str(folder), teacher_strength=2.0)
    whole = make(job, pairs, tmp_path / "whole", teacher=str(tmp_path / "further"))
    plain = make(job, pairs, tmp_path / "plain", teacher=str(folder))
    gains = [Edit.load(run.folder / "edit").gains.values for run in (named, whole, plain)]
    assert torch.equal(gains[0], gains[1])
    assert not torch.equal(gains[0], gains[2])
    assert f"the teacher: `{folder}` at strength 2." in (named.folder / "model/README.md").read_text()


def test_a_teacher_of_more_tokens_is_refused(job, pairs, finished, tmp_path):
    model, tokenizer = plain(finished["full"].folder / "model")
    tokenizer.add_tokens(["<answer>"])
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(tmp_path / "wider")
    tokenizer.save_pretrained(tmp_path / "wider")
    with pytest.raises(DposcopeError, match="give a --teacher of the base's vocabulary"):
        make(job, pairs, tmp_path / "out", teacher=str(tmp_path / "wider"))


# Gains that begin at an edit, and some gains alone


def test_a_second_round_begins_at_the_gains_of_the_first(job, pairs, finished, tmp_path):
    first = finished["gains"].folder
    still = make(job, pairs, tmp_path / "still", start=str(first), learning_rate=1e-12)
    begun = Edit.load(first / "edit").gains.values
    torch.testing.assert_close(Edit.load(still.folder / "edit").gains.values, begun, atol=1e-9, rtol=0)
    moved = make(job, pairs, tmp_path / "moved", start=str(first / "edit.safetensors"))
    assert (Edit.load(moved.folder / "edit").gains.values - begun).abs().max() > 0.01
    # The edit decides the result, not only its name.
    Edit.of(Edit.load(first / "edit").gains.strength(0.5)).save(tmp_path / "half/edit")
    stage = [json.loads((run / "stages/train.json").read_text())["inputs"] for run in (still.folder, moved.folder)]
    assert len(set(stage)) == 2


def test_another_edit_or_teacher_of_the_same_name_makes_the_training_again(job, pairs, finished, tmp_path):
    """As another base of the same name does."""
    edit = Edit.load(finished["gains"].folder / "edit")
    edit.save(tmp_path / "start/edit")
    shutil.copytree(finished["full"].folder / "model", tmp_path / "teacher")
    given = {"start": str(tmp_path / "start"), "teacher": str(tmp_path / "teacher"), "epochs": 0.5}

    def trained() -> bytes:
        make(job, pairs, tmp_path / "out", **given)
        return (tmp_path / "out/edit.safetensors").read_bytes()

    made = [trained()]
    edit.strength(0.5).save(tmp_path / "start/edit")
    made.append(trained())
    shutil.rmtree(tmp_path / "teacher")
    shutil.copytree(finished["lora"].folder / "model", tmp_path / "teacher")
    made.append(trained())
    assert len(set(made)) == 3


def test_an_edit_of_other_weights_to_start_from_is_told_and_of_another_architecture_refused(job, pairs, tmp_path):
    lm = load(str(job.model), dtype="float32")
    given = {"start": str(tmp_path / "edit"), "epochs": 0.5}
    settings = DpoSettings(**settings_of(job, pairs, **given))
    Edit.of(gains_of(lm), about={"fingerprint": tiny("llama", seed=1).fingerprint}).save(tmp_path / "edit")
    said = Noting()
    run_dpo(str(job.model), tmp_path / "out", settings, reporter=said)
    assert said.notes == [
        "--start: the edit was made for other weights, or for another precision; its shapes fit this model."
    ]
    Edit.of(gains_of(lm), about={"fingerprint": tiny("mistral").fingerprint}).save(tmp_path / "edit")
    for refused in (
        lambda: run_dpo(str(job.model), tmp_path / "other", settings),
        lambda: dpo_work(str(job.model), tmp_path / "dry", settings),
    ):
        with pytest.raises(DposcopeError, match="the edit was made for a mistral model, but this is a llama model"):
            refused()


def test_only_the_gains_that_an_edit_moved_furthest_are_trained(job, pairs, finished, tmp_path):
    first = Edit.load(finished["gains"].folder / "edit").gains.values
    run = make(job, pairs, tmp_path / "out", start=str(finished["gains"].folder), neurons=7)
    values = Edit.load(run.folder / "edit").gains.values
    away = (first - 1).abs().flatten()
    chosen = set(away.argsort(descending=True, stable=True)[:7].tolist())
    assert {n for n in range(values.numel()) if values.flatten()[n] != 1} == chosen
    places = sorted(chosen)
    assert (values.flatten()[places] != first.flatten()[places]).all(), "they were trained, not only kept"


def test_the_gradients_length_is_that_of_the_trained_gains(job, pairs, finished, tmp_path):
    """Or a bound on it would shorten the steps of a few for what all others want."""
    given = {"start": str(finished["gains"].folder), "epochs": 0.2, "warmup_steps": 0, "max_grad_norm": 1e6}
    few, every = (make(job, pairs, tmp_path / str(n), neurons=n, **given) for n in (1, None))
    lengths = [[entry["grad_norm"] for entry in run.record.curves if "grad_norm" in entry] for run in (few, every)]
    assert lengths[0]
    assert max(lengths[0]) < min(lengths[1])


def test_an_edit_that_cannot_be_gone_on_from_is_refused(job, pairs, finished, tmp_path):
    lm = load(str(job.model), dtype="float32")
    edit = Edit.load(finished["gains"].folder / "edit")
    Edit.of(edit.gains, ablate(torch.ones(lm.d_model))).save(tmp_path / "more/edit")
    Edit.of(Gains(torch.ones(2, 3))).save(tmp_path / "other/edit")
    for name, told in (
        ("more", "only gains of neurons can be gone on from"),
        ("other", "do not fit"),
        ("none", "cannot read"),
    ):
        with pytest.raises(DposcopeError, match=told):
            make(job, pairs, tmp_path / f"out-{name}", start=str(tmp_path / name))
    with pytest.raises(DposcopeError, match=r"cannot take the top"):
        make(job, pairs, tmp_path / "out-many", start=str(finished["gains"].folder), neurons=lm.n_neurons + 1)


# What it leaves


@pytest.mark.parametrize("way", WAYS)
def test_the_folder_holds_what_the_command_promises(finished, way):
    names = {path.name for path in finished[way].folder.iterdir()}
    edit = {"edit.json", "edit.safetensors"} if way == "gains" else set()
    assert names == {".lock", "model", "run.json", "stages", "training.json", "training.svg"} | edit
    beside = {"dposcope_edit.json", "dposcope_edit.safetensors"} if way == "gains" else set()
    assert {path.name for path in (finished[way].folder / "model").iterdir()} == beside | {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }


@pytest.mark.parametrize("way", WAYS)
def test_training_json_says_what_was_done(finished, job, pairs, way):
    facts = json.loads((finished[way].folder / "training.json").read_text("utf-8"))
    assert facts == finished[way].record.to_json()
    assert TrainingRecord.load(finished[way].folder / "training.json") == finished[way].record
    assert facts["kind"] == "dposcope dpo"
    assert facts["model"] == {
        "name": job.model.name,
        "fingerprint": load(str(job.model), dtype="float32").fingerprint,
    }
    assert (facts["train"], facts["protocol"], facts["seed"]) == (way, "strict", 0)
    assert facts["pairs"] == {
        "source": str(pairs),
        "format": "prompt_text",
        "train": PAIRS - KEPT,
        "validation": KEPT,
        "left_out": {"blank": 0, "identical": 0, "unpaired": 0, "apart": 0},
    }
    assert facts["objective"] == vars(Objective(0.1, 1.0, "neutral", "strict", teacher_weight=0.0))
    assert facts["schedule"]["learning_rate"] == RATES[way]
    assert facts["settings"] == DpoSettings(**settings_of(job, pairs, way)).model_dump(mode="json")
    assert (facts["steps"], facts["examples"], facts["best_step"]) == (STEPS, 2 * 21, None)
    assert {"torch", "transformers", "python"} <= set(facts["versions"])
    steps = [entry["step"] for entry in facts["curves"] if "eval_loss" in entry]
    assert steps == [4, 8, STEPS]
    parts = {"loss", "dpo", "kl", "accuracy", "margin", "preferred_reward", "dispreferred_reward"}
    for entry in facts["curves"]:
        prefix = "eval_" if "eval_loss" in entry else ""
        assert {f"{prefix}{part}" for part in parts} <= set(entry)
        if prefix:  # in training the last, smaller micro-batch of an epoch weighs as much as the others
            assert entry["eval_loss"] == pytest.approx(entry["eval_dpo"] + entry["eval_kl"], rel=1e-5)
        assert not [name for name in entry if "second" in name or "runtime" in name]


def test_the_curves_are_drawn(job, pairs, tmp_path):
    with painted():
        run = make(job, pairs, tmp_path / "out", "full", max_examples=8)
    svg = (run.folder / "training.svg").read_text("utf-8")
    assert svg.count("<svg") == 1
    assert "pairs told apart" in svg


def test_the_users_model_is_left_alone(job, pairs, tmp_path):
    before = contents(job.model)
    make(job, pairs, tmp_path / "out", "full", max_examples=8)
    assert contents(job.model) == before


@pytest.mark.parametrize("way", WAYS)
def test_the_checkpoint_is_an_ordinary_model_that_changed(finished, job, way):
    model, tokenizer = plain(finished[way].folder / "model")
    base, _ = plain(job.model)
    assert tokenizer(TEXTS[0])["input_ids"] == AutoTokenizer.from_pretrained(job.model)(TEXTS[0])["input_ids"]
    assert model.generation_config.to_dict() == base.generation_config.to_dict()
    old, new = (load_file(folder / "model.safetensors") for folder in (job.model, finished[way].folder / "model"))
    assert old.keys() == new.keys()
    assert {tensor.dtype for tensor in new.values()} == {torch.float32}
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    projections = {name for name in old if "_proj" in name}
    expected = {"full": set(old), "lora": projections, "gains": {n for n in old if "down_proj" in n}}
    assert changed == expected[way]


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3"])
def test_the_edit_folded_is_the_checkpoint(pairs, tmp_path, family):
    """SPEC 8: g_i v_i in float64 on the stored weights, and the edit hooked gives the checkpoint's logits."""
    job = make_job(tmp_path / "job", family)
    run = make(job, pairs, tmp_path / "out")
    edit = Edit.load(run.folder / "edit")
    old, new = (load_file(folder / "model.safetensors") for folder in (job.model, run.folder / "model"))
    gains = edit.gains.values.double()
    assert not torch.equal(gains, torch.ones_like(gains))
    assert run.record.gains_changed == int((gains != 1).sum())
    for name, tensor in old.items():
        number = re.search(r"\.(\d+)\.mlp\.(?:c_proj|down_proj)\.weight", name)
        if number is None:
            assert torch.equal(new[name], tensor), name
        else:
            factors = gains[int(number[1])]
            scaled = tensor.double() * (factors.unsqueeze(1) if family == "gpt2" else factors)
            assert_close(new[name], scaled, 1e-7)
    lm, (model, tokenizer) = load(str(job.model), dtype="float32"), plain(run.folder / "model")
    for text in TEXTS:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad(), edit.on(lm):
            hooked = lm.model(input_ids=ids).logits
        with torch.no_grad():
            assert_close(model(input_ids=ids).logits, hooked, 1e-5)
    beside = Edit.load(run.folder / "model/dposcope_edit")
    assert torch.equal(beside.gains.values, edit.gains.values)
    assert edit.about["model"] == job.model.name
    assert edit.about["fingerprint"] == lm.fingerprint


def test_what_is_stored_in_bfloat16_is_shipped_in_bfloat16(job, pairs, tmp_path):
    """Trained in float32 all the same."""
    half = load(str(job.model), dtype="bfloat16")
    half.save_pretrained(tmp_path / "half")
    settings = DpoSettings(**settings_of(job, pairs, "full"))
    run = run_dpo(str(tmp_path / "half"), tmp_path / "out", settings)
    model, _ = plain(run.folder / "model")
    assert {value.dtype for value in model.parameters()} == {torch.bfloat16}
    old, new = (load_file(folder / "model.safetensors") for folder in (tmp_path / "half", run.folder / "model"))
    assert not all(torch.equal(old[name], new[name]) for name in old)


def test_the_card_says_what_was_done_and_what_was_not(finished, job):
    words = {"full": "all weights", "lora": "a LoRA adapter, merged", "gains": "one gain per MLP neuron"}
    for way, run in finished.items():
        card = (run.folder / "model/README.md").read_text("utf-8")
        assert card.startswith('---\nlibrary_name: "transformers"\n')
        assert f'base_model: "{job.model.name}"' in card
        assert words[way] in card
        assert "26 preference pairs (prompt_text), 5 of them kept for validation" in card
        assert "β = 0.1, plus 1 × KL(base‖tuned) on windows of neutral text; strict protocol" in card
        assert f"learning rate {RATES[way]:g}, 12 steps of up to 4 pairs, seed 0" in card
        assert "## What was not tested" in card
        assert "model:THIS_FOLDER" in card


def test_an_edit_of_gains_says_how_it_was_learned(finished, job):
    folder = finished["gains"].folder
    about, facts = Edit.load(folder / "edit").about, json.loads((folder / "training.json").read_text())
    assert about["kl_weight"] == facts["objective"]["kl_weight"] == 1
    assert about["learning_rate"] == RATES["gains"]
    assert (about["steps"], about["pairs_trained_on"]) == (facts["steps"], facts["pairs"]["train"])
    assert (about["heads"], about["learn_text"]) == (False, str(job.neutral))


def test_the_card_names_gains_of_heads_where_there_are_some(finished):
    record = finished["gains"].record
    assert "heads" not in tuned_card(record)
    with_heads = replace(record, settings=record.settings.model_copy(update={"heads": True}))
    assert "one per channel of the attention heads" in tuned_card(with_heads)


def test_rows_that_make_no_pair_are_counted(job, tmp_path):
    rows = [{"prompt": p.prompt, "chosen": p.preferred, "rejected": p.dispreferred} for p in tiny_pairs(8)]
    rows += [
        {"prompt": "a", "chosen": " ", "rejected": " b"},
        *[{"prompt": "a", "chosen": " b", "rejected": " b "}] * 2,
    ]
    run = make(job, write_jsonl(tmp_path / "p.jsonl", rows), tmp_path / "out", validation=2, max_examples=4)
    assert run.record.pairs.left_out == Dropped(1, 2)
    assert (run.record.pairs.train, run.record.pairs.validation) == (6, 2)


def test_any_format_of_the_same_pairs_trains_the_same(job, finished, tmp_path):
    rows = [{"prompt": p.prompt, "chosen": p.preferred, "rejected": p.dispreferred} for p in tiny_pairs()]
    run = make(job, write_jsonl(tmp_path / "trl.jsonl", rows), tmp_path / "out")
    assert run.record.pairs.format == "trl"
    theirs = finished["gains"].folder / "model/model.safetensors"
    assert (run.folder / "model/model.safetensors").read_bytes() == theirs.read_bytes()


def test_toxic_beside_neutral_is_read(job, tmp_path):
    path = tmp_path / "p.tsv"
    lines = [f"{p.dispreferred.strip()} {n}\t{p.preferred.strip()} {n}" for n, p in enumerate(tiny_pairs(12))]
    path.write_text("\n".join(["toxic\tneutral", *lines]) + "\n", encoding="utf-8")
    run = make(job, path, tmp_path / "out", validation=3, epochs=8)
    assert run.record.pairs.format == "paradetox"
    entries = [entry for entry in run.record.curves if "accuracy" in entry]
    assert entries[-1]["accuracy"] > 0.7 > entries[0]["accuracy"]  # neutral is the preferred one
    assert entries[-1]["margin"] > 0


def test_the_papers_preset_runs(job, pairs, tmp_path):
    given = {name: settings_of(job, pairs)[name] for name in ("pairs", "dtype", "device")}
    run = run_dpo(str(job.model), tmp_path / "out", DpoSettings(**given, preset="paper", max_examples=12))
    assert vars(run.record.objective) == {
        "beta": 0.1,
        "kl_weight": 0.1,
        "kl_on": "pairs",
        "protocol": "strict",
        "teacher_weight": 0.0,
        "loss": "dpo",
        "unlikelihood": 0.0,
    }
    assert (run.record.schedule.micro_batch_size, run.record.schedule.batch_size) == (1, 4)
    assert run.record.pairs.validation == 2
    assert run.record.best_step is not None
    reference = DpoSettings(**given, preset="paper", protocol="reference", max_examples=12)
    other = run_dpo(str(job.model), tmp_path / "other", reference)
    assert other.record.objective.protocol == "reference"
    assert "reference protocol" in (other.folder / "model/README.md").read_text("utf-8")


def test_the_best_is_taken_where_patience_is_given(job, pairs, tmp_path):
    run = make(job, pairs, tmp_path / "out", patience=2, epochs=20, learning_rate=0.3, validate_every=8)
    losses = {entry["step"]: entry["eval_loss"] for entry in run.record.curves if "eval_loss" in entry}
    assert run.record.best_step == min(losses, key=losses.__getitem__)
    assert run.record.steps == run.record.best_step + 4


# The reference on disk


@pytest.mark.parametrize("way", WAYS)
def test_a_reference_computed_before_trains_the_same(job, pairs, tmp_path, way):
    # A low rate, as RMSprop moves weights whose gradient is rounding noise by as much as any other.
    given = {"learning_rate": RATES[way] / 200}
    live = make(job, pairs, tmp_path / "live", way, **given)
    run = make(job, pairs, tmp_path / "stored", way, **given, precompute_reference=True)
    assert not list(run.folder.glob("reference*"))
    for found, expected in zip(run.record.curves, live.record.curves, strict=True):
        assert found.keys() == expected.keys()
        for name in {"step", "loss", "eval_loss", "eval_dpo", "eval_margin"} & found.keys():
            assert found[name] == pytest.approx(expected[name], rel=5e-3, abs=1e-4)
    weights = [
        load_file(folder / "model.safetensors") for folder in (job.model, live.folder / "model", run.folder / "model")
    ]
    base, old, new = (torch.cat([one[name].flatten() for name in sorted(one)]) for one in weights)
    # Both read the same states of the base; sums in another order may differ in a last bit.
    assert (old - new).norm() < 0.05 * (old - base).norm()
    assert (old - base).norm() > 0


@pytest.mark.parametrize("how", ["cut", "flipped"])
def test_a_damaged_reference_is_told_and_made_again(job, pairs, tmp_path, monkeypatch, how):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(dpo, "train_policy", stop)
        with pytest.raises(Stopped):
            make(job, pairs, out, precompute_reference=True)
    path = next(out.glob("reference-*/train-*.safetensors"))
    if how == "cut":
        path.write_bytes(path.read_bytes()[:-10])
    else:
        flip(path)
    told = Noting()
    settings = DpoSettings(**settings_of(job, pairs, precompute_reference=True))
    again = run_dpo(str(job.model), out, settings, reporter=told)
    assert any("is not as it was made" in note for note in told.notes)
    whole = make(job, pairs, tmp_path / "whole", precompute_reference=True)
    assert results(again.folder) == results(whole.folder)


# Interruptions


def test_killed_at_many_moments_and_resumed_it_ends_the_same(finished, job, pairs, tmp_path):
    """Before a checkpoint, within one, while an old one is removed, while the model is written."""
    out = tmp_path / "out"
    tries = crashes(
        "killed",
        arguments=["dpo", str(job.model), "--out", str(out), *flags(job, pairs)],
        changes=[2, 6, 8, 9, 15, 19, 24, 30],
    )
    codes = [one["code"] for one in tries]
    assert codes[-1] == 0, tries[-1]["err"]
    assert codes[:-1] == [-signal.SIGKILL] * (len(codes) - 1)
    assert len(codes) > 5
    assert tries[-1]["err"] == ""
    assert results(out) == results(finished["gains"].folder)


def test_a_process_killed_by_the_clock_goes_on_where_it_stopped(job, pairs, tmp_path):
    more = {"epochs": 8, "validate_every": 8}
    expected = make(job, pairs, tmp_path / "undisturbed", "full", **more)
    out = tmp_path / "out"
    arguments = ["dpo", job.model, "--out", out, *flags(job, pairs, "full", **more)]
    running = process(*arguments)
    begun = time.monotonic()
    while not list(out.glob("checkpoints/*/checkpoint-*/whole")) and time.monotonic() < begun + 90:
        assert running.poll() is None, running.communicate()[1]
        time.sleep(0.001)
    os.kill(running.pid, signal.SIGKILL)
    running.communicate()
    assert not (out / "training.json").exists(), "killed too late: this tests nothing"
    first = {path.name for path in out.glob("checkpoints/*/*")}
    seen: list[tuple[int, int]] = []
    noting = dpo.Quiet()
    noting.progress = lambda done, total: seen.append((done, total))  # type: ignore[method-assign]
    run = run_dpo(str(job.model), out, DpoSettings(**settings_of(job, pairs, "full", **more)), reporter=noting)
    assert seen[0][0] > min(int(name.split("-")[1]) for name in first)
    assert results(run.folder) == results(expected.folder)


def test_killed_after_training_nothing_is_trained_again(finished, job, pairs, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(dpo, "write_model", stop)
        with pytest.raises(Stopped):
            make(job, pairs, out)
    seen: list[int] = []
    noting = dpo.Quiet()
    noting.progress = lambda done, total: seen.append(done)  # type: ignore[method-assign]
    run = run_dpo(str(job.model), out, DpoSettings(**settings_of(job, pairs)), reporter=noting)
    assert seen == []
    assert results(run.folder) == results(finished["gains"].folder)


def test_checkpoints_of_other_settings_are_not_gone_on_from(job, pairs, tmp_path, monkeypatch):
    """A run that failed may be mended in its own folder; its half-trained weights are of no use then."""
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(dpo, "write_model", stop)
        with pytest.raises(Stopped):
            make(job, pairs, out)
    fresh = make(job, pairs, tmp_path / "fresh", seed=1)
    assert results(make(job, pairs, out, seed=1).folder) == results(fresh.folder)


def test_a_finished_run_is_not_made_again(job, pairs, tmp_path, monkeypatch):
    first = make(job, pairs, tmp_path / "out", max_examples=8)
    before = contents(first.folder)
    monkeypatch.setattr(dpo, "train_policy", stop)
    assert make(job, pairs, tmp_path / "out", max_examples=8).record == first.record
    assert contents(first.folder) == before


def test_other_settings_do_not_overwrite(job, pairs, tmp_path):
    first = make(job, pairs, tmp_path / "out", max_examples=8)
    before = contents(first.folder)
    with pytest.raises(DposcopeError, match=r"another run's results \(seed was 0, now 1\); choose another --out"):
        make(job, pairs, tmp_path / "out", max_examples=8, seed=1)
    assert contents(first.folder) == before


@pytest.mark.parametrize(
    ("train", "changes"),
    [
        ("lora", {"lora_rank": 2, "lora_alpha": 8}),
        ("gains", {"window_tokens": 10, "window_pool": 4, "max_completion_tokens": 1, "validation": 4}),
    ],
)
def test_where_other_settings_are_adopted_it_trains_again(job, pairs, tmp_path, train, changes):
    """As `dposcope reproduce` does, one setting after another: the stage's inputs alone tell what was trained."""
    policy, out = RunPolicy(adopt=True), tmp_path / "out"
    usual = settings_of(job, pairs, train, max_examples=8)
    before = run_dpo(str(job.model), out, DpoSettings(**usual), policy=policy)
    for name, changed in changes.items():
        stage = (out / "stages/train.json").read_bytes()
        usual |= {name: changed}
        after = run_dpo(str(job.model), out, DpoSettings(**usual), policy=policy)
        assert before.record.to_json()["settings"][name] != after.record.to_json()["settings"][name] == changed
        assert (out / "stages/train.json").read_bytes() != stage, f"{name} was not noticed"
    again = run_dpo(str(job.model), tmp_path / "fresh", DpoSettings(**usual))
    assert (out / "model/model.safetensors").read_bytes() == (again.folder / "model/model.safetensors").read_bytes()


def test_gains_that_were_trained_before_leave_no_edit(job, pairs, tmp_path):
    out = tmp_path / "out"
    for train in ("gains", "lora"):
        settings = DpoSettings(**settings_of(job, pairs, train, max_examples=8))
        run_dpo(str(job.model), out, settings, policy=RunPolicy(adopt=True))
        assert (out / "edit.safetensors").exists() == (train == "gains")


def test_a_full_disk_is_told_in_one_line_and_the_last_checkpoint_kept(finished, job, pairs, tmp_path):
    """Limits on any file's size: too small for a checkpoint, then for what is written after training."""
    size = (finished["full"].folder / "model/model.safetensors").stat().st_size
    for way, limit, message in (
        ("full", size // 2, r"cannot write .*checkpoint-4: .*; there is no checkpoint yet: free some"),
        ("gains", size - 100, r"cannot write .*(training\.svg|model): .*; free some space"),
    ):
        out = tmp_path / way
        arguments = ["dpo", str(job.model), "--out", str(out), *flags(job, pairs, way)]
        (told,) = crashes("space", arguments=arguments, limits=[limit], out=str(out))
        assert told["code"] == 2
        assert re.fullmatch(rf"dposcope: {message}.*\n", told["err"]), told["err"]
        kept = [name for name in told["left"] if "checkpoint-" in name]
        if way == "full":
            assert kept == []
        else:
            assert f"checkpoint-{STEPS}/whole" in {"/".join(Path(name).parts[-2:]) for name in kept}
        assert not [name for name in told["left"] if name.startswith((".model", "model", "training.json"))]
        assert results(make(job, pairs, out, way).folder) == results(finished[way].folder)


# What people see


def test_it_says_what_it_did_and_nothing_else(finished, job, pairs, tmp_path):
    out = tmp_path / "out"
    running = process("dpo", job.model, "--out", out, *flags(job, pairs))
    told, noise = running.communicate()
    assert running.returncode == 0
    assert noise == ""
    lines = told.splitlines()
    assert lines[0].startswith("12 steps of up to 4 pairs; on 5 validation pairs: loss ")
    last = finished["gains"].record.curves[-1]
    assert f"loss {last['eval_loss']:.3f}, accuracy {last['eval_accuracy']:.3f} (" in lines[0]
    assert lines[1:4] == [
        f"checkpoint: {out}/model",
        f"edit:       {out}/edit.safetensors",
        f"curves:     {out}/training.svg",
    ]
    (following,) = lines[4:]
    assert re.fullmatch(rf"next: +dposcope evaluate {job.model} .*{out}/model .*--out .*", following)


@pytest.mark.parametrize("way", ["full", "lora"])
def test_json_is_the_facts_alone(job, pairs, tmp_path, capsys, way):
    told = command(
        capsys,
        "dpo",
        job.model,
        "--out",
        tmp_path / "out",
        "--json",
        "--quiet",
        *flags(job, pairs, way, max_examples=8),
    )
    assert (told.code, told.err) == (0, "")
    assert json.loads(told.out) == json.loads((tmp_path / "out/training.json").read_text("utf-8"))


def test_the_numbers_told_are_those_of_the_step_that_was_taken(job, pairs, tmp_path, capsys):
    more = {"patience": 2, "epochs": 20, "learning_rate": 0.3, "validate_every": 8}
    told = command(capsys, "dpo", job.model, "--out", tmp_path / "out", *flags(job, pairs, **more))
    facts = json.loads((tmp_path / "out/training.json").read_text("utf-8"))
    losses = {entry["step"]: entry["eval_loss"] for entry in facts["curves"] if "eval_loss" in entry}
    assert f"loss {losses[facts['best_step']]:.3f}," in told.out
    assert f"loss {losses[facts['steps']]:.3f}," not in told.out


def test_help_names_every_option(capsys):
    told = command(capsys, "dpo", "--help-all")
    assert told.code == 0
    for name in DpoSettings.model_fields:
        assert f"--{name.replace('_', '-')}" in told.out, name
    for name in ("--out", "--json", "--quiet", "MODEL"):
        assert name in told.out
    for fact in ("RMSprop 1e-5, 150", "paper: 0.1", "nat", "Table 9"):
        assert fact in re.sub(r"[\s│]*\n[\s│]*", " ", told.out), fact


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no such file": ({"pairs": "{}/no.jsonl"}, r"there is no file .*no\.jsonl; (check the path|did you mean)"),
    "other columns": ({"pairs": "{}/prompts.jsonl"}, r"no columns of pairs, only prompt; rename them to one of"),
    "one pair": ({"pairs": "{}/one.jsonl", "validation": 1}, "holds 1 pair; training needs at least 2"),
    "all for validation": ({"validation": 26}, r"26 of 26 pairs cannot be held out for validation; give .* fewer"),
    "no divisor": (
        {"micro_batch_size": 3},
        "4 pairs cannot be divided into micro-batches of 3; choose a divisor for --micro-batch",
    ),
    "reference on neutral": ({"protocol": "reference", "kl_on": "neutral"}, "leave --kl-on neutral out, or choose"),
    "a rate of zero": ({"learning_rate": 0}, "--learning-rate: .*greater than 0"),
    "longer than the context": (
        {"max_prompt_tokens": 100},
        "exceed the model's context of 128; lower --max-prompt-tok",
    ),
    "no such model": ({}, "is not a model"),
    "too little neutral text": (
        {"learn_text": "{}/short.txt", "window_tokens": 100},
        "fewer than a window of .*longer",
    ),
    "no neutral file": ({"learn_text": "{}/no.txt"}, r"there is no file .*no\.txt; (check the path|did you mean)"),
    "another way": ({"train": "head"}, "full"),
    "a teacher that is not a model": ({"teacher": "{}/nothing"}, "is not a model"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_done_is_told_in_one_line_with_its_mend(job, pairs, tmp_path, capsys, what):
    changed, words = BAD[what]
    write_jsonl(tmp_path / "one.jsonl", [{"prompt": "a", "chosen": " b", "rejected": " c"}])
    write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": "a"}])
    (tmp_path / "short.txt").write_text("the river", encoding="utf-8")
    given = settings_of(job, pairs) | changed
    arguments = [
        part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", str(value).format(tmp_path))
    ]
    model = tmp_path / "nothing" if what == "no such model" else job.model
    told = command(capsys, "dpo", model, "--out", tmp_path / "out", *arguments)
    assert told.code == 2
    assert told.out == ""
    assert re.fullmatch(rf"dposcope: .*{words}.*\n", told.err), told.err
    assert not (tmp_path / "out/training.json").exists()


def test_lora_needs_peft(job, pairs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(trainable, "find_spec", lambda name: None)
    told = command(capsys, "dpo", job.model, "--out", tmp_path / "out", *flags(job, pairs, "lora"))
    assert told.code == 2
    assert told.err == "dposcope: LoRA needs the peft package; install it with: pip install 'dposcope[train]'\n"


def test_a_strangers_folder_is_left_alone(job, pairs, tmp_path, capsys):
    write_csv(tmp_path / "mine.csv", ["a"], [[1]])
    before = contents(tmp_path)
    told = command(capsys, "dpo", job.model, "--out", tmp_path, *flags(job, pairs))
    assert told.code == 2
    assert "holds files that are not a run's; choose an empty or new folder for --out" in told.err
    assert contents(tmp_path) == before


def test_on_a_quantised_base_gains_are_an_edit_and_all_weights_are_refused(job, pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(setup, "load_native", lambda name, **_how: in_bytes(load(name, dtype="float32", device="cpu")))
    make(job, pairs, tmp_path / "gains")
    assert len(Edit.load(tmp_path / "gains/edit").gains.touched) > 0
    assert not (tmp_path / "gains/model").exists()
    monkeypatch.setattr(setup, "load", lambda name, **_how: in_bytes(load(name, device="cpu")))
    with pytest.raises(DposcopeError, match="codes cannot be trained"):
        make(job, pairs, tmp_path / "full", "full")
