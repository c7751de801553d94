"""The comparison of rivals: each intervention against a naive computation, the comparison against plain loops."""

import itertools
import json
import math
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from dposcope.directions.features import residual_features
from dposcope.errors import DposcopeError
from dposcope.evaluation.statistics.comparisons import paired_difference
from dposcope.interventions.edit import Edit
from dposcope.interventions.gains import Gains
from dposcope.interventions.least_squares import LeastSquares
from dposcope.jobs.evaluate.settings import EvaluateSettings
from dposcope.jobs.ingredients.data import read_data
from dposcope.jobs.ingredients.job import Job
from dposcope.jobs.ingredients.prepared import prepare
from dposcope.jobs.opening import open_run
from dposcope.jobs.reporter import Quiet
from dposcope.jobs.tune.search import neutral_moments
from dposcope.model.load import load
from helpers.families import (
    CIVIL,
    RUDE,
    assert_close,
    bits,
    copied,
    logits_of,
    naive_vectors,
    random_direction,
    random_gains,
    tiny,
    trace,
)
from helpers.jobs import make_job

sys.path.append(str(Path(__file__).parents[2]))

from benchmarks.rivals import published
from benchmarks.rivals.__main__ import main
from benchmarks.rivals.abliteration import LATE, Kernel, abliteration, abliterations
from benchmarks.rivals.compare import Spot, best_at, mean_up_to
from benchmarks.rivals.features import BlockFeatures, block_features
from benchmarks.rivals.own import default_line, least_squares_line
from benchmarks.rivals.placing import bracket, spread, strengths_at
from benchmarks.rivals.profs import projected, projections, toxic_directions
from benchmarks.rivals.replaced import Folded
from benchmarks.rivals.roster import METHODS
from benchmarks.rivals.steering import all_blocks, one_block, vector
from benchmarks.rivals.trained import interpolated

IDS = [2, 14, 9, 30, 41, 7, 22]
LABELS = [True] * len(RUDE) + [False] * len(CIVIL)


def under(lm, intervention):
    with intervention.on(lm):
        return logits_of(lm, IDS)


@pytest.fixture
def features(lm):
    return block_features(lm, [*RUDE, *CIVIL], LABELS, batch_size=5)


# Interventions, each on every family


def test_block_features_are_those_of_each_block_read_alone(lm, features):
    for block in range(lm.n_blocks):
        alone = residual_features(lm, [*RUDE, *CIVIL], block=block)
        assert_close(features.toxic[block], alone.vectors[: len(RUDE)].float())
        assert_close(features.civil[block], alone.vectors[len(RUDE) :].float())
        assert math.isclose(float(features.norms[block]), alone.residual_norm, rel_tol=1e-5)


def test_steering_subtracts_the_blocks_own_vector(lm, features):
    for line in one_block(features):
        block = int(line.name.split()[1])
        wanted = features.toxic[block].mean(0) - features.civil[block].mean(0)
        wanted = wanted / wanted.norm() * features.norms[block].float()
        naive = trace(lm, IDS, stream=lambda at, x, b=block, w=wanted: x - 0.3 * w if at == b else x)
        assert_close(under(lm, line.at(0.3)), naive.logits, 1e-4)
    (line,) = all_blocks(features)
    naive = trace(lm, IDS, stream=lambda at, x: x - 0.1 * vector(features, at).float())
    assert_close(under(lm, line.at(0.1)), naive.logits, 1e-4)


def test_abliteration_takes_each_blocks_direction_out_by_the_kernel(lm):
    directions = [random_direction(lm, seed) for seed in range(lm.n_blocks)]
    kernel = Kernel(1.0, 0.2, 0.7)
    last = lm.n_blocks - 1

    def weight(block):
        away = abs(block - last)
        reach = max(0.7 * last, 1.0)
        return 0.0 if away > reach else 1.0 + (0.2 - 1.0) * away / reach

    def without(share):
        def rule(block, written):
            unit = (directions[block] / directions[block].norm()).float()
            return written - share * weight(block) * (written @ unit).unsqueeze(1) * unit

        return rule

    edit = abliteration(directions, kernel, 1.2, mlp_share=0.5)
    naive = trace(lm, IDS, attention=without(1.2), mlp=without(0.6))
    assert_close(under(lm, Folded(edit)), naive.logits, 1e-4)


def test_the_late_kernel_peaks_where_it_says_and_ends():
    weights = [LATE.weight(block, 11) for block in range(11)]
    assert weights[8] == 1.0
    assert weights[2] == pytest.approx(0.3)
    assert weights[:2] == [0.0, 0.0]
    assert weights[5] == pytest.approx(0.65)


def test_abliteration_has_a_line_for_each_scope_and_kernel(lm, features):
    lines = abliterations(features)
    assert [line.name for line in lines] == ["global, flat", "global, late", "per layer, flat", "per layer, late"]
    assert len({tuple(under(lm, line.at(1.0))[-1].tolist()) for line in lines}) == 4


def test_the_subspace_is_that_of_the_centred_differences():
    stream = torch.Generator().manual_seed(0)
    toxic, civil = (torch.randn(9, 5, generator=stream, dtype=torch.float64) for _ in range(2))
    civil = civil + 4.0
    found = toxic_directions(toxic, civil, 2)
    # By eigenvectors of second moments instead of singular vectors.
    mu = torch.linalg.eigh(civil.T @ civil).eigenvectors[:, -1]
    centred = (civil - toxic) / 2 @ (torch.eye(5) - torch.outer(mu, mu))
    wanted = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -2:]
    assert_close(found.T @ found, wanted @ wanted.T, 1e-9)
    assert toxic_directions(toxic, civil, 50).shape == (5, 5)


def test_the_projection_leaves_biases_and_other_blocks(lm, features):
    later = lm.n_blocks // 2
    lines = projections(features, 8)
    assert lines[0].strengths == (1.0, 2.0, 5.0, 10.0)
    bases = [toxic_directions(features.toxic[b], features.civil[b], 2).float() for b in range(lm.n_blocks)]

    def rule(chosen):
        def project(block, written):
            if block not in chosen:
                return written
            gpt2 = lm.model.config.model_type == "gpt2"
            bias = lm.mlp_outs[block].bias if gpt2 else torch.zeros(lm.d_model)
            rows = bases[block]
            return written - ((written - bias) @ rows.T) @ rows

        return project

    for line, chosen in zip(lines, (range(later, lm.n_blocks), range(lm.n_blocks)), strict=True):
        assert_close(under(lm, line.at(2.0)), trace(lm, IDS, mlp=rule(chosen)).logits, 1e-4)
    one = projected({0: bases[0]})
    with one.on(lm):
        assert_close(naive_vectors(lm, 0) @ bases[0].T.double(), torch.zeros(lm.d_mlp, 2).double(), 1e-5)


def test_weights_on_the_line_from_base_to_tuned(lm, tmp_path):
    tuned, stream = copied(lm), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in tuned.model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=stream))
    tuned.save_pretrained(tmp_path / "tuned")
    before = bits(lm.model)
    assert torch.equal(under(lm, interpolated(str(tmp_path / "tuned"), 1.0)), logits_of(tuned, IDS))
    half = copied(lm)
    with torch.no_grad():
        for mine, other in zip(half.model.parameters(), tuned.model.parameters(), strict=True):
            mine.add_(0.5 * (other - mine))
    assert_close(under(lm, interpolated(str(tmp_path / "tuned"), 0.5)), logits_of(half, IDS), 1e-5)
    assert bits(lm.model) == before


def test_weights_come_back_after_an_error(gpt2):
    before = bits(gpt2.model)
    with pytest.raises(RuntimeError, match="stop"), projected({0: torch.eye(gpt2.d_model)[:1]}).on(gpt2):
        raise RuntimeError("stop")
    assert bits(gpt2.model) == before


# Strengths


@pytest.mark.parametrize(("scale", "start"), [(0.02, 1.0), (40.0, 1.0), (1.0, 0.01)])
def test_strengths_land_near_what_they_should_cost(scale, start):
    def cost(strength):
        return scale * strength**1.8

    tried = bracket(cost, start=start, most=100.0)
    targets = (0.1, 0.35, 0.05, 0.2, 0.03)
    found = strengths_at(tried, targets)
    assert found == sorted(found)
    for strength, target in zip(found, sorted(targets), strict=True):
        assert cost(strength) == pytest.approx(target, rel=0.15)


def test_a_line_that_never_costs_so_much_ends_at_its_strongest():
    tried = bracket(lambda s: 0.01 * s, start=1.0, most=3.0)
    assert max(tried) == 3.0
    assert strengths_at(tried, (0.3, 0.2)) == [3.0]
    assert strengths_at({1.0: -0.2, 2.0: -0.1}, (0.1,)) == [2.0]


def test_a_strength_that_overflows_is_never_placed():
    tried = bracket(lambda s: 0.04 * s if s < 4 else math.nan, start=1.0, most=16.0)
    assert all(math.isfinite(cost) for cost in tried.values())
    assert max(strengths_at(tried, (0.35,))) < 4


def test_spread_keeps_the_last():
    assert spread([1, 2, 3, 4], 2) == (2, 4)
    assert spread([1, 2, 3, 4], 9) == (1, 2, 3, 4)
    assert spread([1, 2, 3, 4, 5, 6, 7, 8], 3) == (3, 5, 8)


# Comparison


def spots(seed, costs, items=6):
    draw = np.random.default_rng(seed)
    return [Spot(cost, {"toxicity": draw.random(items), "f1": draw.random(4)}) for cost in costs]


def naive_best(lines, cost):
    """Walk every segment in small steps."""
    best, steps = None, np.linspace(0, 1, 2001)[:, None]
    for line in lines:
        for a, b in zip(line, [*line[1:], line[-1]], strict=True):
            at = (1 - steps) * a.cost + steps * b.cost
            cheap = steps[at <= cost + 1e-12][:, None]
            values = (1 - cheap) * a.values["toxicity"] + cheap * b.values["toxicity"]
            for one in values[[values.mean(1).argmin()]] if len(values) else ():
                if best is None or one.mean() < best[0]:
                    best = (one.mean(), list(one))
    return best


def test_the_best_point_is_that_of_a_walk_along_all_lines():
    base = spots(0, [0.0])[0]
    # One line turns back in cost, one even costs less than nothing.
    lines = [[base, *spots(1, [0.04, 0.15, 0.09, 0.4])], [base, *spots(2, [-0.02, 0.22])]]
    for cost in (0.0, 0.05, 0.1, 0.2, 0.3, 1.0):
        found, wanted = best_at(lines, cost), naive_best(lines, cost)
        assert found.cost <= cost + 1e-12
        assert found.score == pytest.approx(wanted[0], abs=1e-3)
        assert found.values("toxicity").mean() == pytest.approx(found.score)
        assert len(found.values("f1")) == 4


def test_more_cost_is_never_worse_and_a_free_edit_counts_everywhere():
    base = Spot(0.0, {"toxicity": np.full(4, 0.5)})
    lines = [[base, Spot(0.02, {"toxicity": np.full(4, 0.1)}), Spot(0.3, {"toxicity": np.full(4, 0.4)})]]
    scores = [best_at(lines, cost).score for cost in np.linspace(0, 0.3, 31)]
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] == pytest.approx(0.1)
    assert best_at(lines, 0.01).score == pytest.approx(0.3)
    with pytest.raises(DposcopeError, match="plain model"):
        best_at([lines[0][1:]], 0.01)


def test_the_area_is_the_mean_of_the_curve():
    base = Spot(0.0, {"toxicity": np.array([0.6, 0.2])})
    lines = [[base, Spot(0.3, {"toxicity": np.array([0.0, 0.2])})]]
    assert_close(torch.tensor(mean_up_to(lines, 0.3)), torch.tensor([0.3, 0.2], dtype=torch.float64), 1e-12)
    random = [[spots(0, [0.0])[0], *spots(1, [0.04, 0.15, 0.4])], [spots(0, [0.0])[0], *spots(2, [0.1])]]
    steps = 60
    curve = [naive_best(random, 0.3 * place / steps)[0] for place in range(steps + 1)]
    total = sum(left + right for left, right in itertools.pairwise(curve)) / 2 / steps
    assert mean_up_to(random, 0.3).mean() == pytest.approx(total, abs=1e-3)


# The whole, on tiny models


@pytest.fixture(scope="module", params=["gemma3"])
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(f"rivals-{request.param}")
    job = make_job(folder, request.param)
    lm = tiny(request.param)
    Edit.of(Gains(random_gains(lm))).strength(0.5).save(folder / "gains" / "edit")
    (folder / "gains" / "stages").mkdir()
    (folder / "gains" / "stages" / "train.json").write_text(json.dumps({"inputs": "", "seconds": 90}))
    tuned, stream = copied(lm), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in tuned.model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=stream))
    tuned.save_pretrained(folder / "tuned")
    arguments = [
        job.model,
        "--scorer",
        "helpers.jobs:softness",
        "--dtype",
        "float32",
        "--device",
        "cpu",
        "--windows",
        "2",
    ]
    for name in ("prompts", "comments", "neutral", "passages"):
        arguments += [f"--{name}", getattr(job, name)]
    arguments += ["--limit", "7", "--placing-windows", "1", "--edit", f"gains={folder / 'gains' / 'edit'}"]
    arguments += ["--tuned", f"full={folder / 'tuned'}", "--obtained", "full=3,2.5", "--evaluations", "6"]
    arguments = [*map(str, arguments), "--out", str(folder / "out")]
    main(arguments)
    return folder, arguments


@pytest.mark.slow
def test_every_method_is_measured_within_its_budget(run):
    rows = pl.read_parquet(run[0] / "out" / "rivals.parquet")
    counts = dict(rows.group_by("rival").len().iter_rows())
    assert len(counts) == len(METHODS) + 1
    assert max(counts.values()) <= 6
    assert rows["scores"].list.len().unique().to_list() == [7]
    assert rows["window_rises"].list.len().min() >= 2
    for row in rows.iter_rows(named=True):
        assert row["toxicity_mean"] == pytest.approx(np.mean(row["scores"]))


@pytest.mark.slow
def test_tables_hold_what_was_measured(run):
    frame = pl.read_parquet(run[0] / "out" / "rivals-at-costs.parquet")
    assert set(frame["cost"]) == {"0.05", "0.1", "0.2", "0.3", "area"}
    means = frame.filter((pl.col("measure") == "toxicity") & (pl.col("cost") != "area"))
    for part in means.partition_by("condition"):
        assert part["mean"].to_list() == sorted(part["mean"].to_list(), reverse=True)
    page = (run[0] / "out" / "rivals.md").read_text()
    assert "gains is lower at every cost" in page
    for name in ("none", "gains", "gains, shuffled", "full", "steering, all blocks", "abliteration", "ProFS"):
        assert f"| {name} |" in page
    assert "| 1.5 |" in page
    assert "| 3.0 | 2.5 |" in page
    about = json.loads((run[0] / "out" / "rivals.json").read_text())
    assert about["ours"] == "gains"
    assert about["rivals"]["steering, one block"]["run_time"] > 0
    assert about["rivals"]["abliteration"]["run_time"] is None
    for kind in ("svg", "png"):
        assert (run[0] / "out" / f"rivals.{kind}").stat().st_size > 1000


@pytest.mark.slow
def test_a_difference_is_that_of_the_single_prompts(run):
    out = run[0] / "out"
    frame = pl.read_parquet(out / "rivals-at-costs.parquet")
    rows = pl.read_parquet(out / "rivals.parquet")
    base = json.loads((out / "conditions" / "none.json").read_text())["per_prompt"]["toxicity"]

    def line(name):
        own = rows.filter(pl.col("rival") == name).sort("strength")
        measured = [
            Spot(row["logppl_rise_mean"], {"toxicity": np.array(row["scores"])}) for row in own.iter_rows(named=True)
        ]
        return [[Spot(0.0, {"toxicity": np.array(base)}), *measured]]

    found = frame.filter(
        (pl.col("condition") == "full") & (pl.col("cost") == "0.2") & (pl.col("measure") == "toxicity")
    ).row(0, named=True)
    ours, theirs = (best_at(line(name), 0.2).values("toxicity") for name in ("gains", "full"))
    wanted = paired_difference(ours, theirs)
    assert found["ours_minus"] == pytest.approx(wanted.mean)
    assert found["ours_minus_low"] == pytest.approx(wanted.low)


@pytest.mark.slow
def test_pairs_and_comments_are_rows_of_their_own(run, tmp_path):
    """Of different texts; those of the comments alone also try the direction of the edits."""
    _, arguments = run
    pairs = tmp_path / "pairs.tsv"
    rows = [f"{rude}\t{civil}" for rude, civil in zip(RUDE, CIVIL, strict=True)]
    pairs.write_text("\n".join(["toxic\tneutral", *rows]) + "\n")
    more = ["--methods", "steer,ablation,profs", "--sentence-pairs", str(pairs), "--out", str(tmp_path / "out")]
    main([*arguments, *more])
    found = pl.read_parquet(tmp_path / "out" / "rivals.parquet")
    assert set(found["rival"]) == {
        f"{name}{suffix}"
        for name in ("steering, one block", "abliteration", "ProFS")
        for suffix in ("", ", by comments")
    }
    features = [BlockFeatures.load(tmp_path / "out" / name) for name in ("features", "comment-features")]
    assert len(features[0].toxic[0]) == len(RUDE)
    flat = {row["rival"] for row in found.iter_rows(named=True) if row["line"] == "last block's, flat"}
    assert flat == {"abliteration, by comments"}


def test_what_this_project_makes_without_training_is_that_of_its_commands(tmp_path):
    """`dposcope edit` at s: gains in the earlier half, an ablation of w = s in the later MLPs."""
    job = make_job(tmp_path / "job", "llama")
    lm = load(str(job.model), dtype="float32", device="cpu")
    settings = EvaluateSettings(**{name: str(getattr(job, name)) for name in ("prompts", "comments", "neutral")})
    with open_run(tmp_path / "out", "rivals", {}, reporter=Quiet()) as opened:
        at_work = Job(opened, lm, read_data(settings))
        made = prepare(at_work, settings.direction_spec)
        moments = neutral_moments(at_work, at_work.data.report.neutral, 4)
    (both,), (alone,) = default_line(made, "both"), default_line(made, "ablation")
    (squares,) = least_squares_line(made, moments)
    edit, half = both.at(0.5).edit, lm.n_blocks // 2
    assert torch.equal(edit.gains.values[half:], torch.ones_like(edit.gains.values[half:]))
    assert sorted({round(gain, 6) for gain in edit.gains.values[:half].unique().tolist()}) == [0.985, 1.0, 1.015]
    for one in (edit, alone.at(0.5).edit):
        (ablation,) = one.ablations
        assert (ablation.weight, ablation.blocks, ablation.attention) == (0.5, tuple(range(half, lm.n_blocks)), False)
    assert alone.at(0.5).edit.gains is None
    problem = LeastSquares.of(lm, made.means, made.direction.vector, disturbed=moments)
    assert torch.equal(squares.at(0.4).edit.gains.values, problem.gains(0.4).values)
    assert moments.count != made.means.count


@pytest.mark.slow
def test_a_second_time_nothing_is_measured_again(run, capsys):
    folder, arguments = run
    conditions = {path: path.stat().st_mtime_ns for path in (folder / "out" / "conditions").iterdir()}
    lost = next(path for path in conditions if path.stem.startswith("ProFS"))
    page = (folder / "out" / "rivals.md").read_bytes()
    lost.unlink()
    (folder / "out" / "rivals.parquet").unlink()
    main(arguments)
    again = {path: path.stat().st_mtime_ns for path in conditions}
    assert [path for path in conditions if again[path] != conditions[path]] == [lost]
    assert (folder / "out" / "rivals.md").read_bytes() == page
    assert "(done before)" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--methods", "magic"], "no method 'magic'"),
        (["--edit", "gains"], "NAME=PATH"),
        (["--obtained", "x=1,2"], "names 'x'"),
        (["--evaluations", "0"], "1 or more"),
        (["--methods", "edit"], "no rival takes part"),
        (["--tuned", "a=nowhere"], "no safetensors"),
    ],
)
def test_what_means_nothing_is_refused(run, tmp_path, capsys, more, said):
    arguments = run[1]
    plain = arguments[: arguments.index("--edit")]
    with pytest.raises(SystemExit) as stop:
        main([*plain, *more, "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out" / "rivals.md").exists()


# As files


def test_abliteration_and_profs_are_written_as_the_sweep_applies_them(tmp_path):
    job = make_job(tmp_path / "job")
    published.publish(str(job.model), str(job.comments), tmp_path / "out", dtype="float32")
    lm = load(str(job.model), dtype="float32", device="cpu")
    read = published.load_comments(str(job.comments)).half("first").balanced().first(1000).balanced()
    features = block_features(lm, read.texts, read.labels)
    edit = Edit.load(tmp_path / "out/abliteration")
    blocks = range(lm.n_blocks)
    expected = abliteration([features.difference(block) for block in blocks], LATE, 1.0, mlp_share=0.5)
    assert len(edit.ablations) == len(expected.ablations)
    for one, other in zip(edit.ablations, expected.ablations, strict=True):
        assert (one.weight, one.blocks, one.mlp, one.attention) == (
            other.weight,
            other.blocks,
            other.mlp,
            other.attention,
        )
        assert_close(one.direction, other.direction, 1e-6)
    other = load(str(tmp_path / "out/profs"), dtype="float32", device="cpu")
    for block in blocks:
        change = (other.value_vectors(block) - lm.value_vectors(block)).double()
        rank = 0 if change.abs().max() == 0 else int((torch.linalg.svdvals(change) > 1e-4).sum())
        assert rank == (2 if block >= lm.n_blocks // 2 else 0)
