"""Concepts: what they name, how a file is read, and that the built-in ones are what they claim."""

import json
import re
from dataclasses import fields, replace

import pytest

from dposcope.data.concept import BUILTIN_CONCEPTS, NEGATIVE_SENTIMENT, TOXICITY, Concept
from dposcope.data.masking import contains_offensive, mask_offensive
from dposcope.data.seeds import load_seeds
from dposcope.errors import DposcopeError
from dposcope.evaluation.scorers import load_scorer
from dposcope.jobs.ingredients.data import read_comments
from dposcope.jobs.settings import ProbeSettings

OTHERS = [concept for concept in BUILTIN_CONCEPTS.values() if concept is not TOXICITY]

WHOLE = {"comments": "texts.csv", "prompts": "prompts.txt", "scorer": "mine/score"}


def written(folder, **values):
    """A concept file of these lines."""
    file = folder / "rain.toml"
    file.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items()), "utf-8")
    return file


# A concept


def test_toxicity_says_what_the_options_say_by_themselves():
    from dposcope.jobs.settings import MeasureSettings

    plain = MeasureSettings().model_dump()
    assert {name: plain[name] for name in TOXICITY.options()} == TOXICITY.options()
    assert TOXICITY.seeds() == load_seeds()
    assert Concept.load(None) is Concept.load("toxicity") is TOXICITY


def test_names_are_shown_with_spaces():
    assert [concept.noun for concept in BUILTIN_CONCEPTS.values()] == ["toxicity", "negative sentiment", "food talk"]


def test_options_leave_out_what_the_concept_does_not_say():
    mine = Concept(
        name="rain", adjective="wet", comments="a.csv", prompts="p.txt", scorer="m:f", judge_comments=("b.csv",)
    )
    assert mine.options() == {
        "comments": "a.csv",
        "text_column": "comment_text",
        "label_column": "toxic",
        "judge_comments": ["b.csv"],
        "prompts": "p.txt",
        "prompt_column": "prompt",
        "scorer": "m:f",
    }


def test_a_function_scores_in_python_but_is_no_option():
    mine = Concept(name="rain", adjective="wet", comments="a", prompts="p", scorer=lambda texts: [0.5] * len(texts))
    assert load_scorer(mine.scorer)(["a", ""]).tolist() == [0.5, 0.0]
    with pytest.raises(DposcopeError, match="scorer of 'rain' is a function; name it"):
        mine.options()


def test_it_reads_its_own_texts_and_prompts(tmp_path):
    (tmp_path / "texts.csv").write_text("text,wet\nit pours,yes\nthe sun shines,no\n", "utf-8")
    (tmp_path / "prompts.csv").write_text("start\nOutside it\nToday\n", "utf-8")
    mine = Concept(
        name="rain",
        adjective="wet",
        comments=str(tmp_path / "texts.csv"),
        text_column="text",
        label_column="wet",
        positive_label="yes",
        prompts=str(tmp_path / "prompts.csv"),
        prompt_column="start",
        scorer="m:f",
    )
    comments = mine.load_comments()
    assert comments.texts == ("it pours", "the sun shines")
    assert comments.labels.tolist() == [True, False]
    assert mine.load_prompts() == ["Outside it", "Today"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": " "}, "a concept's name is blank"),
        ({"adjective": ""}, "a concept's adjective is blank"),
        ({"seeds_with": ("rain",)}, "seed words on one side only"),
        ({"seeds_without": ("sun",)}, "seed words on one side only"),
    ],
)
def test_what_is_no_concept_is_refused(values, message):
    with pytest.raises(DposcopeError, match=message):
        Concept(**{"name": "rain", "adjective": "wet", "comments": "a", "prompts": "p", "scorer": "m:f", **values})


def test_without_seeds_there_is_no_contrast():
    mine = Concept(name="rain", adjective="wet", comments="a", prompts="p", scorer="m:f")
    with pytest.raises(DposcopeError, match=r"'rain' has no seed words .* choose another --direction"):
        mine.seeds()


# A file


def test_a_file_has_the_fields_with_hyphens_or_underscores(tmp_path):
    given = {"text-column": "text", "label_column": "wet", "seeds-with": ["rain"], "seeds_without": ["sun"]}
    made = Concept.load(written(tmp_path, **WHOLE, **given))
    assert (made.name, made.adjective) == ("rain", "rain")
    assert (made.text_column, made.label_column, made.positive_label) == ("text", "wet", None)
    assert (made.seeds().toxic, made.seeds().non_toxic) == (("rain",), ("sun",))
    named = Concept.load(written(tmp_path, **WHOLE, name="rain-talk", adjective="wet"))
    assert (named.name, named.adjective) == ("rain-talk", "wet")


def test_paths_start_at_the_file(tmp_path):
    folder = tmp_path / "concepts"
    folder.mkdir()
    (folder / "judge").mkdir()
    made = Concept.load(written(folder, **{**WHOLE, "judge_comments": ["more.csv"], "scorer": "words:list.txt"}))
    assert made.comments == str(folder / "texts.csv")
    assert made.prompts == str(folder / "prompts.txt")
    assert made.judge_comments == (str(folder / "more.csv"),)
    assert made.scorer == f"words:{folder / 'list.txt'}"
    assert Concept.load(written(folder, **{**WHOLE, "scorer": "judge"})).scorer == str(folder / "judge")


@pytest.mark.parametrize("source", ["hub:owner/name@train", "builtin:prompts.jsonl", "/elsewhere/prompts.txt"])
def test_names_that_are_no_relative_paths_stay(tmp_path, source):
    assert Concept.load(written(tmp_path, **{**WHOLE, "prompts": source})).prompts == source


@pytest.mark.parametrize("scorer", ["profanity", "vader", "unitary/toxic-bert"])
def test_scorers_that_are_names_stay(tmp_path, scorer):
    assert Concept.load(written(tmp_path, **{**WHOLE, "scorer": scorer})).scorer == scorer


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prompts": None}, "has no 'prompts'; a concept needs comments, prompts and scorer"),
        ({"scorer": None}, "has no 'scorer'"),
        ({"comments": None}, "has no 'comments'"),
        (
            {"promts": "p.txt"},
            "has an unknown field 'promts'; choose among name, adjective, comments, text-column",
        ),
        ({"scorer": 3}, 'scorer in .*rain.toml is not a string; write scorer = "…"'),
        ({"seeds-with": "rain"}, "seeds-with in .*rain.toml is not a list of strings"),
        ({"judge-comments": [1]}, "judge-comments in .*rain.toml is not a list of strings"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path, values, message):
    kept = {name: value for name, value in {**WHOLE, **values}.items() if value is not None}
    with pytest.raises(DposcopeError, match=message):
        Concept.load(written(tmp_path, **kept))


@pytest.mark.parametrize("content", [b"name: rain", b"name = \xff"])
def test_what_is_no_toml_is_refused(tmp_path, content):
    file = tmp_path / "rain.toml"
    file.write_bytes(content)
    with pytest.raises(DposcopeError, match=r"rain\.toml is not (TOML|UTF-8)"):
        Concept.load(file)


def test_names_that_are_nothing_are_refused(tmp_path):
    with pytest.raises(DposcopeError, match=r"no concept 'rain'; choose toxicity, negative-sentiment, food-talk, or a"):
        Concept.load("rain")
    with pytest.raises(DposcopeError, match="there is no concept file"):
        Concept.load(tmp_path / "none.toml")


# The built-in concepts


@pytest.mark.parametrize("concept", OTHERS, ids=lambda concept: concept.name)
def test_built_in_data_is_balanced_distinct_and_mild(concept):
    """Both halves alike: the first makes the direction, the second the judge."""
    comments, prompts = concept.load_comments(), concept.load_prompts()
    assert len(comments) == len(set(comments.texts)) == 480
    for half in ("first", "second"):
        counts = comments.half(half).counts
        assert (counts.toxic, counts.non_toxic) == (120, 120)
    assert len(prompts) == len(set(prompts)) >= 100
    assert not set(prompts) & set(comments.texts)
    words = [word for text in (*comments.texts, *prompts) for word in re.findall(r"\w+", text.lower())]
    assert [word for word in words if mask_offensive(word) != word] == []
    assert not any(map(contains_offensive, (*concept.seeds_with, *concept.seeds_without)))


@pytest.mark.parametrize("concept", OTHERS, ids=lambda concept: concept.name)
def test_the_scorer_tells_the_built_in_texts_apart(concept):
    """It saw none of them, so it and the labels agree by what they mean alone."""
    from sklearn.metrics import roc_auc_score

    comments = concept.load_comments()
    assert roc_auc_score(comments.labels, load_scorer(concept.scorer)(comments.texts)) > 0.9


def test_every_field_of_a_concept_can_stand_in_a_file(tmp_path):
    values = {field.name: "x" for field in fields(Concept)}
    values |= {name: ["x"] for name in ("judge_comments", "seeds_with", "seeds_without")}
    assert Concept.load(written(tmp_path, **values)).text_column == "x"


def test_negative_texts_have_negative_sentiment(tmp_path):
    path = tmp_path / "texts.csv"
    path.write_text("comment_text,toxic\nawful,negative\nlovely,positive\n", encoding="utf-8")
    read = replace(NEGATIVE_SENTIMENT, comments=str(path), label_column="toxic").load_comments()
    assert read.labels.tolist() == [True, False]
    settings = ProbeSettings(concept="negative-sentiment", comments=str(path))
    assert read_comments(settings).labels.tolist() == [True, False]
