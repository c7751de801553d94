"""Seeds beside each other: the spread by hand, and comments drawn from their own half."""

import json
import statistics
import sys
from argparse import Namespace
from pathlib import Path

import polars as pl
import pytest

from dposcope.errors import DposcopeError
from dposcope.evaluation.statistics.intervals import Difference
from dposcope.pairs.sampled import Pairer
from helpers.families import tiny

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import recipes
import redraw
import seeds


def a_run(folder: Path, share: float, rise: float, names: tuple[str, ...] = ("edit",)) -> Path:
    def scored(mean: float) -> dict[str, object]:
        return {"mean": mean, "low": mean, "high": mean, "n": 20}

    measures = ("toxicity", "judge", "repetition", "empty", "f1")
    conditions = {"none": dict.fromkeys(measures, scored(0.5)) | {"logppl": scored(3.0)}}
    against = {}
    for name in names:
        conditions[name] = dict.fromkeys(measures, scored(0.5 * share)) | {"logppl": scored(3.0 + rise)}
        against[name] = {
            "difference": {"logppl": scored(rise) | {"p": 0.5}},
            "toxicity_ratio": {"ratio": share, "low": share - 0.1, "high": share + 0.2, "n": 20},
            "relevance_kept": None,
        }
    folder.mkdir()
    told = {"protocol": "strict", "model": "tiny", "fingerprint": "", "further_scorers": [], "distinct_2": {}}
    told |= {"distinct_kept": {}, "phrases": {}, "distinct_sampled": {}, "about": {}}
    (folder / "scores.json").write_text(json.dumps(told | {"conditions": conditions, "against_none": against}))
    return folder


def test_a_condition_over_three_seeds_by_hand(tmp_path):
    shares, rises = (0.2, 0.5, 0.35), (0.01, 0.05, 0.03)
    runs = [a_run(tmp_path / str(at), *both) for at, both in enumerate(zip(shares, rises, strict=True))]
    (line,) = seeds.table_of(seeds.read(runs)).frame.rows(named=True)
    mean, spread = sum(shares) / 3, statistics.stdev(shares)
    assert line["toxicity"] == line["judge"] == f"0.20, 0.50, 0.35: {mean:.2f} ± {spread:.2f}"
    assert line["prompts"] == "± 0.15"
    assert line["logppl"] == f"+0.01, +0.05, +0.03: +0.03 ± {statistics.stdev(rises):.2f}"
    assert line["harmless_logppl"] == "–"  # not measured in these runs


def test_a_condition_is_compared_over_the_runs_that_have_it(tmp_path):
    runs = [
        a_run(tmp_path / "edit-0", 0.2, 0.0),
        a_run(tmp_path / "dpo-0", 0.6, 0.0, ("dpo",)),
        a_run(tmp_path / "edit-1", 0.4, 0.0),
        a_run(tmp_path / "dpo-1", 0.8, 0.0, ("dpo",)),
    ]
    found = {line["condition"]: line["toxicity"] for line in seeds.table_of(seeds.read(runs)).frame.rows(named=True)}
    assert {name: cell.partition(":")[0] for name, cell in found.items()} == {"edit": "0.20, 0.40", "dpo": "0.60, 0.80"}
    with pytest.raises(DposcopeError, match="only one run has the condition 'dpo'"):
        seeds.table_of(seeds.read(runs[:3]))
    with pytest.raises(DposcopeError, match="holds no scores"):
        seeds.read([tmp_path])


def test_every_seed_is_a_dot_with_its_interval(tmp_path):
    runs = seeds.read([a_run(tmp_path / str(at), share, 0.0) for at, share in enumerate((0.2, 0.4))])
    for run in runs:
        run.against_none["edit"].differences["harmless_logppl"] = Difference(0.1, 0.05, 0.2, 20, 0.01)
    figure = seeds.drawn(runs)
    (axes,) = figure.axes
    dots = [line for line in axes.lines if line.get_label() == "edit"]
    assert [(list(dot.get_xdata()), list(dot.get_ydata())) for dot in dots] == [([0.1, 0.1], [0.2, 0.4])]
    bars = [list(line.get_ydata()) for line in axes.lines if list(line.get_xdata()) == [0.1, 0.1] and line not in dots]
    assert bars == [pytest.approx([0.1, 0.4]), pytest.approx([0.3, 0.6])]


def test_comments_are_drawn_from_their_own_half():
    table = pl.DataFrame({"comment_text": [f"text {n}" for n in range(101)], "toxic": [n % 2 for n in range(101)]})
    first, second = redraw.redrawn(table, 1), redraw.redrawn(table, 2)
    for drawn in (first, second):
        assert len(drawn) == 101
        assert drawn[50:].equals(table[50:])  # the judge's half
        assert set(drawn[:50].rows()) < set(table[:50].rows())  # some twice, some not at all
    assert not first.equals(second)
    assert first.equals(redraw.redrawn(table, 1))


def test_a_seed_draws_other_samples_and_other_pairs(tmp_path, monkeypatch):
    lm = tiny("gpt2")
    (tmp_path / "learn.jsonl").write_text("".join(json.dumps({"prompt": f"the {word}"}) + "\n" for word in "abc"))
    monkeypatch.setattr(recipes, "Pairer", lambda pairing="random", **more: Pairer(pairing, 0.5, 0.5, 0.0, **more))
    found = {}
    for seed in (0, 1):
        out = tmp_path / str(seed)
        out.mkdir()
        given = Namespace(
            learn=str(tmp_path / "learn.jsonl"), scorers=["helpers.jobs:softness"], out=out, seed=seed, batch_size=16
        )
        sampled = recipes.samples_of(lm, given)
        recipes.write_files(given, sampled)
        found[seed] = sampled, [json.loads(line) for line in (out / "random.jsonl").read_text().splitlines()]
    texts = {seed: [text.text for one in sampled for text in one.texts] for seed, (sampled, _) in found.items()}
    assert texts[0] != texts[1]
    drawn = [one.pair for one in Pairer("random", 0.5, 0.5, seed=1).pairs(found[1][0])]
    assert [(one["unpert_gen_text"], one["pert_gen_text"]) for one in found[1][1]] == [
        (pair.preferred, pair.dispreferred) for pair in drawn
    ]
    assert [pair.preferred for pair in drawn] != [
        one.pair.preferred for one in Pairer("random", 0.5, 0.5, seed=0).pairs(found[1][0])
    ]
