"""What tests of the search share: a strength that is set on few windows."""

import pytest

from dposcope.jobs.tune import choice
from dposcope.protocols import LEAST_ITEMS


@pytest.fixture(scope="module")
def few_windows():
    """The fewest with an interval, spread over the text; the product's 32 are read by the search of `unchanged`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choice, "WINDOWS", LEAST_ITEMS)
        yield
