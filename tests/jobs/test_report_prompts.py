"""Prompts to report on: no job reads them before its last step, its measuring; and `run.json` says what read them."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from dposcope.data.prompts import PromptSplit, load_prompts
from dposcope.jobs.edit import job as edit_job
from dposcope.jobs.edit.job import run_edit
from dposcope.jobs.edit.settings import EditSettings
from dposcope.jobs.evaluate.job import run_evaluate
from dposcope.jobs.evaluate.settings import EvaluateSettings
from dposcope.jobs.explain.job import run_explain
from dposcope.jobs.explain.settings import ExplainSettings
from dposcope.jobs.ingredients import data as data_read
from dposcope.jobs.pairs.job import run_pairs
from dposcope.jobs.pairs.settings import PairsSettings
from dposcope.jobs.reporter import Quiet
from dposcope.jobs.reproduce.job import run_reproduce
from dposcope.jobs.reproduce.preset import Preset, StudyPreset
from dposcope.jobs.reproduce.settings import ReproduceSettings
from dposcope.jobs.tune.job import run_tune
from dposcope.jobs.tune.settings import TuneSettings
from dposcope.model.generate import generate
from dposcope.reading import read_object
from helpers.changes import tuned_copy
from helpers.families import tiny
from helpers.jobs import Job, make_job, write_jsonl
from helpers.watched import NO_STAGE, readers

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("lighter")]

REPORT, CHOOSE, LEARN = WORDS = ("vixen", "jackdaw", "quokka")
"""One in each prompt, by what it is for; they stand in no other text, and no model here can write them."""


@dataclass(frozen=True)
class Marked:
    """A tiny job whose prompts are marked."""

    job: Job
    tuned: Path
    report: Path
    """Prompts to report on, one of which stands in the job's own prompts, too."""

    def settings(self, **others) -> dict:
        return self.job.settings(report_prompts=str(self.report), max_windows=1, max_passages=2, **others)


def marked(folder: Path, *words: str, times: int = 1) -> Job:
    """A tiny job, its prompts, or `times` as many, marked in order: as many by each word."""
    job = make_job(folder / "job", windows=40)
    prompts = load_prompts(job.prompts) * times
    each = len(prompts) // len(words)
    write_jsonl(
        job.prompts, [{"prompt": f"{words[row // each]} {row}, {prompt}"} for row, prompt in enumerate(prompts)]
    )
    return job


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Marked:
    """Prompts to report on in a file of their own."""
    folder = tmp_path_factory.mktemp("files")
    job = marked(folder, CHOOSE, LEARN)
    rows = [json.loads(line) for line in job.prompts.read_text().splitlines()]
    both = {"prompt": f"{REPORT} in both files"}
    write_jsonl(job.prompts, [*rows[:-1], both])
    others = [{"prompt": f"{REPORT} {row}, {one['prompt'].partition(', ')[2]}"} for row, one in enumerate(rows[:5])]
    tuned_copy(tiny("llama")).save_pretrained(folder / "tuned")
    return Marked(job, folder / "tuned", write_jsonl(folder / "report.jsonl", [*others, both]))


def edit(files: Marked, out: Path) -> None:
    run_edit(str(files.job.model), out, EditSettings(**files.settings()))


def evaluate(files: Marked, out: Path) -> None:
    conditions = ["scale:alpha=0.3", "steer:relative=0.1", f"tuned=model:{files.tuned}"]
    run_evaluate(str(files.job.model), out, EvaluateSettings(**files.settings(condition=conditions)))


def explain(files: Marked, out: Path) -> None:
    small = {"toxic_neurons": [4], "steer": [0.1], "edit_grid": ["scale:0.3:0.55"], "seeds": 0}
    run_explain(str(files.job.model), str(files.tuned), out, ExplainSettings(**files.settings(**small)))


SEARCH = {
    **{"trials": 4, "samples": 4, "pairing": "extremes", "min_gap": 0.02, "epochs": 1.0, "search_windows": 10},
    # No bound keeps the search from an edit, so that its last stage writes, too.
    **{"max_logppl_increase": 0.5, "max_harmless_increase": 1000.0, "max_phrase_rise": 1.0, "least_relevance": 0.0},
}


def tune(files: Marked, out: Path, **others) -> None:
    settings = TuneSettings(**files.settings(learn_text=str(files.job.neutral), neutral=None, **SEARCH, **others))
    run_tune(str(files.job.model), out, settings)


def control(files: Marked, out: Path) -> None:
    """With random scores, which the plain model's texts are scored for."""
    tune(files, out, negative_control="shuffled-scores")


def distil(files: Marked, out: Path) -> None:
    """With a teacher, trained on the same pairs."""
    tune(files, out, teacher="full")


def reproduce(files: Marked, out: Path) -> None:
    """Two studies: the second has its pairs sampled after the first has measured."""
    training = {"learning_rate": 1e-3, "warmup_steps": 0, "max_examples": 8, "batch_size": 4, "train": "gains"}
    windows = {"validate_every": 8, "window_pool": 4, "window_tokens": 16}
    studies = [
        StudyPreset(
            name=name,
            pairs={"method": "sample", "pairing": "extremes", "samples": 4, "min_gap": gap, "new_tokens": 6},
            dpo={**training, **windows},
        )
        for name, gap in (("any-gap", 0.0), ("some-gap", 0.01))
    ]
    shown = {"neurons_only": True, "toxic_neurons": [4], "max_windows": 1, "max_passages": 2}
    preset = Preset(name="two", title="Two studies", models=["tiny"], explain=shown, study=studies)
    given = {name: str(getattr(files.job, name)) for name in ("prompts", "comments", "neutral", "passages")}
    quick = {"scorer": "helpers.jobs:softness", "dtype": "float32", "device": "cpu", "folds": 0, "seeds": 0}
    settings = ReproduceSettings(report_prompts=str(files.report), learn_text=given["neutral"], **given, **quick)
    run_reproduce([str(files.job.model)], out, preset, settings)


JOBS: dict[str, Callable[[Marked, Path], None]] = {
    one.__name__: one for one in (edit, evaluate, explain, tune, distil, control, reproduce)
}
CHOOSING = {"tune", "distil", "control"}


def measuring(stage: str) -> bool:
    """Whether a stage belongs to the last step: to measure, and to sample what the plain model's ideal would write."""
    return stage.startswith("measure-") or stage == "ideal"


def check(seen: Mapping[str, set[str]], *, chooses: bool) -> None:
    """What every job keeps to.

    Raises:
        AssertionError: it does not.
    """
    early = {stage for stage in seen[REPORT] if not measuring(stage)}
    assert not early, f"prompts to report on were read by {early}"
    assert seen[REPORT], "nothing was measured"
    assert seen[LEARN]
    assert bool(seen[CHOOSE]) == chooses
    assert not any(measuring(stage) for stage in seen[LEARN] | seen[CHOOSE])
    assert not seen[LEARN] & seen[CHOOSE]


@pytest.mark.parametrize("name", JOBS)
def test_no_job_reads_the_prompts_to_report_on_before_it_measures(files, tmp_path, name):
    with readers(WORDS) as seen:
        JOBS[name](files, tmp_path / "out")
    check(seen, chooses=name in CHOOSING)
    if name == "reproduce":
        told = [read_object(file)["prompts"] for file in tmp_path.rglob("explain-strict/run.json")]
        assert len(told) == 2
    else:
        told = [read_object(tmp_path / "out/run.json")["prompts"]]
    for prompts in told:
        assert prompts["report"]["count"] == 6
        assert set(prompts["report"]["read_by"]) == seen[REPORT]
        assert prompts["learn"]["count"] == 11, "one stands among those to report on"
        assert prompts["learn"]["read_by"] == [one for one in ("means", "means-after", "texts") if one in seen[LEARN]]
        assert ("choose" in prompts) == (name in CHOOSING)
    if name in CHOOSING:
        assert told[0]["choose"]["count"] == 12
        assert set(told[0]["choose"]["read_by"]) == seen[CHOOSE]
        own = {"control-scores"} if name == "control" else set()
        assert seen[CHOOSE] == {"plain-texts", "harmless-texts", "search", "choose"} | own
        pairs = (tmp_path / "out/pairs.jsonl").read_text().splitlines()
        assert all(LEARN in json.loads(line)["prompt_text"] for line in pairs)


@pytest.mark.parametrize("use", ["learn", "all"])
def test_pairs_are_made_from_no_prompt_to_report_on(files, tmp_path, use):
    chosen = {"samples": 4, "pairing": "extremes", "min_gap": 0.0, "new_tokens": 4, "use": use}
    chosen |= {
        "scorer": "helpers.jobs:softness",
        "prompts": str(files.job.prompts),
        "report_prompts": str(files.report),
        "dtype": "float32",
    }
    with readers(WORDS) as seen:
        run_pairs(str(files.job.model), tmp_path / "p.jsonl", PairsSettings(method="sample", device="cpu", **chosen))
    assert not seen[REPORT]
    assert seen[LEARN]
    assert bool(seen[CHOOSE]) == (use == "all")


def test_a_search_splits_a_single_file_three_ways(tmp_path):
    job = marked(tmp_path, REPORT, REPORT, CHOOSE, LEARN, times=2)
    settings = TuneSettings(**job.learning(max_windows=1, max_passages=2, controls=False, **SEARCH))
    with readers(WORDS) as seen:
        run_tune(str(job.model), tmp_path / "out", settings)
    check(seen, chooses=True)
    told = read_object(tmp_path / "out/run.json")["prompts"]
    assert {name: part["count"] for name, part in told.items()} == {"learn": 12, "choose": 12, "report": 24}


def leak_by_data(patch: pytest.MonkeyPatch) -> None:
    """One prompt to report on is among those to learn from."""
    load = data_read.load_split

    def leaking(*given, **named) -> PromptSplit:
        split = load(*given, **named)
        return replace(split, learn=(*split.learn, split.report[0]))

    patch.setattr(data_read, "load_split", leaking)


def leak_between_stages(patch: pytest.MonkeyPatch) -> None:
    """What a model writes to one of them is looked at before anything is measured."""
    judge = edit_job.prepare_judge

    def leaking(job, seed):
        generate(job.lm, job.data.report.prompts[:1], new_tokens=1)
        return judge(job, seed)

    patch.setattr(edit_job, "prepare_judge", leaking)


def leak_to_a_scorer(patch: pytest.MonkeyPatch) -> None:
    """They are scored as texts while the edit is chosen."""
    choose = edit_job.choose_edit

    def leaking(job, *given, **named):
        job.data.report.scorer(job.data.report.prompts)
        return choose(job, *given, **named)

    patch.setattr(edit_job, "choose_edit", leaking)


def stop_there(*_given, **_named) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("leak", "where"),
    [(leak_by_data, {NO_STAGE, "means"}), (leak_between_stages, {NO_STAGE}), (leak_to_a_scorer, {NO_STAGE})],
)
def test_a_job_that_reads_them_early_is_noticed(files, tmp_path, monkeypatch, leak, where):
    leak(monkeypatch)
    monkeypatch.setattr(edit_job, "measure_all", stop_there)  # by then they were read
    with readers(WORDS) as seen, pytest.raises(KeyboardInterrupt):
        edit(files, tmp_path / "out")
    with pytest.raises(AssertionError, match=r"were read by \{'"):
        check(seen, chooses=False)
    assert {stage for stage in seen[REPORT] if not measuring(stage)} == where


def test_every_look_at_the_prompts_to_report_on_is_counted(files, tmp_path):
    """Those of an earlier start of the same run, too."""
    for condition in ("scale:alpha=0.3", "ablate:weight=1"):
        run_evaluate(str(files.job.model), tmp_path, EvaluateSettings(**files.settings(condition=[condition])))
    read_by = read_object(tmp_path / "run.json")["prompts"]["report"]["read_by"]
    assert [name.rpartition("measure-")[2].split("-")[0] for name in read_by] == ["ideal", "ablate", "none", "scale"]


def test_a_prompt_in_both_files_is_told_and_left_out(files, tmp_path):
    class Noting(Quiet):
        def __init__(self) -> None:
            self.notes: list[str] = []

        def note(self, line: str) -> None:
            self.notes.append(line)

    reporter = Noting()
    run_evaluate(str(files.job.model), tmp_path / "out", EvaluateSettings(**files.settings()), reporter=reporter)
    told = [note for note in reporter.notes if not note.startswith("No further scorer")]
    assert len(told) == 1
    assert told[0].startswith("1 prompt of --prompts left out: --report-prompts has the same text")
