"""What pairs take to make is counted before they are made."""

import pytest

from dposcope.errors import DposcopeError
from dposcope.jobs.estimate.pairs import pairs_work
from dposcope.jobs.pairs.job import run_pairs
from dposcope.jobs.pairs.settings import PairsSettings
from helpers.jobs import Job, make_job
from helpers.tokens_counted import count_tokens


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Job:
    return make_job(tmp_path_factory.mktemp("job"), windows=20)


PLAIN = {"device": "cpu", "dtype": "float32", "scorer": "helpers.jobs:softness", "pairing": "extremes", "min_gap": 0.02}


def settings_of(job: Job, **given) -> PairsSettings:
    return PairsSettings(**PLAIN, prompts=str(job.prompts), **given)


@pytest.mark.parametrize(
    "given",
    [{"samples": 4, "new_tokens": 6}, {"samples": 3, "new_tokens": 5, "use": "all", "batch_size": 2}],
    ids=["half", "all"],
)
def test_its_tokens_are_those_of_the_run(job, given, monkeypatch, tmp_path):
    settings = settings_of(job, **given)
    work = pairs_work(str(job.model), tmp_path / "pairs.jsonl", settings)
    assert not list(tmp_path.iterdir())
    seen = count_tokens(monkeypatch)
    run_pairs(str(job.model), tmp_path / "pairs.jsonl", settings)
    assert sum(one.read for one in work.stages) == seen.read
    assert sum(one.written for one in work.stages) == seen.written > 0


def test_ranking_by_a_direction_reads_comments_twice_and_every_continuation(job, monkeypatch, tmp_path):
    given = {"samples": 3, "new_tokens": 5, "rank_by": "direction", "comments": str(job.comments)}
    settings = settings_of(job, **given)
    work = pairs_work(str(job.model), tmp_path / "pairs.jsonl", settings)
    seen = count_tokens(monkeypatch)
    run_pairs(str(job.model), tmp_path / "pairs.jsonl", settings)
    assert sum(one.written for one in work.stages) == seen.written
    # A text is decoded and tokenised again before it is scored, with a special token more.
    assert sum(one.read for one in work.stages) == pytest.approx(seen.read, rel=0.1)


def test_steering_takes_more_passes_with_more_iterations(job, tmp_path):
    def operations(**given) -> float:
        settings = PairsSettings(
            method="pplm", comments=str(job.comments), learn_text=str(job.neutral), count=4, prompt_tokens=6,
            new_tokens=5, device="cpu", dtype="float32", **given,
        )  # fmt: skip
        work = pairs_work(str(job.model), tmp_path / "pairs.jsonl", settings)
        (steering,) = (one for one in work.stages if one.name == "steering")
        # The plain text and the steered one: four prompts of seven tokens, the last of which
        # is read with the first step.
        assert (steering.read, steering.written) == (4 * 7 + 4 * 6, 2 * 4 * 5)
        return steering.passes[1].operations

    once, twice, ahead = operations(iterations=1), operations(iterations=2), operations(iterations=1, horizon=2)
    # A step is a pass over the newest token and one ahead, each with its backward pass; and one pass at the end.
    assert twice / once == pytest.approx((2 * 2 * 3 + 1) / (2 * 3 + 1))
    assert ahead / once == pytest.approx((3 * 3 + 1) / (2 * 3 + 1))


def test_a_file_that_is_no_jsonl_is_refused(job, tmp_path):
    with pytest.raises(DposcopeError, match=r"does not end in \.jsonl"):
        pairs_work(str(job.model), tmp_path / "pairs.csv", settings_of(job))
