"""What tests of the search share: a strength that is set on few windows."""

import pytest

from dposcope.jobs.tune import choice
from dposcope.protocols import LEAST_ITEMS


@pytest.fixture(scope="module")
def few_windows():
    """The fewest with an interval, spread over the text; `unchanged` has a search with the product's own number."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choice, "WINDOWS", LEAST_ITEMS)
        yield
