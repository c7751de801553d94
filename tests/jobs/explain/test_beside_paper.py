"""The tables of `explain` that stand beside the paper, from results made by hand."""

from dataclasses import replace

import polars as pl
import pytest

from dposcope.evaluation.conditions.scores import BASE
from dposcope.jobs.dpo.settings import DpoSettings
from dposcope.jobs.explain import beside_paper as paper_tables
from dposcope.jobs.explain.beside_paper import (
    BESIDE_PAPER,
    beside_paper_tables,
    interventions_of,
    neurons_of,
    setting_of,
)
from dposcope.jobs.explain.conditions import TUNED, Steering
from dposcope.jobs.explain.results import Results
from dposcope.jobs.explain.settings import ExplainSettings
from dposcope.paper.comparison import MODEL_NAMES, UNLIKE, Training
from dposcope.paper.models import MODELS, Recognised
from dposcope.paper.numbers import paper_values
from dposcope.training.objective import Objective
from helpers.explained import condition, making, outcome, pair, study
from helpers.training_facts import TRAINING as TRAINED

SETTINGS = ExplainSettings(
    scorer="unitary/toxic-bert", neutral="hub:Salesforce/wikitext/wikitext-2-raw-v1@test", max_windows=16
)
PATCHES = ["toxic-tokens", "top-128", "top-256", "TP", "TP+AN", "TP+AN+TN", "TP+AN+TN+AP", "increasing", "random"]
EDITS = [
    *(f"assign-probe-cosine-{grid}" for grid in ("0.01-0.8", "0.01-0.6", "0.01-0.55", "0.05-0.5")),
    *("assign-probe-activation-0.01-0.8", "assign-free-cosine-0.01-0.6", "assign-free-cosine-0.05-0.5"),
    "scale-probe-cosine-0.01-0.8",
]
TRAINING = replace(
    TRAINED, objective=Objective(kl_weight=0.02), pairs=replace(TRAINED.pairs, train=24_512, validation=64)
)


def results(
    *, keep=lambda row: True, settings: ExplainSettings = SETTINGS, training=TRAINING, family="llama"
) -> Results:
    made = pair(family)
    rows = [
        condition("steer-0.1", "steer", section="Baselines", alpha=0.1),
        condition(TUNED, "tuned", section="Baselines"),
        *(condition(f"patch-{name}") for name in PATCHES),
        *(condition(name, "edit") for name in EDITS),
    ]
    rows = [row for row in rows if keep(row)]
    levels = {row.name: outcome(making(0.02 * place)) for place, row in enumerate(rows) if row.name != TUNED}
    everything = study(levels, rows)
    return Results(
        made.base,
        made.explanation,
        rows,
        everything.outcomes,
        replace(everything.scores, protocol="reference"),
        {},
        training,
        settings.instruments,
    )


@pytest.fixture(scope="module")
def full() -> Results:
    return results()


def keys(values) -> list[tuple[object, ...]]:
    return [(v.table, v.row, v.direction, v.alpha, v.beta, v.ranking) for v in values if v.measure == "toxicity"]


def test_interventions_are_set_beside_the_papers_rows(full):
    probe = {"direction": "probe"}
    assert keys(interventions_of(full)) == [
        ("2", "none", None, None, None, None),
        ("2", "steering", *probe.values(), None, None, None),
        ("2", "dpo", None, None, None, None),
        *(
            (table, row, "probe", None, None, None)
            for table, row in (
                *(("2", f"patch {name}") for name in ("toxic neurons", "256 neurons", "TP↓", "TP↓+AN↓")),
                *(("2", "patch TP↓+AN↓+TN↓"), ("2", "patch four groups"), ("19", "patch ↑ neurons")),
            )
        ),
        *(("2", "edit", "probe", 0.01, beta, "cosine") for beta in (0.8, 0.6, 0.55)),
        ("19", "edit", "probe", 0.05, 0.5, "cosine"),
        ("19", "edit", "probe", 0.01, 0.8, "activation"),
        ("2", "edit", "token_contrast", 0.01, 0.6, "cosine"),
        ("19", "edit", "token_contrast", 0.05, 0.5, "cosine"),
    ]


def test_every_row_of_the_papers_tables_but_one_has_its_own_in_a_whole_run(full):
    """All but the probe-free edit of (0.05, 0.5), which is ours alone, find their row."""
    found = beside_paper_tables(full)[0].to_polars().filter(pl.col("measure") == "toxicity")
    assert len(found) == 4 * (len(keys(interventions_of(full))) - 1)
    rows = {(v.table, v.row) for v in paper_values(measure="toxicity") if v.table in ("2", "19")}
    ours = set(found.select("table", "row").iter_rows())
    # Table 19 prints these again.
    assert rows - ours == {("19", row) for row in ("none", "steering", "dpo", "patch four groups")}


@pytest.mark.parametrize(
    ("family", "ranking", "trim", "reasons"),
    [
        ("llama", "cosine", None, ["neurons ranked by |cosine|, largest first, in every group"]),
        ("llama", "activation", None, ["neurons ranked by |activation|, smallest first"]),
        ("llama", "reference", None, []),
        ("llama", "reference", 80, ["strongly active neurons excluded"]),
        (
            "gpt2",
            "cosine",
            None,
            ["neurons ranked by |cosine|, largest first, in every group", "neurons of any activation"],
        ),
        ("gpt2", "activation", 80, ["neurons ranked by |activation|, smallest first"]),
        ("gpt2", "reference", None, ["neurons of any activation"]),
        ("gpt2", "reference", 80, []),
    ],
)
def test_an_edit_is_like_the_papers_where_neurons_are_chosen_as_its_code_does(family, ranking, trim, reasons):
    made = results(family=family)
    name = f"assign-probe-{ranking}-0.01-0.6"
    row = condition(name, "edit")
    row = replace(row, trim=trim)
    everything = study({name: outcome(making(0.1))}, [row])
    made = replace(made, conditions=[row], scores=replace(everything.scores, protocol="reference"))
    found = [value for value in interventions_of(made) if value.row == "edit"]
    assert [value.measure for value in found] == ["toxicity", "logppl", "f1"]
    for value in found:
        assert value.ranking == ("activation" if ranking == "activation" else "cosine")
        assert [reason.startswith(start) for reason, start in zip(value.unlike, reasons, strict=True)] == [True] * len(
            reasons
        )


def test_means_and_shares_are_the_scores(full):
    scores = full.scores.conditions
    values = {(v.table, v.row, v.measure): v for v in interventions_of(full)}
    for row, name in (("none", BASE), ("dpo", TUNED), ("patch 256 neurons", "patch-top-256")):
        for measure in ("toxicity", "logppl", "f1"):
            value, estimate = values["2", row, measure], scores[name][measure]
            assert (value.value, value.low, value.high) == (estimate.mean, estimate.low, estimate.high)
    share, value = full.shares["patch-top-256"], values["3", "patch 256 neurons", "share_of_dpo"]
    assert share is not None
    assert (value.value, value.low, value.high) == (share.share, share.low, share.high)
    assert ("3", "patch toxic neurons", "share_of_dpo") in values


def test_what_was_not_measured_has_no_row():
    quick = results(keep=lambda row: row.role == "tuned")
    assert [key[1] for key in keys(interventions_of(quick))] == ["none", "dpo"]
    assert not [v for v in interventions_of(quick) if v.table == "3"]


def test_neurons_are_those_of_the_explanation(full):
    found = full.explanation
    values = {(v.table, v.row, v.measure): v.value for v in neurons_of(full)}
    change = found.contributions
    moved = change.total
    reducing = int((moved > 0).sum())
    assert values["5", "sum", "neurons"] == reducing
    for group, toxic, positive in (("TP", 1, 1), ("TN", 1, -1), ("AP", -1, 1), ("AN", -1, -1)):
        mine = (moved > 0) & (change.cosine * toxic > 0) & (change.before.mean * positive > 0)
        assert values["5", f"{group}↓", "of_reducing"] == pytest.approx(int(mine.sum()) / reducing)
    assert values["18", "neurons", "share_reducing"] == pytest.approx(reducing / moved.numel())
    assert values["13", "neurons", "negative"] == pytest.approx(float((change.before.mean < 0).double().mean()))
    assert values["3", "patch toxic neurons", "neurons"] == len(found.toxic.with_toxic_tokens())
    assert values["17", "shift and alignment", "r"] == found.correlations.cosine.r
    assert values["17", "shift and activation before", "r"] == found.correlations.activation.r
    assert values["text", "value vectors before and after", "vector_cosine"] == found.change.vector_cosine
    shift = change.activation_shift.abs().mean() / change.before.mean.abs().mean()
    assert values["text", "average shift", "shift"] == pytest.approx(float(shift))


def test_every_number_of_neurons_has_its_own_in_the_paper(full):
    table = beside_paper_tables(full)[1]
    assert len(table.rows) == len(neurons_of(full))
    assert table.to_polars().group_by("table").len().sort("table").rows() == [
        *(("13", 4), ("17", 8), ("18", 4), ("3", 4), ("5", 20), ("text", 1 + 2)),
    ]


@pytest.mark.parametrize(
    ("change", "field", "expected"),
    [
        ({}, "neutral", "whole"),
        ({"max_windows": 3}, "neutral", "cut"),
        ({"neutral": None}, "neutral", "built-in"),
        ({"scorer": "profanity"}, "scorer", "profanity"),
        ({"neutral": "wiki.txt"}, "neutral", "other"),
        ({"neutral": "wiki.txt", "max_windows": 3}, "neutral", "other"),
        ({"token_judge": "https://judge.example#tiny-qwen"}, "token_judge", "tiny-qwen"),
        ({"token_judge": "https://judge.example"}, "token_judge", "gpt-4o"),
        ({"token_judge": "words"}, "token_judge", "words"),
    ],
)
def test_the_setting_is_that_of_the_run(change, field, expected):
    made = results(settings=SETTINGS.model_copy(update=change))
    assert getattr(setting_of(made), field) == expected


def test_the_setting_counts_what_was_measured(full):
    setting = setting_of(full)
    assert (setting.model, setting.recognised) == (full.lm.name, None)
    assert (setting.protocol, setting.prompts, setting.passages) == ("reference", 30, 12)
    assert setting.learn_prompts == full.explanation.contributions.before.about.get("prompts")
    assert setting.direction == "probe"
    assert setting.training == Training(24_576, "full", "pairs", 0.02)
    assert setting_of(results(training=None)).training is None


def test_dpo_of_all_pairs_and_weights_is_like_the_papers():
    """`training.json` counts pairs without those kept for validation, and calls all weights `full`."""
    assert DpoSettings(pairs="p").train == "full"
    assert UNLIKE["training"](setting_of(results())) == []


def test_steering_by_w_itself_stands_beside_table_12(monkeypatch):
    made = results()
    row = condition("steer-w-30", "steer", section="Baselines", alpha=30)
    row = replace(row, steering=Steering(30, "W", 30))
    everything = study({"steer-w-30": outcome(making(0.1))}, [row])
    made = replace(made, conditions=[row], scores=replace(everything.scores, protocol="reference"))
    found = [value for value in interventions_of(made) if value.row == "steering" and value.measure == "toxicity"]
    assert [(value.table, value.alpha, value.unlike) for value in found] == [("2", None, ()), ("12", 30, ())]
    monkeypatch.setattr(paper_tables, "recognise", lambda name, config: Recognised(MODELS[1], ""))
    found = [value for value in interventions_of(made) if value.table == "2" and value.row == "steering"]
    assert {value.unlike for value in found} == {("α = 30, the paper's 2",)}


def test_a_model_that_the_paper_has_not_stands_beside_its_four(full):
    for table in beside_paper_tables(full):
        assert table.to_polars()["difference"].null_count() == len(table.to_polars())
        assert table.head == ("paper", "row", "measure", "here", *MODEL_NAMES, "here − paper")
        assert {row[-1].split(" (")[0] for row in table.rows} == {"–"}
        # The reason that stands at every row is told once.
        assert table.notes[0].startswith("–: the two numbers cannot be compared; of every such row: the paper has no")
        assert full.lm.name in table.notes[0]
        assert not any(full.lm.name in note for note in table.notes[1:])
    first = beside_paper_tables(full)[0].rows[0]
    assert first[:3] == ("Table 2", "none", "toxicity")
    assert first[3].startswith("0.500 (")
    assert first[4:8] == ("0.545", "0.496", "0.488", "0.507")


def letters(cell: str) -> list[str]:
    return cell.removeprefix("– (").removesuffix(")").split(", ")


def test_reasons_are_told_below_by_their_letters(full):
    table = beside_paper_tables(full)[0]
    notes = dict(note.split(": ", 1) for note in table.notes)
    base, steering = table.rows[0], table.rows[3]
    assert [notes[letter] for letter in letters(base[-1])] == ["30 prompts, the paper 1,199."]
    assert (steering[1], steering[2]) == ("steering", "toxicity")
    said = [notes[letter] for letter in letters(steering[-1])]
    assert "α in another unit: the paper's is in norms of its own probe." in said


def test_the_papers_contradictions_are_marked_where_they_stand(full):
    table = beside_paper_tables(full)[0]
    cells = {(row[1], row[2]): row for row in table.rows}
    assert cells["none", "F1"][7] == "0.221*"
    assert cells["dpo", "toxicity"][4:8] == ("0.210", "0.241", "0.245", "0.191*")
    assert "Table 2, dpo, toxicity of Mistral-7B: Table 19 prints 0.221" in table.notes[-1]
    assert not any("*" in cell for row in beside_paper_tables(full)[1].rows for cell in row)


@pytest.mark.parametrize("place", range(4), ids=MODEL_NAMES)
def test_a_model_of_the_paper_has_differences(place, monkeypatch):
    """By the real comparison, the tiny model taken for one of the four."""
    model = MODELS[place]
    monkeypatch.setattr(paper_tables, "recognise", lambda name, config: Recognised(model, "taken for it"))
    weight = paper_values(table="10", model=model.name)[0].value
    training = replace(TRAINING, objective=Objective(kl_weight=weight))
    made = results(training=training)
    interventions, neurons = beside_paper_tables(made)
    cosine = next(row for row in neurons.rows if row[2] == "cosine, mean")
    assert cosine[4:8] == ("0.99",) * 4
    assert cosine[-1].endswith(")")
    assert "–" not in cosine[-1]
    assert cosine[-1][0] in "+−0"
    said = dict(note.split(": ", 1) for note in neurons.notes)
    assert said[cosine[-1].split("(")[1][0]] == "taken for it."
    # All of the text was read, in 3 windows of 16 that were allowed; 30 prompts and 4 passages are not the paper's.
    logppl = next(row for row in interventions.rows if row[1:3] == ("none", "log-PPL"))
    printed = float(paper_values(table="2", model=model.name, row="none", measure="logppl")[0].printed)
    assert logppl[-1].split(" ")[0] == f"{3 - printed:+.2f}".replace("-", "−")
    frame = interventions.to_polars().filter(pl.col("comparable"))
    assert set(frame["paper_model"]) == {model.name}
    assert set(frame["measure"]) == {"logppl"}


def test_tables_are_written_whole(full, tmp_path):
    tables = beside_paper_tables(full)
    assert tuple(table.name for table in tables) == BESIDE_PAPER
    for table in tables:
        table.save(tmp_path)
        assert pl.read_parquet(tmp_path / f"{table.name}.parquet").equals(table.to_polars())
        assert pl.Null not in table.to_polars().dtypes
        assert "α = 0.01" in table.markdown() or table.name == BESIDE_PAPER[1]
