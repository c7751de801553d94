"""What `dposcope reproduce` decides before any step runs; the steps themselves: `test_job.py`."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from dposcope.artefacts import library_versions, sealed, write_json, write_text
from dposcope.errors import DposcopeError
from dposcope.jobs.dpo.job import described as dpo_described
from dposcope.jobs.dpo.settings import DpoSettings
from dposcope.jobs.explain.job import described as explain_described
from dposcope.jobs.finished import Finished
from dposcope.jobs.named_files import named_files
from dposcope.jobs.opening import open_run
from dposcope.jobs.pairs.job import _CODE, KIND
from dposcope.jobs.pairs.job import described as pairs_described
from dposcope.jobs.pairs.settings import PairsSettings
from dposcope.jobs.reproduce.plan import model_folder, plan_reproduction
from dposcope.jobs.reproduce.preset import load_preset
from dposcope.jobs.reproduce.settings import ReproduceSettings
from dposcope.jobs.run import RunPolicy
from dposcope.marks import marks
from dposcope.pairs.checks import PairStatistics

NONE = ReproduceSettings()


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("gemma-3-270m", "gemma-3-270m"),
        ("google/gemma-2-2b", "gemma-2-2b"),
        ("models/some.gguf", "some"),
        ("a folder/my model/", "my-model-6f3a1588"),
    ],
)
def test_a_folder_is_named_after_its_model(name, folder):
    assert model_folder(name) == folder


def test_relative_names_of_folders_are_no_names(tmp_path, monkeypatch):
    (tmp_path / "model/inside").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "model/inside")
    assert (model_folder("."), model_folder("..")) == ("inside", "model")


@pytest.mark.parametrize("models", [["a/model", "b/model"], ["a/model", "b/Model"]])
def test_two_models_do_not_share_a_folder(tmp_path, models):
    with pytest.raises(DposcopeError, match="would share one folder"):
        plan_reproduction(models, tmp_path, load_preset("smoke"), NONE)


@pytest.mark.parametrize(
    ("name", "said"),
    [("{}/nothing", "is not a model"), ("{}/no.gguf", "no file"), ("{}/empty", "holds no config.json")],
)
def test_what_is_no_model_is_told(tmp_path, name, said):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DposcopeError, match=said):
        plan_reproduction([name.format(tmp_path)], tmp_path / "out", load_preset("smoke"), NONE)


def finish(out: Path, models: Sequence[str] = (), preset: str = "smoke", **given) -> None:
    """As if every step had come to its end."""
    for planned in plan_reproduction(models, out, load_preset(preset), ReproduceSettings(**given)):
        step = planned.step
        match step.settings:
            case PairsSettings():
                write_text(step.pairs, "product")
                asked = pairs_described(step.model, step.settings)
                end = Finished(named_files(asked), _CODE, library_versions(), marks(step.folder, [step.pairs]))
                none = PairStatistics(count=0, identical=0, blank=0, repeated_prompts=0, prompt_in_text=0).to_json()
                about = {"kind": KIND, "settings": asked, "statistics": none, "finished": end.to_json()}
                write_json(step.pairs.with_suffix(".json"), sealed(about))
            case DpoSettings():
                with open_run(step.folder, "dpo", dpo_described(step.model, step.settings), policy=ADOPT):
                    for file in (step.product, step.folder / "training.json"):
                        write_text(file, "product")
            case _:
                of_run = explain_described(step.model, step.after[0].explained, step.settings, raw=False)
                with open_run(step.folder, "explain", of_run.settings, free=of_run.free, policy=ADOPT):
                    for name in RESULTS:
                        write_text(step.folder / name, "result")


ADOPT = RunPolicy(adopt=True)
RESULTS = ("report.html", "explain.json", "scores.json", "tables.json")


def undone(out: Path, models: Sequence[str] = (), preset: str = "smoke", *, raw: bool = False, **given) -> set[str]:
    steps = plan_reproduction(models, out, load_preset(preset), ReproduceSettings(**given), raw=raw)
    return {planned.name.partition("/")[2] for planned in steps if not planned.done}


@pytest.fixture
def whole(tmp_path) -> Path:
    """A folder in which everything is done."""
    write_text(tmp_path / "out/tiny/model/config.json", "{}")
    finish(tmp_path / "out")
    return tmp_path / "out"


def test_nothing_is_done_in_a_new_folder_and_everything_in_a_finished_one(tmp_path, whole):
    assert len(undone(tmp_path / "new")) == 7
    assert undone(whole) == set()
    whole.rename(tmp_path / "moved")
    assert undone(tmp_path / "moved") == set(), "the folder decides nothing"


def test_raw_tables_are_other_tables(whole):
    explained = {"explain-sampled-strict", "explain-sampled-reference", "explain-pplm-strict"}
    assert undone(whole, raw=True) == explained


def test_a_checkpoint_that_nobody_needs_any_more_may_be_deleted(whole):
    shutil.rmtree(whole / "tiny/sampled/dpo/model")
    assert undone(whole) == set()
    (whole / "tiny/sampled/explain-strict/report.html").unlink()
    assert undone(whole) == {"dpo-sampled", "explain-sampled-strict"}


@pytest.mark.parametrize("name", RESULTS)
def test_what_the_report_over_all_reads_must_be_as_it_was_made(whole, name):
    file = whole / "tiny/pplm/explain-strict" / name
    file.write_text("resulT")
    assert undone(whole) == {"explain-pplm-strict"}
    file.unlink()
    assert undone(whole) == {"explain-pplm-strict"}


def test_changed_pairs_are_noticed_and_all_that_rests_on_them(whole):
    (whole / "tiny/pplm/pairs/pairs.jsonl").write_text("others!")
    assert undone(whole) == {"pairs-pplm", "dpo-pplm", "explain-pplm-strict"}


# What a change does again


@pytest.fixture
def files(tmp_path) -> dict[str, str]:
    """Data files that differ."""
    names = ("prompts.jsonl", "comments.txt", "learn_text.txt", "neutral.txt", "passages.txt")
    for name in names:
        (tmp_path / name).write_text(name)
    return {name.partition(".")[0]: str(tmp_path / name) for name in names}


@pytest.mark.parametrize(
    ("changed", "again"),
    [
        ({"seed": 1}, {"pairs", "dpo", "explain"}),
        ({"limit": 40}, {"explain"}),
        ({"scorer": "helpers.jobs:softness"}, {"pairs", "dpo", "explain"}),
        ({"prompt_column": "start"}, {"pairs", "dpo", "explain"}),
    ],
)
def test_one_setting_changes_only_what_rests_on_it(tmp_path, files, changed, again):
    finish(tmp_path / "out", **files)
    found = undone(tmp_path / "out", **files, **changed)
    assert {name.split("-")[0] for name in found} == again
    if "prompt_column" not in changed:  # which prompts of PPLM have not
        assert len(found) == {1: 3, 3: 7}[len(again)], "all studies or none"


@pytest.mark.parametrize(
    ("file", "again"),
    [
        ("learn_text", {"dpo-sampled", "pairs-pplm", "dpo-pplm"}),
        ("neutral", set()),
        ("prompts", {"pairs-sampled", "dpo-sampled"}),
    ],
)
def test_a_changed_file_changes_what_reads_it_and_what_comes_after(tmp_path, files, file, again):
    finish(tmp_path / "out", **files)
    Path(files[file]).write_text("more")
    found = undone(tmp_path / "out", **files)
    assert {name for name in found if not name.startswith("explain")} == again
    # The explanations measure on neutral text and prompts, and rest on pairs and tuned models.
    assert len(found) == len(again) + 3


def test_a_changed_list_of_words_changes_what_is_scored(tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("one")
    finish(tmp_path / "out", scorer=f"words:{words}")
    assert undone(tmp_path / "out", scorer=f"words:{words}") == set()
    words.write_text("two")
    assert len(undone(tmp_path / "out", scorer=f"words:{words}")) == 7


def test_a_file_that_moved_changes_nothing(tmp_path, files):
    finish(tmp_path / "out", **files)
    moved = Path(files["prompts"]).rename(tmp_path / "elsewhere.txt")
    assert undone(tmp_path / "out", **files | {"prompts": str(moved)}) == set()


def test_a_changed_local_model_changes_everything(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    finish(tmp_path / "out", [str(folder)])
    assert undone(tmp_path / "out", [str(folder)]) == set()
    (folder / "model.safetensors").write_text("weights")
    assert len(undone(tmp_path / "out", [str(folder)])) == 7
