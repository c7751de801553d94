"""Several processes train as one would: what is shared, and what cannot be."""

import json
import shutil

import pytest
from safetensors.torch import load_file

from dposcope.errors import DposcopeError
from dposcope.jobs.dpo.job import run_dpo
from dposcope.jobs.dpo.settings import DpoSettings
from dposcope.jobs.reporter import Quiet
from dposcope.processes.group import Processes
from dposcope.training.objective import Objective
from dposcope.training.schedule import Schedule
from dposcope.training.sharing import Share, Sharing
from helpers.forked import TESTS
from helpers.jobs import make_job
from helpers.preferences import pairs_file
from helpers.rank import PARTS, trained
from helpers.together import script_together


class _Stopped(BaseException):
    """What ends a process: no `except` of ours catches it."""


class _StopAt(Quiet):
    def progress(self, done: int, total: int) -> None:
        """Stop behind the first checkpoint."""
        if total == 4 and done == 3:
            raise _Stopped


@pytest.mark.slow
def test_two_processes_end_as_one(tmp_path):
    """All weights, an adapter and gains; a run of gains goes on in two where one process was killed, and reads the
    reference anew: the main process waits for the files of the other one, which is slower."""
    job, pairs = make_job(tmp_path / "job"), pairs_file(tmp_path / "pairs.jsonl", count=10)
    settings = {
        "pairs": str(pairs),
        "learn_text": str(job.neutral),
        **{"train": "gains", "learning_rate": 5e-2, "warmup_steps": 0, "epochs": 2, "precompute_reference": True},
        **{"batch_size": 4, "micro_batch_size": 2, "validation": 3, "validate_every": 8},
        **{"window_tokens": 12, "window_pool": 9, "dtype": "float32", "device": "cpu"},
    }
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    for folder in (alone, shared):
        folder.mkdir()
    for way in PARTS:
        trained(way, str(job.model), str(pairs), alone)
    run_dpo(str(job.model), alone / "run", DpoSettings(**settings))
    with pytest.raises(_Stopped):
        run_dpo(str(job.model), shared / "run", DpoSettings(**settings), reporter=_StopAt())
    assert list((shared / "run" / "checkpoints").glob("*/checkpoint-2/whole"))
    (reference,) = (shared / "run").glob("reference-*")
    shutil.rmtree(reference)
    work = {"model": str(job.model), "pairs": str(pairs), "folder": str(shared), "run": settings}
    told = script_together(2, TESTS / "helpers/rank.py", json.dumps(work))
    assert [(one.code, one.err) for one in told] == [(0, "")] * 2
    for name in (*PARTS, "run/edit"):
        one, two = (load_file(folder / f"{name}.safetensors") for folder in (alone, shared))
        assert one.keys() == two.keys()
        assert max(float((one[part].double() - two[part].double()).abs().max()) for part in one) < 1e-5, name
    base, tuned = load_file(job.model / "model.safetensors"), load_file(alone / "full.safetensors")
    assert max(float((tuned[name] - base[name]).abs().max()) for name in tuned) > 1e-3
    for name in (*PARTS, "run/training"):
        told = [json.loads((folder / f"{name}.json").read_text("utf-8")) for folder in (alone, shared)]
        curves, theirs = (found if isinstance(found, list) else found["curves"] for found in told)
        for mine, other in zip(curves, theirs, strict=True):
            assert mine.keys() == other.keys()
            for part in mine.keys() & {"step", "loss", "accuracy", "margin", "grad_norm", "eval_loss", "eval_kl"}:
                assert mine[part] == pytest.approx(other[part], rel=1e-4, abs=1e-5), part
    names = [{path.name for path in (folder / "run").iterdir()} for folder in (alone, shared)]
    assert names[0] == names[1]


def sharing(count: int, *, rank: int = 0, batch: int = 8, micro: int | None = None, protocol="strict") -> Sharing:
    schedule = Schedule(batch_size=batch, micro_batch_size=micro)
    return Sharing.of(schedule, Objective(protocol=protocol), Processes(rank, count))


@pytest.mark.parametrize(
    ("count", "batch", "micro", "pairs_at_once", "rounds"),
    [(1, 8, None, 8, 1), (1, 8, 2, 2, 4), (2, 8, 2, 4, 2), (2, 8, None, 8, 1), (4, 4, 1, 4, 1), (8, 8, 2, 8, 1)],
)
def test_a_step_has_the_same_pairs_however_many_share_it(count, batch, micro, pairs_at_once, rounds):
    plan = sharing(count, batch=batch, micro=micro)
    assert (plan.pairs_at_once, plan.rounds) == (pairs_at_once, rounds)
    assert plan.pairs_at_once * plan.rounds == batch


@pytest.mark.parametrize("left", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("micro", [1, 2, 4, 8])
@pytest.mark.parametrize("count", [2, 4, 8])
def test_every_pair_and_window_counts_once_whatever_is_left_over(count, micro, left):
    pairs: dict[int, float] = {}
    windows: dict[int, float] = {}
    for rank in range(count):
        plan = sharing(count, rank=rank, micro=micro)
        parts = plan.micro_batches(range(min(left, plan.pairs_at_once)))
        mine: Share = plan.mine(parts, [{10 * number: 3, 10 * number + 1: 9} for number in range(len(parts))])
        assert mine.pairs
        for totals, members, member_weights in (
            (pairs, mine.pairs, [mine.pair_weight] * len(mine.pairs)),
            (windows, mine.windows, mine.window_weights),
        ):
            for member, weight in zip(members, member_weights, strict=True):
                totals[member] = totals.get(member, 0.0) + weight
    assert pairs == {pair: 1 / len(part) for part in parts for pair in part}
    assert windows == {10 * n + place: share for n in range(len(parts)) for place, share in ((0, 0.25), (1, 0.75))}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"count": 3}, "8 pairs, 8 at a time, cannot be shared by 3 processes; choose a --batch-size"),
        ({"count": 3, "batch": 4, "micro": 1}, "cannot be shared by 3"),
        ({"count": 16}, "cannot be shared by 16"),
        ({"count": 2, "protocol": "reference"}, "averages over padding, .*; give --micro-batch-size 4"),
    ],
)
def test_a_batch_that_cannot_be_shared_is_refused(given, words):
    with pytest.raises(DposcopeError, match=words):
        sharing(**given)
