"""What an evaluation reads and writes is counted before it starts."""

import pytest

from dposcope.jobs.estimate.evaluate import evaluate_work
from dposcope.jobs.evaluate.job import run_evaluate
from dposcope.jobs.evaluate.settings import EvaluateSettings
from helpers.every_command import Ground, make_ground
from helpers.tokens_counted import count_tokens

pytestmark = pytest.mark.usefixtures("light")


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Ground:
    return make_ground(tmp_path_factory.mktemp("ground"))


@pytest.fixture(scope="module")
def harmless(tmp_path_factory) -> str:
    """A scorer by which every text is harmless, so that the ideal has a text for each prompt."""
    path = tmp_path_factory.mktemp("scorer") / "words.txt"
    path.write_text("zzzzzz\n")
    return f"words:{path}"


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"protocol": "reference", "max_windows": 2},
        {"condition": ["scale:alpha=0.3", "mine=edit:{edit}"], "batch_size": 5},
        {"condition": ["scale:alpha=0.3"], "direction": "probe", "direction_block": 0, "direction_rows": 40},
        {"condition": ["ablate:weight=1"], "direction": "token-contrast", "max_passages": 3, "limit": 10},
        {"condition": ["scale:alpha=0.2"], "protocol": "reference"},
        {"protocol": "rtp", "rtp_samples": 3, "limit": 8},
        {"condition": ["other=model:{tuned}", "between=interchange:with={tuned},part=mlp"]},
    ],
    ids=["plain", "reference", "conditions", "probe", "contrast", "reference-edit", "samples", "two-models"],
)
def test_its_tokens_are_those_of_the_run(ground, harmless, given, monkeypatch, tmp_path):
    made = ground.job.settings(scorer=harmless, **given)
    if "condition" in made:
        made["condition"] = [one.format(edit=ground.edit, tuned=ground.tuned) for one in made["condition"]]
    settings = EvaluateSettings(**made)
    work = evaluate_work(str(ground.job.model), tmp_path / "out", settings)
    assert not (tmp_path / "out").exists()
    seen = count_tokens(monkeypatch)
    run_evaluate(str(ground.job.model), tmp_path / "out", settings)
    assert sum(one.read for one in work.stages) == seen.read
    assert sum(one.written for one in work.stages) == seen.written
    assert work.disk > 0


def test_a_server_writes_in_the_models_place(ground, harmless, tmp_path):
    given = ground.job.settings(scorer=harmless)
    here = evaluate_work(str(ground.job.model), tmp_path / "out", EvaluateSettings(**given))
    served = EvaluateSettings(**given, engine="openai", base_url=["http://localhost:1/v1"])
    there = evaluate_work(str(ground.job.model), tmp_path / "out", served)
    assert sum(one.written for one in here.stages) > 0
    assert sum(one.written for one in there.stages) == 0
    assert 0 < sum(one.read for one in there.stages) < sum(one.read for one in here.stages)
