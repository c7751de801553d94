"""`dposcope evaluate` from end to end on a tiny model."""

import json
import shutil
from dataclasses import replace

import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM

from dposcope.artefacts import save_tensors
from dposcope.directions.direction import Direction
from dposcope.errors import DposcopeError
from dposcope.evaluation.conditions.materials import Materials
from dposcope.evaluation.conditions.measure import measure
from dposcope.evaluation.neural import neural_folder, neural_scorer
from dposcope.evaluation.numbers import MEAN
from dposcope.evaluation.perplexity import window_losses
from dposcope.evaluation.sampled.ideal import draw_ideal, measure_ideal
from dposcope.evaluation.scorers import load_scorer
from dposcope.evaluation.trained_scorer import TrainedScorer
from dposcope.interventions.edit import Edit
from dposcope.interventions.fold import fold
from dposcope.interventions.gains import Gains
from dposcope.jobs.edit.job import run_edit
from dposcope.jobs.edit.settings import EditSettings
from dposcope.jobs.evaluate.job import run_evaluate
from dposcope.jobs.evaluate.settings import EvaluateSettings
from dposcope.jobs.ingredients import job as job_at_work
from dposcope.jobs.ingredients.data import read_data
from dposcope.jobs.reporter import Quiet
from dposcope.jobs.run import RunPolicy, lenders
from dposcope.model.generate import generate
from dposcope.model.load import load
from helpers.adapters import lora, write_adapter
from helpers.families import CONTEXT, random_gains, tiny
from helpers.jobs import Job, make_job
from helpers.light import TOKENS
from helpers.quantised import in_bytes

pytestmark = pytest.mark.usefixtures("light")

CONDITIONS = [
    "scale:alpha=0.3,beta=0.55",
    "frozen=assign:alpha=0.01,beta=0.55,ranking=reference",
    "steer:relative=0.5",
    "ablate:weight=1,site=mlp",
    "both=scale:alpha=0.1+ablate:weight=1",
    "shuffled=scale:alpha=0.3,shuffled=yes",
    "random steer=steer:relative=0.5,random=yes",
]
NAMES = ["none", CONDITIONS[0], "frozen", CONDITIONS[2], CONDITIONS[3], "both", "shuffled", "random steer"]


def rows_of(protocol: str) -> list[str]:
    """Of the tables; only the strict protocol has an ideal."""
    return [*NAMES, *(["ideal"] if protocol == "strict" else [])]


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Job:
    return make_job(tmp_path_factory.mktemp("job"))


def evaluated(job: Job, out, conditions=(), **settings):
    return run_evaluate(str(job.model), out, EvaluateSettings(**job.settings(condition=list(conditions), **settings)))


@pytest.fixture(scope="module", params=["strict", "reference"])
def done(request, job, tmp_path_factory):
    """All kinds of conditions at once, under either protocol."""
    out = tmp_path_factory.mktemp("out") / request.param
    return out, evaluated(job, out, CONDITIONS, protocol=request.param), request.param


class Log(Quiet):
    """A reporter that remembers which stages were reused."""

    def __init__(self):
        self.taken = []

    def reused(self, title):
        self.taken.append(title)


def test_what_another_run_has_measured_is_borrowed(done, job, tmp_path):
    """The plain model and an edit, from a folder above the run; not where a setting that decides them differs."""
    out, scores, protocol = done
    names = [f"Measuring: {name}" for name in ("none", CONDITIONS[0])]
    limit = ["Measuring: the ideal"] if protocol == "strict" else []
    for windows, expected in ((3, names + limit), (2, limit)):
        log = Log()
        settings = EvaluateSettings(**job.settings(condition=[CONDITIONS[0]], max_windows=windows, protocol=protocol))
        policy = RunPolicy(borrow=lenders([out.parent]))
        mine = run_evaluate(str(job.model), tmp_path / str(windows), settings, reporter=log, policy=policy)
        assert [title for title in log.taken if title.startswith("Measuring")] == expected
        assert ("Harmless samples of the plain model" in log.taken) == (protocol == "strict")
        if windows == 3:
            for name in ("none", CONDITIONS[0]):
                assert mine.conditions[name] == scores.conditions[name]
    with pytest.raises(DposcopeError, match=r"nothing to borrow in .*empty"):
        lenders([tmp_path / "empty"])


def test_windows_are_spread_where_asked(job, tmp_path):
    settings = EvaluateSettings(**job.settings(max_windows=2, spread_windows=True))
    run_evaluate(str(job.model), tmp_path / "run", settings)
    stored = json.loads((tmp_path / "run/conditions/none.json").read_text())
    lm, text = load(str(job.model), dtype="float32"), read_data(settings).report.neutral
    spread = window_losses(lm, text, max_windows=2, spread=True).nll.tolist()
    assert stored["window_nll"] == spread != window_losses(lm, text, max_windows=2).nll.tolist()


def test_the_folder_holds_what_the_command_promises(done):
    out, _, protocol = done
    names = {path.name for path in out.iterdir()}
    assert {"scores.json", "scores.parquet", "samples.parquet", "scores.md", "run.json"} <= names
    assert ("front.svg" in names) == (protocol == "strict"), "the reference protocol has no harmless text"
    assert not {name for name in names if name.startswith(".")} - {".lock"}
    assert len(list((out / "conditions").iterdir())) == len(rows_of(protocol))
    assert ("ideal.json" in names) == (protocol == "strict")


def test_scores_name_every_condition_and_none(done):
    out, scores, protocol = done
    stored = json.loads((out / "scores.json").read_text())
    assert list(stored["conditions"]) == list(scores.conditions) == rows_of(protocol)
    assert stored == scores.to_json()
    assert stored["protocol"] == protocol
    assert stored["about"]["conditions"] == dict(zip(NAMES[1:], CONDITIONS, strict=True))
    for table, names in (("scores", rows_of(protocol)), ("samples", NAMES)):
        frame = pl.read_parquet(out / f"{table}.parquet")
        assert frame["condition"].unique(maintain_order=True).to_list() == names
        assert frame["protocol"].unique().to_list() == [protocol]


def test_numbers_are_those_of_the_suite(done, job):
    """Each condition's file against one measured directly, from the direction and means that the run kept."""
    from dposcope.jobs.ingredients.prepared import Ingredients
    from dposcope.jobs.measuring.conditions import parse_condition
    from dposcope.jobs.measuring.measure import file_name
    from dposcope.neurons.activations import NeuronMeans

    out, _, protocol = done
    data = read_data(EvaluateSettings(**job.settings()))
    lm = load(str(job.model), dtype="float32")
    made = Ingredients(lm, Direction.load(out / "direction"), NeuronMeans.load(out / "means"))
    materials = Materials(
        data.report.prompts,
        data.report.passages,
        data.report.neutral,
        load_scorer("helpers.jobs:softness"),
        TrainedScorer.load(out / "judge"),
        protocol,
        max_windows=3,
    )
    if protocol == "strict":
        ideal = draw_ideal(lm, materials.prompts, materials.scorer)
        assert json.loads((out / "ideal.json").read_text()) == ideal.to_json()
        stored = json.loads((out / "conditions/ideal.json").read_text())
        assert stored == measure_ideal(lm, ideal, materials.scorers).to_json()
        materials = replace(materials, ideal=ideal)
    for name, text in zip(NAMES, ["", *CONDITIONS], strict=True):
        intervention = parse_condition(text).build(lambda: made, 0) if text else None
        stored = json.loads((out / f"conditions/{file_name(name)}.json").read_text())
        assert stored == measure(lm, intervention, materials).to_json(), name


def test_the_table_for_people_has_every_row(done):
    out, scores, protocol = done
    text = (out / "scores.md").read_text()
    for name in rows_of(protocol):
        assert f"| {name} |" in text
        assert f"| {MEAN.value(scores.conditions[name]['toxicity'].mean)}" in text
    assert f"{protocol} protocol" in text


def test_without_a_condition_only_the_plain_model_is_measured(job, tmp_path):
    scores = evaluated(job, tmp_path / "out")
    assert list(scores.conditions) == ["none", "ideal"]
    assert not (tmp_path / "out/direction.json").exists()  # nothing that it does not need
    assert not (tmp_path / "out/means.json").exists()


def test_a_saved_edit_needs_no_direction_and_equals_its_checkpoint(job, tmp_path):
    run = run_edit(str(job.model), tmp_path / "edit", EditSettings(**job.settings(alpha=0.4, ablate=0.8)))
    hooked = evaluated(
        job,
        tmp_path / "hooked",
        [f"e=edit:{run.folder / 'edit.safetensors'}", f"c=control:{run.folder}/edit.safetensors"],
    )
    assert not (tmp_path / "hooked/direction.json").exists()
    folded = run_evaluate(str(run.folder / "model"), tmp_path / "folded", EvaluateSettings(**job.settings()))
    same = {"toxicity", "judge", "repetition", "empty", "f1"}
    for measure_name in same:
        assert hooked.conditions["e"][measure_name] == run.scores.conditions["edit"][measure_name]
        assert folded.conditions["none"][measure_name] == run.scores.conditions["edit"][measure_name]
        assert hooked.conditions["c"][measure_name] == run.scores.conditions["control"][measure_name]
    assert folded.conditions["none"]["logppl"].mean == pytest.approx(hooked.conditions["e"]["logppl"].mean, abs=1e-4)
    hooked_mean = run.scores.conditions["edit"]["logppl"].mean
    assert hooked.conditions["e"]["logppl"].mean == pytest.approx(hooked_mean, abs=1e-9)


def test_an_edit_of_another_shape_is_refused(job, tmp_path, gpt2):
    Edit.of(Gains(random_gains(gpt2))).save(tmp_path / "e")
    with pytest.raises(DposcopeError, match=r"gains for \[3, 40\] neurons do not fit a model with \[3, 24\]"):
        evaluated(job, tmp_path / "out", [f"edit:{tmp_path / 'e'}.safetensors"])


def test_more_conditions_may_join_later(job, tmp_path):
    """What was measured stays; the scores are of the conditions asked for."""
    out = tmp_path / "out"
    evaluated(job, out, ["ablate"])
    before = (out / "stages/measure-none.json").read_bytes()
    scores = evaluated(job, out, ["ablate", "steer:relative=0.5"])
    assert list(scores.conditions) == ["none", "ablate", "steer:relative=0.5", "ideal"]
    assert (out / "stages/measure-none.json").read_bytes() == before
    whole = evaluated(job, tmp_path / "whole", ["ablate", "steer:relative=0.5"])
    assert whole.to_json() == scores.to_json()
    assert list(evaluated(job, out, ["steer:relative=0.5"]).conditions) == ["none", "steer:relative=0.5", "ideal"]


def test_two_conditions_of_one_name_are_refused_before_anything_is_made(job, tmp_path):
    with pytest.raises(DposcopeError, match="two conditions have one name; give each its own"):
        evaluated(job, tmp_path / "out", ["a=scale", "a=ablate"])
    assert not (tmp_path / "out").exists()


def test_a_trained_judge_may_score(job, tmp_path):
    first = evaluated(job, tmp_path / "first")
    again = evaluated(job, tmp_path / "again", scorer=str(tmp_path / "first"))
    assert again.conditions["none"]["toxicity"] == first.conditions["none"]["judge"]


def test_the_models_own_folder_of_a_run_loads_elsewhere(job, tmp_path):
    """What `fold` gives and what `edit` writes are one model."""
    run = run_edit(str(job.model), tmp_path / "edit", EditSettings(**job.settings(alpha=0.4, controls=False)))
    lm = load(str(job.model), dtype="float32")
    expected = fold(lm, run.edit).model.state_dict()
    found = AutoModelForCausalLM.from_pretrained(run.folder / "model", dtype=torch.float32).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_an_adapter_is_measured_as_its_merged_model(job, tmp_path):
    base = load(job.model, dtype="float32", device="cpu")
    write_adapter(base, lora("llama"), tmp_path / "lora")
    load(tmp_path / "lora", base=base).save_pretrained(tmp_path / "merged")
    names = ("lora", "merged")
    scores = evaluated(job, tmp_path / "out", [f"{name}=model:{tmp_path / name}" for name in names])
    assert scores.conditions["lora"] == scores.conditions["merged"] != scores.conditions["none"]
    # A scale in the config is part of the adapter: measured anew.
    record = tmp_path / "out/stages/measure-lora.json"
    before = record.read_text()
    config = tmp_path / "lora/adapter_config.json"
    config.write_text(config.read_text().replace('"lora_alpha": 12', '"lora_alpha": 0'))
    scores = evaluated(job, tmp_path / "out", [f"{name}=model:{tmp_path / name}" for name in names])
    assert record.read_text() != before
    assert scores.conditions["lora"] == scores.conditions["none"]


def test_a_tuned_model_may_have_tokens_that_its_base_lacks(job, tmp_path):
    """What it writes is spelt by its own tokenizer, in the run as outside of it."""
    wide = load(job.model, dtype="float32", device="cpu")
    wide.tokenizer.add_tokens(["river"])
    wide.model.resize_token_embeddings(97, mean_resizing=False)
    with torch.no_grad():
        wide.model.lm_head.weight[96] = 3 * wide.model.lm_head.weight[7]
    wide.save_pretrained(tmp_path / "wide")
    evaluated(job, tmp_path / "out", [f"tuned=model:{tmp_path / 'wide'}"])
    stored = json.loads((tmp_path / "out/conditions/tuned.json").read_text())["continuations"]
    tuned = load(tmp_path / "wide", base=load(job.model, dtype="float32", device="cpu"))
    prompts = read_data(EvaluateSettings(**job.settings())).report.prompts
    assert stored == [written.text for written in generate(tuned, prompts, new_tokens=TOKENS)]
    assert any("river" in text for text in stored)


@pytest.mark.parametrize("whose", ["base", "tuned"])
def test_another_config_of_the_same_weights_is_measured_again(job, tmp_path, whose):
    base, tuned = (shutil.copytree(job.model, tmp_path / name) for name in ("base", "tuned"))
    both = replace(job, model=base)
    evaluated(both, tmp_path / "out", [f"tuned=model:{tuned}"])
    config = tmp_path / whose / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"rms_norm_eps": 5.0}))
    again = evaluated(both, tmp_path / "out", [f"tuned=model:{tuned}"])
    fresh = evaluated(both, tmp_path / "fresh", [f"tuned=model:{tuned}"])
    assert again.conditions == fresh.conditions


@pytest.fixture
def of_other_context(job, tmp_path):
    """The base's own weights, in a checkpoint whose config allows texts of another length."""

    def made(tokens: int) -> str:
        folder = tmp_path / f"of-{tokens}"
        shutil.copytree(job.model, folder)
        config = folder / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": tokens}))
        return f"tuned=model:{folder}"

    return made


def test_a_tuned_model_reads_the_windows_of_the_base_whatever_it_could_read(job, tmp_path, of_other_context):
    scores = evaluated(job, tmp_path / "out", [of_other_context(2 * CONTEXT)])
    assert scores.conditions["tuned"]["logppl"] == scores.conditions["none"]["logppl"]
    assert scores.against_none["tuned"].differences["logppl"].mean == 0


def test_a_tuned_model_that_reads_less_than_the_base_has_no_log_perplexity_to_compare(job, tmp_path, of_other_context):
    with pytest.raises(DposcopeError, match=r"allows 64 tokens, .* windows of 128; raise max_position_embeddings"):
        evaluated(job, tmp_path / "out", [of_other_context(64)])


# The ideal and further scorers


class Notes(Quiet):
    """A reporter that remembers stages and notes."""

    def __init__(self):
        self.made, self.told = [], []

    def stage(self, title):
        self.made.append(title)

    def note(self, line):
        self.told.append(line)


def started(job, out, reporter, **settings):
    return run_evaluate(str(job.model), out, EvaluateSettings(**job.settings(**settings)), reporter=reporter)


@pytest.fixture
def neural(tmp_path, monkeypatch):
    """A cache with a small network in the place of the neural scorer's; returns how to put it there."""
    monkeypatch.setenv("DPOSCOPE_CACHE", str(tmp_path / "cache"))
    about = {"words": ["the", "river", "is", "quiet", "stupid"]}
    shapes = {"embeddings": (6, 4), "hidden.weight": (5, 6), "hidden.bias": (5,), "output.weight": (6, 5)}
    shapes |= {"output.bias": (6,)}
    for way in ("", "_reverse"):
        shapes |= {f"lstm.weight_ih_l0{way}": (12, 4), f"lstm.weight_hh_l0{way}": (12, 3)}
        shapes |= {f"lstm.bias_ih_l0{way}": (12,), f"lstm.bias_hh_l0{way}": (12,)}
    draw = torch.Generator().manual_seed(3)
    tensors = {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}

    def put() -> None:
        neural_folder().mkdir(parents=True)
        save_tensors(neural_folder() / "network", "NeuralClassifier", tensors, about)

    return put


def test_of_quantised_weights_a_model_at_a_strength_is_refused_before_anything_is_measured(job, tmp_path, monkeypatch):
    monkeypatch.setattr(
        job_at_work, "load_native", lambda name, **_: in_bytes(load(name, dtype="float32", device="cpu"))
    )
    asked = [f"half=model:{job.model},strength=0.5"]
    with pytest.raises(DposcopeError, match=r"'half': .* quantised, .*; leave strength out, or load the model unquant"):
        evaluated(job, tmp_path / "out", asked)
    assert not list((tmp_path / "out").glob("stages/measure-*"))
    monkeypatch.undo()
    evaluated(job, tmp_path / "plain", asked)
    assert list((tmp_path / "plain").glob("stages/measure-*"))


def test_a_damaged_ideal_is_drawn_again_and_nothing_else(job, tmp_path):
    first, again = Notes(), Notes()
    scores = started(job, tmp_path / "out", first)
    assert "Harmless samples of the plain model" in first.made
    (tmp_path / "out/ideal.json").write_text("{}")
    assert started(job, tmp_path / "out", again).to_json() == scores.to_json()
    assert [title for title in again.made if not title.startswith("Loading")] == ["Harmless samples of the plain model"]


def test_another_seed_draws_another_ideal_and_measures_anew(job, tmp_path):
    for seed in (0, 1):
        started(job, tmp_path / str(seed), None, seed=seed)
    ideals = [json.loads((tmp_path / f"{seed}/ideal.json").read_text()) for seed in (0, 1)]
    assert ideals[0] != ideals[1]
    stages = [json.loads((tmp_path / f"{seed}/stages/measure-none.json").read_text()) for seed in (0, 1)]
    assert stages[0]["inputs"] != stages[1]["inputs"]


def test_where_nothing_is_harmless_a_note_says_so(job, tmp_path):
    reporter = Notes()
    scores = started(job, tmp_path / "out", reporter, scorer="helpers.jobs:always_toxic")
    assert [line for line in reporter.told if "No sample of the plain model is harmless" in line]
    assert list(scores.conditions) == ["none"]
    assert "harmless_logppl" not in scores.conditions["none"]
    assert "relevance" in scores.conditions["none"]


def test_the_neural_scorer_scores_too_where_it_is_in_the_cache(job, tmp_path, neural):
    missing, without, found = Notes(), Notes(), Notes()
    bare = started(job, tmp_path / "missing", missing, also_score=None)
    assert [line for line in missing.told if "dposcope models get neural" in line]
    neural()
    off = started(job, tmp_path / "off", without, also_score=["none"])
    assert not without.told
    assert off.to_json() == bare.to_json()
    scores = started(job, tmp_path / "on", found, also_score=None, condition=["ablate"])
    assert not found.told
    assert scores.further == ("neural",)
    samples = pl.read_parquet(tmp_path / "on/samples.parquet")
    texts = samples.filter(condition="ablate")["continuation"].to_list()
    expected = neural_scorer()(texts)
    assert samples.filter(condition="ablate")["neural"].to_list() == expected.tolist()
    assert scores.conditions["ablate"]["neural"].mean == pytest.approx(expected.mean())
    assert {"neural", "toxicity", "judge", "relevance"} == set(scores.conditions["ideal"])
    assert "by neural" in (tmp_path / "on/scores.md").read_text()
    assert bare.conditions["none"] == {
        name: value for name, value in scores.conditions["none"].items() if name != "neural"
    }


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["none", "vader"], "stands beside other scorers"),
        (["vader", "vader"], "give each name once"),
        (["helpers.jobs:softness"], "is the scorer already"),
        (["judge"], "has the name of another column"),
    ],
)
def test_a_further_scorer_that_cannot_be_is_refused_before_anything_is_made(job, tmp_path, names, message):
    with pytest.raises(DposcopeError, match=message):
        started(job, tmp_path / "out", None, also_score=names)
    assert not (tmp_path / "out").exists()


def test_two_further_scorers_stand_side_by_side(job, tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("river\nstupid\n")
    scores = started(job, tmp_path / "out", None, also_score=[f"words:{words}", "helpers.jobs:always_toxic"])
    assert scores.further == (f"words:{words}", "helpers.jobs:always_toxic")
    assert scores.conditions["none"]["helpers.jobs:always_toxic"].mean > 0.5


@pytest.mark.parametrize("name", ["none", "ideal"])
def test_rows_of_their_own_are_no_names_of_conditions(job, tmp_path, name):
    with pytest.raises(DposcopeError, match=f"the condition '{name}' is always measured"):
        evaluated(job, tmp_path / "out", [f"{name}=ablate"])


def test_an_interchange_is_measured_beside_the_models_it_is_between(job, tmp_path):
    """Everything that writes into the stream, taken from the tuned model, but its own embedding and final norm."""
    tuned = tiny("llama", seed=5)
    base = load(job.model, dtype="float32", device="cpu")
    with torch.no_grad():
        for mine, theirs in ((base.final_norm, tuned.final_norm), (base.model.lm_head, tuned.model.lm_head)):
            theirs.weight.copy_(mine.weight)
    tuned.save_pretrained(tmp_path / "tuned")
    what = f"interchange:with={tmp_path / 'tuned'},part"
    scores = evaluated(
        job,
        tmp_path / "out",
        [
            f"tuned=model:{tmp_path / 'tuned'}",
            f"all={what}=residual,blocks=2-2",
            f"some={what}=mlp,blocks=1-1",
            f"back={what}=residual,blocks=2-2,reverse=yes",
        ],
    )
    found = scores.conditions
    for name in ("toxicity", "logppl", "harmless_logppl"):
        assert found["all"][name].mean == pytest.approx(found["tuned"][name].mean, abs=1e-6)
        assert found["back"][name].mean == pytest.approx(found["none"][name].mean, abs=1e-6)
        assert found["some"][name].mean != pytest.approx(found["tuned"][name].mean, abs=1e-6)
