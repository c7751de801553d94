"""A run's folder: locked, resumable, and the same whatever interrupts it."""

import json
import random
import shutil
import signal
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from dposcope.artefacts import library_versions, sealed, write_json, write_text
from dposcope.directions.direction import Direction
from dposcope.errors import DposcopeError
from dposcope.interventions.edit import Edit
from dposcope.jobs.edit.job import run_edit
from dposcope.jobs.edit.settings import EditSettings
from dposcope.jobs.evaluate.job import run_evaluate
from dposcope.jobs.evaluate.settings import EvaluateSettings
from dposcope.jobs.finished import is_finished
from dposcope.jobs.opening import open_run
from dposcope.jobs.reporter import Quiet
from dposcope.jobs.run import RunPolicy
from dposcope.reading import read_object
from helpers.jobs import Job, contents, crashes, make_job, process, write_csv, write_jsonl

pytestmark = pytest.mark.usefixtures("lighter")

CLOCKS = "stages/"
"""The only files of a run that hold clock times: each stage's record says how many seconds it took."""


class Noting(Quiet):
    """A reporter that keeps what it was told."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.loaded: list[str] = []
        self.notes: list[str] = []

    def stage(self, title: str) -> None:
        self.made.append(title)

    def reused(self, title: str) -> None:
        self.loaded.append(title)

    def note(self, line: str) -> None:
        self.notes.append(line)


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Job:
    return make_job(tmp_path_factory.mktemp("job"))


@pytest.fixture
def own_job(tmp_path) -> Job:
    """One whose files the test may change."""
    return make_job(tmp_path / "job")


@pytest.fixture(scope="module")
def finished(job, tmp_path_factory) -> Path:
    """A run that nothing interrupted; a test that goes on with it copies the folder."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    run_edit(str(job.model), out, EditSettings(**job.settings()))
    return out


@pytest.fixture(scope="module")
def undisturbed(finished) -> dict[str, bytes]:
    """Its files."""
    return contents(finished)


def edit(job: Job, out: Path, **settings):
    return run_edit(str(job.model), out, EditSettings(**job.settings(**settings)))


def stamps(out: Path) -> dict[str, int]:
    """When each stage was last made."""
    return {path.stem: path.stat().st_mtime_ns for path in (out / "stages").iterdir()}


def made_again(before: dict[str, int], out: Path) -> set[str]:
    return {name for name, stamp in stamps(out).items() if before.get(name) != stamp}


def same_but_clocks(found: dict[str, bytes], expected: dict[str, bytes]) -> None:
    """Byte for byte; records of stages only up to their seconds."""
    visible = {name for name in found if not any(part.startswith(".") for part in Path(name).parts)}
    assert visible == {name for name in expected if not name.startswith(".")}
    for name in sorted(visible):
        if name.startswith(CLOCKS):
            ours, theirs = json.loads(found[name]), json.loads(expected[name])
            assert {**ours, "seconds": 0, "digest": ""} == {**theirs, "seconds": 0, "digest": ""}, name
        else:
            assert found[name] == expected[name], f"{name} differs from that of an undisturbed run"


# Stages


def stage(run, name: str, value: str, *, inputs: dict | None = None, calls: list[str] | None = None) -> str:
    """A stage whose result is one text in one file."""
    file = run.folder / f"{name}.txt"

    def make() -> None:
        if calls is not None:
            calls.append(name)
        write_text(file, value)

    return run.stage(name, name.title(), inputs=inputs or {}, files=[file], make=make, load=file.read_text)


def test_a_stage_is_made_once_and_then_loaded(tmp_path):
    calls: list[str] = []
    for _ in range(3):
        with open_run(tmp_path / "out", "test", {}) as run:
            assert stage(run, "first", "value", calls=calls) == "value"
    assert calls == ["first"]


def test_a_stage_runs_again_when_its_inputs_change_and_others_do_not(tmp_path):
    calls: list[str] = []
    for value in ("a", "b", "b"):
        with open_run(tmp_path / "out", "test", {}) as run:
            assert stage(run, "first", value, inputs={"value": value}, calls=calls) == value
            assert stage(run, "second", "same", inputs={"x": 1, "y": [2.5, None]}, calls=calls) == "same"
    assert calls == ["first", "second", "first"]


def test_two_stages_of_one_name_are_refused(tmp_path):
    with open_run(tmp_path / "out", "test", {}) as run:
        for _ in range(2):  # the same one may be asked for again
            stage(run, "first", "a", inputs={"x": 1})
        with pytest.raises(ValueError, match="two stages of different inputs are called 'first'"):
            stage(run, "first", "b", inputs={"x": 2})
    assert (tmp_path / "out/first.txt").read_text() == "a"


def test_the_order_of_inputs_does_not_matter(tmp_path):
    calls: list[str] = []
    for inputs in ({"a": 1, "b": 2}, {"b": 2, "a": 1}):
        with open_run(tmp_path / "out", "test", {}) as run:
            stage(run, "first", "v", inputs=inputs, calls=calls)
    assert calls == ["first"]


def test_a_stage_that_failed_is_not_recorded(tmp_path):
    def fail() -> None:
        raise DposcopeError("no")

    with pytest.raises(DposcopeError), open_run(tmp_path / "out", "test", {}) as run:
        run.stage("first", "First", inputs={}, make=fail, load=lambda: None)
    with open_run(tmp_path / "out", "test", {}) as run:
        assert stage(run, "first", "now") == "now"


def test_a_stage_interrupted_while_it_is_made_again_is_not_believed(tmp_path):
    """Made for A, begun again for B, killed after B's files were written, asked for A: they are not A's."""
    out = tmp_path / "out"
    with open_run(out, "test", {}) as run:
        assert stage(run, "first", "A", inputs={"value": "A"}) == "A"

    def half_way() -> None:
        write_text(out / "first.txt", "B")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), open_run(out, "test", {}) as run:
        run.stage("first", "First", inputs={"value": "B"}, make=half_way, load=lambda: None)
    with open_run(out, "test", {}) as run:
        assert stage(run, "first", "A", inputs={"value": "A"}) == "A"


def test_reporters_hear_what_is_made_and_what_is_loaded(tmp_path):
    for made, loaded in ((["First"], []), ([], ["First"])):
        reporter = Noting()
        with open_run(tmp_path / "out", "test", {}, reporter=reporter) as run:
            stage(run, "first", "v")
            assert set(run.seconds()) == {"first"}
        assert (reporter.made, reporter.loaded) == (made, loaded)


def test_a_damaged_record_says_what_to_do(tmp_path):
    with open_run(tmp_path / "out", "test", {}) as run:
        stage(run, "first", "v")
    (tmp_path / "out/stages/first.json").write_text("{")
    with (
        pytest.raises(DposcopeError, match=r"first\.json is not JSON .*; delete it and run again"),
        open_run(tmp_path / "out", "test", {}) as run,
    ):
        stage(run, "first", "v")


# Whether what a stage left still holds


DAMAGED = pytest.mark.parametrize("large", [False, True], ids=["small files", "large files"])


def versions(monkeypatch, **others: str) -> None:
    """As after an installation of other libraries."""
    here = library_versions() | others
    for place in ("record", "run", "finished"):
        monkeypatch.setattr(f"dposcope.jobs.{place}.library_versions", lambda: here)


@pytest.mark.parametrize("library", ["torch", "transformers", "dposcope"])
def test_a_stage_that_another_version_made_is_made_again_and_why_is_told(tmp_path, monkeypatch, library):
    calls: list[str] = []
    with open_run(tmp_path / "out", "test", {}) as run:
        stage(run, "first", "v", calls=calls)
    versions(monkeypatch, **{library: "9.9"})
    reporter = Noting()
    for _ in range(2):
        with open_run(tmp_path / "out", "test", {}, reporter=reporter) as run:
            stage(run, "first", "v", calls=calls)
    assert calls == ["first"] * 2
    here = metadata.version(library)
    assert reporter.notes == [f"First, once more: made by {library} {here}, this is 9.9"]


def test_versions_of_what_decides_nothing_repeat_nothing(tmp_path, monkeypatch):
    calls: list[str] = []
    for python in ("3.11.1", "3.12.0"):
        versions(monkeypatch, python=python)
        with open_run(tmp_path / "out", "test", {}) as run:
            stage(run, "first", "v", calls=calls)
    assert calls == ["first"]


def test_run_json_names_the_versions_that_made_what_is_there(tmp_path, monkeypatch):
    def told() -> str:
        return read_object(tmp_path / "out/run.json")["versions"]["torch"]

    versions(monkeypatch, torch="1.0")
    with open_run(tmp_path / "out", "test", {}) as run:
        stage(run, "first", "v")
        stage(run, "second", "v")
    versions(monkeypatch, torch="2.0")
    with open_run(tmp_path / "out", "test", {}) as run:
        assert told() == "1.0"  # nothing of it was made by another yet
        stage(run, "first", "v")
        assert told() == "1.0, 2.0"
        stage(run, "second", "v")
        assert told() == "2.0"


def test_a_stage_of_another_revision_is_made_again_and_why_is_told(tmp_path):
    calls: list[str] = []
    reporter = Noting()
    for revision in (1, 2, 2):
        with open_run(tmp_path / "out", "test", {}, reporter=reporter) as run:
            run.json("first", "First", Any, inputs={}, make=lambda: calls.append("made"), revision=revision)
    assert calls == ["made"] * 2
    assert reporter.notes == ["First, once more: made by revision 1 of its code, this is 2"]


@DAMAGED
def test_one_changed_byte_of_any_file_is_noticed_told_and_mended(tmp_path, monkeypatch, large):
    """Files in folders, too. A large file is read where its time is another."""
    if large:
        monkeypatch.setattr("dposcope.marks.LARGE", 1)
    out = tmp_path / "out"

    def make() -> None:
        for name in ("one.txt", "model/config.json", "model/deep/weights"):
            write_text(out / name, f"what {name} holds")

    def opened(reporter: Noting) -> None:
        with open_run(out, "test", {}, reporter=reporter) as run:
            run.stage("s", "Stage", inputs={}, files=[out / "one.txt", out / "model"], make=make, load=lambda: None)

    opened(Noting())
    whole = contents(out)
    for name in ("one.txt", "model/config.json", "model/deep/weights"):
        damaged = bytearray(whole[name])
        damaged[3] ^= 1
        (out / name).write_bytes(damaged)
        reporter = Noting()
        opened(reporter)
        assert reporter.notes == [f"Stage, once more: {name} is not as it was made"]
        assert reporter.made == ["Stage"]
        assert contents(out)[name] == whole[name]
        (out / name).unlink()
        reporter = Noting()
        opened(reporter)
        assert reporter.notes == [f"Stage, once more: {name} is gone"]
        assert contents(out)[name] == whole[name]
    reporter = Noting()
    opened(reporter)
    assert (reporter.made, reporter.loaded) == ([], ["Stage"])


def test_a_large_file_of_its_size_and_time_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("dposcope.marks.LARGE", 1)
    calls: list[str] = []
    with open_run(tmp_path / "out", "test", {}) as run:
        run.json("first", "First", Any, inputs={}, make=lambda: calls.append("made"))
    monkeypatch.setattr("dposcope.marks.file_digest", None)
    with open_run(tmp_path / "out", "test", {}) as run:
        run.json("first", "First", Any, inputs={}, make=lambda: calls.append("made"))
    assert calls == ["made"]


def test_a_stage_of_one_value_saves_and_loads_it(tmp_path):
    calls: list[str] = []

    def make() -> Direction:
        calls.append("made")
        return Direction(torch.ones(4), "mine", -1)

    for _ in range(2):
        with open_run(tmp_path / "out", "test", {}) as run:
            found = run.value("w", "W", Direction, inputs={}, make=make)
    assert calls == ["made"]
    assert torch.equal(found.vector, Direction.load(tmp_path / "out/w").vector)
    assert sorted(read_object(tmp_path / "out/stages/w.json")["files"]) == ["w.json", "w.safetensors"]


def test_scratch_that_is_released_leaves_its_time(tmp_path):
    with open_run(tmp_path / "out", "test", {}) as run:
        run.json("first", "First", Any, inputs={}, make=lambda: 1)
        took = run.seconds()
        run.release("first")
        (tmp_path / "out/first.json").unlink()
        assert run.seconds() == took
    assert is_finished(tmp_path / "out", "test", {})
    calls: list[str] = []
    with open_run(tmp_path / "out", "test", {}) as run:
        run.json("first", "First", Any, inputs={}, make=lambda: calls.append("made"))
    assert calls == ["made"]


# Whether a whole run is finished


def run_once(out: Path, settings: dict, *, killed: bool = False, **options) -> None:
    """One stage, and a report that is none."""
    with open_run(out, "test", settings, policy=RunPolicy(adopt=True), **options) as run:
        stage(run, "first", "v")
        write_text(out / "report.html", "report")
        write_text(out / "model/config.json", "{}")
        assert not is_finished(out, "test", settings)
        if killed:
            raise KeyboardInterrupt


def test_a_run_is_finished_when_it_came_to_its_end(tmp_path):
    out = tmp_path / "out"
    assert not is_finished(out, "test", {})
    with pytest.raises(KeyboardInterrupt):
        run_once(out, {}, killed=True)
    assert not is_finished(out, "test", {})
    run_once(out, {"alpha": 1}, free={"shown": 2})
    assert is_finished(out, "test", {"alpha": 1, "shown": 2})
    for other in ({"alpha": 1}, {"alpha": 1, "shown": 3}, {"alpha": 2, "shown": 2}):
        assert not is_finished(out, "test", other)
    assert not is_finished(out, "other", {"alpha": 1, "shown": 2})


@pytest.mark.parametrize("name", ["first.txt", "report.html", "run.json", "model/config.json"])
def test_a_finished_run_with_one_changed_byte_is_not(tmp_path, name):
    out = tmp_path / "out"
    run_once(out, {})
    assert is_finished(out, "test", {})
    damaged = bytearray((out / name).read_bytes())
    damaged[damaged.index(b"finished") if name == "run.json" else 0] ^= 1
    (out / name).write_bytes(damaged)
    assert not is_finished(out, "test", {})


def test_a_checkpoint_may_be_deleted_and_nothing_else(tmp_path):
    out = tmp_path / "out"
    run_once(out, {})
    shutil.rmtree(out / "model")
    assert is_finished(out, "test", {})
    (out / "report.html").unlink()
    assert not is_finished(out, "test", {})


@pytest.mark.parametrize("change", ["library", "code", "what a setting names"])
def test_a_run_is_not_finished_when_it_would_end_otherwise_now(tmp_path, monkeypatch, change):
    data = tmp_path / "data.txt"
    data.write_text("one")
    settings = {"prompts": str(data), "judges": [str(data)], "scorer": "profanity"}
    run_once(tmp_path / "out", settings)
    assert is_finished(tmp_path / "out", "test", settings)
    if change == "library":
        versions(monkeypatch, torch="9.9")
    elif change == "code":
        monkeypatch.setattr("dposcope.jobs.finished.code_digest", lambda: "other")
    else:
        data.write_text("two")
    assert not is_finished(tmp_path / "out", "test", settings)


def test_what_a_setting_named_and_is_gone_has_not_changed(tmp_path):
    """A tuned model may be deleted when it was explained."""
    tuned = tmp_path / "tuned"
    tuned.mkdir()
    (tuned / "config.json").write_text("{}")
    run_once(tmp_path / "out", {"tuned": str(tuned)})
    shutil.rmtree(tuned)
    assert is_finished(tmp_path / "out", "test", {"tuned": str(tuned)})


# The folder


def test_settings_and_command_are_written_down(tmp_path):
    with open_run(tmp_path / "out", "test", {"alpha": 0.1, "path": Path("x")}):
        pass
    about = read_object(tmp_path / "out/run.json")
    assert about["command"] == "test"
    assert about["settings"] == {"alpha": 0.1, "path": "x"}
    assert "torch" in about["versions"]


@pytest.mark.parametrize(
    ("second", "names"),
    [
        ({"alpha": 0.2, "batch_size": 8}, "alpha was 0.1, now 0.2"),
        ({"alpha": 0.1, "batch_size": 16}, "batch-size was 8, now 16"),
        ({"alpha": 0.1}, "batch-size was 8, now None"),
        ({"alpha": 0.1, "batch_size": 8, "seed": 1}, "seed was None, now 1"),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path, second, names):
    with open_run(tmp_path / "out", "test", {"alpha": 0.1, "batch_size": 8}) as run:
        stage(run, "first", "v")
    with (
        pytest.raises(DposcopeError, match=rf"another run's results \({names}\); choose another --out"),
        open_run(tmp_path / "out", "test", second),
    ):
        pass


def test_another_command_is_refused(tmp_path):
    with open_run(tmp_path / "out", "edit", {}) as run:
        stage(run, "first", "v")
    with (
        pytest.raises(DposcopeError, match="holds a run of 'edit'; choose another --out"),
        open_run(tmp_path / "out", "evaluate", {}),
    ):
        pass


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep")
    with (
        pytest.raises(DposcopeError, match="holds files that are not a run's; choose an empty or new folder"),
        open_run(tmp_path / "mine", "test", {}),
    ):
        pass
    assert contents(tmp_path / "mine") == {"notes.txt": b"keep"}


def test_places_that_cannot_be_folders_are_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(DposcopeError, match="is a file; choose a folder for --out"),
        open_run(tmp_path / "file", "test", {}),
    ):
        pass
    with (
        pytest.raises(DposcopeError, match=r"cannot make .*; choose another --out"),
        open_run(tmp_path / "file/below", "test", {}),
    ):
        pass


def test_an_empty_folder_and_one_with_only_a_lock_are_taken(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "locked").mkdir()
    (tmp_path / "locked/.lock").touch()
    for name in ("empty", "locked"):
        with open_run(tmp_path / name, "test", {}) as run:
            assert stage(run, "first", "v") == "v"


def test_one_process_at_a_time(tmp_path):
    refused = pytest.raises(DposcopeError, match=r"another process is working in .*; wait for it")
    with open_run(tmp_path / "out", "test", {}), refused, open_run(tmp_path / "out", "test", {}):
        pass
    with open_run(tmp_path / "out", "test", {}):
        pass  # and afterwards it is free


def test_the_lock_is_released_after_an_error(tmp_path):
    with pytest.raises(RuntimeError), open_run(tmp_path / "out", "test", {}):
        raise RuntimeError
    with open_run(tmp_path / "out", "test", {}):
        pass


def test_settings_that_did_nothing_yet_may_be_mended(tmp_path):
    """A model's name with a slip in it must not cost the folder: no stage was done, so nothing can be mixed up."""
    with pytest.raises(KeyboardInterrupt), open_run(tmp_path / "out", "test", {"model": "slip"}):
        raise KeyboardInterrupt
    with open_run(tmp_path / "out", "test", {"model": "right"}) as run:
        assert stage(run, "first", "v") == "v"
    assert read_object(tmp_path / "out/run.json")["settings"] == {"model": "right"}


def test_a_run_refused_before_it_did_anything_leaves_no_folder(tmp_path):
    with pytest.raises(DposcopeError, match="no such model"), open_run(tmp_path / "out", "test", {}):
        raise DposcopeError("no such model")
    assert not (tmp_path / "out").exists()


def test_a_refused_run_that_removed_its_folder_itself_tells_why(tmp_path):
    def refused() -> None:
        with open_run(tmp_path / "out", "test", {}) as run:
            shutil.rmtree(run.folder)
            raise DposcopeError("no such model")

    with pytest.raises(DposcopeError, match="no such model"):
        refused()


@pytest.mark.parametrize("there", ["the folder", "a stage", "another command's beginnings"])
def test_a_refused_run_takes_nothing_that_was_there_or_done(tmp_path, there):
    out = tmp_path / "out"

    def refused() -> None:
        with open_run(out, "test", {}) as run:
            if there == "a stage":
                stage(run, "first", "v")
            elif there == "another command's beginnings":
                (out / "pairs.making").mkdir()
            raise DposcopeError("no such model")

    if there == "the folder":
        out.mkdir()
    with pytest.raises(DposcopeError, match="no such model"):
        refused()
    assert (out / "run.json").exists() == (there != "the folder")
    assert (out / "stages/first.json").exists() == (there == "a stage")
    assert (out / "pairs.making").exists() == (there == "another command's beginnings")
    with open_run(out, "test", {}) as run:
        assert stage(run, "first", "v") == "v"


# A whole job, interrupted


@pytest.mark.slow
def test_killed_at_many_moments_and_resumed_it_ends_the_same(job, undisturbed, tmp_path):
    draw = random.Random(1)
    out = tmp_path / "out"
    tries = crashes(
        "killed",
        arguments=["edit", str(job.model), "--out", str(out), *job.flags()],
        changes=[draw.randint(1, 24) for _ in range(16)],
    )
    codes = [one["code"] for one in tries]
    assert codes[-1] == 0, tries[-1]["err"]
    assert codes[:-1] == [-signal.SIGKILL] * (len(codes) - 1)
    assert len(codes) > 8
    same_but_clocks(contents(out), undisturbed)


@pytest.mark.slow
def test_kills_leave_no_scratch_behind_once_the_run_is_done(job, tmp_path):
    """A killed fold leaves a copy of the model, as large as the model."""
    out = tmp_path / "out"
    arguments = ["edit", str(job.model), "--out", str(out), *job.flags(alpha=0.1), "--no-controls"]
    crashes("killed", arguments=arguments, changes=[5, 20, 33, 12, 6, 18])
    hidden = {str(path.relative_to(out)) for path in out.rglob(".*")}
    assert hidden == {".lock"}


@pytest.mark.slow
def test_a_process_killed_by_the_clock_goes_on_where_it_stopped(job, undisturbed, tmp_path):
    """The command itself, killed at seeded moments after it began to work."""
    draw, out = random.Random(0), tmp_path / "out"
    arguments = ["edit", str(job.model), "--out", str(out), *job.flags()]
    finished: set[str] = set()
    for _ in range(2):
        running = process(*arguments)
        begun = time.monotonic()
        while not (out / "run.json").exists() and time.monotonic() < begun + 60:
            time.sleep(0.01)
        time.sleep(draw.uniform(0.1, 0.9))
        running.kill()
        running.communicate()
        now = {path.stem for path in (out / "stages").glob("*.json")}
        assert finished <= now
        finished = now
    before = stamps(out) if finished else {}
    last = process(*arguments)
    told, complaint = last.communicate()
    assert last.returncode == 0, complaint
    assert "toxicity" in told
    assert not made_again({**stamps(out), **before}, out)  # what was done was not repeated
    same_but_clocks(contents(out), undisturbed)


def test_finished_stages_are_not_repeated(job, finished, tmp_path, monkeypatch):
    shutil.copytree(finished, tmp_path / "out")
    before = stamps(tmp_path / "out")
    files = contents(tmp_path / "out")

    def never(*_args, **_options):
        raise AssertionError("a finished stage was repeated")

    for place in (
        "dposcope.jobs.ingredients.direction.mean_difference",
        "dposcope.jobs.ingredients.prepared.collect_means",
        "dposcope.jobs.ingredients.prepared.TrainedScorer.fit",
        "dposcope.jobs.edit.choice.search_strength",
        "dposcope.jobs.measuring.measure.measure",
        "dposcope.jobs.edit.job.write_checkpoint",
    ):
        monkeypatch.setattr(place, never)
    reporter = Noting()
    run_edit(str(job.model), tmp_path / "out", EditSettings(**job.settings()), reporter=reporter)
    assert len(reporter.made) == 1  # loading the model
    assert len(reporter.loaded) == 10
    assert stamps(tmp_path / "out") == before
    assert contents(tmp_path / "out") == files


def rewritten_comments(job: Job, *, first_half: bool) -> None:
    """Other words in one row of one half."""
    rows = pl.read_csv(job.comments).rows()
    place = 10 if first_half else len(rows) - 10
    rows[place] = ("the old man by the river said a word", rows[place][1])
    write_csv(job.comments, ["comment_text", "toxic"], rows)


LITTLE = {"limit": 8, "max_windows": 1, "max_passages": 2}
"""To measure, where a test looks at what is made again."""


def test_other_comments_for_the_direction_redo_what_rests_on_it(own_job, tmp_path):
    out = tmp_path / "out"
    edit(own_job, out, **LITTLE)
    before = stamps(out)
    rewritten_comments(own_job, first_half=True)
    edit(own_job, out, **LITTLE)
    assert made_again(before, out) == {"direction", "choose", "measure-edit", "measure-control", "fold"}
    edit(own_job, tmp_path / "new", **LITTLE)
    same_but_clocks(contents(out), contents(tmp_path / "new"))


def test_other_comments_for_the_judge_redo_scores_and_the_card(own_job, tmp_path):
    out = tmp_path / "out"
    edit(own_job, out, **LITTLE)
    before = stamps(out)
    rewritten_comments(own_job, first_half=False)
    edit(own_job, out, **LITTLE)
    again = made_again(before, out)
    assert again >= {"judge", "measure-none", "measure-edit", "measure-control"}
    assert not again & {"direction", "means", "choose"}
    edit(own_job, tmp_path / "new", **LITTLE)
    same_but_clocks(contents(out), contents(tmp_path / "new"))


def test_other_prompts_redo_what_rests_on_their_half(own_job, tmp_path):
    out = tmp_path / "out"
    edit(own_job, out, **LITTLE)
    before = stamps(out)
    rows = [json.loads(line) for line in own_job.prompts.read_text().splitlines()]
    rows[0] = {"prompt": "the cat and the old river"}
    write_jsonl(own_job.prompts, rows)
    edit(own_job, out, **LITTLE)
    again = made_again(before, out)
    assert again >= {"measure-none", "measure-edit", "measure-control"}
    assert not again & {"direction", "means", "choose", "judge"}
    edit(own_job, tmp_path / "new", **LITTLE)
    same_but_clocks(contents(out), contents(tmp_path / "new"))


@pytest.mark.slow
@pytest.mark.parametrize("parts", ["both", "ablation"])
def test_other_neutral_text_redoes_the_search_and_the_checkpoint(tmp_path, parts):
    """With ablation alone the strength is a number in edit.json, and the tensors stay as they are."""
    own_job = make_job(tmp_path / "job", "mistral")  # one whose search ends inside its range
    out = tmp_path / "out"
    edit(own_job, out, parts=parts)
    old = Edit.load(out / "edit").about["strength"]
    words = own_job.neutral.read_text().split()
    random.Random(3).shuffle(words)
    lines = [" ".join(words[start : start + 9]) for start in range(0, len(words), 9)]
    own_job.neutral.write_text("\n".join(lines) + "\n")
    edit(own_job, out, parts=parts)
    assert Edit.load(out / "edit").about["strength"] != old
    edit(own_job, tmp_path / "new", parts=parts)
    same_but_clocks(contents(out), contents(tmp_path / "new"))


def test_another_model_under_the_same_name_redoes_everything(own_job, tmp_path):
    out = tmp_path / "out"
    edit(own_job, out, alpha=0.2, controls=False)
    before = stamps(out)
    make_job(tmp_path / "other", "mistral").model.rename(tmp_path / "other-model")
    own_job.model.rename(tmp_path / "old-model")
    (tmp_path / "other-model").rename(own_job.model)
    edit(own_job, out, alpha=0.2, controls=False)
    measured = {"ideal", "measure-none", "measure-edit", "measure-ideal"}
    assert made_again(before, out) == {"direction", "means", "choose", "fold"} | measured


@pytest.mark.slow
def test_another_saved_direction_under_the_same_name_redoes_the_edit(job, tmp_path):
    import torch

    def save(seed: int) -> str:
        vector = torch.randn(16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        Direction(vector, "mine", -1).save(tmp_path / "mine")
        return str(tmp_path / "mine")

    for out, command in (("edit", edit), ("evaluate", _evaluate_ablation)):
        command(job, tmp_path / out, direction=save(1))
        command(job, tmp_path / out, direction=save(2))
        command(job, tmp_path / f"{out}-new", direction=save(2))
        same_but_clocks(contents(tmp_path / out), contents(tmp_path / f"{out}-new"))


def _evaluate_ablation(job: Job, out: Path, **settings):
    options = job.settings(condition=["ablate:weight=1"], **settings)
    return run_evaluate(str(job.model), out, EvaluateSettings(**options))


def test_a_saved_edit_of_another_strength_under_the_same_name_is_measured_again(job, tmp_path):
    """Weights of ablations stand in edit.json, the tensors are the same."""
    from dposcope.interventions.ablate import ablate

    direction = load_file(_some_direction(job, tmp_path))["vector"]
    conditions = [f"{kind}:{tmp_path / 'e.safetensors'}" for kind in ("edit", "ablation-of", "control")]
    for out, weight in (("out", 0.0), ("out", 1.9), ("new", 1.9)):
        Edit.of(ablate(direction, weight=weight)).save(tmp_path / "e")
        run_evaluate(str(job.model), tmp_path / out, EvaluateSettings(**job.settings(condition=[f"x={conditions[0]}"])))
    same_but_clocks(contents(tmp_path / "out"), contents(tmp_path / "new"))


def _some_direction(job: Job, tmp_path: Path) -> Path:
    edit(job, tmp_path / "some", alpha=0.1, controls=False)
    return tmp_path / "some/direction.safetensors"


@pytest.mark.parametrize("lost", ["model", "edit.safetensors", "conditions/edit.json", "direction.json"])
def test_what_was_deleted_is_made_again(job, finished, undisturbed, tmp_path, lost):
    """Deleting a result is how people ask for it again."""
    out = shutil.copytree(finished, tmp_path / "out")
    target = out / lost
    if target.is_dir():
        shutil.rmtree(target)
    else:
        target.unlink()
    edit(job, out)
    same_but_clocks(contents(out), undisturbed)


# A full disk


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(job, undisturbed, tmp_path):
    """Limits on the size of a file stand for a full disk; each stops the run at a later file."""
    out = tmp_path / "out"
    sizes = {name: len(data) for name, data in undisturbed.items()}
    limits = [100, 4_000, 20_000, sizes["model/model.safetensors"] - 1]
    tries = crashes(
        "space", arguments=["edit", str(job.model), "--out", str(out), *job.flags()], limits=limits, out=str(out)
    )
    for one in tries:
        assert one["code"] == 2, one
        assert one["err"].startswith("dposcope: cannot write"), one
        assert one["err"].count("\n") == 1, one
        assert "free some space" in one["err"], one
        assert [name for name in one["left"] if Path(name).name.startswith(".") and name != ".lock"] == []
        for name in one["left"]:  # whatever is there is whole
            if (out / name).is_file() and not name.startswith(CLOCKS):
                assert sizes[name] <= one["limit"]
    edit(job, out)
    same_but_clocks(contents(out), undisturbed)


@pytest.mark.parametrize("file", ["scores.parquet", "samples.parquet", "scores.json", "report.html"])
def test_a_full_disk_at_the_end_keeps_what_was_there(job, finished, tmp_path, monkeypatch, file):
    """The tables are written anew on every start; one that fails leaves the old one."""
    import errno

    shutil.copytree(finished, tmp_path / "out")
    before = contents(tmp_path / "out")
    replace = Path.replace

    def full(self, target):
        if Path(target).name == file:
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(DposcopeError, match=rf"cannot write .*{file}: No space left on device; free some space"):
        edit(job, tmp_path / "out")
    after = contents(tmp_path / "out")
    assert "finished" not in json.loads(after.pop("run.json")), "it was started again, and did not end"
    before.pop("run.json")
    assert after == before


def test_seconds_are_the_only_clock(undisturbed):
    """So that the list of files with clock times, which the docs may name, stays short."""
    records = {name: json.loads(data) for name, data in undisturbed.items() if name.startswith(CLOCKS)}
    assert len(records) == 10
    for name, record in records.items():
        reads = any(part in name for part in ("means", "measure-", "/ideal")) and "measure-ideal" not in name
        prompts = ["prompts"] if reads else []
        assert sorted(record) == ["digest", "files", "inputs", *prompts, "revision", "seconds", "versions"]
        assert isinstance(record["seconds"], float)
        assert record["files"]
        assert all(sorted(mark) == ["bytes", "sha256"] for mark in record["files"].values())
    for name, data in undisturbed.items():
        if name.endswith(".json") and not name.startswith(CLOCKS):
            assert "seconds" not in json.loads(data)


def test_write_json_is_what_run_json_is_written_with(tmp_path):
    """NaN and infinity are no JSON: settings that hold one must be refused before, in one line."""
    with pytest.raises((DposcopeError, ValueError)):
        write_json(tmp_path / "x.json", {"alpha": float("inf")})
    assert list(tmp_path.iterdir()) == []


# What other runs hold, and other settings


def test_other_settings_may_be_adopted(tmp_path):
    calls: list[str] = []
    for alpha in (0.1, 0.2, 0.2):
        with open_run(tmp_path / "out", "test", {"alpha": alpha}, policy=RunPolicy(adopt=True)) as run:
            stage(run, "first", str(alpha), inputs={"alpha": alpha}, calls=calls)
            stage(run, "second", "same", calls=calls)
        assert read_object(tmp_path / "out/run.json")["settings"] == {"alpha": alpha}
    assert calls == ["first", "second", "first"]


def test_another_command_is_not_adopted(tmp_path):
    with open_run(tmp_path / "out", "edit", {}) as run:
        stage(run, "first", "v")
    with (
        pytest.raises(DposcopeError, match="holds a run of 'edit'"),
        open_run(tmp_path / "out", "evaluate", {}, policy=RunPolicy(adopt=True)),
    ):
        pass


def test_a_reproduction_which_has_no_stages_of_its_own_is_no_folder_of_another_command(tmp_path):
    with open_run(tmp_path / "out", "reproduce", {}):
        write_text(tmp_path / "out/plan.json", "{}")
    with pytest.raises(DposcopeError, match="holds a run of 'reproduce'"), open_run(tmp_path / "out", "explain", {}):
        pass
    with open_run(tmp_path / "out", "reproduce", {"preset": "other"}, policy=RunPolicy(adopt=True)):
        pass


def borrowing(tmp_path, calls: list[str], reporter=None, **inputs) -> str:
    """A stage of a new folder that may take it from `mine`, and if not there, from `theirs`."""
    borrow = RunPolicy(borrow=(tmp_path / "mine", tmp_path / "theirs"))
    with open_run(tmp_path / "new", "test", {"other": 1}, policy=borrow, reporter=reporter) as run:
        return taken(run, "made anew", inputs, calls)


def taken(run, value, inputs, calls) -> str:
    file = run.folder / "parts/first.txt"

    def make() -> None:
        calls.append(value)
        write_text(file, value)

    return run.stage("first", "First", inputs=inputs, files=[file], make=make, load=file.read_text)


@pytest.fixture
def theirs(tmp_path):
    with open_run(tmp_path / "theirs", "test", {}) as run:
        taken(run, "theirs", {"x": 1}, [])
    return tmp_path / "theirs"


def test_a_stage_of_another_run_is_taken_where_its_inputs_are_the_same(tmp_path, theirs):
    calls: list[str] = []
    reporter = Noting()
    assert borrowing(tmp_path, calls, reporter, x=1) == "theirs"
    assert (calls, reporter.made, reporter.loaded) == ([], [], ["First"])
    for file in ("parts/first.txt", "stages/first.json"):
        assert (tmp_path / "new" / file).read_bytes() == (theirs / file).read_bytes()
    # From now on it is this run's own.
    (theirs / "parts/first.txt").write_text("changed")
    assert borrowing(tmp_path, calls, x=1) == "theirs"


def test_a_stage_of_another_run_is_not_taken_where_something_differs(tmp_path, theirs):
    calls: list[str] = []
    assert borrowing(tmp_path, calls, x=2) == "made anew"
    (theirs / "parts/first.txt").unlink()
    assert borrowing(tmp_path, calls, x=1) == "made anew"
    assert calls == ["made anew"] * 2


@pytest.mark.parametrize("name", ["../escaped.txt", "parts/../../escaped.txt", "/escaped.txt"])
def test_a_record_that_names_a_file_outside_its_folder_is_refused(tmp_path, theirs, name):
    """Else a stranger's run could have a file written anywhere."""
    record = theirs / "stages/first.json"
    told = json.loads(record.read_text())
    told["files"][name] = told["files"]["parts/first.txt"]
    write_json(record, sealed({key: value for key, value in told.items() if key != "digest"}))
    with pytest.raises(
        DposcopeError, match=r"first\.json is damaged .* names a file outside the folder; delete it and"
    ):
        borrowing(tmp_path, [], x=1)
    assert not (tmp_path / "escaped.txt").exists()


def test_a_stage_that_its_owner_begins_to_replace_is_not_believed(tmp_path, theirs, monkeypatch):
    def replaced(source, target) -> None:
        Path(target).write_text("half")
        (theirs / "stages/first.json").unlink()

    monkeypatch.setattr("dposcope.jobs.run.shutil.copyfile", replaced)
    assert borrowing(tmp_path, [], x=1) == "made anew"
