"""The page of large models is what its tool writes; its sizes are those of the models."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "tools"))

import scale
from dposcope.model.size import model_size


def test_the_page_is_what_the_tool_writes():
    assert scale.PAGE.read_text(encoding="utf-8") == scale.page()


@pytest.mark.parametrize(
    ("name", "weights", "cache"),
    [("8B", 8.03e9, 131_072), ("32B", 32.76e9, 262_144), ("70B", 70.55e9, 327_680)],
)
def test_sizes_are_those_of_the_models(name, weights, cache):
    """As their makers say; and bytes of a token's keys and values in bfloat16."""
    (config,) = (config for full, config in scale.configs().items() if full.startswith(name))
    found = model_size(scale.without_weights(config).model)
    assert found.parameters == pytest.approx(weights, rel=0.001)
    assert 2 * 2 * found.blocks * found.key_width == cache


def test_all_weights_of_8b_fit_with_the_options_that_the_page_names():
    rows = {
        line.split(" | ")[0]: line
        for line in scale.PAGE.read_text(encoding="utf-8").partition("## 32B")[0].splitlines()
        if line.startswith("| dpo, all weights")
    }
    plain, lean = rows["| dpo, all weights"], rows[f"| {scale.LEAN}"]
    assert f"give {scale.LEAN_OPTIONS}" in plain
    assert "memory does not fit" not in lean


def test_a_model_that_does_not_fit_has_no_time_there():
    rows = [line for line in scale.PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert (cells[3] == "–") == cells[4].startswith("memory does not fit"), row
