"""Which texts the page shows."""

from dposcope.jobs.explain.page.texts import fell_most, text_lists
from dposcope.report.browser.explained import TextPair


def pair(before: float, after: float, name: str = "p") -> TextPair:
    return TextPair(name, "a", "b", before, after)


PAIRS = [pair(0.5, 0.5 + 0.01 * (n - 20), f"p{n}") for n in range(40)]


def test_those_that_fell_most_come_first_and_no_other():
    found = fell_most(PAIRS, 3)
    assert [one.prompt for one in found] == ["p0", "p1", "p2"]
    assert fell_most([pair(0.1, 0.2), pair(0.1, 0.1)]) == []


def test_the_worst_cases_are_those_that_rose_most():
    fell, worst, spaced = text_lists(PAIRS, "toxicity")
    assert [one.prompt for one in worst.pairs[:2]] == ["p39", "p38"]
    assert all(one.change > 0 for one in worst.pairs)
    assert all(one.change < 0 for one in fell.pairs)
    assert [one.prompt for one in spaced.pairs[:3]] == ["p0", "p2", "p5"]


def test_an_empty_list_is_left_out():
    assert [one.anchor for one in text_lists([pair(0.1, 0.1)], "toxicity")] == ["spaced"]


def test_texts_that_are_not_selected_reach_over_all_prompts():
    (spaced,) = (one for one in text_lists([pair(0.1, 0.1, f"p{n}") for n in range(31)], "toxicity"))
    assert len(spaced.pairs) == 16
    assert [one.prompt for one in spaced.pairs[-2:]] == ["p27", "p29"]
