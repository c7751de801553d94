"""The benchmark of what an edit moves: shares, rank correlations and parts against plain loops."""

import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from scipy.stats import spearmanr

import dposcope as ds
from helpers.families import copied, tiny
from helpers.jobs import script

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from moved.parts import only, parts
from moved.rule import followed, members, rank_correlation

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def tables():
    stream = torch.Generator().manual_seed(3)
    return [torch.randn(4, 30, generator=stream, dtype=torch.float64) for _ in range(4)]


def test_share_that_follows_the_rule_against_a_loop(tables):
    reduction, cosine, mean, _ = tables
    reduction[0, :5] = 0  # not moved
    for name, mask in members(cosine, mean).items():
        right = moved = size = good = 0
        for block in range(4):
            for index in range(30):
                toxic, positive = cosine[block, index] > 0, mean[block, index] > 0
                own = ("T" if toxic else "A") + ("P" if positive else "N")
                value = float(reduction[block, index])
                if name in ("all", own) and value != 0:
                    moved += 1
                    right += value > 0
                    size += abs(value)
                    good += max(value, 0)
        found = followed(reduction, mask)
        assert found.neurons == moved
        assert found.share.mean == pytest.approx(right / moved, abs=1e-12)
        assert found.weighted.mean == pytest.approx(good / size, abs=1e-12)
        assert found.share.low <= found.share.mean <= found.share.high


def test_rank_correlation_is_spearmans(tables):
    one, other, cosine, mean = tables
    other = one + 0.5 * other
    for mask in members(cosine, mean).values():
        found = rank_correlation(one, other, mask)
        assert found.mean == pytest.approx(spearmanr(one[mask], other[mask]).statistic, abs=1e-9)
        assert found.low < found.mean < found.high


def test_rank_correlation_of_a_change_with_itself_is_1_in_every_resample(tables):
    found = rank_correlation(tables[0], tables[0], torch.ones(4, 30, dtype=torch.bool))
    assert (found.low, found.mean, found.high) == pytest.approx((1, 1, 1))


def test_parts_hold_the_edits_own_gains_and_1_elsewhere(tables):
    reduction, cosine, mean, noise = tables
    gains = 1 + 0.1 * noise.float()
    edit = ds.Edit.of(ds.Gains(gains))
    found = parts(edit, reduction, members(cosine, mean), noise.abs(), seed=0)
    right = found["as the rule says"].gains.values
    assert torch.equal(right, torch.where(reduction > 0, gains, 1.0))
    # Both sides of the rule, and the four groups, make the whole again.
    names = ("TP", "TN", "AP", "AN")
    for together in (("as the rule says", "against the rule"), tuple(f"{name} alone" for name in names)):
        product = torch.stack([found[name].gains.values for name in together]).prod(0)
        assert torch.equal(product, gains)
    thirds = [found[f"{name} third of the blocks"].gains.touched for name in ("first", "middle", "last")]
    assert [one.per_block for one in thirds] == [[30, 30, 0, 0], [0, 0, 30, 0], [0, 0, 0, 30]]
    strongest = found["the 100 strongest neurons"].gains.touched
    assert len(strongest) == 100
    assert noise.abs()[strongest.mask].min() >= noise.abs()[~strongest.mask].max()
    assert "the 1,000 strongest neurons" not in found
    shuffled = found["gains shuffled in each block"].gains.values
    assert torch.equal(shuffled.sort(1).values, gains.sort(1).values)
    assert not torch.equal(shuffled, gains)


def test_only_leaves_out_ablations(tables):
    edit = ds.Edit.of(ds.Gains(1 + tables[0].float()), ds.ablate(torch.ones(8), weight=1.0))
    assert only(edit, torch.ones(4, 30, dtype=torch.bool)).ablations == ()


@pytest.mark.slow
def test_the_command_writes_its_tables_and_figure(tmp_path):
    """On a tiny model, with a tuned one whose weights are a little off."""
    lm, stream = tiny("llama"), torch.Generator().manual_seed(0)
    lm.save_pretrained(tmp_path / "base")
    tuned = copied(lm)
    with torch.no_grad():
        for parameter in tuned.model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=stream))
    tuned.save_pretrained(tmp_path / "tuned")
    gains = 1 + 0.3 * torch.randn(lm.n_blocks, lm.d_mlp, generator=stream)
    ds.Edit.of(ds.Gains(gains)).save(tmp_path / "edit")
    command = [BENCHMARKS / "what_moved.py", tmp_path / "base", "--edit", tmp_path / "edit"]
    command += ["--tuned", tmp_path / "tuned", "--limit", "12", "--no-parts", "--out", tmp_path / "out"]
    command += ["--blocks", "-1", "0", "--dtype", "float32"]
    done = script(*command)
    _, complaint = done.communicate()
    assert done.returncode == 0, complaint
    rule = pl.read_parquet(tmp_path / "out" / "rule.parquet")
    assert rule.height == 4 * 2 * 5
    alike = pl.read_parquet(tmp_path / "out" / "alike.parquet")
    assert np.isfinite(alike["edit"].to_numpy()).all()
    assert (tmp_path / "out" / "what-moved.png").stat().st_size > 1_000


def test_an_edit_without_gains_is_refused(tmp_path):
    tiny("llama").save_pretrained(tmp_path / "base")
    ds.Edit.of(ds.ablate(torch.ones(16), weight=1.0)).save(tmp_path / "edit")
    done = script(
        *(BENCHMARKS / "what_moved.py", tmp_path / "base", "--edit", tmp_path / "edit", "--out", tmp_path / "out")
    )
    _, complaint = done.communicate()
    assert done.returncode == 2
    assert "no gains of neurons" in complaint
