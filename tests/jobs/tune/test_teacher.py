"""How far a teacher is taken: as far as its own cost on neutral text stays within the bound."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import dposcope as ds
from dposcope.errors import DposcopeError
from dposcope.evaluation.perplexity import window_losses
from dposcope.evaluation.statistics.comparisons import paired_difference
from dposcope.jobs.evaluate.settings import EvaluateSettings
from dposcope.jobs.opening import open_run
from dposcope.jobs.tune import teacher as teachers
from dposcope.jobs.tune.teacher import allowed_strength, load_teacher
from helpers.families import bits, tiny
from helpers.jobs import Job, make_job

pytestmark = pytest.mark.usefixtures("light")


@dataclass(frozen=True)
class Told:
    """Who teaches, in a job of one family."""

    job: Job
    teacher: Path
    text: str
    windows: int
    """That the strength is set on, fewer than the text has."""

    def strength(self, folder: Path, bound: float, teacher: Path | None = None, *, text: str | None = None) -> float:
        settings = EvaluateSettings(**self.job.settings())
        with open_run(folder, "tune", {}) as run, pytest.MonkeyPatch.context() as patch:
            patch.setattr(teachers, "_WINDOWS", self.windows)
            return allowed_strength(
                run,
                str(self.job.model),
                str(teacher or self.teacher),
                text=text or self.text,
                bound=bound,
                dtype=settings.dtype,
                device=settings.device,
            )

    def rise(self, strength: float):
        """By weights that are moved one by one, float by float."""
        lm, other = (ds.load(str(path), dtype="float32", device="cpu") for path in (self.job.model, self.teacher))
        before = window_losses(lm, self.text, max_windows=self.windows, spread=True)
        with torch.no_grad():
            for own, its in zip(lm.model.parameters(), other.model.parameters(), strict=True):
                own.copy_(own.double() + strength * (its.double() - own.double()))
        after = window_losses(lm, self.text, max_windows=self.windows, spread=True)
        return paired_difference(after.nll, before.nll, denominators=before.tokens)


@pytest.fixture(scope="module", params=[("llama", teachers._WINDOWS, 40), ("gemma3", 12, 16)], ids=["llama", "gemma3"])
def told(request, tmp_path_factory) -> Told:
    """A model that was pushed away from the neutral text; gemma3, which takes three times as long, reads less."""
    family, windows, stored = request.param
    folder = tmp_path_factory.mktemp("told")
    job = make_job(folder, family, windows=stored)
    text = job.neutral.read_text()
    lm = tiny(family)
    ids = torch.tensor([lm.tokenizer(text)["input_ids"][:400]])
    lm.model.requires_grad_(True)
    lm.model(input_ids=ids, labels=ids).loss.backward()
    with torch.no_grad():
        for parameter in lm.model.parameters():
            if parameter.grad is not None:
                parameter.add_(parameter.grad / parameter.grad.norm().clamp(min=1e-9), alpha=0.02)
    lm.save_pretrained(folder / "tuned")
    return Told(job, folder / "tuned", text, windows)


def test_the_teacher_costs_what_the_edit_may(told, tmp_path):
    once = told.rise(1.0).high
    assert once > 0
    for share in (0.4, 1.9):
        bound = share * once
        chosen = told.strength(tmp_path / f"{share}", bound)
        assert (chosen < 1) == (share < 1)
        assert 0.94 * bound <= told.rise(chosen).high <= 1.001 * bound
        stored = json.loads((tmp_path / f"{share}" / "teacher.json").read_text())
        assert (stored["chosen"], stored["bound"]) == (chosen, bound)
        assert stored["steps"][0]["strength"] == 1


def test_one_that_costs_nothing_is_taken_four_times_as_far_and_no_further(told, tmp_path):
    assert told.strength(tmp_path / "out", 0.01, told.job.model) == 4
    assert max(step["strength"] for step in json.loads((tmp_path / "out/teacher.json").read_text())["steps"]) == 4


def test_one_that_costs_too_much_is_still_taken_a_quarter_as_far(told, tmp_path):
    assert told.strength(tmp_path / "out", 1e-3 * told.rise(0.25).high) == 0.25
    assert json.loads((tmp_path / "out/teacher.json").read_text())["chosen"] < 0.25


def test_it_is_set_once_and_again_for_another_bound_or_text(told, tmp_path, monkeypatch):
    bound = 0.5 * told.rise(1.0).high
    first = told.strength(tmp_path / "out", bound)

    def never(*_arguments, **_options):
        raise AssertionError("searched again")

    with monkeypatch.context() as patched:
        patched.setattr("dposcope.jobs.tune.teacher.search_strength", never)
        assert told.strength(tmp_path / "out", bound) == first
        for other in ({"bound": 2 * bound}, {"bound": bound, "text": told.text + told.text}):
            with pytest.raises(AssertionError, match="searched again"):
                told.strength(tmp_path / "out", **other)


def test_a_teacher_as_it_is_and_one_of_another_model(told, tmp_path):
    lm = ds.load(str(told.job.model), dtype="float32", device="cpu")
    plain = ds.load(str(told.teacher), dtype="float32", device="cpu")
    assert bits(load_teacher(lm, str(told.teacher), 1.0).model) == bits(plain.model)
    assert bits(load_teacher(lm, str(told.teacher), 1.5).model) != bits(plain.model)
    make_job(tmp_path / "other", "gpt2")
    with pytest.raises(DposcopeError):
        load_teacher(lm, str(tmp_path / "other/model"), 1.0)
