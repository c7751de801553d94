"""What a training reads, how many steps it takes, and what it holds are counted before it starts."""

import json

import pytest

from dposcope.jobs.dpo.job import run_dpo
from dposcope.jobs.dpo.settings import DpoSettings
from dposcope.jobs.estimate.dpo import dpo_work
from dposcope.training import policy
from helpers.jobs import make_job
from helpers.preferences import pairs_file

GIVEN = {
    "batch_size": 4, "micro_batch_size": 2, "warmup_steps": 2, "validation": 6, "validate_every": 16,
    "window_tokens": 12, "window_pool": 9, "device": "cpu", "dtype": "float32",
}  # fmt: skip


@pytest.mark.parametrize(
    ("train", "given"),
    [("gains", {"epochs": 2}), ("gains", {"epochs": 1, "kl_on": "pairs"}), ("full", {"epochs": 1})],
    ids=["gains", "no-windows", "full"],
)
def test_its_tokens_and_steps_are_those_of_the_run(train, given, monkeypatch, tmp_path):
    job = make_job(tmp_path / "job")
    pairs = pairs_file(tmp_path / "pairs.jsonl")
    settings = DpoSettings(pairs=str(pairs), learn_text=str(job.neutral), train=train, **{**GIVEN, **given})
    work = dpo_work(str(job.model), tmp_path / "out", settings)
    assert not (tmp_path / "out").exists()
    read, plain = 0, policy.read

    def counting(model, batch, **how):
        nonlocal read
        read += int((batch.example >= 0).sum())
        return plain(model, batch, **how)

    monkeypatch.setattr(policy, "read", counting)
    run_dpo(str(job.model), tmp_path / "out", settings)
    (training,) = (one for one in work.stages if one.steps)
    record = json.loads((tmp_path / "out/training.json").read_text())
    assert training.steps == record["steps"]
    assert training.read == read


def test_what_is_trained_decides_the_memory(tmp_path):
    job = make_job(tmp_path / "job")
    pairs = pairs_file(tmp_path / "pairs.jsonl")

    def training(**given) -> float:
        settings = DpoSettings(pairs=str(pairs), learn_text=str(job.neutral), **{**GIVEN, **given})
        work = dpo_work(str(job.model), tmp_path / "out", settings)
        return work.peak.training / (4.0 * work.running.size.parameters)

    # In copies of the weights in float32: gradients, one state of RMSprop or two of AdamW, a reference.
    assert training(train="full") == pytest.approx(3, rel=0.05)
    assert training(train="full", optimizer="adamw") == pytest.approx(4, rel=0.05)
    assert training(train="full", reference_dtype="bfloat16") == pytest.approx(2.5, rel=0.05)
    assert training(train="full", precompute_reference=True) < 2.5
    assert training(train="gains") < 0.2


def test_states_of_the_reference_lie_on_the_disk_meanwhile(tmp_path):
    job = make_job(tmp_path / "job")
    pairs = pairs_file(tmp_path / "pairs.jsonl")
    given = {"pairs": str(pairs), "learn_text": str(job.neutral), "train": "full", **GIVEN}
    plain, stored = (
        dpo_work(str(job.model), tmp_path / "out", DpoSettings(**given, precompute_reference=before))
        for before in (False, True)
    )
    assert stored.scratch > plain.scratch > 0
    assert stored.disk == plain.disk
    assert [one.name for one in stored.stages][1] == "the base reads all texts"
