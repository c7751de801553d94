"""`dposcope explain` from end to end on a tiny model and one that was tuned from it."""

import base64
import json
import re
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from dposcope.artefacts import write_json
from dposcope.data.seeds import load_seeds
from dposcope.directions.direction import Direction
from dposcope.directions.endpoint import Price
from dposcope.directions.features import residual_features
from dposcope.directions.means import mean_difference
from dposcope.directions.refits import refit
from dposcope.directions.tokens import token_contrast
from dposcope.errors import DposcopeError
from dposcope.evaluation.conditions.materials import Materials
from dposcope.evaluation.conditions.measure import measure
from dposcope.evaluation.sampled.ideal import Ideal
from dposcope.evaluation.scorers import load_scorer
from dposcope.evaluation.trained_scorer import TrainedScorer
from dposcope.interventions.ablate import ablate
from dposcope.interventions.edit import Edit
from dposcope.interventions.edited import edited
from dposcope.interventions.fold import fold
from dposcope.interventions.gains import Gains
from dposcope.interventions.weights import OtherWeights
from dposcope.jobs.explain.conditions import GRID, explain_conditions
from dposcope.jobs.explain.job import run_explain
from dposcope.jobs.explain.settings import ExplainSettings
from dposcope.jobs.explain.tuned_side import TunedSide
from dposcope.jobs.ingredients.data import read_data
from dposcope.jobs.ingredients.direction import make_direction
from dposcope.jobs.ingredients.prepared import Ingredients
from dposcope.jobs.measuring.measure import file_name
from dposcope.model.devices.streamed import stream_
from dposcope.model.generate import generate
from dposcope.model.load import load
from dposcope.neurons.activations import NeuronMeans, collect_means
from dposcope.neurons.contributions import Contributions, contributions
from dposcope.neurons.resampling import PARTS
from dposcope.neurons.stability import Repetitions, stability
from helpers.adapters import lora, write_adapter
from helpers.fake_devices import pretended_gpus
from helpers.families import assert_close, random_direction, random_gains
from helpers.jobs import Job, command, contents, make_job, process
from helpers.light import FEW_TOKENS
from helpers.training_facts import TRAINING

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("lighter")]
SMALL = {"toxic_neurons": [4, 8], "steer": [0.2], "seeds": 2, "max_windows": 1}
PAPER = {"interchange": False, "claim_directions": False}
"""Nothing beyond the paper's own conditions."""
ONCE = {"folds": 0, "seeds": 0}
"""Nothing is repeated: most of the time goes into fitting probes again."""
QUICK = {"neurons_only": True, "toxic_neurons": [4], **ONCE}


def write_tuned(job: Job, folder: Path) -> Path:
    lm = load(str(job.model), dtype="float32")
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in lm.model.parameters():
            parameter.add_(0.05 * parameter.abs().mean() * torch.randn(parameter.shape, generator=draw))
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Job:
    return make_job(tmp_path_factory.mktemp("job"))


@pytest.fixture(scope="module")
def tuned(job, tmp_path_factory) -> Path:
    return write_tuned(job, tmp_path_factory.mktemp("tuned") / "model")


def explained(job, tuned, out, **settings):
    chosen = ExplainSettings.filled(job.settings(**{**SMALL, **settings}))
    return run_explain(str(job.model), str(tuned), out, chosen)


@pytest.fixture(scope="module")
def done(job, tuned, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "explain"
    return out, explained(job, tuned, out)


@pytest.fixture(scope="module")
def quick(job, tuned, tmp_path_factory):
    """A quick look, that streams nothing as it was not asked to; to be left as it is."""
    out = tmp_path_factory.mktemp("quick") / "explain"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dposcope.model.load.stream_", None)
        return out, explained(job, tuned, out, **QUICK)


def test_the_folder_holds_what_the_command_promises(done):
    out, _ = done
    names = {path.name for path in out.iterdir()}
    assert {"report.html", "tables", "figures", "explain.json", "scores.json", "contributions.safetensors"} <= names
    assert not {name for name in names if name.startswith(".")} - {".lock"}
    live = pl.read_parquet(out / "interchange.parquet")
    assert {"set", "scorer", "share", "low", "high", "logppl"} <= set(live.columns)
    assert {"TP+AN+TN+AP", "mlp", "attention", "neurons", "reverse-neurons"} <= set(live["set"])
    for folder, endings in (("tables", {".parquet", ".csv", ".md", ".tex"}), ("figures", {".svg", ".png", ".csv"})):
        stems = {}
        for path in (out / folder).iterdir():
            stems.setdefault(path.stem, set()).add(path.suffix)
        stems.pop("neurons", None)  # too long to be read
        assert all(found == endings for found in stems.values()), stems
    wanted = {f"{number:02}" for number in (1, 2, 3, 5, 8, 11, 12, 13, 14, 15, 16, 17, 18, 19)}
    assert wanted <= {path.name.split("-")[1] for path in (out / "tables").glob("table-*.md")}
    figures = {path.name.split("-")[1] for path in (out / "figures").glob("figure-*.svg")}
    assert {"01", "02a", "02b", "02c", "03", "04", "05", "07a", "07b", "08"} <= figures


def test_the_table_of_mediation_is_from_the_sums_beside_it(done):
    out, _ = done
    rows = {row["neurons"]: row for row in pl.read_parquet(out / "tables" / "mediation.parquet").iter_rows(named=True)}
    sums = load_file(out / "mediation.safetensors")
    own, before = (float(sums[name].sum() / sums["change"].sum()) for name in ("own", "before"))
    everything = rows["all neurons"]
    assert (everything["own"], everything["before"]) == pytest.approx((own, before), abs=1e-6)
    assert everything["own"] + everything["before"] + everything["interaction"] == pytest.approx(1)
    assert {"TP↓", "AN↓", "block 0"} <= set(rows)


def test_every_table_says_of_which_model_and_protocol_it_is(done, job):
    out, _ = done
    tables = sorted((out / "tables").glob("*.parquet"))
    assert len(tables) >= 25
    for path in tables:
        frame = pl.read_parquet(path)
        assert frame.columns[:3] == ["protocol", "model", "fingerprint"], path.name
        expected = {("strict", job.model.name, load(str(job.model), dtype="float32").fingerprint)}
        assert set(frame.select("protocol", "model", "fingerprint").rows()) <= expected, path.name


def test_contributions_are_those_of_the_two_models(done, job, tuned):
    out, _ = done
    settings = ExplainSettings(**job.settings(**SMALL))
    prompts = read_data(settings).learn
    base, other = (load(str(path), dtype="float32") for path in (job.model, tuned))
    kept = Contributions.load(out / "contributions")
    direction = Direction.load(out / "direction")
    again = contributions(base, other, collect_means(base, prompts), collect_means(other, prompts), direction.vector)
    assert torch.equal(kept.total, again.total)
    neurons = pl.read_parquet(out / "tables/neurons.parquet")
    assert neurons["contribution"].to_list() == kept.total.flatten().tolist()


def test_conditions_are_those_of_the_suite(done, job, tuned):
    """The tuned model, a patch and an edit, each measured directly."""
    out, made = done
    settings = ExplainSettings(**job.settings(**SMALL))
    data = read_data(settings)
    lm = load(str(job.model), dtype="float32")
    materials = Materials(
        data.report.prompts,
        data.report.passages,
        data.report.neutral,
        load_scorer("helpers.jobs:softness"),
        TrainedScorer.load(out / "judge"),
        max_windows=1,
        ideal=Ideal.from_json(json.loads((out / "ideal.json").read_text())),
    )
    rows = {row.name: row for row in made.results.conditions}
    assert isinstance(rows["tuned"].build(), OtherWeights)
    names = ["tuned", "patch-TP+AN+TN+AP", "patch-top-8", "assign-probe-cosine-0.01-0.55", "scale-free-cosine-0.05-0.5"]
    for name in names:
        stored = json.loads((out / f"conditions/{file_name(name)}.json").read_text())
        assert stored == measure(lm, rows[name].build(), materials).to_json(), name
    alone = measure(load(str(tuned), dtype="float32"), None, materials)
    assert made.results.outcomes["tuned"].continuations == alone.continuations


def test_every_condition_of_the_papers_tables_is_there(done):
    out, made = done
    names = [row.name for row in made.results.conditions]
    grid = [f"{a:g}-{b:g}" for a, b in ((0.01, 0.8), (0.01, 0.6), (0.01, 0.55), (0.05, 0.5))]
    for form in ("assign", "scale"):
        for kind in ("probe", "free"):
            for ranking in ("cosine", "activation"):
                assert {f"{form}-{kind}-{ranking}-{cell}" for cell in grid} <= set(names)
    assert {"steer-0.2", "steer-random-0.2", "tuned", "patch-increasing", "patch-random", "patch-random-layers"} <= set(
        names
    )
    stored = json.loads((out / "scores.json").read_text())
    assert list(stored["conditions"]) == ["none", *names, "ideal"]


def test_started_again_it_makes_the_same(done, job, tuned):
    out, _ = done
    before = {name: data for name, data in contents(out).items() if not name.startswith("stages/")}
    explained(job, tuned, out)
    after = {name: data for name, data in contents(out).items() if not name.startswith("stages/")}
    assert before == after


def test_killed_it_goes_on_to_the_same(job, tuned, tmp_path, capsys):
    """A process of its own, killed in the middle of the conditions; that of `reproduce` has every kind of them."""
    flags = job.flags(toxic_neurons=4, steer=0.2, max_windows=1, **ONCE)
    quick = ["--no-edits", "--no-controls", "--no-interchange", "--no-claim-directions", "--quiet"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    running = process("explain", job.model, tuned, "--out", cut, *flags, *quick)
    while not list(cut.glob("conditions/patch-*.json")):
        assert running.poll() is None, running.communicate()
        time.sleep(0.05)
    running.kill()
    running.communicate()
    for out in (cut, whole):
        finished = command(capsys, "explain", job.model, tuned, "--out", out, *flags, *quick)
        assert finished.code == 0, finished.err
    one, other = ({n: d for n, d in contents(out).items() if not n.startswith("stages/")} for out in (whole, cut))
    assert one.keys() == other.keys()
    assert not [name for name in one if one[name] != other[name]]


def test_more_rows_may_join_later(done, job, tuned, tmp_path):
    out = tmp_path / "out"
    few = {"edit_grid": ["0.05:0.5"], "token_price": (1, 2)}
    explained(job, tuned, out, patching=False, edits=False, controls=False, folds=0, seeds=0, **few)
    first = {path.name: path.read_bytes() for path in (out / "stages").iterdir()}
    assert "features.json" not in first, "without --seeds no comment is read again"
    # Folds are added up while a model writes, so it writes again, and the same.
    del first["means.json"], first["means-after.json"]
    explained(job, tuned, out)
    assert {path.name: path.read_bytes() for path in (out / "stages").iterdir() if path.name in first} == first
    whole, grown = (
        {n: d for n, d in contents(folder).items() if not n.startswith("stages/")} for folder in (done[0], out)
    )
    assert whole == grown


def test_streamed_it_is_the_same(quick, job, tuned, tmp_path, monkeypatch):
    folders = []

    def seen(lm, device, folder):
        folders.append(folder)
        stream_(lm, device, folder)

    monkeypatch.setattr("dposcope.model.load.stream_", seen)
    whole, streamed = (tmp_path / name for name in ("whole", "streamed"))
    shutil.copytree(quick[0], whole)
    explained(job, tuned, streamed, stream=True, **QUICK)
    assert folders == [streamed] * 3, "the base, and the tuned model twice: for its neurons, and for its texts"
    one, other = contents(whole), contents(streamed)
    told = {"explain.json", "run.json"}  # which name the settings
    assert one.keys() == other.keys()
    assert {name for name in one if one[name] != other[name] and not name.startswith("stages/")} <= told
    # It may be chosen when the run is started again.
    explained(job, tuned, whole, stream=True, **QUICK)
    assert one["contributions.safetensors"] == contents(whole)["contributions.safetensors"]


def test_what_does_not_go_with_streaming_is_told(job, tuned, tmp_path):
    for option, given in (("--quantise", {"quantise": "4bit"}), ("--device-map auto", {"device_map": "auto"})):
        with (
            pretended_gpus(2),
            pytest.raises(DposcopeError, match=f"{option} and --stream do not go together; leave one of the two out"),
        ):
            explained(job, tuned, tmp_path / "out", stream=True, **{"device": "auto", **given})
    assert not (tmp_path / "out").exists()


def test_an_edit_has_no_second_model_to_stream(job, tmp_path, capsys):
    lm = load(job.model, dtype="float32", device="cpu")
    Edit.of(Gains(random_gains(lm))).save(tmp_path / "edit")
    given = job.flags(toxic_neurons=4, folds=0, seeds=0)
    told = command(
        capsys, "explain", job.model, f"edit:{tmp_path / 'edit'}", "--out", tmp_path / "out", *given, "--stream",
        "--neurons-only",
    )  # fmt: skip
    assert told.code == 0, told.err
    assert "so there is no second model to stream" in " ".join(told.err.split())


def test_a_quick_look_runs_no_patch(quick):
    out, made = quick
    assert [row.name for row in made.results.conditions] == ["tuned"]
    assert (out / "report.html").stat().st_size < 2_000_000


def test_steering_acts_at_the_block_that_its_direction_is_from(job, tuned):
    lm = load(str(job.model), dtype="float32")
    comments = read_data(ExplainSettings(**job.settings())).direction_comments.balanced()
    change = SimpleNamespace(about={"tuned_fingerprint": "-"})
    found = {}
    for block in (-1, 0):
        direction = mean_difference(lm, comments.texts, comments.labels, block=block)
        made = Ingredients(lm, direction, SimpleNamespace())
        settings = ExplainSettings(**job.settings(**SMALL), patching=False, edits=False)
        side, strengths = TunedSide(str(tuned)), settings.strengths
        rows = explain_conditions(made, None, side, change, [], strengths, protocol="strict", of="tuned-00ff")
        steer, control = (row for row in rows if row.name in {"steer-0.2", "steer-random-0.2"})
        assert steer.build().block == control.build().block == block
        assert steer.length == pytest.approx(0.2 * direction.about["residual_norm"])
        found[block] = steer
    assert {block: steer.about["block"] for block, steer in found.items()} == {-1: -1, 0: 0}


def test_the_grid_of_edits_is_a_setting(job):
    def cells(form, **given):
        return ExplainSettings(**job.settings(**given)).edits_of(form)

    papers = [(0.01, 0.8), (0.01, 0.6), (0.01, 0.55), (0.05, 0.5)]
    assert cells("assign") == cells("scale") == list(GRID) == papers
    assert cells("assign", edit_forms=["scale"]) == []
    own = {"edit_grid": ["0.1:0.5", "scale:0.3:1", "0.1:0.5"]}
    assert (cells("scale", **own), cells("assign", **own)) == ([(0.1, 0.5), (0.3, 1.0)], [(0.1, 0.5)])
    for wrong in ("0.1", "0.1:2", "-1:0.5", "nan:0.5", "inf:0.5", "move:0.1:0.5", "a:b", "scale:0.1:0.5:1", ":"):
        with pytest.raises(ValidationError, match="is not an edit; give α:β"):
            cells("scale", edit_grid=[wrong])


def test_the_strongest_gains_have_a_shuffled_control(done):
    rows = {row.name: row for row in done[1].results.conditions}
    (name,) = (name for name in rows if name.startswith("shuffled-"))
    assert name == "shuffled-scale-probe-cosine-0.05-0.5"
    assert rows[name].role == "control"
    edit, shuffled = rows["scale-probe-cosine-0.05-0.5"].build().values, rows[name].build().values
    assert not torch.equal(edit, shuffled)
    assert torch.equal(edit.sort(1).values, shuffled.sort(1).values), "the same gains in each block"


def test_an_endpoints_price_and_pace_reach_its_judge(job, tuned, tmp_path, monkeypatch):
    asked = {}

    def found(spec, **given):
        asked.update(given, spec=spec)
        raise DposcopeError("far enough")

    monkeypatch.setattr("dposcope.jobs.explain.job.load_judge", found)
    given = {"token_judge": "https://host/v1#m", "token_price": (2.5, 10), "requests_per_minute": 7}
    with pytest.raises(DposcopeError, match="far enough"):
        explained(job, tuned, tmp_path / "out", **given)
    assert (asked["spec"], asked["price"], asked["requests_per_minute"]) == ("https://host/v1#m", Price(2.5, 10), 7)
    with pytest.raises(DposcopeError, match="far enough"):
        explained(job, tuned, tmp_path / "out")
    assert asked["price"] is None
    assert asked["concept"].name == "toxicity"


def test_another_concept_marks_its_own_tokens(job, tuned, tmp_path, monkeypatch):
    """Tokens are those that the concept's scorer finds, here the letter e; toxic words are none of its business.

    The page has 50 of them for each side of a lens, and is written even where it has no room.
    """
    monkeypatch.setattr("dposcope.report.browser.page.MAX_BYTES", 100_000)
    (tmp_path / "words.txt").write_text("e\n", encoding="utf-8")
    lines = ["name = 'e-talk'", "adjective = 'e-ish'", "scorer = 'words:words.txt'"]
    lines += [f"{part} = '{getattr(job, part)}'" for part in ("comments", "prompts")]
    (tmp_path / "e.toml").write_text("\n".join(lines), encoding="utf-8")
    given = {
        name: value
        for name, value in job.settings(**SMALL).items()
        if name not in {"comments", "prompts", "scorer", "steer"}
    }
    given |= {"concept": str(tmp_path / "e.toml"), "neurons_only": True, "lens_tokens": 96, "folds": 0, "seeds": 0}
    made = run_explain(str(job.model), str(tuned), tmp_path / "out", ExplainSettings(**given))
    assert made.scores.concept == "e talk"
    # All tokens of the vocabulary are read through the lens, so every neuron has the letter among them.
    neurons = load(job.model).n_neurons
    assert made.explanation.toxic_share == max(SMALL["toxic_neurons"]) / neurons
    report = (tmp_path / "out/report.html").read_text("utf-8")
    lenses = json.loads(re.search(r'id="browser-data">(.*?)</script>', report, re.S)[1])["lenses"]
    counts = [len(base64.b64decode(lenses[part]["data"])) for part in ("neurons", "tokens")]
    assert counts == [4 * neurons, 2 * 2 * 50 * neurons]


def test_an_adapter_is_explained_as_the_model_that_it_makes(job, tmp_path):
    base = load(job.model, dtype="float32", device="cpu")
    write_adapter(base, lora("llama"), tmp_path / "lora", scale=0.1)
    load(tmp_path / "lora", base=base).save_pretrained(tmp_path / "merged")
    made, whole = (explained(job, tmp_path / name, tmp_path / f"out-{name}", **QUICK) for name in ("lora", "merged"))
    one, other = made.explanation.contributions, whole.explanation.contributions
    assert one.about["tuned_fingerprint"] == other.about["tuned_fingerprint"] != one.about["fingerprint"]
    assert torch.equal(one.total, other.total)
    assert made.results.outcomes["tuned"].to_json() == whole.results.outcomes["tuned"].to_json()
    told = json.loads((tmp_path / "out-lora/explain.json").read_text())["tuned_notes"]
    assert told == [f"LORA adapter, merged into {job.model.name} in float32"]
    report = (tmp_path / "out-lora/report.html").read_text()
    assert "The tuned model: LORA adapter, merged into" in report
    assert "The tuned model: " not in (tmp_path / "out-merged/report.html").read_text()


@pytest.mark.parametrize(("family", "patching"), [("llama", True), ("gpt2", False)])
def test_an_edit_is_explained_with_its_gains_in_the_activations(family, patching, tmp_path):
    """Named in each way that it can be; its row is the edit's, its contributions those of the folded model.

    Patches are measured of one family, and so are the ways to name it.
    """
    job = make_job(tmp_path / "job", family)
    lm = load(str(job.model), dtype="float32")
    edit = Edit.of(Gains(random_gains(lm)), ablate(random_direction(lm), weight=0.7, blocks=(1,)))
    edit.save(tmp_path / "run" / "edit")
    made = explained(job, tmp_path / "run", tmp_path / "a", steer=[], edits=False, patching=patching, **ONCE, **PAPER)
    names = (f"edit:{tmp_path / 'run'}", tmp_path / "run" / "edit.safetensors") if patching else ()
    for out, named in zip("bc", names, strict=False):
        again = explained(job, named, tmp_path / out, **QUICK)
        assert torch.equal(again.explanation.contributions.total, made.explanation.contributions.total)
        assert again.scores.conditions["tuned"] == made.scores.conditions["tuned"]
    data = read_data(ExplainSettings(**job.settings(**SMALL)))
    with edited(lm, edit) as other:
        written = [text.text for text in generate(other, data.report.prompts, new_tokens=FEW_TOKENS)]
    assert made.results.outcomes["tuned"].continuations == written
    assert made.results.outcomes["none"].continuations != written
    assert {row.name: row.label for row in made.results.conditions}["tuned"] == "Edit"
    fold(lm, edit).save_pretrained(tmp_path / "folded")
    other = load(tmp_path / "folded", base=lm)
    before, after = (collect_means(model, data.learn) for model in (lm, other))
    there = contributions(lm, other, before, after, made.explanation.direction.vector)
    here = made.explanation.contributions
    assert_close(here.total, there.total, 1e-4)
    assert_close(here.after.mean, edit.gains.values.double() * after.mean, 1e-4)
    # The fold is one of weights; the edit's gains are in no weight, and it counts as another model.
    assert here.about["tuned_fingerprint"] != here.about["fingerprint"]


def test_an_edit_that_is_none_is_told(job, tmp_path, capsys):
    out = tmp_path / "out"
    told = command(capsys, "explain", job.model, f"edit:{tmp_path / 'none'}", "--out", out, *job.flags())
    assert told.code == 2
    assert "names no edit" in told.err
    assert not out.exists()


def test_started_again_with_all_on_disk_or_with_another_edit(job, tmp_path):
    """Hooks run even where nothing is measured anew; another edit under the same name is another model."""
    lm = load(str(job.model), dtype="float32")
    for seed, same in ((0, False), (0, True), (1, False)):
        Edit.of(Gains(random_gains(lm, seed))).save(tmp_path / "run" / "edit")
        before = contents(tmp_path / "out") if same else {}
        made = explained(job, tmp_path / "run", tmp_path / "out", protocol="reference", **QUICK)
        assert any("no value vector changes" in note for note in made.results.notes)
        assert "no value vector changes" in (tmp_path / "out" / "report.html").read_text("utf-8")
        if same:
            assert contents(tmp_path / "out") == before
    fresh = explained(job, tmp_path / "run", tmp_path / "fresh", protocol="reference", **QUICK)
    assert torch.equal(fresh.explanation.contributions.total, made.explanation.contributions.total)
    assert fresh.results.outcomes["tuned"].to_json() == made.results.outcomes["tuned"].to_json()


def test_a_rounded_up_vocabulary_changes_no_number(quick, job, tuned, tmp_path):
    wide = load(tuned, dtype="float32", device="cpu")
    wide.model.resize_token_embeddings(128, mean_resizing=False)
    wide.save_pretrained(tmp_path / "wide")
    made, (_, plain) = explained(job, tmp_path / "wide", tmp_path / "out", **QUICK), quick
    assert torch.equal(made.explanation.contributions.total, plain.explanation.contributions.total)
    assert made.results.outcomes["tuned"].to_json() == plain.results.outcomes["tuned"].to_json()
    assert made.results.notes == ("32 rows of its embedding that stand for no token left out",)


def test_only_a_model_of_ours_is_known_to_be_made_by_dpo(done, job, tuned, tmp_path):
    (tmp_path / "dpo").mkdir()
    shutil.copytree(tuned, tmp_path / "dpo/model")
    write_json(tmp_path / "dpo/training.json", TRAINING.to_json())
    by_dpo = explained(job, tmp_path / "dpo/model", tmp_path / "out", **QUICK)
    for out, made, label in ((tmp_path / "out", by_dpo, "DPO"), (*done, "Tuned model")):
        assert {row.name: row.label for row in made.results.conditions}["tuned"] == label
        assert label in (out / "tables/table-02-interventions.md").read_text()


@pytest.fixture(scope="module", params=["gpt2", "gemma2"])
def by_reference(request, tmp_path_factory):
    """The family, and what the reference protocol finds."""
    folder = tmp_path_factory.mktemp(request.param)
    job = make_job(folder / "job", request.param)
    given = {"protocol": "reference", "edit_forms": ["scale"], "patching": False, "controls": False, **ONCE, **PAPER}
    return request.param, explained(job, write_tuned(job, folder / "tuned"), folder / "out", **given)


def test_other_families_and_the_reference_protocol(by_reference):
    _, made = by_reference
    assert made.scores.protocol == "reference"
    assert made.explanation.contributions.about["protocol"] == "reference"
    site = {row.name: row for row in made.results.conditions}["steer-0.2"].build()
    assert site.site == "mlp"


def test_in_the_reference_protocol_edits_choose_neurons_as_the_published_code_does(by_reference):
    """TP and AN by descending |cos|, AP and TN by ascending; for GPT-2 without the 20 % of the largest means."""
    family, made = by_reference
    rows = {row.name: row for row in made.results.conditions if row.role == "edit"}
    names = {name.rsplit("-", 2)[0] for name in rows}
    assert names == {f"scale-{kind}-{ranking}" for kind in ("probe", "free") for ranking in ("reference", "activation")}
    found = made.explanation.contributions
    cosine, mean = found.cosine.flatten(), found.before.mean.flatten()
    kept = torch.ones_like(mean, dtype=torch.bool)
    if family == "gpt2":
        kept = mean <= torch.tensor(np.percentile(mean.numpy(), 80))
        assert not kept.all()
    gains = torch.ones_like(mean)
    for toxic, active, factor in ((1, 1, 0.99), (1, 0, 1.01), (0, 1, 1.01), (0, 0, 0.99)):
        group = [i for i in range(len(mean)) if kept[i] and (cosine[i] > 0) == toxic and (mean[i] > 0) == active]
        group.sort(key=lambda i: abs(float(cosine[i])), reverse=factor < 1)
        for i in group[: int(0.55 * len(group))]:
            gains[i] = factor
    edited = rows["scale-probe-reference-0.01-0.55"].build().values.flatten()
    assert torch.equal(edited.double() != 1, gains != 1)
    assert torch.allclose(edited.double(), gains.double())


def test_the_command_says_what_it_found(job, tuned, tmp_path, capsys):
    flags = [*job.flags(toxic_neurons=4, max_windows=1, **ONCE), "--neurons-only", "--quiet"]
    told = command(capsys, "explain", job.model, tuned, "--out", tmp_path / "out", *flags)
    assert told.code == 0, told.err
    assert re.search(r"^effect: +toxicity \d\.\d+ → \d\.\d+, .* × \(", told.out)
    assert "report.html" in told.out


def test_stability_is_that_of_repeating_by_hand(done, job, tuned):
    """Folds collected one by one, and directions fitted again."""
    out, made = done
    settings = ExplainSettings(**job.settings(**SMALL))
    data = read_data(settings)
    base, other = (load(str(path), dtype="float32") for path in (job.model, tuned))
    direction = Direction.load(out / "direction")
    plain = make_direction(base, data.direction_comments, settings.direction_spec)
    assert torch.equal(direction.vector, plain.vector)
    prompts = data.learn

    def change(vector, some=prompts):
        return contributions(base, other, *(collect_means(lm, some) for lm in (base, other)), vector)

    comments = data.direction_comments
    features = residual_features(base, comments.texts)
    again = refit(direction, features.vectors, comments.labels, seeds=[1, 2])
    balanced = comments.balanced()
    kinds = [
        direction.vector,
        mean_difference(base, balanced.texts, balanced.labels).vector,
        token_contrast(base, load_seeds().toxic, load_seeds().non_toxic).vector,
    ]
    expected = {
        "prompts": [change(direction.vector, prompts[fold::2]) for fold in range(2)],
        "comments": [change(vector) for vector in again.resampled],
        "seeds": [change(direction.vector), *(change(vector) for vector in again.reseeded)],
        "directions": [change(vector) for vector in kinds],
    }
    found = made.results.stability
    assert [source.source for source in found.sources] == list(expected)
    names = {
        **{"prompts": ("fold 1", "fold 2"), "comments": ("resample 1", "resample 2")},
        **{"seeds": ("the run's", "seed 1"), "directions": ("probe", "mean-difference")},
    }
    for source in found.sources:
        changes = tuple(expected[source.source])
        by_hand = stability([Repetitions(source.source, tuple(map(str, range(len(changes)))), changes)], toxic=8)
        for pair, other_pair in zip(source.pairs, by_hand.sources[0].pairs, strict=True):
            for one, also in zip(pair.agreements, other_pair.agreements, strict=True):
                assert one.kept == pytest.approx(also.kept, abs=0.02)
            assert pair.rank_correlation == pytest.approx(other_pair.rank_correlation, abs=1e-3)
            assert (pair.toxic.size, pair.toxic.jaccard) == (8, pytest.approx(other_pair.toxic.jaccard, abs=0.15))
        assert (source.pairs[0].first, source.pairs[0].second) == names[source.source]
    written = pl.read_parquet(out / "tables/stability-groups.parquet")
    assert written.drop("protocol", "model", "fingerprint").equals(found.to_polars())
    assert "How stable the groups are</h3>" in (out / "report.html").read_text()
    assert list(json.loads((out / "explain.json").read_text())["stability"]) == list(expected)


@pytest.mark.parametrize("name", ["means-fold-2", "means-after-fold-1"])
def test_stopped_between_folds_it_goes_on_to_the_same(done, job, tuned, tmp_path, monkeypatch, name):
    out, save = tmp_path / "out", NeuronMeans.save

    def stop(means, stem):
        if Path(stem).name == name:
            raise KeyboardInterrupt
        save(means, stem)

    with monkeypatch.context() as patch:
        patch.setattr(NeuronMeans, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            explained(job, tuned, out, neurons_only=True)
    assert not (out / f"stages/{name.split('-fold')[0]}.json").exists()
    explained(job, tuned, out, neurons_only=True)
    values = [path for path in done[0].iterdir() if path.name.startswith(("means", "contributions", "refits"))]
    assert len(values) == 2 * (2 * (1 + PARTS) + 2)
    for path in [*values, *(done[0] / "tables").glob("stability-*")]:
        assert (out / path.relative_to(done[0])).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize(
    ("direction", "sources", "kinds"),
    [
        ("mean-difference", ["prompts", "comments", "directions"], {"mean-difference", "probe", "token-contrast"}),
        ("token-contrast", ["prompts", "directions"], {"mean-difference", "probe", "token-contrast"}),
        ("saved", ["prompts", "directions"], {"saved", "mean-difference", "probe", "token-contrast"}),
    ],
)
def test_what_is_repeated_follows_the_direction(job, tuned, tmp_path, direction, sources, kinds):
    if direction == "saved":
        direction = str(tmp_path / "mine")
        Direction(torch.arange(1.0, 17.0), "probe", -1).save(direction)
    made = explained(job, tuned, tmp_path / "out", direction=direction, neurons_only=True)
    found = made.results.stability.sources
    assert [source.source for source in found] == sources
    assert {name for pair in found[-1].pairs for name in (pair.first, pair.second)} == kinds
    quality = pl.read_parquet(tmp_path / "out/tables/table-11-direction.parquet").row(-1, named=True)
    fitted = Direction.load(tmp_path / "out/direction-probe").about["quality"]
    assert (quality["kind"], quality["used"], quality["accuracy"]) == ("probe", "to compare", fitted["accuracy"])


def test_nothing_is_repeated_where_nothing_is_asked_for(quick, job, tuned, tmp_path):
    out, made = quick
    assert made.results.stability.sources == ()
    names = {path.name for path in out.rglob("*")}
    assert not [name for name in names if name.startswith(("stability", "refits", "features", "means-fold"))]
    assert "How stable" not in (out / "report.html").read_text()
    shutil.copytree(out, tmp_path / "out")
    made = explained(job, tuned, tmp_path / "out", seeds=2, bootstrap=False, neurons_only=True)
    assert [source.source for source in made.results.stability.sources] == ["prompts", "seeds", "directions"]


@pytest.mark.parametrize("name", ["folds", "seeds"])
def test_one_repetition_is_refused_before_any_model_runs(job, tuned, tmp_path, name):
    with pytest.raises(DposcopeError, match=f"--{name} 1 gives nothing to compare; give 2 or more, or 0 for none"):
        explained(job, tuned, tmp_path / "out", **{name: 1})
    assert not (tmp_path / "out").exists()


def test_models_that_do_not_belong_together_are_refused(job, tmp_path, capsys):
    other = make_job(tmp_path / "other", "gpt2")
    told = command(capsys, "explain", job.model, other.model, "--out", tmp_path / "out", *job.flags(), "--quiet")
    assert told.code == 2
    assert "differ in" in told.err
    assert len(told.err.strip().splitlines()) == 1


def test_bad_settings_are_told_before_any_model_runs(job, tuned, tmp_path):
    with pytest.raises(DposcopeError, match="no token judge"):
        explained(job, tuned, tmp_path / "out", token_judge="nobody")
