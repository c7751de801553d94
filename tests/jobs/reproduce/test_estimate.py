"""Estimates of a plan: arithmetic on sizes."""

import re
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest

from dposcope.jobs.estimate import explain
from dposcope.jobs.estimate.explain import measured_rows
from dposcope.jobs.estimate.machine import GIB, Machine
from dposcope.jobs.estimate.work import DRAWING, READING, WRITING
from dposcope.jobs.reproduce.estimate import LONG, estimate_plan, plan_table
from dposcope.jobs.reproduce.plan import PlannedStep, plan_reproduction
from dposcope.jobs.reproduce.preset import load_preset
from dposcope.jobs.reproduce.settings import ReproduceSettings
from dposcope.model.size import ModelSize

MACHINE = Machine("two threads", 7e11, 2e10, 24 * GIB, 2)
GPU = Machine("a GPU", 4e14, 2e12, 80 * GIB, 2)
DATA = {"prompts": "p.jsonl", "comments": "c.csv", "passages": "w.jsonl"}


def planned(preset: str, **given) -> list[PlannedStep]:
    return plan_reproduction([], Path("nowhere"), load_preset(preset), ReproduceSettings(**given))


def estimates(preset: str, machine: Machine = MACHINE, **given):
    return {one.name.partition("/")[2]: one for one in estimate_plan(planned(preset, **given), machine)}


def measured(preset: str, folder: Path) -> str:
    """The preset as it was when it was timed: 8 windows, three edits, 1,600 pairs seen, 120 PPLM pairs."""
    text = resources.files("dposcope.jobs.reproduce").joinpath(f"presets/{preset}.toml").read_text()
    text = re.sub(r"max_windows = \d+", "max_windows = 8", text)
    text = re.sub(
        r"edit_grid = \[\n.*?\n\]", 'edit_grid = ["scale:0.01:0.55", "assign:0.01:0.55"]', text, flags=re.DOTALL
    )
    text = text.replace("max_examples = 400", "max_examples = 1600").replace("count = 1200", "count = 120")
    (folder / "timed.toml").write_text(text)
    return str(folder / "timed.toml")


SLOW = Machine("one thread of another processor", 1.87e11, 1e10, 24 * GIB, 2)


@pytest.mark.parametrize(
    ("preset", "machine", "minutes"),
    [
        ("cpu-gemma-3-270m", MACHINE, {"pairs-sampled": (4, 7), "dpo-sampled": (15, 15)}),
        (
            "cpu-gemma-3-270m",
            SLOW,
            {"pairs-sampled": (11, 11), "dpo-sampled": (55, 55), "explain-sampled-strict": (54, 54)},
        ),
        (
            "cpu-smollm2-135m",
            SLOW,
            {"pairs-sampled": (6, 6), "dpo-sampled": (24, 24), "explain-sampled-strict": (38, 38)},
        ),
    ],
)
def test_what_was_measured_is_within_a_factor_of_two(preset, machine, minutes, monkeypatch, tmp_path):
    """With two threads and nothing else at work, and with one thread beside another run; the paper's own conditions."""
    monkeypatch.setattr(explain, "interchanged_rows", lambda _settings: 0)
    monkeypatch.setattr(explain, "DIRECTIONS", 0)
    found = estimates(measured(preset, tmp_path), machine)
    assert all(not one.needs_gpu for one in found.values())
    for name, (least, most) in minutes.items():
        assert most / 2 < found[name].seconds / 60 < 2 * least, name


@pytest.mark.parametrize(
    ("preset", "training"),
    [("paper-gpt2-medium", 7), ("paper-gemma-2-2b", 40), ("paper-mistral-7b", 105), ("paper-llama-3.1-8b", 115)],
)
def test_the_papers_models_need_a_gpu(preset, training):
    """All weights in float32 with gradients and RMSprop's state take 12 bytes each, copies in half precision 2."""
    found = estimates(preset, **DATA)
    assert all(found[name].needs_gpu for name in ("dpo-pplm", "explain-pplm-strict"))
    assert found["dpo-pplm"].memory / 1e9 == pytest.approx(training, rel=0.3)


def test_more_of_anything_takes_longer():
    usual = estimates("cpu-gemma-3-270m")
    fewer = estimates("cpu-gemma-3-270m", limit=40)
    faster = estimates("cpu-gemma-3-270m", machine=GPU)
    for name, one in usual.items():
        assert faster[name].seconds < one.seconds / 2
        if name.startswith("explain"):
            assert fewer[name].seconds < one.seconds
        else:
            assert fewer[name] == one
    assert usual["explain-sampled-reference"].seconds < usual["explain-sampled-strict"].seconds


def test_prompts_to_report_on_are_counted_in_their_file(tmp_path):
    many, few = (tmp_path / name for name in ("many.txt", "few.txt"))
    many.write_text("one\n" * 399)
    few.write_text("one\n" * 20)
    plain, more, less = (
        estimates("cpu-gemma-3-270m", **given)["explain-sampled-strict"].seconds
        for given in ({}, {"report_prompts": str(many)}, {"report_prompts": str(few)})
    )
    assert less < plain < more


def test_the_ideal_is_drawn_once_and_read_under_every_condition(tmp_path):
    """What more prompts to report on add to a strict explanation of two conditions."""
    (step,) = (one for one in planned("cpu-gemma-3-270m") if one.name.endswith("explain-sampled-strict"))
    size = ModelSize(2_000_000_000, 32_000, 2048, 24, 8192, 1024)
    # Nothing but products takes time.
    machine = Machine("products alone", 1e9, 1e30, 80 * GIB, 2)

    def operations(prompts: int) -> float:
        path = tmp_path / f"{prompts}.txt"
        path.write_text("one\n" * prompts)
        chosen = {"protocol": "strict", "neurons_only": True, "report_prompts": str(path)}
        settings = step.step.settings.model_copy(update=chosen)
        assert measured_rows(settings) == 2
        (found,) = estimate_plan([replace(step, size=size, step=replace(step.step, settings=settings))], machine)
        return found.seconds * machine.operations

    # Two operations a weight and token: 16 tokens of the prompt and 20 new ones, of which the latter are predicted.
    of_text = sum(2 * size.body + (2 * size.unembedding if token >= 16 else 0) for token in range(36))
    drawn, read, written = of_text / DRAWING, of_text / READING, of_text / WRITING
    # Both conditions continue every prompt, read two times what they wrote to 64 of them at most, and read the ideal,
    # which is drawn once, and read once more after other prompts.
    more = operations(399) - operations(20)
    assert more == pytest.approx(2 * (379 * written + 2 * 44 * read) + 44 * (drawn + 2 * read + read), rel=1e-6)


def test_a_model_of_unknown_size_has_no_estimate():
    steps = plan_reproduction(["some/model"], Path("nowhere"), load_preset("cpu-gemma-3-270m"), ReproduceSettings())
    found = estimate_plan(steps, MACHINE)
    assert all(one.seconds is None and one.memory is None and not one.needs_gpu for one in found)
    table = plan_table("title", found)
    assert table.notes[0] == "7 of 7 steps to do; how long is not known."
    assert "planning downloads nothing" in table.notes[1]
    assert {row[2] for row in table.rows} == {"?"}


def test_what_is_done_is_not_counted():
    steps = planned("cpu-gemma-3-270m")
    found = estimate_plan(steps, MACHINE)
    done = [one if number else type(one)(**{**one.to_json(), "done": True}) for number, one in enumerate(found)]
    table = plan_table("title", done)
    assert table.rows[0][1:3] == ("done", "–")
    assert table.notes[0].startswith("6 of 7 steps to do")
    none = plan_table("title", [type(one)(**{**one.to_json(), "done": True}) for one in found])
    assert none.notes[0].startswith("0 of 7 steps to do: about 0 s")


def test_adapters_and_gains_need_less_memory_than_all_weights(tmp_path):
    def memory(train: str) -> float:
        path = tmp_path / "own.toml"
        path.write_text(f'title = "t"\nmodels = ["m"]\n[[study]]\nname = "a"\ndpo = {{ train = "{train}" }}\n')
        steps = plan_reproduction(["some/model"], tmp_path, load_preset(str(path)), ReproduceSettings())
        size = ModelSize(2_000_000_000, 32_000, 2048, 24, 8192, 1024)
        return estimate_plan([replace(steps[1], size=size)], MACHINE)[0].memory

    full, lora, gains = (memory(train) for train in ("full", "lora", "gains"))
    assert full - gains == pytest.approx(12 * 2e9, rel=0.01), "gradients, the optimiser's state, float32"
    assert gains < lora < gains + 16 * 0.02 * 2e9


def test_times_of_a_gpu_are_called_what_they_are():
    found = estimate_plan(planned("cpu-gemma-3-270m"), GPU)
    assert "Times are accurate to a factor of two." in plan_table("t", found).notes[0]
    assert "On a GPU this is a lower bound" in plan_table("t", found, gpu=True).notes[0]


def test_a_day_is_long():
    size = ModelSize(2_000_000_000, 32_000, 2048, 24, 8192, 1024)
    steps = [replace(one, size=size) for one in planned("cpu-gemma-3-270m")]
    for one in estimate_plan(steps, MACHINE):
        assert one.needs_gpu == (one.seconds > LONG or one.memory > MACHINE.memory)
