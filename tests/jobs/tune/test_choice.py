"""What ships keeps every bound: the costs of a scaled edit, its repetition, and what is said where nothing does."""

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dposcope.directions.direction import Direction
from dposcope.evaluation.statistics.intervals import Difference
from dposcope.interventions.edit import Edit
from dposcope.interventions.gains import Gains
from dposcope.jobs.dpo.settings import DpoSettings
from dposcope.jobs.ingredients.job import Job
from dposcope.jobs.reporter import Quiet
from dposcope.jobs.run import Run
from dposcope.jobs.tune import report as tune_report
from dposcope.jobs.tune.choice import ChosenEdit, choose
from dposcope.jobs.tune.job import _bounds
from dposcope.jobs.tune.search import Searched, learned_digests
from dposcope.jobs.tune.settings import TuneSettings, source_name
from dposcope.reading import read_object
from dposcope.search.divergence import Cost
from dposcope.search.family import Family, Point, Source
from dposcope.search.trials import TextBound, Trial, Written
from dposcope.training.objective import Objective
from dposcope.training.schedule import Schedule
from helpers.families import TEXTS, random_direction, random_gains, tiny
from helpers.training_facts import GAINS_TRAINING

pytestmark = pytest.mark.usefixtures("lighter", "few_windows")

TEXT = " ".join(TEXTS * 12)
BASE = Written(0.4, 0.3, 0.5, 0.1, 0.6, 0.1, relevance=1.0, relevance_low=0.9)


class Tracked(Family):
    """Remembers the last point whose edit was asked for: the one that is folded in."""

    last = Point("none")

    def edit(self, point):
        Tracked.last = point
        return super().edit(point)


class Neutral:
    """A KL of 0.2 s² at strength s, the same in each window."""

    share = 0.2

    def cost(self, _lm):
        return Cost(np.full(12, self.share * Tracked.last.strength**2), np.zeros(12))


@dataclass
class Scripted:
    """An objective whose texts repeat themselves as a rule of the point says."""

    family: Family
    rule: object
    neutral: object
    asked: list
    harmless: object = None
    bound: object = None

    def write(self, _edit):
        self.asked.append(Tracked.last)
        found = self.rule(Tracked.last)
        return found if isinstance(found, Written) else Written(0.2, 0.1, 0.3, found, 0.7, found)


def an_objective(scorer):
    return SimpleNamespace(scorer=scorer, family=SimpleNamespace(sources={"learned-6": None}))


def trial(number, source, concept, kl):
    return Trial(
        number, Point(source, 1.0), kl, kl, None, -0.5, Written(concept, concept, concept, 0.05, 0.6, 0.05), 0.0
    )


PLAIN = {"control": None, "own_neutral": False, "built_in": True}
"""What notes are told of a run: no negative control, and built-in data."""

TRIALS = [trial(0, "learned-5", 0.3, 0.01), trial(1, "learned-1", 0.1, 0.02)]


def trials_of(settings, trials=TRIALS):
    """Those of the search; --quick has none."""
    return [] if settings.quick else trials


def chosen(
    folder: Path, rule, *, settings=None, neutral=None, harmless=None, trials=TRIALS, reporter=None
) -> tuple[ChosenEdit, list]:
    lm = tiny("llama")
    gains = {name: Gains(1 + size * (random_gains(lm) - 1)) for name, size in (("learned-1", 0.1), ("learned-5", 0.1))}
    family = Tracked({name: Source.line(one) for name, one in gains.items()}, random_direction(lm), lm.n_blocks)
    Direction(random_direction(lm), "random", -1).save(folder / "direction")
    flat = type("Flat", (Neutral,), {"share": 0.0})()
    settings = settings or TuneSettings(max_logppl_increase=0.5)
    bounds = _bounds(settings)
    objective = Scripted(family, rule, neutral or flat, [], harmless, bounds.cost)
    job = Job(Run(folder, {}, reporter or Quiet()), lm, SimpleNamespace(digests={"choose_prompts": "-"}))
    text_bound = TextBound(BASE, 0.9, settings.max_phrase_rise, settings.least_relevance)
    found = choose(job, Searched(objective, trials_of(settings, trials), text_bound), TEXT, settings.recipe)
    return found, objective.asked


def test_what_repeats_itself_when_made_stronger_is_taken_weaker(tmp_path):
    found, asked = chosen(tmp_path, lambda point: 0.3 if point.strength > 1.2 else 0.08)
    assert found.point.source == "learned-1"
    assert found.written.repetition == 0.08
    assert found.point.strength == found.strength.chosen <= 1.2
    stronger = [one.point.strength for one in found.passed_over]
    assert stronger == sorted(stronger, reverse=True)
    assert stronger
    assert min(stronger) > 1.2
    # As strong as texts allow, to a tenth, also between the strengths that the costs were measured at.
    assert 1.2 / 1.1 < found.point.strength <= 1.2
    assert {one.strength for one in asked} >= {*stronger, found.point.strength}
    measured = {step.strength for step in found.strength.steps}
    # What is refused for its texts between two of them has no cost measured.
    between = {one.strength for one in asked} - measured
    assert between <= {*stronger}
    assert all(min(measured) < one < max(measured) for one in between)
    assert found.point.strength in measured


@pytest.mark.parametrize(("quick", "limit"), [(False, 1.5), (True, 1.5), (True, 0.6)])
def test_no_cost_is_measured_above_a_strength_that_texts_refuse(tmp_path, quick, limit):
    """The costs would allow a strength of 10."""
    settings = TuneSettings(max_logppl_increase=100.0, max_kl=100.0, quick=quick)
    kl = type("Kl", (Neutral,), {"share": 1.0})()

    def rule(point):
        return 0.3 if point.strength > limit else 0.08

    found, asked = chosen(tmp_path, rule, settings=settings, neutral=kl, trials=TRIALS[1:])
    assert limit / 1.1 <= found.point.strength <= limit
    measured = [step.strength for step in found.strength.steps]
    assert max(measured) == min(strength for strength in (1.0, 2.0) if strength > limit)
    assert len(set(asked)) == len(asked), "texts are written once for each strength"


@pytest.mark.parametrize("quick", [False, True])
def test_it_is_taken_weaker_than_any_strength_that_the_bound_met(tmp_path, quick):
    """At strength 1 the cost meets the bound at once, so no weaker one was measured; texts say enough from 0.8 down."""
    settings = TuneSettings(max_logppl_increase=100.0, max_kl=1.02, quick=quick)
    kl = type("Kl", (Neutral,), {"share": 1.0})()
    found, asked = chosen(
        tmp_path, lambda point: 0.3 if point.strength > 0.8 else 0.08, settings=settings, neutral=kl, trials=TRIALS[1:]
    )
    first, second = (0.85 * 0.7) ** 0.5, (0.85 * 0.7) ** 0.25 * 0.85**0.5
    assert [one.strength for one in asked] == pytest.approx([1.0, 0.85, 0.7, first, second])
    assert found.point.strength == found.strength.chosen == pytest.approx(first)
    assert [one.point.strength for one in found.passed_over] == pytest.approx([1.0, 0.85, second])
    assert [step.strength for step in found.strength.steps] == pytest.approx([1.0, 0.85, 0.7, first])
    assert found.by_kl == pytest.approx((0.7, first, 0.85, 1.0))


class OnHarmless:
    """A rise of `share` · s² at strength s on harmless texts."""

    def __init__(self, share: float) -> None:
        self.share = share

    def rise(self, _lm):
        value = self.share * Tracked.last.strength**2
        return Difference(value, value, value, 8)


def test_the_bound_on_harmless_texts_holds_for_what_ships(tmp_path):
    settings = TuneSettings(max_logppl_increase=0.5, max_harmless_increase=0.1)
    found, _ = chosen(tmp_path, lambda _: 0.0, settings=settings, harmless=OnHarmless(4.0))
    assert 0.09 <= 4 * found.point.strength**2 <= 0.1
    assert found.harmless_rise.mean == pytest.approx(4 * found.point.strength**2)
    assert found.strength.chosen in found.by_harmless
    assert found.rise.mean < 0.1  # what is told as log-perplexity of neutral text is not another cost in its unit
    again, asked = chosen(tmp_path, None, settings=settings, harmless=OnHarmless(4.0))
    assert asked == []
    assert (again.by_harmless, again.harmless_rise) == (found.by_harmless, found.harmless_rise)


def test_an_edit_with_a_phrase_that_rose_too_much_is_refused_and_that_is_said(tmp_path):
    def rule(point):
        return Written(0.2, 0.1, 0.3, 0.05, 0.6, 0.05, "i remember", 0.04 * point.strength)

    settings = TuneSettings(max_logppl_increase=0.5, max_phrase_rise=0.03)
    found, _ = chosen(tmp_path, rule, settings=settings)
    assert found.written.phrase_rise <= 0.03
    assert all(one.written.phrase_rise > 0.03 for one in found.passed_over)
    assert found.passed_over
    materials = type("Materials", (), {"scorer": type("Scorer", (), {"name": "s"})()})()
    searched = Searched(an_objective(materials.scorer), TRIALS, TextBound(BASE, 0.5, 0.03))
    said = " ".join(tune_report._notes(searched, found, materials, **PLAIN))
    assert "refused for the phrase that rose most: “i remember” stood in" in said
    assert "(--max-phrase-rise 0.03)" in said


@pytest.mark.parametrize("quick", [False, True])
def test_what_scores_no_lower_than_the_plain_model_does_not_ship(tmp_path, quick):
    settings = TuneSettings(max_logppl_increase=0.5, quick=quick)
    trials = [trial(0, "learned-1", 0.1, 0.02)]
    found, asked = chosen(tmp_path, lambda _: Written(0.4, 0.3, 0.5, 0.05, 0.6, 0.05), settings=settings, trials=trials)
    assert found.point is None
    assert str(found.edit) == "no change"
    # The first stronger one says nothing, the strongest within the bounds on cost decides.
    first, strongest = (one.strength for one in asked)
    assert first == (1 if quick else 2) < strongest
    assert [one.point.strength for one in found.passed_over] == [strongest]
    materials = type("Materials", (), {"scorer": type("Scorer", (), {"name": "s"})()})()
    objective = an_objective(materials.scorer)
    searched = Searched(objective, trials_of(settings, trials), TextBound(BASE, 0.9))
    said = " ".join(tune_report._notes(searched, found, materials, **PLAIN))
    assert "did not score lower on the search prompts than the plain model (0.400)" in said
    assert "too repetitive" not in said


def test_what_learns_to_refuse_when_made_stronger_is_taken_weaker(tmp_path):
    """Its relevance falls with its strength; the report says why weaker edits were preferred."""

    def rule(point):
        return Written(0.2, 0.1, 0.3, 0.05, 0.6, 0.05, relevance=max(0.1, 1 - 0.2 * point.strength))

    settings = TuneSettings(max_logppl_increase=0.5, least_relevance=0.8)
    found, _ = chosen(tmp_path, rule, settings=settings)
    assert found.written.relevance >= 0.8
    refused = [one.written.relevance for one in found.passed_over]
    assert refused
    assert all(kept < 0.8 for kept in refused)
    materials = type("Materials", (), {"scorer": type("Scorer", (), {"name": "s"})()})()
    searched = Searched(an_objective(materials.scorer), TRIALS, TextBound(BASE, 0.5, 0.06, 0.8))
    notes = tune_report._notes(searched, found, materials, **PLAIN)
    (told,) = [note for note in notes if "--least-relevance 0.8" in note]
    assert f"relevance down to {min(refused):.3f} nats per token (plain 1.000" in told
    assert not any("repetitive" in note for note in notes)


def test_what_says_the_same_to_every_prompt_is_taken_weaker(tmp_path):
    """0.9 × the plain model's distinct word pairs (0.54) are enough."""
    found, _ = chosen(tmp_path, lambda point: Written(0.2, 0.1, 0.3, 0.05, 0.66 - 0.1 * point.strength, 0.05))
    assert found.passed_over
    assert all(one.written.distinct_2 < 0.54 for one in found.passed_over)
    assert found.written.distinct_2 >= 0.54
    assert found.point.strength <= 1.2 < min(one.point.strength for one in found.passed_over)


def test_what_always_repeats_itself_makes_way_for_the_next_best_trial(tmp_path):
    found, _ = chosen(tmp_path, lambda point: 0.3 if point.source == "learned-1" else 0.1)
    assert found.point.source == "learned-5"
    assert {one.point.source for one in found.passed_over} == {"learned-1"}


@pytest.mark.parametrize(
    ("first", "second", "sources"),
    [
        (0.35, 0.25, ["learned-1", "learned-5"]),  # lost its lead, and the next is better at its own strength
        (0.35, 0.38, ["learned-1", "learned-5"]),  # lost its lead, and the next does, too
        (0.3, 0.0, ["learned-1"]),  # no worse than the next in the search, which is not tried
    ],
)
def test_a_trial_that_lost_its_lead_is_held_against_the_next(tmp_path, first, second, sources):
    scores = {"learned-1": first, "learned-5": second}
    found, asked = chosen(tmp_path, lambda point: Written(scores[point.source], 0.0, 1.0, 0.05, 0.55, 0.05))
    assert list(dict.fromkeys(one.source for one in asked)) == sources
    best = min(sources, key=scores.__getitem__)
    assert found.point.source == best
    assert found.written.concept == scores[best]
    assert found.strength.chosen == found.point.strength  # of the one that is taken
    assert found.passed_over == ()


@pytest.mark.parametrize("quick", [False, True])
def test_where_everything_repeats_itself_nothing_ships_and_that_is_said(tmp_path, quick):
    settings = TuneSettings(max_logppl_increase=0.5, quick=quick)
    found, asked = chosen(tmp_path, lambda _: 0.12, settings=settings)
    assert found.point is None
    assert str(found.edit) == "no change"
    assert found.written == BASE
    assert found.strength.chosen == 0
    assert len(found.passed_over) == len(asked) >= 1
    assert {one.point.source for one in found.passed_over} == ({"learned-1"} if quick else {"learned-1", "learned-5"})


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize(
    ("rule", "first"),
    [
        (lambda _: 0.12, None),  # only repetition: no option lowers that bound
        (lambda _: Written(0.1, 0.1, 0.1, 0.05, 0.5, 0.05), "Lower --least-distinct, or "),
        (None, "Raise --max-logppl-increase, or "),
    ],
)
def test_advice_names_what_stood_in_the_way(tmp_path, rule, first, quick):
    dear = type("Dear", (), {"cost": lambda *_: Cost(np.full(4, 9.0), np.zeros(4))})()
    settings = TuneSettings(max_logppl_increase=0.5, quick=quick)
    found, _ = chosen(tmp_path, rule, settings=settings, neutral=dear if rule is None else None)
    said = tune_report.advice(Searched(None, trials_of(settings), TextBound(BASE, 0.9)), found)
    last = "search without --quick" if quick else "raise --trials"
    assert said == (f"{first}{last}." if first else f"{last.capitalize()}.")


def test_where_every_strength_costs_too_much_nothing_ships(tmp_path):
    dear = type("Dear", (), {"cost": lambda *_: Cost(np.full(4, 9.0), np.zeros(4))})()
    found, asked = chosen(tmp_path, lambda _: 0.0, neutral=dear)
    assert found.point is None
    assert asked == []
    assert found.passed_over == ()


@pytest.mark.parametrize(("given", "bound"), [(None, 0.75), (0.3, 0.3)])
def test_the_bound_on_kl_holds_for_what_ships(tmp_path, given, bound):
    """1.5 × the other one by default: here far nearer than it."""
    settings = TuneSettings(max_logppl_increase=0.5, max_kl=given)
    found, _ = chosen(tmp_path, lambda _: 0.0, settings=settings, neutral=type("Kl", (Neutral,), {"share": 20.0})())
    assert 0.9 * bound <= 20 * found.point.strength**2 <= bound
    assert found.strength.chosen in found.by_kl
    assert found.rise.mean < 0.3  # what is told as log-perplexity is not KL in its unit


def test_what_is_done_never_goes_back_from_trial_to_trial(tmp_path):
    """Else a bar that has begun anew looks at its old clock, and tells of hours."""

    steps = []
    reporter = Quiet()
    reporter.progress = lambda *step: steps.append(step)
    found, _ = chosen(tmp_path, lambda _: 0.12, reporter=reporter)
    assert len({one.point.source for one in found.passed_over}) == 2
    done, total = zip(*steps, strict=True)
    assert list(done) == sorted(done)
    assert all(a <= b for a, b in steps)
    assert len(set(total)) > 1


def test_done_before_it_is_the_same(tmp_path):
    first, _ = chosen(tmp_path, lambda point: 0.3 if point.strength > 1.2 else 0.08)
    again, asked = chosen(tmp_path, None)
    assert asked == []
    for name in ("point", "strength", "written", "rise", "passed_over", "by_kl", "by_harmless", "harmless_rise"):
        assert getattr(again, name) == getattr(first, name)


def test_the_edit_says_how_it_was_made(tmp_path):
    training = replace(
        GAINS_TRAINING,
        objective=Objective(kl_weight=1.0),
        schedule=Schedule(learning_rate=0.01, decay="linear"),
        pairs=replace(GAINS_TRAINING.pairs, train=90, validation=10),
        settings=DpoSettings(
            pairs="p", train="gains", teacher="/home/somebody/tuned", teacher_strength=2.0, epochs=4.0
        ),
    )
    training.save(tmp_path / "learned-1" / "training.json")
    settings = TuneSettings(
        max_logppl_increase=0.5,
        prompts="/home/somebody/prompts.jsonl",
        learn_text="hub:owner/name",
        samples=6,
        epochs=4,
    )
    found, _ = chosen(tmp_path, lambda _: 0.0, settings=settings)
    told = dict(found.edit.about)
    assert told["source"] == "learned-1"
    wanted = {
        "kl_weight": 1.0,
        "epochs": 4,
        "learning_rate": 0.01,
        "decay": "linear",
        "samples": 6,
        "pairs": 100,
        "scorer": "profanity",
    }
    wanted |= {"teacher": "tuned", "teacher_strength": 2.0}
    assert {name: told[name] for name in wanted} == wanted
    assert (told["prompts"], told["comments"], told["learn_text"]) == ("prompts.jsonl", "built-in", "hub:owner/name")
    assert told["max_kl"] == 0.75
    assert "negative_control" not in told
    assert read_object(tmp_path / "edit.json")["about"] == told


def test_data_is_named_without_folders():
    assert source_name("a/b/c.csv") == "c.csv"
    assert source_name(None) == "built-in"


def test_every_learned_vector_decides_the_trials(tmp_path):
    """With two λ each vector has a name of its own among what decides them; those not learned have none."""
    run = Run(tmp_path, {}, Quiet())

    def digests(first, second):
        for name, value in (("learned-1", first), ("learned-5", second)):
            Edit.of(Gains(torch.full((2, 3), value))).save(tmp_path / name / "edit")
        return learned_digests(run, ["learned-1", "learned-5", "groups"])

    one, other, third = digests(1.5, 2.0), digests(1.2, 2.0), digests(1.5, 1.0)
    assert set(one) == {"learned-1", "learned-5"}
    assert one["learned-1"] != other["learned-1"]
    assert one["learned-5"] == other["learned-5"]
    assert one["learned-5"] != third["learned-5"]
