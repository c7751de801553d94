"""Whether edits were made for a model: a line where they were not, and each fingerprint computed once."""

from pathlib import Path

import pytest
import torch

from dposcope.errors import DposcopeError
from dposcope.interventions.edit import Edit
from dposcope.jobs import origin
from dposcope.jobs.evaluate.job import run_evaluate
from dposcope.jobs.evaluate.settings import EvaluateSettings
from dposcope.jobs.explain.job import run_explain
from dposcope.jobs.explain.settings import ExplainSettings
from dposcope.jobs.explain.tuned_side import TunedSide
from dposcope.jobs.origin import Fingerprints, asked_otherwise, check_architecture, comes_together, foreign_edits
from dposcope.jobs.reporter import Quiet
from dposcope.model.chat.prompts import asked_how, with_chat
from dposcope.model.language_model import LanguageModel
from dposcope.model.load import load
from helpers.chats import BEGINS, PLAIN, with_template
from helpers.edits import gains_of
from helpers.families import tiny
from helpers.jobs import Job, make_job

OTHER = "the edit was made for other weights, or for another precision; its shapes fit this model"


class Noting(Quiet):
    """A reporter that remembers what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, line: str) -> None:
        self.notes.append(line)


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Job:
    return make_job(tmp_path_factory.mktemp("job"))


@pytest.fixture(scope="module")
def edits(job) -> dict[str, Path]:
    """Stems of edits of one shape, by what they were made for."""
    own = load(str(job.model), dtype="float32", device="cpu")
    made_for = {
        "own": own.fingerprint,
        "other": tiny("llama", seed=1).fingerprint,
        "third": tiny("llama", seed=2).fingerprint,
    }
    made_for["type"] = f"gpt2-{32 * '0'}"
    stems = {name: job.model.parent / name for name in made_for}
    for name, fingerprint in made_for.items():
        Edit.of(gains_of(own), about={"fingerprint": fingerprint}).save(stems[name])
    Edit.of(gains_of(own)).save(job.model.parent / "silent")
    return stems | {"silent": job.model.parent / "silent"}


@pytest.fixture
def counted(monkeypatch) -> list[torch.dtype]:
    """The precisions in which a model was read for a fingerprint."""
    read: list[torch.dtype] = []
    whole = LanguageModel.fingerprint_in

    def counting(lm: LanguageModel, dtype: torch.dtype) -> str:
        read.append(dtype)
        return whole(lm, dtype)

    monkeypatch.setattr(LanguageModel, "fingerprint_in", counting)
    return read


def test_a_line_names_all_whose_edit_is_of_other_weights_and_the_model_is_read_once(job, edits, counted):
    lm = load(str(job.model), dtype="float32", device="cpu")
    named = [(name, edits[name]) for name in ("own", "other", "third", "silent")]
    named += [("again", edits["other"]), ("other", edits["third"])]
    assert foreign_edits(named, lm, str(job.model)) == [f"other, third, again: {OTHER}"]
    assert counted == [torch.bfloat16]


def test_an_edit_of_these_weights_costs_no_further_reading(job, edits, counted):
    lm = load(str(job.model), dtype="float32", device="cpu")
    assert foreign_edits([("own", edits["own"]), ("silent", edits["silent"])], lm, str(job.model)) == []
    assert counted == []


def test_fingerprints_are_the_same_each_time_and_to_two_at_once(job):
    lm = load(str(job.model), dtype="float32", device="cpu")
    found = Fingerprints(lm, str(job.model))
    pairs = list(zip(found, found, strict=True))
    assert [first for first, _ in pairs] == [second for _, second in pairs] == list(found)
    assert pairs[0][0] == lm.fingerprint


def test_what_comes_with_dposcope_together_is_not_compared(monkeypatch, tmp_path, job, edits):
    monkeypatch.setattr(origin, "shipped_edits", lambda: ("toy",))
    monkeypatch.setattr(origin, "edit_file", lambda _: edits["other"])
    monkeypatch.chdir(tmp_path)
    assert comes_together("toy", edits["other"])
    assert not comes_together("toy", edits["third"])
    assert not comes_together(str(job.model), edits["other"])
    assert foreign_edits([("toy", edits["other"])], tiny("llama"), "toy") == []
    assert foreign_edits([("toy", edits["third"])], tiny("llama"), "toy") == [f"toy: {OTHER}"]
    (tmp_path / "toy").mkdir()
    assert not comes_together("toy", edits["other"]), "a folder of that name is another model"


ASKED = {"system": "be kind", "wrap": "go on: {prompt}"}


@pytest.mark.parametrize(
    ("then", "now", "told"),
    [
        ({}, {}, ""),
        (ASKED, ASKED, ""),
        (None, None, ""),
        (None, {}, "asked without a chat template; --chat off asks in that way"),
        (ASKED, None, "asked through a chat template; --chat on asks in that way"),
        (ASKED, {}, "asked with --system, with --wrap; give the same options to ask in that way"),
        (ASKED, {**ASKED, "prefill": "so"}, "asked without --prefill; give the same options to"),
        (ASKED, {**ASKED, "system": "be rude"}, "asked with another --system; give the same options"),
        ({}, {"wrap": "{prompt}."}, "asked without --wrap; give"),
    ],
)
def test_an_edit_that_was_made_on_prompts_asked_otherwise_is_told(job, tmp_path, then, now, told):
    plain = with_template(load(str(job.model), dtype="float32", device="cpu"), BEGINS)
    made, here = (plain if given is None else with_chat(plain, **given) for given in (then, now))
    about = {"fingerprint": plain.fingerprint, **asked_how(made)}
    Edit.of(gains_of(plain), about=about).save(tmp_path / "edit")
    notes = foreign_edits([("one", tmp_path / "edit"), ("two", tmp_path / "edit")], here, str(job.model))
    assert len(notes) == bool(told)
    assert all(note.startswith("one, two: the edit was made on prompts ") and told in note for note in notes)
    assert [f"one, two: {note}" for note in TunedSide.read(f"edit:{tmp_path / 'edit'}").doubts(here, "m")] == notes


def test_another_template_is_told_and_an_edit_that_no_command_made_says_nothing(job):
    lm = load(str(job.model), dtype="float32", device="cpu")
    plain, other = (with_chat(with_template(lm, template)) for template in (PLAIN, BEGINS))
    edit = Edit.of(gains_of(lm), about={"fingerprint": lm.fingerprint, **asked_how(plain)})
    assert asked_otherwise(edit, plain) == ()
    assert asked_otherwise(edit, other)[0].startswith(
        "the edit was made on prompts asked through another chat template; use the "
    )
    assert asked_otherwise(Edit.of(gains_of(lm)), other) == ()


def test_another_architecture_is_refused(job, edits):
    lm = load(str(job.model), dtype="float32", device="cpu")
    check_architecture(Edit.load(edits["other"]), lm)
    with pytest.raises(DposcopeError, match="was made for a gpt2 model, but this is a llama model; give its own model"):
        check_architecture(Edit.load(edits["type"]), lm)


@pytest.mark.usefixtures("light")
def test_evaluate_says_it_once_before_anything_is_measured(job, edits, counted, tmp_path):
    reporter = Noting()
    other = edits["other"]
    conditions = [f"edit:{other}", f"weak=edit:{other},strength=0.5", f"control:{other}", f"own=edit:{edits['own']}"]
    conditions += [f"live=interchange:with=edit:{edits['third']}"]
    settings = EvaluateSettings(**job.settings(condition=conditions, max_windows=1, limit=8))
    run_evaluate(str(job.model), tmp_path / "out", settings, reporter=reporter)
    told = f"edit:{other}, weak, control:{other}, live: {OTHER}."
    assert [note for note in reporter.notes if "weights" in note] == [told]
    assert counted == [torch.bfloat16]


def test_an_explanation_says_it_of_its_edit(job, edits):
    lm = load(str(job.model), dtype="float32", device="cpu")
    assert TunedSide.read(f"edit:{edits['own']}").doubts(lm, str(job.model)) == ()
    assert TunedSide.read(f"edit:{edits['other']}").doubts(lm, str(job.model)) == (OTHER,)
    assert TunedSide.read(job.model).doubts(lm, str(job.model)) == ()


@pytest.mark.usefixtures("light")
def test_an_explanation_says_it_before_its_work_and_among_its_results(job, edits, tmp_path):
    reporter, tuned = Noting(), f"edit:{edits['other']}"
    quick = {"toxic_neurons": [4], "neurons_only": True, "seeds": 0, "folds": 0, "max_windows": 1, "limit": 8}
    done = run_explain(
        str(job.model), tuned, tmp_path / "out", ExplainSettings(**job.settings(**quick)), reporter=reporter
    )
    assert f"{tuned}: {OTHER}." in reporter.notes
    assert OTHER in done.results.notes
