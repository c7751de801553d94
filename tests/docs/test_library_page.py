"""The reference page of the library: it has what can be imported, all of it, once."""

from collections import Counter
from pathlib import Path

import dposcope as ds

PAGE = Path(__file__).parents[2] / "docs/reference/library.md"


def test_every_public_name_is_on_the_page_and_nothing_else():
    listed = [line.removeprefix("::: ").strip() for line in PAGE.read_text().splitlines() if line.startswith("::: ")]
    public = {f"{found.__module__}.{name}" for name in ds.__all__ if hasattr(found := getattr(ds, name), "__module__")}
    assert set(listed) == public
    assert Counter(listed).most_common(1)[0][1] == 1
