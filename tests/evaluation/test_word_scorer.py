"""The scorer of words against plain counting."""

import numpy as np
import pytest

from dposcope.errors import DposcopeError
from dposcope.evaluation.word_scorer import load_word_scorer, word_scorer

WORDS = ["egg", "ice cream", "tomato", "Ham", "ice"]


def naive(text: str) -> float:
    """Word by word, the longest entry first."""
    tokens = "".join(letter if letter.isalnum() else " " for letter in text.lower()).split()
    found = set()
    while tokens:
        two, one = " ".join(tokens[:2]), tokens[0]
        for entry, size in ((two, 2), (one, 1)):
            bare = [entry, entry.removesuffix("s"), entry.removesuffix("es")]
            hits = [word.lower() for word in WORDS if word.lower() in bare]
            if hits:
                found.add(hits[0])
                tokens = tokens[size:]
                break
        else:
            tokens = tokens[1:]
    return 1 - 2.0 ** -len(found)


TEXTS = [
    "two eggs and an egg",
    "Ice cream, ICE CREAMS and tomatoes!",
    "the ham is on ice",
    "hamster, eggplant, nice, iced",
    "nothing of it",
    "",
    "ham-and-egg",
]


def test_scores_are_one_less_a_half_for_each_different_word():
    scores = word_scorer(WORDS, name="list")(TEXTS)
    assert scores.tolist() == [0.5, 0.75, 0.75, 0.0, 0.0, 0.0, 0.75]
    np.testing.assert_array_equal(scores, [naive(text) for text in TEXTS])


def test_entries_of_two_words_bridge_any_space():
    assert word_scorer(["ice cream"], name="list")(["ice\n  cream", "icecream", "ice, cream"]).tolist() == [0.5, 0, 0]


def test_letters_that_mean_something_to_a_pattern_are_letters():
    assert word_scorer(["a.b", "(c"], name="list")(["a.b", "axb", "(c"]).tolist() == [0.5, 0, 0.5]


def test_a_file_has_one_word_a_line(tmp_path):
    file = tmp_path / "list.txt"
    file.write_text("# egg\n\n  ham \n# more\nham\n", "utf-8")
    scorer = load_word_scorer(file)
    assert scorer(["ham", "egg", "more"]).tolist() == [0.5, 0, 0]
    assert scorer.name.startswith("words list.txt ")


def test_the_name_tells_lists_apart():
    """Whoever keeps scores by the scorer's name must not take one list's for another's."""
    names = [word_scorer(words, name="list").name for words in (["a", "b"], ["b", "a", "a"], ["a"])]
    assert names[0] == names[1] != names[2]


@pytest.mark.parametrize("content", ["# nothing\n", "#\n \n"])
def test_a_list_without_a_word_is_refused(tmp_path, content):
    file = tmp_path / "list.txt"
    file.write_text(content, "utf-8")
    with pytest.raises(DposcopeError, match=r"list\.txt holds no word; give one a line"):
        load_word_scorer(file)


def test_the_built_in_list_is_read_by_its_name():
    assert load_word_scorer("builtin:food-talk/words.txt")(["bread and cheese", "a long road"]).tolist() == [0.75, 0]
