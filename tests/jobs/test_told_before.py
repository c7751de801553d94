"""What does not fit a model is refused before anything is computed; a dry run refuses it in the same words."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from dposcope.artefacts import value_files
from dposcope.directions.direction import Direction
from dposcope.errors import DposcopeError
from dposcope.interventions.edit import Edit
from dposcope.interventions.gains import Gains
from dposcope.jobs.dpo.job import run_dpo
from dposcope.jobs.dpo.settings import DpoSettings
from dposcope.jobs.edit.job import run_edit
from dposcope.jobs.edit.settings import EditSettings
from dposcope.jobs.estimate.dpo import dpo_work
from dposcope.jobs.estimate.edit import edit_work
from dposcope.jobs.estimate.evaluate import evaluate_work
from dposcope.jobs.estimate.explain import explain_work
from dposcope.jobs.estimate.pairs import pairs_work
from dposcope.jobs.estimate.probe import probe_work
from dposcope.jobs.estimate.tune import tune_work
from dposcope.jobs.evaluate.job import run_evaluate
from dposcope.jobs.evaluate.settings import EvaluateSettings
from dposcope.jobs.explain.job import run_explain
from dposcope.jobs.explain.settings import ExplainSettings
from dposcope.jobs.pairs.job import run_pairs
from dposcope.jobs.pairs.settings import PairsSettings
from dposcope.jobs.settings import ProbeSettings
from dposcope.jobs.tune.job import run_tune
from dposcope.jobs.tune.settings import TuneSettings
from dposcope.model.load import load
from dposcope.neurons.sets import NeuronSet
from helpers.chats import PLAIN, with_template
from helpers.every_command import Ground, make_ground
from helpers.families import tiny
from helpers.jobs import write_jsonl
from helpers.more_families import MORE
from helpers.tokens_counted import count_tokens


@dataclass(frozen=True)
class Place:
    """A folder with what fits the model, and with what is of another one."""

    ground: Ground
    folder: Path

    def named(self, text: str) -> str:
        """With the paths of its files."""
        return text.format(
            tuned=self.ground.tuned,
            other=self.folder / "other",
            edit=self.folder / "edit",
            foreign=self.folder / "foreign",
            neurons=self.folder / "neurons",
            direction=self.folder / "direction",
            long=self.folder / "long.jsonl",
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Place:
    folder = tmp_path_factory.mktemp("other")
    tiny("mistral").save_pretrained(folder / "other")
    Edit.of(Gains(torch.full((2, 7), 1.5))).save(folder / "edit")
    alike = Gains(torch.full((3, tiny("llama").d_mlp), 1.5))
    Edit.of(alike, about={"fingerprint": tiny("mistral").fingerprint}).save(folder / "foreign")
    NeuronSet.all(2, 7).save(folder / "neurons")
    Direction(torch.ones(9), "mean_difference", -1).save(folder / "direction")
    write_jsonl(folder / "long.jsonl", [{"prompt": f"{number} " + "the food " * 200} for number in range(24)])
    return Place(make_ground(tmp_path_factory.mktemp("ground")), folder)


def refused(run: Callable[[Path], object], dry: Callable[[Path], object], monkeypatch, folder: Path) -> str:
    """What both say, with no text read and no stage begun."""
    seen = count_tokens(monkeypatch)
    with pytest.raises(DposcopeError) as by_run:
        run(folder / "run")
    assert seen.written == 0
    left = {path.name for path in (folder / "run").rglob("*")} if (folder / "run").exists() else set()
    assert not {name for name in left if Path(name).suffix in (".safetensors", ".json")} - {"run.json"}
    with pytest.raises(DposcopeError) as by_dry_run:
        dry(folder / "dry")
    assert not (folder / "dry").exists()
    assert str(by_dry_run.value) == str(by_run.value)
    return str(by_run.value)


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("scale:blocks=1-7", "no block 7 in a model of 3 blocks; give 0 to 2"),
        ("ablate:blocks=3-3", "no block 3"),
        ("steer:block=3", "block 3 is outside a model of 3 blocks; give 0 to 2"),
        ("steer:block=-4", "block -4 is outside"),
        ("interchange:with={tuned},part=attention,blocks=0-3", "no block 3"),
        ("interchange:with={tuned},neurons={neurons}", r"among \[2, 7\] neurons does not fit"),
        ("interchange:with={tuned},neurons={neurons},random=yes", r"among \[2, 7\] neurons does not fit"),
        ("interchange:with={other}", "differ in architecture"),
        ("interchange:with={edit}", r"gains for \[2, 7\] neurons do not fit"),
        ("model:{other}", "differ in architecture"),
        ("edit:{edit}", r"gains for \[2, 7\] neurons do not fit"),
        ("control:{edit}", "do not fit"),
        ("edit:{foreign}", "was made for a mistral model, but this is a llama model; give its own model"),
        ("interchange:with=edit:{foreign}", "was made for a mistral model, but this is a llama model"),
        ("scale:alpha=0.1+ablate:blocks=2-3", "no block 3"),
    ],
)
def test_a_condition(place, monkeypatch, tmp_path, condition, words):
    model, given = str(place.ground.job.model), place.ground.job.settings(condition=["mine=" + place.named(condition)])
    settings = EvaluateSettings(**given)
    said = refused(
        lambda out: run_evaluate(model, out, settings),
        lambda out: evaluate_work(model, out, settings),
        monkeypatch,
        tmp_path,
    )
    assert said.startswith("condition 'mine': ")
    with pytest.raises(DposcopeError, match=words):
        raise DposcopeError(said)


BAD = [
    ({"direction": "probe", "direction_block": 3}, "there is no block 3 in a model of 3 blocks"),
    ({"direction": "probe", "direction_block": 0, "protocol": "reference"}, "reads the last block only"),
    ({"direction": "{direction}"}, "has width 9, the model"),
    ({"prompts": "{long}", "protocol": "strict"}, "exceed the model's context of 128"),
]


@pytest.mark.parametrize(
    ("command", "given", "words"),
    [
        (command, given, words)
        for command in ("edit", "evaluate", "explain", "tune")
        for given, words in BAD
        if command != "tune" or given.get("protocol") != "reference"  # it has the strict protocol only
    ],
)
def test_a_direction_and_prompts(place, monkeypatch, tmp_path, command, given, words):
    job, model = place.ground.job, str(place.ground.job.model)
    given = {name: place.named(value) if isinstance(value, str) else value for name, value in given.items()}
    tuned = str(place.ground.tuned)
    if command == "tune":
        given.pop("protocol", None)
        settings = TuneSettings(**job.learning(search_windows=10, split="halves", **given))
        run, dry = (lambda out: run_tune(model, out, settings)), (lambda out: tune_work(model, out, settings))
    elif command == "explain":
        settings = ExplainSettings(**job.settings(toxic_neurons=[4], **given))
        run = lambda out: run_explain(model, tuned, out, settings)  # noqa: E731
        dry = lambda out: explain_work(model, tuned, out, settings)  # noqa: E731
    elif command == "edit":
        settings = EditSettings(**job.settings(**given))
        run, dry = (lambda out: run_edit(model, out, settings)), (lambda out: edit_work(model, out, settings))
    else:
        made = {"condition": ["scale:alpha=0.3"]} if "direction" in given else {}  # alone it counts for nothing
        settings = EvaluateSettings(**job.settings(**given, **made))
        run, dry = (lambda out: run_evaluate(model, out, settings)), (lambda out: evaluate_work(model, out, settings))
    assert words in refused(run, dry, monkeypatch, tmp_path)


def test_a_tuned_model_and_a_teacher(place, monkeypatch, tmp_path):
    job, model, other = place.ground.job, str(place.ground.job.model), place.named("{other}")
    explain = ExplainSettings(**job.settings(toxic_neurons=[4]))
    tune = TuneSettings(**job.learning(search_windows=10, split="halves", teacher=other))
    dpo = DpoSettings(
        pairs=str(place.ground.pairs), learn_text=str(job.neutral), train="gains", teacher=other, dtype="float32"
    )
    for name, run, dry in (
        (
            "explain",
            lambda out: run_explain(model, other, out, explain),
            lambda out: explain_work(model, other, out, explain),
        ),
        ("tune", lambda out: run_tune(model, out, tune), lambda out: tune_work(model, out, tune)),
        ("dpo", lambda out: run_dpo(model, out, dpo), lambda out: dpo_work(model, out, dpo)),
    ):
        (tmp_path / name).mkdir()
        assert "differ in architecture" in refused(run, dry, monkeypatch, tmp_path / name)


def refused_explanation(model, tuned, settings, monkeypatch, tmp_path):
    """What `explain` is refused with, and its dry run."""
    return refused(
        lambda out: run_explain(model, tuned, out, settings),
        lambda out: explain_work(model, tuned, out, settings),
        monkeypatch,
        tmp_path,
    )


def test_what_claims_are_judged_along(place, monkeypatch, tmp_path):
    """Of an explanation directions are fitted, whatever its own is."""
    model, tuned = str(place.ground.job.model), str(place.ground.tuned)
    given = {"direction": "token-contrast", "direction_block": 3, "toxic_neurons": [4]}
    settings = ExplainSettings(**place.ground.job.settings(**given))
    said = refused_explanation(model, tuned, settings, monkeypatch, tmp_path)
    assert "there is no block 3 in a model of 3 blocks" in said


def test_prompts_that_the_reference_protocol_does_not_cut(place, monkeypatch, tmp_path):
    model, job = str(place.ground.job.model), place.ground.job
    settings = EditSettings(**job.settings(prompts=place.named("{long}"), protocol="reference"))
    said = refused(
        lambda out: run_edit(model, out, settings), lambda out: edit_work(model, out, settings), monkeypatch, tmp_path
    )
    assert "exceed the model's context of 128; shorten the prompts, or what --wrap" in said


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize("protocol", ["strict", "reference"])
def test_prompts_to_learn_from_may_be_long_where_nothing_is_learned(place, monkeypatch, tmp_path, protocol):
    """A saved edit needs no means. A condition that does is refused."""
    model, job = str(place.ground.job.model), place.ground.job
    stem = tmp_path / "gains"
    Edit.of(Gains(torch.full((3, tiny("llama").d_mlp), 0.9))).save(stem)
    given = {
        "prompts": place.named("{long}"),
        "report_prompts": str(job.prompts),
        "limit": 4,
        "max_windows": 1,
        "protocol": protocol,
    }
    saved, made = f"edit:{stem}", "scale:alpha=0.3"
    settings = EvaluateSettings(**job.settings(**given, condition=[saved]))
    assert evaluate_work(model, tmp_path / "dry", settings).stages
    assert saved in run_evaluate(model, tmp_path / "done", settings).against_none
    settings = EvaluateSettings(**job.settings(**given, condition=[saved, made]))
    said = refused(
        lambda out: run_evaluate(model, out, settings),
        lambda out: evaluate_work(model, out, settings),
        monkeypatch,
        tmp_path,
    )
    assert "exceed the model's context of 128" in said


def test_passages_that_leave_no_room_behind_a_wrapper(place, monkeypatch, tmp_path):
    job, model = place.ground.job, str(tmp_path / "chat")
    with_template(load(str(job.model)), PLAIN).save_pretrained(model)
    passages = write_jsonl(tmp_path / "passages.jsonl", [{"prompt": "the food " * 90, "gold": "the food"}] * 12)
    settings = EvaluateSettings(**job.settings(passages=str(passages), wrap="{prompt}" + " the food" * 10))
    said = refused(
        lambda out: run_evaluate(model, out, settings),
        lambda out: evaluate_work(model, out, settings),
        monkeypatch,
        tmp_path,
    )
    assert said.endswith("128; shorten the passages, or what --wrap, --system and --prefill add")


def test_prompts_to_report_on_are_looked_at_first_where_nothing_is_learned(place, monkeypatch, tmp_path):
    model, job = str(place.ground.job.model), place.ground.job
    settings = EvaluateSettings(**job.settings(report_prompts=place.named("{long}")))
    said = refused(
        lambda out: run_evaluate(model, out, settings),
        lambda out: evaluate_work(model, out, settings),
        monkeypatch,
        tmp_path,
    )
    assert "a prompt of 256 tokens" in said
    settings = EvaluateSettings(**job.settings(report_prompts=place.named("{long}"), protocol="reference"))
    assert evaluate_work(model, tmp_path / "cut", settings).stages, "its prompts have 32 tokens"


def refused_pairs(place, model, monkeypatch, tmp_path, **others):
    """What `pairs --method pplm` of a model is refused with, and its dry run."""
    job = place.ground.job
    given = {"learn_text": str(job.neutral), "comments": str(job.comments), "count": 2, "prompt_tokens": 6}
    settings = PairsSettings(method="pplm", **given, dtype="float32", device="cpu", **others)
    return refused(
        lambda out: run_pairs(str(model), out.with_suffix(".jsonl"), settings),
        lambda out: pairs_work(str(model), out.with_suffix(".jsonl"), settings),
        monkeypatch,
        tmp_path,
    )


def test_the_direction_of_pairs(place, monkeypatch, tmp_path):
    said = refused_pairs(place, place.ground.job.model, monkeypatch, tmp_path, direction_block=3)
    assert "there is no block 3 in a model of 3 blocks" in said


def test_a_cache_that_cannot_be_shifted(place, monkeypatch, tmp_path):
    MORE["falcon_h1"].build().save_pretrained(tmp_path / "hybrid")
    said = refused_pairs(place, tmp_path / "hybrid", monkeypatch, tmp_path)
    assert "the cache of this model holds more than keys and values" in said


def test_the_direction_of_a_probe(place, tmp_path):
    settings = ProbeSettings(comments=str(place.ground.job.comments), direction_block=3, dtype="float32", device="cpu")
    with pytest.raises(DposcopeError, match="there is no block 3 in a model of 3 blocks"):
        probe_work(str(place.ground.job.model), tmp_path / "direction", settings)


def test_an_edit_of_another_size_is_no_tuned_model(place, monkeypatch, tmp_path):
    model, edit = str(place.ground.job.model), place.named("{edit}")
    assert value_files(edit).tensors.exists()
    settings = ExplainSettings(**place.ground.job.settings(toxic_neurons=[4]))
    said = refused_explanation(model, edit, settings, monkeypatch, tmp_path)
    assert "gains for [2, 7] neurons do not fit" in said


def test_an_edit_of_another_architecture_is_no_tuned_model(place, monkeypatch, tmp_path):
    model, edit = str(place.ground.job.model), place.named("edit:{foreign}")
    settings = ExplainSettings(**place.ground.job.settings(toxic_neurons=[4]))
    said = refused_explanation(model, edit, settings, monkeypatch, tmp_path)
    assert said == "the edit was made for a mistral model, but this is a llama model; give its own model"
