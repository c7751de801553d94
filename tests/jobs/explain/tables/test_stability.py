"""Tables of stability: every number a person reads is the value's."""

import pytest

from dposcope.jobs.explain.tables.stability import (
    group_stability_table,
    rank_stability_table,
    stability_sentences,
    stability_summary,
    varied,
)
from dposcope.neurons.agreement import Among, Labels
from dposcope.neurons.stability import stability
from helpers.repeated import repeated, stable

FOUND = stable()


def test_groups_have_a_line_per_source_and_kind_of_neurons():
    table = group_stability_table("tiny", FOUND)
    assert len(table.rows) == len(FOUND.sources) * len(Among)
    assert [row[0] for row in table.rows if row[0]] == [
        "prompts, 2 parts",
        "comments, 4 resamples",
        "seed of the probe, 3 seeds",
        "kind of direction, 3 kinds",
    ]
    source = FOUND.sources[1]
    line = table.rows[len(Among)]
    kept, kappa = source.kept(Labels.MOVED, Among.ALL), source.kappa(Labels.EFFECT, Among.ALL)
    assert line[3] == f"{100 * kept.mean:.1f} % ({100 * kept.low:.1f}–{100 * kept.high:.1f})"
    assert line[4] == f"{100 * source.chance(Labels.MOVED, Among.ALL).mean:.1f} %"
    assert line[-1].startswith(f"{kappa.mean:.3f} (")
    first = FOUND.sources[0].pairs[0].of(Labels.EFFECT, Among.HALF)
    assert table.rows[3][-3:] == (f"{100 * first.kept:.1f} %", f"{100 * first.chance:.1f} %", f"{first.kappa:.3f}")
    assert table.to_polars().equals(FOUND.to_polars())


def test_ranks_have_a_line_per_source_and_one_per_pair_of_kinds():
    table = rank_stability_table("tiny", FOUND)
    assert [row[0] for row in table.rows][-3:] == [
        "directions 1 and directions 2",
        "directions 1 and directions 3",
        "directions 2 and directions 3",
    ]
    assert [row[1] for row in table.rows] == ["1", "6", "3", "3", "", "", ""]
    pair = FOUND.sources[-1].pairs[-1]
    last = table.rows[-1]
    assert last[2] == f"{pair.rank_correlation:.3f}".replace("-", "−")
    assert last[3:5] == (f"{100 * pair.toxic.jaccard:.1f} %", f"{100 * pair.toxic.chance:.1f} %")
    assert last[5] == f"{100 * pair.top.jaccard:.1f} %"
    assert table.to_polars().equals(FOUND.ranks())


def test_sentences_hold_the_shares():
    said, meaning = stability_sentences(FOUND)
    assert said.count("% of neurons keep their group") == len(FOUND.sources)
    for source in FOUND.sources:
        assert f"{100 * source.kept(Labels.MOVED, Among.ALL).mean:.1f} %" in said
        assert f"{100 * source.kept(Labels.MOVED, Among.HALF).mean:.1f} %" in said
    assert "no more often than by chance" in meaning


def test_the_summary_has_every_source():
    found = stability_summary(FOUND)
    assert list(found) == ["prompts", "comments", "seeds", "directions"]
    one = FOUND.sources[2]
    assert found["seeds"]["groups"]["all"]["kept"] == one.kept(Labels.MOVED, Among.ALL).mean
    assert found["seeds"]["effect"]["50 % of |Δ|"]["kappa"] == one.kappa(Labels.EFFECT, Among.HALF).mean
    assert found["seeds"]["rank_correlation"] == pytest.approx(
        sum(pair.rank_correlation for pair in one.pairs) / len(one.pairs)
    )
    assert stability_summary(stability([])) == {}


def test_a_source_of_ones_own_is_named_as_it_is():
    found = stability([repeated("trainings", 3, 0.2)])
    assert varied(found.sources[0]) == "trainings, 3 repetitions"
    assert stability_sentences(found)[0].startswith("With other trainings (3 repetitions), ")
