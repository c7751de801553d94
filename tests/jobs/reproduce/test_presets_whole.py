"""Each of the paper's presets from pairs to report, on a tiny random model of its architecture."""

from pathlib import Path

import polars as pl
import pytest

from dposcope.jobs.reproduce.job import run_reproduce
from dposcope.jobs.reproduce.plan import plan
from dposcope.jobs.reproduce.preset import Preset, Protocol, load_preset
from dposcope.jobs.reproduce.settings import ReproduceSettings
from helpers.jobs import Job, make_job

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("lighter")]
FAMILIES = {
    "paper-gpt2-medium": "gpt2",
    "paper-llama-3.1-8b": "llama",
    "paper-gemma-2-2b": "gemma2",
    "paper-mistral-7b": "mistral",
}
BOTH = ("paper-gpt2-medium", "paper-gemma-2-2b")
"""In both protocols: the one without a gate, of whose neurons the reference leaves some out, and one with soft-caps."""


def smaller(preset: Preset, protocols: list[Protocol]) -> Preset:
    """The same with fewer of everything; what it does stays."""
    (study,) = preset.study
    study = study.model_copy(
        update={
            "pairs": {**study.pairs, "count": 16, "new_tokens": 4, "prompt_tokens": 4, "step_size": 0.5},
            "dpo": {**study.dpo, "max_examples": 8},
            "protocols": protocols,
        }
    )
    explain = {**preset.explain, "limit": 8, "max_windows": 1, "max_passages": 2, "toxic_neurons": [8], "steer": [0.1]}
    explain |= {"seeds": 0, "folds": 0, "edit_grid": ["0.05:0.5"]}  # one α and β of the paper's four
    less, reference = {"interchange": False, "claim_directions": False}, dict(preset.reference)
    if preset.name == "paper-gemma-2-2b":  # what no preset changes is run whole once
        reference |= less
    else:
        explain |= less
    return preset.model_copy(update={"study": [study], "explain": explain, "reference": reference})


def data(job: Job) -> ReproduceSettings:
    return ReproduceSettings(
        prompts=str(job.prompts),
        comments=str(job.comments),
        learn_text=str(job.neutral),
        neutral=str(job.neutral),
        passages=str(job.passages),
        scorer="helpers.jobs:softness",
        dtype="float32",
        device="cpu",
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_a_preset_of_the_paper_runs_to_its_report(name, tmp_path):
    job = make_job(tmp_path / "job", FAMILIES[name], windows=24)
    preset = load_preset(name)
    assert preset.study[0].protocols == ["strict", "reference"]
    protocols: list[Protocol] = ["strict", "reference"] if name in BOTH else ["strict"]
    preset = smaller(preset, protocols)
    made = run_reproduce([str(job.model)], tmp_path / "out", preset, data(job))
    assert [(run.study, run.protocol) for run in made.runs] == [("pplm", protocol) for protocol in protocols]
    assert (tmp_path / "out/report.html").stat().st_size > 10_000
    found = pl.read_parquet(tmp_path / "out/tables/findings.parquet")
    assert (found["logppl_before"] != found["logppl_after"]).all(), "tuning changed nothing: this tests too little"
    for run in made.runs:
        training = pl.read_parquet(run.folder / "tables/table-09-training.parquet")
        assert training.height > 5
        # Both readings of the paper's edit, both rankings, with the probe and without one; and neurons at random.
        edits = {condition for condition in run.scores.conditions if condition.startswith(("scale-", "assign-"))}
        assert len(edits) == 10


def test_the_papers_settings_reach_every_command():
    settings = ReproduceSettings(prompts="p", comments="c", passages="w")
    steps = {step.name: step.settings for step in plan("m", Path("out"), load_preset("paper-gemma-2-2b"), settings)}
    schedule = steps["dpo-pplm"].schedule(24_576, autocast=False)
    assert (schedule.steps, schedule.batch_size, schedule.warmup_steps, schedule.learning_rate) == (
        30_720,
        4,
        150,
        1e-5,
    )
    assert steps["dpo-pplm"].objective("gemma2").kl_weight == 0.05
    assert steps["dpo-pplm"].objective("gemma2").kl_on == "pairs"
    for protocol in ("strict", "reference"):
        explained = steps[f"explain-pplm-{protocol}"]
        assert (explained.limit, explained.split, explained.direction, explained.protocol) == (
            1199,
            "same",
            "probe",
            protocol,
        )
        assert explained.scorer == "unitary/toxic-bert"
    assert steps["pairs-pplm"].learn_text == "hub:Salesforce/wikitext/wikitext-2-raw-v1@train"
