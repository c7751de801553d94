import re
from dataclasses import replace

import pytest

from dposcope.errors import DposcopeError
from dposcope.report.edit.page import Condition
from helpers.pages import page, sample


def test_conditions_are_found_by_their_role():
    made = page(controls={"shuffled": {}, "random": {}})
    assert made.base.name == "none"
    assert made.edit_condition.name == "edit"
    assert [condition.name for condition in made.with_role("control")] == ["shuffled", "random"]
    assert made.with_role("paper") == []


def test_changes_are_those_of_all_prompts_where_they_are_given():
    assert page().changes == ([0.8, 0.8], [0.1, 0.1])
    assert page(per_prompt={"none": [0.5, 0.6, 0.7], "edit": [0.1, 0.2, 0.3]}).changes[1] == [0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    ("changes", "mend"),
    [
        ({"conditions": [Condition("none", "Plain model", "base")]}, "1 and 0.*role part, control or paper"),
        (
            {"conditions": [Condition("none", "U", "edit"), Condition("edit", "E", "base")]},
            "base is 'edit'.*compared with 'none'",
        ),
        ({"conditions": [Condition("none", "U", "base"), Condition("edit", "E", "edit")]}, "the scores hold control"),
        (
            {
                "conditions": [
                    Condition("none", "U", "base"),
                    Condition("edit", "E", "edit"),
                    Condition("control", "C", "control"),
                    Condition("control", "C", "control"),
                ]
            },
            "one entry",
        ),
        ({"samples": [replace(sample("p", "a", "b"), continuations={"none": "a"})]}, "sample 1 .*edit and none"),
        ({"samples": [sample("p", "a", "b"), replace(sample("p", "a", "b"), toxicity={"none": 0.1})]}, "sample 2"),
        ({"per_prompt": {"none": [0.1]}}, "give edit and none"),
        ({"per_prompt": {"none": [0.1], "edit": [0.1], "other": [0.1]}}, "no condition that was not scored"),
        ({"per_prompt": {"none": [0.1], "edit": [0.1, 0.2]}}, "one value per prompt"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(changes, mend):
    with pytest.raises(DposcopeError, match=mend) as caught:
        page(**changes)
    assert not re.search(r"\n", str(caught.value))
