"""Every file that a command reads, in every wrong shape: one line and exit code 2, or the work done; never a traceback.

The files are those of small finished runs. Each is put into every shape of `helpers.shapes.mutants`. Of those shapes
all are given to what reads the file in Python, and commands that take long get some, always the same ones;
`DPOSCOPE_ALL_SHAPES=1` gives them all.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from dposcope.artefacts import write_json
from dposcope.cli import main
from dposcope.directions.direction import Direction
from dposcope.directions.features import Features
from dposcope.directions.refits import Refits
from dposcope.evaluation.conditions.outcome import Outcome, StoredOutcome
from dposcope.evaluation.sampled.ideal import MAYBE_IDEAL, Ideal, IdealOutcome, StoredIdealOutcome
from dposcope.evaluation.trained_scorer import TrainedScorer
from dposcope.interventions.edit import Edit
from dposcope.interventions.paired.attribution import Attribution
from dposcope.interventions.paired.mediation import Mediation
from dposcope.jobs.dpo.training_record import TrainingRecord, tuned_card
from dposcope.jobs.explain.claims.neurons import _probe
from dposcope.jobs.explain.interchange.carriers import CurvePoint, _Text
from dposcope.jobs.finished import About
from dposcope.jobs.pairs.job import _facts_of
from dposcope.jobs.record import Record
from dposcope.jobs.reproduce.finished import FinishedRun, Plan
from dposcope.jobs.reproduce.overview import findings_lines
from dposcope.jobs.reproduce.overview_tables import overview_tables
from dposcope.jobs.strength import StrengthSearch
from dposcope.jobs.tune import choice, search
from dposcope.model.load import load
from dposcope.neurons.activations import NeuronMeans
from dposcope.neurons.contributions import Contributions
from dposcope.neurons.sets import NeuronSet
from dposcope.neurons.subspace import Subspace
from dposcope.reading import read_json, read_object
from helpers.adapters import lora, write_adapter
from helpers.jobs import Job, command, make_job
from helpers.shapes import Mutant, fault_of, forge, mutants, refusal_of

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("light"), pytest.mark.filterwarnings("ignore")]

ALL = "DPOSCOPE_ALL_SHAPES" in os.environ
EVERY = 7
"""Of the shapes of a file whose command takes a good part of a second, every so many-th is tried."""


@dataclass(frozen=True)
class Runs:
    """Finished runs of every command, to be left as they are."""

    job: Job
    root: Path
    """Folders `edit`, `evaluate`, `tune`, `fold`; `probe.json`."""
    reproduced: Path
    """A reproduction: `plan.json`, and below it pairs, dpo and explain."""

    def again(self, name: str, out: Path) -> list[str]:
        """The command line of a run."""
        more = {
            "edit": ["--no-controls"],
            "evaluate": ["--condition", "steer:alpha=1"],
            "tune": [
                *("--quick", "--no-controls", "--samples", "4", "--min-gap", "0.02", "--epochs", "1"),
                *("--search-windows", "10", "--pairing", "extremes", "--max-logppl-increase", "0.5"),
                *("--split", "halves", "--learn-text", str(self.job.neutral)),
            ],
        }
        return [name, str(self.job.model), "--out", str(out), *self.job.flags(), "--quiet", *more[name]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, reproduced) -> Runs:
    root = tmp_path_factory.mktemp("runs")
    found = Runs(make_job(root / "job", windows=40), root, reproduced)
    model = str(found.job.model)
    done(*found.again("edit", root / "edit"))
    done(*found.again("evaluate", root / "evaluate"))
    done(*found.again("tune", root / "tune"))
    done("fold", model, "--edit", root / "edit", "--out", root / "fold")
    by_hand(root / "by-hand")
    done("probe", model, "--comments", found.job.comments, "--dtype", "float32", "--out", root / "probe")
    return found


def by_hand(folder: Path) -> None:
    """Values that no command saves, and what explain leaves only where its texts are toxic and harmless enough."""
    tables = {name: torch.rand(2, 3, dtype=torch.float64) for name in ("own", "before", "change")}
    direction = Direction(torch.ones(4), "mine", -1)
    Attribution(tables["own"], 0.5).save(folder / "attribution")
    Mediation(**tables).save(folder / "mediation")
    NeuronSet(tables["own"] > 0.5).save(folder / "neurons")
    Subspace(torch.eye(4)[:, :2], torch.ones(2), direction, 2).save(folder / "subspace")
    write_json(folder / "curve.json", [asdict(CurvePoint("effect", 0.1, 3, 0.5))] * 2)


def done(*arguments: object) -> None:
    with pytest.raises(SystemExit) as stop:
        main([str(one) for one in arguments])
    assert not stop.value.code


# What reads a file in Python


VALUES: dict[str, Callable[[Path], object]] = {
    "Attribution": Attribution.load,
    "Contributions": Contributions.load,
    "Direction": lambda path: _probe(Direction.load(path).about.get("quality")),
    "Edit": lambda path: Edit.load(path).strength(0.5),
    "Features": Features.load,
    "Mediation": Mediation.load,
    "NeuronMeans": NeuronMeans.load,
    "NeuronSet": NeuronSet.load,
    "Refits": Refits.load,
    "Subspace": Subspace.load,
    "TrainedScorer": lambda path: TrainedScorer.load(path.with_suffix(""))(["a text"]),
}
"""Kind of a value → what reads it, and does with it what depends on its facts."""


def read_explained(path: Path) -> object:
    run = FinishedRun.read(path.parent)
    return overview_tables([run]), findings_lines([run])


READERS: dict[str, Callable[[Path], object]] = {
    "run.json": lambda path: About.read(path.parent),
    "stages": Record.read,
    "plan.json": lambda path: Plan.read(path.parent),
    "overview.json": read_object,
    "explained": read_explained,
    "values": lambda path: VALUES[KINDS_OF_VALUES[path.name]](path),
    "pairs.json": lambda path: _facts_of(path.with_suffix(".jsonl")),
    "training.json": lambda path: tuned_card(TrainingRecord.load(path)),
    "conditions": lambda path: Outcome.from_json(read_json(path, StoredOutcome)),
    "conditions/ideal.json": lambda path: IdealOutcome.from_json(read_json(path, StoredIdealOutcome)),
    "conditions/along": lambda path: read_json(path, dict[str, dict[str, list[float]]]),
    "search.json": lambda path: read_json(path, StrengthSearch),
    "chosen.json": lambda path: choice._chosen(Edit(), read_json(path, choice._Stored)),
    "trials.json": lambda path: read_json(path, search._Trials),
    "plain-texts.json": lambda path: read_json(path, search._PlainTexts),
    "ideal.json": lambda path: (told := read_json(path, MAYBE_IDEAL)) and Ideal.from_json(told),
    "texts.json": lambda path: read_json(path, list[_Text]),
    "curve.json": lambda path: read_json(path, list[CurvePoint]),
}
"""Kind of a file → what reads it."""
KINDS_OF_VALUES: dict[str, str] = {}
"""File → kind of the value in it, before it was changed."""
NOT_READ = "not read"
"""The kind of what no command reads: the scores of an edit, which are for people and their programs."""


def kind_of(path: Path) -> str:
    folder = path.parent.name
    if path.with_suffix(".safetensors").exists():
        return "values"
    if folder == "stages":
        return folder
    if folder == "conditions":
        return (
            "conditions/along"
            if path.name.startswith("along-")
            else f"conditions/{path.name}"
            if path.name == "ideal.json"
            else folder
        )
    if path.name in ("explain.json", "scores.json", "tables.json"):
        return "explained" if (path.parent / "explain.json").exists() else NOT_READ
    return {"harmless-texts.json": "ideal.json"}.get(path.name, path.name)


def all_files(runs: Runs) -> Iterator[Path]:
    """The JSON files of all runs, without those of models and what hides."""
    for folder in (*(runs.root / name for name in ("edit", "evaluate", "tune", "by-hand")), runs.reproduced):
        for path in sorted(folder.rglob("*.json")):
            inside = path.relative_to(folder).parts
            if "model" not in inside and not any(part.startswith(".") for part in inside):
                yield path
    yield runs.root / "probe.json"
    yield runs.root / "fold/dposcope_edit.json"


def test_every_file_of_a_run_has_a_reader(runs):
    kinds = {kind_of(path) for path in all_files(runs)}
    assert kinds == {*READERS, NOT_READ}
    values = {json.loads(path.read_bytes())["kind"] for path in all_files(runs) if kind_of(path) == "values"}
    assert values == VALUES.keys()


@pytest.mark.parametrize("kind", READERS)
def test_a_reader_gives_a_value_or_one_line(runs, tmp_path, kind):
    """A few files of each kind: one for each set of names that such files have."""
    differing = {frozenset(_names(path)): path for path in all_files(runs) if kind_of(path) == kind}
    assert differing, "no run has such a file"
    faults: list[str] = []
    for number, path in enumerate(differing.values()):
        place = _copied(path, tmp_path / str(number), kind)
        READERS[kind](place)
        for mutant in chosen(mutants(place.read_bytes()), every=4 if kind in ("explained", "overview.json") else 1):
            place.write_bytes(mutant.content)
            fault = refusal_of(lambda place=place: READERS[kind](place))
            if fault is not None:
                faults.append(f"{path.name}, {mutant.name}: {fault}")
    assert faults == []


def _names(path: Path) -> list[str]:
    told = json.loads(path.read_bytes())
    names = list(told) if isinstance(told, dict) else []
    kind = [str(told["kind"])] if "tensors_sha256" in names else []
    return [*(names or [path.name]), *kind]


def _copied(path: Path, folder: Path, kind: str) -> Path:
    """A file with what is read beside it."""
    place = folder / path.parent.name / path.name
    place.parent.mkdir(parents=True)
    beside = {
        # Without run.json, as published ones are: else its digests would notice every change.
        "explained": ["explain.json", "scores.json", "tables.json"],
        "values": [path.name, path.with_suffix(".safetensors").name],
        "pairs.json": [path.name, path.with_suffix(".jsonl").name],
    }
    for name in beside.get(kind, [path.name]):
        shutil.copyfile(path.parent / name, place.parent / name)
    if kind == "values":
        KINDS_OF_VALUES[path.name] = json.loads(path.read_bytes())["kind"]
    return place


# Commands


def chosen(shapes: Iterator[Mutant], *, every: int = EVERY, first: int = 0) -> Sequence[Mutant]:
    """All of them, or every so many-th from one on."""
    found = list(shapes)
    return found if ALL else found[first % every :: every]


def tried(capsys, path: Path, shapes: Sequence[Mutant], arguments: Callable[[], Sequence[object]]) -> list[str]:
    """Faults of a command after each change of a file that it reads."""
    faults: list[str] = []
    for mutant in shapes:
        path.write_bytes(mutant.content)
        fault = fault_of(command(capsys, *arguments()))
        if fault is not None:
            faults.append(f"{path.name}, {mutant.name}: {fault}")
    return faults


class Fresh:
    """Places for results, none of them twice."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = folder, 0

    def __call__(self) -> Path:
        self._count += 1
        return self._folder / f"new-{self._count}"


MODEL_FILES = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]


@pytest.mark.parametrize("name", MODEL_FILES)
@pytest.mark.parametrize("reads", ["lens", "fold"])
def test_files_of_a_model(runs, tmp_path, capsys, reads, name):
    model, new = tmp_path / "model", Fresh(tmp_path)
    shutil.copytree(runs.job.model, model)
    command_line = {
        "lens": lambda: ["lens", model, "--neuron", "0.0"],
        "fold": lambda: ["fold", model, "--edit", runs.root / "edit", "--out", new()],
    }[reads]
    shapes = list(mutants((model / name).read_bytes()))
    assert len(shapes) > 20
    assert tried(capsys, model / name, shapes, command_line) == []


def test_the_index_of_a_model_in_parts(runs, tmp_path, capsys):
    model, new = tmp_path / "model", Fresh(tmp_path)
    load(runs.job.model).model.save_pretrained(model, max_shard_size="20KB")
    for file in runs.job.model.glob("tokenizer*"):
        shutil.copy(file, model)
    index = model / "model.safetensors.index.json"
    shapes = list(mutants(index.read_bytes()))
    for arguments in (
        lambda: ["lens", model, "--neuron", "0.0"],
        lambda: ["fold", model, "--edit", runs.root / "edit", "--out", new()],
    ):
        assert tried(capsys, index, shapes, arguments) == []


def test_the_config_of_an_adapter(runs, tmp_path):
    base = load(runs.job.model)
    write_adapter(base, lora("llama"), tmp_path / "lora")
    config = tmp_path / "lora/adapter_config.json"
    for mutant in mutants(config.read_bytes()):
        config.write_bytes(mutant.content)
        fault = refusal_of(lambda: load(tmp_path / "lora", base=base))
        assert fault is None, f"{mutant.name}: {fault}"


def test_a_saved_direction(runs, tmp_path, capsys):
    for file in runs.root.glob("probe.*"):
        shutil.copy(file, tmp_path)
    path = tmp_path / "probe.json"
    shapes = list(mutants(path.read_bytes()))
    assert tried(capsys, path, shapes, lambda: ["lens", runs.job.model, "--direction", tmp_path / "probe"]) == []


def test_a_saved_edit(runs, tmp_path, capsys):
    new = Fresh(tmp_path)
    for file in runs.root.glob("edit/edit.*"):
        shutil.copy(file, tmp_path)
    shapes = list(mutants((tmp_path / "edit.json").read_bytes()))
    for more in ([], ["--strength", "0.5"]):
        arguments = lambda more=more: ["fold", runs.job.model, "--edit", tmp_path, "--out", new(), *more]  # noqa: E731
        assert tried(capsys, tmp_path / "edit.json", shapes, arguments) == []


def test_a_saved_judge(runs, tmp_path, capsys):
    for file in runs.root.glob("edit/judge.*"):
        shutil.copy(file, tmp_path)
    pairs = next(runs.reproduced.rglob("pairs.jsonl"))
    shapes = list(mutants((tmp_path / "judge.json").read_bytes()))
    assert tried(capsys, tmp_path / "judge.json", shapes, lambda: ["pairs", "check", pairs, "--scorer", tmp_path]) == []


def test_settings_in_a_file(runs, tmp_path, capsys):
    new, path = Fresh(tmp_path), tmp_path / "settings.json"
    told = {"form": "checkpoint", "strength": 0.5, "gains_alone": False, "json": True}
    folded = ["fold", runs.job.model, "--edit", runs.root / "edit", "--config", path]
    arguments = lambda: [*folded, "--out", new()]  # noqa: E731
    path.write_text(json.dumps(told))
    assert command(capsys, *arguments()).code == 0
    assert tried(capsys, path, list(mutants(path.read_bytes())), arguments) == []


TOML = {
    "nothing": b"",
    "no name": b"= 3",
    "twice": b"title = 'a'\ntitle = 'b'",
    "deep": b"a = " + b"[" * 100_000,
    "many digits": b"a = " + b"9" * 5_000,
    "Latin-1": b"a = '\xe9'",
    "unknown": b"a = 1",
    "a table": b"[a]\nb = 1",
    "dates": b"title = 2024-01-01\nmodels = 1979-05-27T07:32:00Z\nstudy = 07:32:00",
    "other types": b"title = 1\nname = 2\nmodels = 3\nstudy = 4\nshared = 5\ncomments = 6\nprompts = 7\nscorer = 8",
    "lists": b"title = []\nmodels = [[]]\nstudy = [[]]\nshared = []\ncomments = []\nprompts = []\nscorer = []",
    "tables": b"[title]\n[models]\n[shared]\n[comments]\n[prompts]\n[scorer]\n[[study]]",
    "inner types": b"title='t'\nmodels=['tiny']\n[shared]\nseed='x'\n[[study]]\nname='a'\npairs=3\n",
    "inner values": b"title='t'\nmodels=['tiny']\n[[study]]\nname='a'\npairs={method=[1]}\ndpo={train={a=1}}\n",
}


@pytest.mark.parametrize("name", TOML)
def test_what_a_toml_file_holds(runs, tmp_path, capsys, name):
    path = tmp_path / "mine.toml"
    path.write_bytes(TOML[name])
    for arguments in (
        ["reproduce", "--preset", path, "--dry-run", "--out", tmp_path / "out"],
        ["edit", runs.job.model, "--concept", path, "--out", tmp_path / "out"],
        ["fold", runs.job.model, "--config", path, "--edit", runs.root / "edit", "--out", tmp_path / "out"],
    ):
        told = command(capsys, *arguments)
        assert fault_of(told) is None, arguments[0]


ROWS = [{"prompt": "the river", "chosen": "is long", "rejected": "is wide"}] * 3


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_rows_of_data(runs, tmp_path, capsys, suffix):
    path = tmp_path / f"pairs{suffix}"
    whole = json.dumps(ROWS).encode()
    shapes = [Mutant(one.name, one.content) for one in mutants(whole)]
    assert tried(capsys, path, shapes, lambda: ["pairs", "check", path, "--scorer", "vader"]) == []


# Commands that go on in a finished folder


def explained(runs: Runs) -> Path:
    return runs.reproduced / "tiny/sampled/explain-strict"


@pytest.mark.parametrize("name", ["explain.json", "scores.json", "tables.json", "run.json"])
def test_a_report_over_explanations(runs, tmp_path, capsys, name):
    folder, new = tmp_path / "explained", Fresh(tmp_path)
    folder.mkdir()
    for file in {"explain.json", "scores.json", "tables.json", name}:  # see `_copied`
        shutil.copy(explained(runs) / file, folder)
    shapes = chosen(mutants((folder / name).read_bytes()))
    other = runs.reproduced / "tiny/pplm/explain-strict"
    assert tried(capsys, folder / name, shapes, lambda: ["report", folder, other, "--out", new()]) == []


def test_a_report_over_a_reproduction(runs, tmp_path, capsys):
    new = Fresh(tmp_path)
    for name in ("sampled/explain-strict", "pplm/explain-strict"):
        (tmp_path / "tiny" / name).mkdir(parents=True)
        for file in ("explain.json", "scores.json", "tables.json"):
            shutil.copy(runs.reproduced / "tiny" / name / file, tmp_path / "tiny" / name)
    path = tmp_path / "plan.json"
    shapes = chosen(mutants((runs.reproduced / "plan.json").read_bytes()), every=4)
    assert tried(capsys, path, shapes, lambda: ["report", tmp_path, "--out", new()]) == []


def files_that_decide(folder: Path) -> list[Path]:
    """The JSON files of a run that the same command reads when it is started again."""
    return [
        path
        for path in sorted(folder.rglob("*.json"))
        if "model" not in path.relative_to(folder).parts and kind_of(path) != NOT_READ
    ]


@pytest.mark.parametrize("name", ["edit", "evaluate", "tune"])
def test_a_run_that_is_started_again(runs, tmp_path, capsys, name):
    """Some shapes of every file. Records vouch for what was put there, as in a folder that a stranger gives away."""
    faults: list[str] = []
    for number, file in enumerate(files_that_decide(runs.root / name)):
        shapes = list(mutants(file.read_bytes()))
        few = shapes if ALL else [shapes[(7 * number) % len(shapes)], shapes[(7 * number + 5) % len(shapes)]]
        for place, mutant in enumerate(few if ALL or name != "tune" else few[:1]):
            out = tmp_path / f"{number}-{place}"
            shutil.copytree(runs.root / name, out)
            forge(out, out / file.relative_to(runs.root / name), mutant.content)
            fault = fault_of(command(capsys, *runs.again(name, out)))
            if fault is not None:
                faults.append(f"{file.relative_to(runs.root / name)}, {mutant.name}: {fault}")
            shutil.rmtree(out)
    assert faults == []


def test_pairs_that_are_there(runs, tmp_path, capsys):
    made = next(runs.reproduced.rglob("pairs.json"))
    settings: dict[str, Any] = json.loads(made.read_bytes())["settings"]
    for file in made.parent.glob("pairs*"):
        shutil.copy(file, tmp_path)
    model = runs.reproduced / "tiny/model"
    flags = ["--method", "sample", "--scorer", str(settings["scorer"]), "--quiet"]
    shapes = chosen(mutants(made.read_bytes()), every=3)
    arguments = ["pairs", model, "--out", tmp_path / "pairs.jsonl", *flags]
    assert tried(capsys, tmp_path / "pairs.json", shapes, lambda: arguments) == []


@pytest.mark.parametrize(
    "name", ["plan.json", "run.json", "tiny/sampled/dpo/run.json", "tiny/sampled/dpo/training.json"]
)
def test_a_reproduction_that_is_planned_again(runs, tmp_path, capsys, name):
    out = tmp_path / "reproduce"
    shutil.copytree(runs.reproduced, out, copy_function=os.link)
    whole = (out / name).read_bytes()
    (out / name).unlink()  # the other name of the file is the reproduction's own
    arguments = ["reproduce", "--preset", "smoke", "--out", out, "--dry-run"]
    assert tried(capsys, out / name, chosen(mutants(whole), every=3), lambda: arguments) == []
