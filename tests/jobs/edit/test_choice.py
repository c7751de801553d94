"""The choice of an edit: a family, a search on windows that are not reported, or what was given."""

import json

import pytest
import torch

from dposcope.directions.direction import Direction
from dposcope.evaluation.perplexity import window_losses
from dposcope.evaluation.statistics.comparisons import paired_difference
from dposcope.interventions.group_gains import gains_of
from dposcope.jobs.edit.choice import GAIN_SHARE, SEARCH_WINDOWS, choose_edit, default_edit
from dposcope.jobs.edit.settings import EditSettings
from dposcope.jobs.ingredients.data import read_data
from dposcope.jobs.ingredients.job import Job as StudyJob
from dposcope.jobs.ingredients.prepared import Ingredients
from dposcope.jobs.opening import open_run
from dposcope.model.load import load
from dposcope.neurons.activations import NeuronMeans
from dposcope.neurons.groups import select_fraction
from helpers.jobs import make_job


@pytest.fixture
def made(llama) -> Ingredients:
    stream = torch.Generator().manual_seed(5)
    direction = Direction(torch.randn(llama.d_model, generator=stream, dtype=torch.float64), "mine", -1)
    mean = torch.randn(llama.n_blocks, llama.d_mlp, generator=stream, dtype=torch.float64)
    return Ingredients(llama, direction, NeuronMeans(mean, mean.square(), 10))


def selected(made: Ingredients, beta: float = 0.55):
    return select_fraction(made.cosine, made.means.mean, beta=beta)


# The family


@pytest.mark.parametrize("strength", [0.3, 1.0, 2.5])
def test_the_default_family(made, strength):
    """Ablation in the later half, gains in the earlier: the docstring's words, as numbers."""
    edit = default_edit(made, selected(made), parts="both", strength=strength)
    whole = gains_of(selected(made), alpha=GAIN_SHARE * strength).values
    assert torch.equal(edit.gains.values[0], whole[0])
    assert (edit.gains.values[1:] == 1).all()
    (ablation,) = edit.ablations
    assert (ablation.weight, ablation.blocks, ablation.mlp, ablation.attention) == (strength, (1, 2), True, False)


def test_gains_alone_are_the_papers_in_every_block(made):
    edit = default_edit(made, selected(made), parts="gains", strength=0.4)
    assert edit.ablations == ()
    assert torch.equal(edit.gains.values, gains_of(selected(made), alpha=0.4).values)


def test_ablation_alone_is_that_of_the_family(made):
    alone, both = (default_edit(made, selected(made), parts=parts, strength=0.4) for parts in ("ablation", "both"))
    assert alone.gains is None
    assert alone.ablations[0].blocks == both.ablations[0].blocks
    assert alone.ablations[0].weight == both.ablations[0].weight == 0.4


@pytest.mark.parametrize("parts", ["both", "gains", "ablation"])
def test_strength_zero_is_no_change(made, parts):
    edit = default_edit(made, selected(made), parts=parts, strength=0.0)
    ids = torch.arange(4, 30).unsqueeze(0)
    with torch.no_grad(), edit.on(made.lm):
        changed = made.lm.model(ids).logits
    with torch.no_grad():
        assert torch.equal(made.lm.model(ids).logits, changed)


# The search


@pytest.fixture
def choosing(tmp_path):
    """`choosing(windows, **settings)`: the choice for a tiny job whose neutral text has about so many windows."""

    def choose(windows: int, **options):
        job = make_job(tmp_path / "job", "mistral", windows=windows)
        settings = EditSettings.filled(job.settings(**options))
        lm = load(str(job.model), dtype="float32")
        direction = Direction(torch.randn(16, generator=torch.Generator().manual_seed(1), dtype=torch.float64), "d", -1)
        mean = torch.randn(3, 24, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        ingredients = Ingredients(lm, direction, NeuronMeans(mean, mean.square(), 10))
        with open_run(tmp_path / "out", "edit", {}) as run:
            direction.save(run.folder / "direction")
            ingredients.means.save(run.folder / "means")
            study = StudyJob(run, lm, read_data(settings))
            choice = choose_edit(
                study,
                ingredients,
                selected(ingredients, settings.beta),
                settings.edit_spec,
                made_by=settings.model_dump(mode="json"),
            )
        return choice, study, ingredients

    return choose


@pytest.mark.parametrize(("windows", "apart"), [(14, True), (11, False)])
def test_trials_read_the_windows_after_the_reported_ones_where_there_are_enough(choosing, windows, apart, tmp_path):
    choice, study, ingredients = choosing(windows, logppl_budget=0.05)
    assert choice.held_out is apart
    lm, text = study.lm, study.data.report.neutral
    skip = 3 if apart else 0
    plain = window_losses(lm, text, skip_windows=skip, max_windows=SEARCH_WINDOWS)
    assert len(plain.nll) == SEARCH_WINDOWS
    for step in choice.search.steps:
        edit = default_edit(ingredients, selected(ingredients), parts="both", strength=step.strength)
        with edit.on(lm):
            changed = window_losses(lm, text, skip_windows=skip, max_windows=SEARCH_WINDOWS)
        assert step.increase == paired_difference(changed.nll, plain.nll, denominators=plain.tokens)
    stored = json.loads((tmp_path / "out/search.json").read_text())
    assert stored["chosen"] == choice.search.chosen
    assert [step["strength"] for step in stored["steps"]] == [step.strength for step in choice.search.steps]


def test_a_bound_that_nothing_meets_leaves_the_model_alone(choosing, monkeypatch):
    from dposcope.evaluation.statistics.intervals import Difference

    monkeypatch.setattr("dposcope.jobs.edit.choice.paired_difference", lambda *_a, **_o: Difference(1.0, 0.9, 1.1, 8))
    choice, _, _ = choosing(14)
    assert choice.search.chosen == 0.0
    assert all(ablation.weight == 0 for ablation in choice.edit.ablations)
    assert len(choice.edit.gains.touched) == 0


def test_trials_that_break_the_model_are_steps_too_far(choosing, monkeypatch):
    """A strong edit in half precision overflows: its loss is no number, and the search goes on below."""
    from dposcope.evaluation.perplexity import WindowLosses
    from dposcope.jobs.edit import choice as choose

    true = choose.window_losses
    strengths: list[float] = []
    family = choose.default_edit

    def noting(*arguments, strength, **options):
        strengths.append(strength)
        return family(*arguments, strength=strength, **options)

    def losses(*arguments, **options):
        found = true(*arguments, **options)
        if strengths and strengths[-1] > 1.0:
            return WindowLosses(found.nll * float("nan"), found.tokens)
        return found

    monkeypatch.setattr(choose, "default_edit", noting)
    monkeypatch.setattr(choose, "window_losses", losses)
    choice, _, _ = choosing(14, logppl_budget=5.0)
    assert 0 < choice.search.chosen <= 1.0


@pytest.mark.parametrize(
    ("given", "gains", "weights"),
    [
        ({"alpha": 0.3}, 0.3, []),
        ({"ablate": 0.7}, None, [0.7]),
        ({"alpha": 0.3, "ablate": 0.7}, 0.3, [0.7]),
        ({"alpha": 0.0}, None, []),
    ],
)
def test_what_is_given_is_taken_in_all_blocks(choosing, given, gains, weights):
    choice, _, ingredients = choosing(5, beta=0.4, **given)
    assert choice.search is None
    assert [(ablation.weight, ablation.blocks) for ablation in choice.edit.ablations] == [(w, None) for w in weights]
    assert all(ablation.mlp and ablation.attention for ablation in choice.edit.ablations)
    if gains is None:
        assert choice.edit.gains is None
    else:
        assert torch.equal(choice.edit.gains.values, gains_of(selected(ingredients, 0.4), alpha=gains).values)
