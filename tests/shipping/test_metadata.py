"""The head of a card, as a hub reads it."""

from dataclasses import replace

import pytest
import yaml

from dposcope.evaluation.conditions.scores import HELD_OUT
from dposcope.foreign_text import front_matter
from dposcope.shipping.metadata import card_head, licence_in, with_fields
from helpers.pages import page


def read(lines: list[str]) -> dict:
    assert lines[0] == lines[-1] == "---"
    return yaml.safe_load("\n".join(lines[1:-1]))


def test_a_bundled_model_is_named_as_on_the_hub():
    assert read(card_head("gemma-3-270m", tags=["dpo"])) == {
        "library_name": "transformers",
        "base_model": "google/gemma-3-270m",
        "pipeline_tag": "text-generation",
        "tags": ["dposcope", "dpo"],
        "license": "gemma",
    }


def test_of_another_model_no_licence_is_made_up():
    head = read(card_head("some/model", library="peft", tags=[]))
    assert head["base_model"] == "some/model"
    assert head["library_name"] == "peft"
    assert "license" not in head


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: mit\n---\n", "mit"),
        ('---\na: b\nlicense: "apache-2.0"\n---\ntext', "apache-2.0"),
        ("---\na: b\n---\nlicense: mit\n", None),
        ("license: mit\n", None),
        ("", None),
    ],
)
def test_the_licence_of_a_card_is_in_its_head(card, licence):
    assert licence_in(card) == licence


def test_fields_are_added_and_none_is_changed():
    card = '---\nlibrary_name: "transformers"\n---\n\n# A card\n'
    more = with_fields(card, {"license": "mit", "library_name": "other"})
    assert more == '---\nlibrary_name: "transformers"\nlicense: "mit"\n---\n\n# A card\n'
    assert with_fields("# A card\n", {"license": "mit"}) == '---\nlicense: "mit"\n---\n\n# A card\n'


def test_what_is_nested_is_read_back():
    value = [{"name": 'a "b": c\u202e', "value": 0.25, "in": [{"x": "y"}]}]
    assert read(front_matter({"model-index": value})) == {"model-index": value}


def test_prompts_that_the_edit_was_made_from_are_not_called_held_out():
    for about, told in (
        ({}, "held-out prompts of the run"),
        ({HELD_OUT: False}, "prompts of the run, which the edit was made from, too"),
    ):
        head = read(card_head("a-model", tags=[], scores=replace(page().scores, about=about)))
        (result,) = head["model-index"][0]["results"]
        assert result["dataset"]["name"] == f"200 {told}"
