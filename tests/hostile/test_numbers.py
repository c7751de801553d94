"""Numbers that no command can mean."""

import pytest

from helpers.hostile import refused


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "x"])
def test_of_an_edit(tmp_path, text):
    assert refused(["edit", "gemma-3-270m", "--out", tmp_path / "out", "--alpha", text]).startswith(("--alpha", "Inv"))
