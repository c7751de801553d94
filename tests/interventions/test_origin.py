"""What an edit's file says of its making: a stranger may have written it."""

import pytest

from dposcope.errors import DposcopeError
from dposcope.interventions.origin import checked_facts, warning

FACTS = {"fingerprint": "llama-00ff", "negative_control": "shuffled-scores", "scaled_by": 0.5, "source": "anything"}


@pytest.mark.parametrize("scaled_by", [0.5, 1, -2.0])
@pytest.mark.parametrize("trained", ["nothing", "gains"])
def test_facts_that_fit_are_given_back(scaled_by, trained):
    facts = {**FACTS, "scaled_by": scaled_by}
    assert checked_facts(facts, trained, "e.json") == (facts, trained)


def test_facts_may_be_few():
    assert checked_facts({}, "nothing", "e.json") == ({}, "nothing")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fingerprint", 3),
        ("fingerprint", ["llama-00ff"]),
        ("fingerprint", ""),
        ("fingerprint", "a b"),
        ("fingerprint", "a\nb"),
        ("fingerprint", "é"),
        ("fingerprint", "a" * 201),
        ("negative_control", "none"),
        ("negative_control", 1),
        ("negative_control", ["shuffled-scores"]),
        ("scaled_by", True),
        ("scaled_by", "1"),
        ("scaled_by", None),
        ("scaled_by", float("nan")),
        ("scaled_by", float("inf")),
    ],
)
def test_a_fact_of_another_kind_is_told(name, value):
    with pytest.raises(DposcopeError, match=rf"^{name} in e\.json is not .*; make the edit again, or mend that file$"):
        checked_facts({**FACTS, name: value}, "nothing", "e.json")


@pytest.mark.parametrize("facts", [None, [], "facts", 3])
def test_what_is_no_facts_is_told(facts):
    with pytest.raises(DposcopeError, match="says nothing of how the edit was made"):
        checked_facts(facts, "nothing", "e.json")


@pytest.mark.parametrize("trained", [None, "", "weights", 0])
def test_what_was_trained_must_be_told(trained):
    with pytest.raises(DposcopeError, match="does not say what was trained, nothing or gains"):
        checked_facts({}, trained, "e.json")


def test_facts_take_at_most_a_hundred_thousand_characters():
    frame = len('{"told": ""}')
    most = {"told": "a" * (100_000 - frame)}
    assert checked_facts(most, "nothing", "e.json") == (most, "nothing")
    with pytest.raises(DposcopeError, match="says too much of how the edit was made, over 100,000 characters"):
        checked_facts({"told": "a" * (100_001 - frame)}, "nothing", "e.json")


def test_a_control_says_what_it_is():
    assert warning("shuffled-scores").startswith("Negative control, not for use: the scores used to make pairs")
    assert warning("of another version").startswith("Negative control, not for use: of another version. ")
