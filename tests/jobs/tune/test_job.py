"""`dposcope tune` from end to end on a tiny model, and what must hold of it."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from dposcope.directions.direction import Direction
from dposcope.errors import DposcopeError
from dposcope.evaluation.scorer import drawn_scores
from dposcope.evaluation.scorers import load_scorer
from dposcope.interventions.edit import Edit
from dposcope.jobs.ingredients.job import Job as AtWork
from dposcope.jobs.ingredients.prepared import prepare
from dposcope.jobs.opening import open_run
from dposcope.jobs.pairs.job import harmless_file
from dposcope.jobs.run import RunPolicy
from dposcope.jobs.tune import job as tune_job
from dposcope.jobs.tune import learning as tune_learning
from dposcope.jobs.tune.job import TuneRun, _bounds, _described, _search_scorer, join_tune, read_inputs, run_tune
from dposcope.jobs.tune.learning import learn_gains
from dposcope.jobs.tune.negative_control import _SALT
from dposcope.jobs.tune.search import prepare_search
from dposcope.jobs.tune.settings import LearningTexts, Teacher, TuneSettings
from dposcope.model.batches import encode
from dposcope.model.generate import generate
from dposcope.model.load import load
from dposcope.reading import read_object
from dposcope.search.family import Family, Source
from dposcope.search.trials import Trial
from helpers.jobs import PROMPTS, Job, contents, make_job, softness
from helpers.light import TOKENS
from helpers.quantised import in_bytes

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("light", "few_windows")]

TRIALS = 12


@dataclass(frozen=True)
class Done:
    job: Job
    run: TuneRun


def settings_of(job: Job, **others) -> TuneSettings:
    """Small; the twelve prompts of the second half are learned from and chosen on, as a quarter of them is too few."""
    small = {"search_windows": 10, "second_scorer": True, "split": "halves"}
    small |= {"max_harmless_increase": 2.0, "max_phrase_rise": 1.0, "least_relevance": 0.0}
    if not others.get("quick"):
        small |= {"trials": TRIALS}
    if others.get("parts") != "ablation" and "learned" in others.get("methods", ["learned"]):
        small |= {"samples": 4, "epochs": 2.0, "pairing": "extremes", "min_gap": 0.02}
    return TuneSettings(**job.learning(**{**small, "max_logppl_increase": 0.5, **others}))


def tuned(job: Job, folder: Path, **others) -> TuneRun:
    return run_tune(str(job.model), folder, settings_of(job, **others))


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Job:
    return make_job(tmp_path_factory.mktemp("job"), windows=40)


@pytest.fixture(scope="module")
def done(job, tmp_path_factory) -> Done:
    return Done(job, tuned(job, tmp_path_factory.mktemp("run") / "out"))


def test_it_leaves_everything_it_names(done):
    names = {path.name for path in done.run.folder.iterdir()}
    assert {"model", "edit.safetensors", "trials.parquet", "scores.json", "report.html", "pairs.jsonl"} <= names
    assert not (done.run.folder / "learned-2" / "model").exists()  # a copy of the model for nothing


def test_the_checkpoint_is_the_edit_folded(done):
    prompts = ["the river is long", "what a dumb", "kind words"]
    lm = load(str(done.job.model), dtype="float32", device="cpu")
    with Edit.load(done.run.folder / "edit").on(lm):
        hooked = [one.ids for one in generate(lm, prompts, new_tokens=8)]
    shipped = load(str(done.run.folder / "model"), dtype="float32", device="cpu")
    assert [one.ids for one in generate(shipped, prompts, new_tokens=8)] == hooked


def test_trials_are_all_told_and_the_chosen_is_the_best_of_the_allowed(done):
    trials = pl.read_parquet(done.run.folder / "trials.parquet")
    assert trials["number"].to_list() == list(range(TRIALS))
    assert {"learned-2", "groups", "least-squares", "none"} == set(trials["source"])
    base = json.loads((done.run.folder / "trials.json").read_text())["base"]
    allowed = trials.filter(pl.col("within_bounds") & (pl.col("repetition") <= base["repetition"]))
    allowed = allowed.filter(pl.col("distinct_2") >= 0.5 * base["distinct_2"])
    point = done.run.found.point
    best = allowed.sort("concept", "kl").row(0, named=True)
    assert point.source == best["source"]
    factor = done.run.found.strength.chosen
    assert point.strength == pytest.approx(factor * best["strength"])
    assert point.ablate == pytest.approx(factor * best["ablate"])


def test_the_strength_keeps_within_the_bound_and_uses_it(done):
    search = done.run.found.strength
    taken = next(step for step in search.steps if step.strength == search.chosen)
    assert taken.increase.high <= 0.5
    assert all(step.increase.high > 0.5 for step in search.steps if step.strength > search.chosen)


def test_the_report_is_measured_on_other_prompts_and_text_than_those_that_chose(done):
    prompts = [json.loads(line)["prompt"] for line in done.job.prompts.read_text().splitlines()]
    reported, others = prompts[: PROMPTS // 2], prompts[PROMPTS // 2 :]
    lm = load(str(done.job.model), dtype="float32", device="cpu")
    with done.run.edit.on(lm):
        found = np.mean(softness([one.text for one in generate(lm, reported, new_tokens=TOKENS)]))
        texts = [one.text for one in generate(lm, others)]
    assert done.run.scores.conditions["edit"]["toxicity"].mean == pytest.approx(found)
    searched = _search_scorer(load_scorer(done.job.settings()["scorer"]), settings_of(done.job))(texts).mean()
    assert done.run.found.written.concept == pytest.approx(searched)
    pairs = {json.loads(line)["prompt_text"] for line in (done.run.folder / "pairs.jsonl").read_text().splitlines()}
    assert pairs <= set(others)
    learned = [json.loads(line)["text"] for line in (done.run.folder / "neutral.jsonl").read_text().splitlines()]
    whole = done.job.neutral.read_text().removesuffix("\n").split("\n")
    assert whole[: len(learned)] == learned
    assert 0.7 < sum(map(len, learned)) / sum(map(len, whole)) < 0.95


def test_the_page_shows_search_value_beside_held_out_value(done):
    page = (done.run.folder / "report.html").read_text()
    assert "The search" in page
    assert '<span class="quiet">dposcope tune</span>' in page
    assert page.count('class="spot"') == sum(one.within_bounds for one in done_trials(done))
    assert f"{done.run.found.written.concept:.3f}" in page
    assert f"{done.run.scores.conditions['edit']['toxicity'].mean:.3f}" in page
    assert "winner" in page


def test_search_and_held_out_values_are_by_one_scorer(done):
    """The table's scorer is another one than the search's; the comparison of the two is by the latter."""
    rows = pl.read_parquet(done.run.folder / "samples.parquet")
    scorer = _search_scorer(load_scorer(done.job.settings()["scorer"]), settings_of(done.job))
    page = (done.run.folder / "report.html").read_text()
    for condition in ("none", "edit"):
        texts = rows.filter(pl.col("condition") == condition).sort("row")["continuation"].to_list()
        assert f"{scorer(texts).mean():.3f}" in page
    assert scorer.name in page


def test_the_search_is_drawn_beside_the_report_and_in_the_model_card(done):
    drawn = (done.run.folder / "tradeoff.png").read_bytes()
    assert drawn.startswith(b"\x89PNG")
    assert (done.run.folder / "tradeoff.svg").exists()
    assert (done.run.folder / "model" / "tradeoff.png").read_bytes() == drawn
    card = (done.run.folder / "model" / "README.md").read_text()
    assert "](tradeoff.png)" in card
    learned = done.run.found.point.source.startswith("learned")
    assert ("No training took place" in card) != learned
    assert ("learned from preference pairs" in card) == learned


def done_trials(done):
    from dposcope.search.trials import Trial

    stored = json.loads((done.run.folder / "trials.json").read_text())
    return TypeAdapter(list[Trial]).validate_python(stored["trials"])


@pytest.fixture
def left_as_it_is(done, tmp_path):
    """The finished run, which a test may go on with where it lies."""
    shutil.copytree(done.run.folder, tmp_path / "kept")
    yield done
    shutil.rmtree(done.run.folder)
    (tmp_path / "kept").rename(done.run.folder)


def test_once_more_changes_nothing_and_more_trials_go_on(left_as_it_is, job):
    done = left_as_it_is
    before = contents(done.run.folder)
    tuned(job, done.run.folder)
    after = contents(done.run.folder)
    assert {name for name in before if before[name] != after.get(name)} <= {"report.html"}
    assert before["report.html"] == after["report.html"]
    first = done_trials(done)
    more = tuned(job, done.run.folder, trials=TRIALS + 3)
    assert more.folder == done.run.folder
    assert [one.to_json() for one in done_trials(done)][:TRIALS] == [one.to_json() for one in first]
    assert len(done_trials(done)) == TRIALS + 3


def test_quick_learns_once_and_searches_nothing(job, tmp_path):
    run = tuned(job, tmp_path / "out", quick=True, controls=False, kl_on="neutral", kl_weights=[1.0])
    assert run.found.point.source == "learned-1"
    assert run.edit.ablations == ()
    asked = read_object(tmp_path / "out/learned-1/training.json")
    assert (asked["objective"]["kl_on"], asked["settings"]["harmless"]) == ("neutral", None)
    assert run.edit.about["kl_on"] == "neutral"
    assert pl.read_parquet(tmp_path / "out" / "trials.parquet").is_empty()
    assert "the search" not in (tmp_path / "out" / "report.html").read_text().split("<main")[0].lower()


@pytest.mark.parametrize("named", [1.5, None])
def test_a_teacher_is_trained_on_the_same_pairs_and_imitated(job, tmp_path, named):
    folder = tmp_path / "out"
    strong = {"epochs": 10.0, "max_logppl_increase": 2.0}  # enough for an edit that ships
    run = tuned(
        job, folder, quick=True, controls=False, teacher="full", teacher_strength=named, max_windows=1, **strong
    )
    found = folder / "teacher.json"
    assert found.exists() == (named is None)
    strength = named or max(json.loads(found.read_text())["chosen"], 0.25)
    assert strength != 1
    teacher, gains = (json.loads((folder / name / "training.json").read_text()) for name in ("teacher", "learned-6"))
    assert (teacher["train"], gains["train"]) == ("full", "gains")
    assert teacher["pairs"] == gains["pairs"]
    assert gains["objective"]["teacher_weight"] == 1
    assert gains["settings"]["teacher_strength"] == strength
    assert (teacher["schedule"]["decay"], gains["schedule"]["decay"]) == ("none", "linear")
    assert (run.edit.about["teacher"], run.edit.about["teacher_strength"]) == ("full", strength)
    assert "- teacher: full" in (folder / "model/README.md").read_text()


def test_a_run_with_a_teacher_learns_by_other_defaults(job):
    def of(**given):
        return settings_of(job, **{"teacher": None, "epochs": None, **given}).learned

    assert of() == of(quick=True) == of(teacher="none") == {"learned-2": 2.0}
    assert of(teacher="org/tuned") == of(teacher="full") == of(quick=True, teacher="full") == {"learned-6": 6.0}
    assert of(kl_weights=[0.5, 3.0]) == {"learned-0.5": 0.5, "learned-3": 3.0}
    assert of(parts="ablation") == of(methods=["groups"]) == {}


def test_harmless_texts_hold_the_gains_where_there_are_some(job, tmp_path, monkeypatch):
    """Pairs of extremes may have no harmless side."""
    asked = {}

    def texts(kl_on, *, written):
        def pairs(_model, path, *_, **__):
            if written:
                harmless_file(path).write_text('{"prompt": "a", "text": " b"}')

        monkeypatch.setattr(tune_learning, "run_pairs", pairs)
        with open_run(tmp_path / f"{kl_on}-{written}", "tune", {}) as run:
            learn_gains("m", run, ["a prompt"], "text", settings_of(job, kl_on=kl_on))
        return asked["settings"].kl_on, asked["settings"].harmless == str(run.folder / "pairs.harmless.jsonl")

    monkeypatch.setattr(tune_learning.Edit, "load", lambda _: None)
    monkeypatch.setattr(tune_learning, "run_dpo", lambda _m, _out, settings, **_: asked.update(settings=settings))
    assert texts("mixed", written=False) == (None, False)
    assert texts("mixed", written=True) == ("mixed", True)
    assert texts("harmless", written=True) == ("harmless", True)
    assert texts("neutral", written=True) == (None, False)


def test_trials_and_the_choice_are_held_to_harmless_texts(done):
    folder = done.run.folder
    texts = read_object(folder / "harmless-texts.json")["texts"]
    prompts = [json.loads(line)["prompt"] for line in done.job.prompts.read_text().splitlines()]
    lm = load(str(done.job.model), dtype="float32", device="cpu")
    assert texts
    assert {tuple(one["prompt_ids"]) for one in texts} <= {tuple(ids) for ids in encode(lm, prompts)}
    scorer = _search_scorer(load_scorer(done.job.settings()["scorer"]), settings_of(done.job))
    assert scorer([one["text"] for one in texts]).max() < 0.5
    trials = pl.read_parquet(folder / "trials.parquet").filter(pl.col("within_bounds"))
    bound = settings_of(done.job).max_harmless_increase
    assert trials["harmless_rise"].is_not_null().all()
    assert trials["harmless_rise"].max() <= bound
    assert done.run.found.harmless_rise.high <= bound


@pytest.mark.parametrize(
    ("epochs", "teacher", "wanted"),
    [
        (None, Teacher("tuned", 1.5), (2.0, "linear", 1.5)),
        (None, None, (1.0, "none", 1.0)),
        (1.0, Teacher("tuned", 1.5), (1.0, "linear", 1.5)),
        (1.0, None, (1.0, "none", 1.0)),
    ],
)
def test_gains_with_a_teacher_learn_for_less_long_and_with_decay(job, epochs, teacher, wanted):
    texts = LearningTexts(Path("pairs.jsonl"), Path("neutral.jsonl"), None)
    made = settings_of(job, epochs=epochs).of_gains(3.0, texts, teacher)
    assert (made.kl_weight, made.epochs, made.decay, made.teacher_strength) == (3.0, *wanted)
    assert made.teacher == (None if teacher is None else "tuned")


def test_an_ablation_alone_needs_no_learning(job, tmp_path):
    run = tuned(job, tmp_path / "out", parts="ablation", trials=4, controls=False)
    assert run.edit.gains is None
    assert not (tmp_path / "out" / "pairs.jsonl").exists()


def test_where_nothing_is_allowed_the_model_stays_as_it_is(job, tmp_path):
    run = tuned(job, tmp_path / "out", methods=["groups"], max_logppl_increase=1e-7, trials=4, controls=False)
    assert run.found.point is None
    assert str(run.edit) == "no change"
    page = " ".join((tmp_path / "out" / "report.html").read_text().split())
    assert "changes nothing" in page
    assert '<p class="verdict">No edit was found; the model is unchanged.</p>' in page


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"split": "same"}, "that it did not choose on; leave --split same out, or give --report-prompts"),
        ({"protocol": "reference"}, "strict"),
        ({"quick": True, "parts": "ablation"}, "leave one of them out"),
        ({"kl_weights": [1.0, 1.0]}, "twice"),
        ({"kl_weights": []}, "--kl-weights is empty"),
        ({"methods": []}, "--methods is empty"),
        ({"quick": True, "methods": ["groups"]}, "does not have learned"),
        ({"quick": True, "kl_weights": [1.0, 5.0]}, "has 2 weights; give one"),
        ({"negative_control": "random-direction"}, "use no direction"),
        ({"quantise": "4bit", "teacher": "full", "teacher_strength": 1.0}, "is not quantised; give --teacher lora or"),
        ({"device_map": "auto", "device": "auto", "teacher": "full"}, "or leave --device-map out"),
        ({"quantise": "4bit", "teacher": "lora"}, "with --teacher-strength 1, or leave --quantise out"),
        ({"second_scorer": True, "comments": None}, "--second-scorer needs --comments"),
        ({"quick": True, "methods": ["groups", "learned"]}, "only learns gains; leave --methods out"),
    ],
)
def test_settings_that_do_not_fit_are_refused(job, wrong, said):
    with pytest.raises(ValidationError, match=said):
        settings_of(job, **wrong)


def test_a_quantised_model_has_no_weights_between_it_and_a_teacher(job, tmp_path, monkeypatch):
    monkeypatch.setattr(
        tune_job, "load_native", lambda name, **_how: in_bytes(load(name, dtype="float32", device="cpu"))
    )
    with pytest.raises(DposcopeError, match=r"with --teacher-strength 1, or load .* unquantised"):
        tuned(job, tmp_path / "out", teacher="lora")


def test_who_has_little_memory_has_a_lever_in_every_part(job, tmp_path, monkeypatch):
    """Pairs are sampled, and teacher and gains trained, in batches as small as asked for."""
    asked = {}

    def pairs(_model, path, settings, *_, **__):
        asked["pairs"] = settings
        return SimpleNamespace(path=path)

    monkeypatch.setattr(tune_learning, "run_pairs", pairs)
    monkeypatch.setattr(tune_learning, "run_dpo", lambda _m, out, settings, **_: asked.__setitem__(out.name, settings))
    monkeypatch.setattr(tune_learning.Edit, "load", lambda _: None)
    settings = settings_of(job, batch_size=5, micro_batch_size=3, teacher="full", teacher_strength=1.0)
    with open_run(tmp_path / "out", "tune", _described(str(job.model), settings)) as run:
        learn_gains(str(job.model), run, ["a prompt"], "text", settings)
    assert asked["pairs"].batch_size == 5
    assert {name: asked[name].micro_batch_size for name in ("teacher", "learned-6")} == {"teacher": 3, "learned-6": 3}


def test_another_setting_in_the_same_folder_is_refused(done, job):
    with pytest.raises(DposcopeError, match="another run's results"):
        tuned(job, done.run.folder, seed=1)


def test_two_learning_runs_both_decide_the_trials(done, job):
    """Each vector counts: with the digest of one of them alone, stale trials of the other would be taken."""
    settings = settings_of(job)
    lm = load(str(job.model), dtype="float32", device="cpu")
    folder = done.run.folder

    def inputs(of_second):
        Edit.load(folder / "learned-2" / "edit").strength(of_second).save(folder / "learned-5" / "edit")
        with open_run(folder, "tune", _described(str(job.model), settings), policy=RunPolicy(join=True)) as run:
            read = read_inputs(settings)
            at_work = AtWork(run, lm, read.data)
            ingredients = prepare(at_work, settings.direction_spec)
            sources = {name: Source.line(Edit.load(folder / name / "edit")) for name in ("learned-2", "learned-5")}
            family = Family(sources, ingredients.direction.vector, lm.n_blocks)
            scorer, asked = load_scorer("helpers.jobs:softness"), {"windows": 4, "batch_size": 32, "seed": 0}
            return prepare_search(at_work, family, read.learn_text, scorer, _bounds(settings), control=None, **asked)

    try:
        first, second = inputs(0.5), inputs(0.7)
    finally:
        shutil.rmtree(folder / "learned-5")
    assert set(first.inputs["sources"]) == {"learned-2", "learned-5"}
    assert first.inputs["sources"]["learned-2"] == second.inputs["sources"]["learned-2"]
    assert first.folder != second.folder


def test_the_card_says_how_the_edit_was_made(done):
    card = (done.run.folder / "model" / "README.md").read_text()
    about = Edit.load(done.run.folder / "edit").about
    assert about["trials"] == pl.read_parquet(done.run.folder / "trials.parquet").height
    assert about["prompts"] == "prompts.jsonl"
    for name, value in about.items():
        shown = ", ".join(value) if isinstance(value, list) else value
        assert f"- {name}: {shown}" in card
    learned = {"kl_weight", "epochs", "learning_rate", "samples", "pairs"}
    assert (learned <= set(about)) == about["source"].startswith("learned")
    assert "not for use" not in card
    assert "Negative control" not in (done.run.folder / "report.html").read_text()


def test_a_search_by_shuffled_scores_is_measured_truly(job, tmp_path):
    """Pairs and trials by shuffled scores, the table by the true ones, and every page says what it is."""
    folder = tmp_path / "out"
    control = {"negative_control": "shuffled-scores", "methods": ["learned"], "trials": 3, "controls": False}
    run = tuned(job, folder, **control)
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    true = _search_scorer(load_scorer("helpers.jobs:softness"), settings_of(job))
    better = true([row["unpert_gen_text"] for row in rows])
    worse = true([row["pert_gen_text"] for row in rows])
    assert not (worse > better).all()  # as it is where scores are true
    assert all(row["dispreferred_score"] - row["preferred_score"] > 0.02 for row in rows)
    assert not np.allclose(better, [row["preferred_score"] for row in rows])

    lm = load(str(job.model), dtype="float32", device="cpu")
    prompts = [json.loads(line)["prompt"] for line in job.prompts.read_text().splitlines()]
    written = [one.text for one in generate(lm, prompts[PROMPTS // 2 :])]
    pool = json.loads((folder / "control-scores.json").read_text())["scores"]
    assert pool == pytest.approx(true(written).tolist())
    base = json.loads((folder / "trials.json").read_text())["base"]["concept"]
    lots = drawn_scores(pool, of="x", seed=_SALT)
    assert base == pytest.approx(lots(written).mean())
    assert base != pytest.approx(np.mean(pool))

    with run.edit.on(lm):
        unseen = softness([one.text for one in generate(lm, prompts[: PROMPTS // 2], new_tokens=TOKENS)])
    assert run.scores.conditions["edit"]["toxicity"].mean == pytest.approx(np.mean(unseen))
    assert run.edit.about["negative_control"] == "shuffled-scores"
    page = (folder / "report.html").read_text()
    assert page.index("Negative control, not for use") < page.index("Before and after")
    assert "Not for use: " in page.split("</title>")[0]
    card = (folder / "model" / "README.md").read_text()
    assert "# A negative control: not for use" in card
    assert "> **Negative control, not for use: the scores" in card
    assert json.loads((folder / "scores.json").read_text())["about"]["negative_control"] == "shuffled-scores"
    with pytest.raises(DposcopeError, match=r"another run's results \(negative-control was 'shuffled-scores'"):
        tuned(job, folder, **control | {"negative_control": None})


def test_a_search_along_a_random_direction(job, tmp_path):
    folder = tmp_path / "out"
    tuned(job, folder, negative_control="random-direction", methods=["groups"], trials=3, controls=False)
    true, random = Direction.load(folder / "direction"), Direction.load(folder / "control-direction")
    assert random.kind == "random"
    assert random.norm == pytest.approx(true.norm)
    assert abs(random.cosine(true)) < 0.9
    run = json.loads((folder / "run.json").read_text())["settings"]
    assert run["negative_control"] == "random-direction"
    page = (folder / "report.html").read_text()
    assert "Negative control, not for use: a random direction" in page
    ablation = Edit.load(folder / "edit").ablations
    assert all(torch.allclose(one.direction, random.unit) for one in ablation)


def test_another_process_joins_the_search(job, done, tmp_path):
    """A finished run asked for more trials: the helper makes them, and the run finds them done."""
    folder = tmp_path / "out"
    shutil.copytree(done.run.folder, folder)
    more = settings_of(job, trials=TRIALS + 3)
    before = contents(folder)
    assert len(done_trials(done)) == TRIALS
    trials = join_tune(str(job.model), folder, more)
    assert len(trials) == TRIALS + 3
    changed = {name for name, held in contents(folder).items() if before.get(name) != held}
    assert all(name.startswith("search/") for name in changed)
    again = run_tune(str(job.model), folder, more)
    told = json.loads((folder / "trials.json").read_text())["trials"]
    assert TypeAdapter(list[Trial]).validate_python(told) == trials
    assert again.found.edit is not None


def test_nothing_to_join_is_said(job, done, tmp_path):
    settings = settings_of(job)
    with pytest.raises(DposcopeError, match="holds no run to join"):
        join_tune(str(job.model), tmp_path / "none", settings)
    with pytest.raises(DposcopeError, match="has no search to join"):
        join_tune(str(job.model), done.run.folder, settings_of(job, quick=True))
    with pytest.raises(DposcopeError, match="another run's results"):
        join_tune(str(job.model), done.run.folder, settings_of(job, seed=5))
    learning = tmp_path / "learning"
    learning.mkdir()
    shutil.copy(done.run.folder / "run.json", learning)
    with pytest.raises(DposcopeError, match="still learning gains"):
        join_tune(str(job.model), learning, settings)
    shutil.copytree(done.run.folder / "learned-2", learning / "learned-2")
    with pytest.raises(DposcopeError, match="nothing to join in"):
        join_tune(str(job.model), learning, settings)
