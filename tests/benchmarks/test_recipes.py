"""The comparison of recipes: every row is what its own parts say, and a second run does nothing again."""

import sys
from pathlib import Path

import pytest

import dposcope as ds
from dposcope.reading import read_object
from helpers.families import random_gains
from helpers.jobs import make_job

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import chat_prompts
import recipes

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("light")]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipes")
    job = make_job(folder / "job", windows=40)
    rows = job.prompts.read_text().splitlines(keepends=True)
    for name, part in (("learn", rows[::2]), ("choose", rows[1::2])):
        (folder / f"{name}.jsonl").write_text("".join(part))
    lm = ds.load(str(job.model), dtype="float32", device="cpu")
    ds.Edit.of(ds.Gains(1 + 0.05 * (random_gains(lm) - 1))).save(folder / "saved")
    arguments = [
        *(str(job.model), "--learn", folder / "learn.jsonl", "--choose", folder / "choose.jsonl"),
        *("--learn-text", job.neutral, "--neutral", job.neutral, "--out", folder / "out", "--dtype", "float32"),
        *("--recipe", "extremes-mixed", "--recipe", "unlikelihood", "--edit", f"saved={folder / 'saved'}"),
        *("--scorers", "helpers.jobs:softness"),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["recipes.py", *map(str, arguments)])
        patch.setattr(recipes, "Pairer", lambda pairing="random", **more: ds_pairer(pairing, **more))
        recipes.main()
        before = {path: path.read_bytes() for path in sorted((folder / "out").rglob("measured.json"))}
        recipes.main()
    assert {path: path.read_bytes() for path in before} == before
    return folder


def ds_pairer(pairing, **more):
    """Thresholds that a tiny model's texts fall on both sides of."""
    from dposcope.pairs.sampled import Pairer

    return Pairer(pairing, 0.4, 0.4, 0.02, **more)


def test_every_recipe_and_saved_edit_has_a_row(done, capsys):
    for name in ("extremes-mixed", "unlikelihood", "saved"):
        found = recipes.Measured.from_json(read_object(done / "out" / name / "measured.json"))
        assert 0 < found.strength <= recipes.MOST
        assert found.harmless.mean == pytest.approx(recipes.COST, abs=0.03) or found.strength == recipes.MOST
    losses = [
        read_object(done / "out" / name / "training.json")["objective"] for name in ("extremes-mixed", "unlikelihood")
    ]
    assert [(one["loss"], one["unlikelihood"], one["kl_on"]) for one in losses] == [
        ("dpo", 0.0, "mixed"),
        ("likelihood", 1.0, "mixed"),
    ]


def test_a_chat_prompt_ends_where_the_answer_begins(tmp_path):
    job = make_job(tmp_path / "job")
    lm = ds.load(str(job.model), dtype="float32", device="cpu")
    with pytest.raises(ds.DposcopeError, match="has no chat template; name a chat model"):
        chat_prompts.behind_template(lm, ["a"])
    messages = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}"
    lm.tokenizer.chat_template = messages + "{% if add_generation_prompt %}<me>{% endif %}"
    assert chat_prompts.behind_template(lm, ["a", "b"]) == [
        "<user>Continue this text: a</><me>",
        "<user>Continue this text: b</><me>",
    ]
