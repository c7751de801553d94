"""The page of model families: a few of its rows are tried again, and what it tells of a model is so."""

import sys
from pathlib import Path

import pytest
import torch
import transformers

sys.path.append(str(Path(__file__).parents[2] / "tools"))

import families
from families import STEPS, Row, every_type, examine, page

WRITTEN = families.PAGE.read_text(encoding="utf-8")
LINES = [line for line in WRITTEN.splitlines() if line.startswith("| `")]
of_this_version = pytest.mark.skipif(
    f"transformers {transformers.__version__}," not in WRITTEN, reason="the page is of another version of transformers"
)


def type_of(line):
    return line.split("`")[1]


@of_this_version
def test_every_type_of_this_transformers_has_its_row():
    assert [type_of(line) for line in LINES] == list(every_type())


@of_this_version
@pytest.mark.parametrize(
    "model_type",
    [
        *("gemma3n_text", "lfm2", "granitemoehybrid", "falcon_h1", "kimi_linear", "qwen2_moe", "deepseek_v3"),
        *("nemotron_h", "llama4_text", "gpt_oss", "bart", "mamba", "bert", "recurrent_gemma", "minimax", "zamba2"),
    ],
)
def test_a_row_is_what_is_found_now(model_type):
    assert examine(model_type).line() in LINES


def test_the_page_counts_what_works():
    rows = [Row("one", STEPS), Row("two", STEPS[:2], "means are off by 1"), Row("three", (), "not tried")]
    told = page(rows)
    assert "Of 3 types, 1 work in every step." in told
    assert "| `two` | yes | yes | – | – | – | – | means are off by 1 |" in told
    whole = sum(line.count(" yes ") == len(STEPS) for line in LINES)
    assert f"Of {len(LINES)} types, {whole} work in every step." in WRITTEN


def test_the_readme_counts_the_same():
    whole = sum(line.count(" yes ") == len(STEPS) for line in LINES)
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert f"[{whole} of {len(LINES)} types](docs/reference/families.md)" in readme


def test_means_of_experts_without_the_routers_weights_are_no_means(monkeypatch):
    whole = families.collect_means

    def unweighted(*args, **options):
        found = whole(*args, **options)
        found.routed.written.copy_(found.mean)
        return found

    monkeypatch.setattr(families, "collect_means", unweighted)
    told = examine("mixtral")
    assert told.passed == ("load",)
    assert told.why.startswith("means with the router's weights are off by")


def test_a_step_that_gives_something_else_is_no_step_that_works(monkeypatch):
    """Means off by a thousandth, texts of another model, a fold that forgets the edit."""
    whole = families.collect_means

    def off(*args, **options):
        found = whole(*args, **options)
        found.mean[0, 0] += 1e-3 * found.mean.abs().max()
        return found

    monkeypatch.setattr(families, "collect_means", off)
    told = examine("llama")
    assert told.passed == ("load",)
    assert told.why.startswith("means are off by")
    monkeypatch.undo()
    monkeypatch.setattr(families, "fold", lambda lm, _edit: lm)
    told = examine("llama")
    assert told.passed == ("load", "means", "edit")
    assert told.why.startswith("folded logits are off by")


def test_what_no_tiny_model_shows_is_told(monkeypatch):
    monkeypatch.setattr(families, "MOST_WEIGHTS", 100)
    assert examine("llama").why.startswith("not tried: no tiny model can be built (0 million weights")
    with pytest.raises(ValueError, match="million weights at the least"):
        families.tiny("llama")


def test_a_random_model_differs_from_place_to_place():
    model = families.tiny("llama")
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[2, 5, 7, 9]])).logits[0]
    assert logits.std(0).min() > 1e-2
