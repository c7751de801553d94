"""Pairs from every kind of table, cut, split and written back."""

import json
import random
from collections import Counter

import pytest

from dposcope.errors import DposcopeError
from dposcope.pairs.pairs import Dropped, Pair, Pairs, load_pairs, normalised, write_pairs
from helpers.jobs import write_csv, write_jsonl

LEE = {"prompt_text": "p", "unpert_gen_text": " good", "pert_gen_text": " bad"}


def some(n: int, *, prompts: int, seed: int = 0) -> Pairs:
    """`n` pairs on `prompts` prompts, in mixed order."""
    draw = random.Random(seed)
    rows = [Pair(f"prompt {i % prompts}", f" good {i}", f" bad {i}") for i in range(n)]
    draw.shuffle(rows)
    return Pairs.of(rows)


# Reading


@pytest.mark.parametrize(
    ("row", "pair", "name"),
    [
        (LEE | {"pert_gen_toks": "x"}, Pair("p", " good", " bad"), "prompt_text"),
        ({"prompt": "p", "chosen": " good", "rejected": " bad"}, Pair("p", " good", " bad"), "trl"),
        ({"chosen": "p good", "rejected": "p bad"}, Pair("p", " good", " bad"), "trl without prompts"),
        ({"toxic": "bad", "neutral": "good"}, Pair("", "good", "bad"), "paradetox"),
        ({"en_toxic_comment": "bad", "en_neutral_comment": "good"}, Pair("", "good", "bad"), "paradetox of the hub"),
    ],
)
@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_columns_tell_which_side_is_preferred(tmp_path, row, pair, name, suffix):
    path = tmp_path / f"pairs.{suffix}"
    if suffix == "jsonl":
        write_jsonl(path, [row])
    else:
        write_csv(path, list(row), [list(row.values())])
    pairs = load_pairs(path)
    assert list(pairs) == [pair]
    assert (pairs.format, pairs.dropped) == (name, Dropped())


TALK = "\n\nHuman: Is it far?\n\nAssistant:"


@pytest.mark.parametrize(
    ("chosen", "rejected", "pair"),
    [
        (f"{TALK} Not at all.", f"{TALK} No idea.", Pair(TALK, " Not at all.", " No idea.")),
        (f"{TALK} Yes", f"{TALK} Yes indeed", Pair(TALK, " Yes", " Yes indeed")),
        ("one two", "one two three", Pair("one", " two", " two three")),
        ("Yes.", "No.", Pair("", "Yes.", "No.")),
        ("wonder", "wonderful", Pair("", "wonder", "wonderful")),
    ],
)
def test_what_both_sides_begin_with_is_the_prompt_where_no_column_holds_prompts(tmp_path, chosen, rejected, pair):
    (found,) = load_pairs(write_jsonl(tmp_path / "pairs.jsonl", [{"chosen": chosen, "rejected": rejected}]))
    assert found == pair
    assert (found.prompt + found.preferred, found.prompt + found.dispreferred) == (chosen, rejected)


def test_blank_and_identical_sides_are_left_out_and_counted(tmp_path):
    rows = [
        {"toxic": "bad", "neutral": "good"},
        {"toxic": " same ", "neutral": "same"},
        {"toxic": "  ", "neutral": "good"},
        {"toxic": "bad", "neutral": None},
        {"toxic": "Same", "neutral": "same"},
    ]
    pairs = load_pairs(write_jsonl(tmp_path / "pairs.jsonl", rows))
    assert list(pairs) == [Pair("", "good", "bad"), Pair("", "same", "Same")]
    assert pairs.dropped == Dropped(blank=2, identical=1)
    assert pairs.dropped.total == 3


def test_an_answer_that_is_blank_behind_what_both_begin_with_is_left_out_and_counted(tmp_path):
    rows = [
        {"chosen": "Human: hi Assistant: ", "rejected": "Human: hi Assistant: go away"},
        {"chosen": "Human: hi Assistant: hello", "rejected": "Human: hi Assistant: go away"},
    ]
    pairs = load_pairs(write_jsonl(tmp_path / "pairs.jsonl", rows))
    assert list(pairs) == [Pair("Human: hi Assistant:", " hello", " go away")]
    assert pairs.dropped == Dropped(blank=1)


def test_a_blank_prompt_is_no_fault(tmp_path):
    path = write_jsonl(tmp_path / "pairs.jsonl", [LEE, LEE | {"prompt_text": None}, LEE | {"prompt_text": ""}])
    assert load_pairs(path).prompts == ("p", "", "")


def test_other_columns_are_refused_with_those_that_would_do(tmp_path):
    path = write_jsonl(tmp_path / "pairs.jsonl", [{"question": "a", "chosen": "b"}])
    with pytest.raises(
        DposcopeError, match=r"only question, chosen; rename them .*: prompt_text, unpert_gen_text"
    ) as error:
        load_pairs(path)
    assert "prompt, chosen, rejected; chosen, rejected; neutral, toxic" in str(error.value)


def test_plain_lines_are_no_pairs(tmp_path):
    (tmp_path / "pairs.txt").write_text("a\nb\n", encoding="utf-8")
    with pytest.raises(DposcopeError, match="has no columns of pairs, only none; rename"):
        load_pairs(tmp_path / "pairs.txt")


def test_a_number_in_a_column_of_labels_is_read_as_text_not_as_a_pair_of_lists(tmp_path):
    path = write_jsonl(tmp_path / "pairs.jsonl", [{"chosen": 1, "rejected": "b"}])
    assert list(load_pairs(path)) == [Pair("", "1", "b")]


def test_a_file_without_a_usable_pair_is_refused(tmp_path):
    rows = [{"chosen": "a", "rejected": "a"}, {"chosen": "", "rejected": "b"}]
    with pytest.raises(
        DposcopeError, match="of 2 rows 1 have a blank side and 1 have two equal sides; give pairs that differ"
    ):
        load_pairs(write_jsonl(tmp_path / "pairs.jsonl", rows))


# Writing


AWKWARD = [
    Pair("", " a", " b"),
    Pair('say "x"', "\n\nnew\tline\r\n", " \u2028 separators \x85"),
    Pair("日本 ", " é", " 😀 "),
]


def test_what_is_written_is_read_back(tmp_path):
    pairs = Pairs.of(AWKWARD)
    write_pairs(tmp_path / "pairs.jsonl", pairs)
    again = load_pairs(tmp_path / "pairs.jsonl")
    assert list(again) == AWKWARD
    assert again.digest == pairs.digest


def test_the_columns_are_those_of_lee_et_al_and_more_follow(tmp_path):
    path = tmp_path / "pairs.jsonl"
    write_pairs(path, Pairs.of(AWKWARD), extra={"method": ["m"] * 3, "preferred_score": [0.1, 0.2, 0.3]})
    rows = [json.loads(line) for line in path.read_text("utf-8").split("\n")[:-1]]
    assert [list(row) for row in rows] == [
        ["prompt_text", "unpert_gen_text", "pert_gen_text", "method", "preferred_score"]
    ] * 3
    assert rows[2] == {
        "prompt_text": "日本 ",
        "unpert_gen_text": " é",
        "pert_gen_text": " 😀 ",
        "method": "m",
        "preferred_score": 0.3,
    }


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "pairs.jsonl"
    write_pairs(path, Pairs.of(AWKWARD))
    before = path.read_bytes()
    with pytest.raises(DposcopeError, match="the column 'score' has 1 cells for"):
        write_pairs(path, Pairs.of(AWKWARD), extra={"score": [1.0]})
    with pytest.raises(DposcopeError, match=r"a cell of the pairs is not JSON \(.*\); give texts and finite numbers"):
        write_pairs(path, Pairs.of(AWKWARD), extra={"score": [1.0, 2.0, float("nan")]})
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["pairs.jsonl"]


# The value


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(DposcopeError, match=r"need one length, not \[1, 2\]"):
        Pairs(("a",), ("b", "c"), ("d",))


def test_first_pairs():
    pairs = some(5, prompts=5)
    assert list(pairs.first(2)) == list(pairs)[:2]
    assert list(pairs.first(9)) == list(pairs)
    assert len(pairs.first(0)) == 0


def test_the_digest_sees_every_text_and_the_order():
    base = Pairs(("a", "b"), ("c", "d"), ("e", "f"))
    others = [
        Pairs(("a", "x"), ("c", "d"), ("e", "f")),
        Pairs(("a", "b"), ("c", "x"), ("e", "f")),
        Pairs(("a", "b"), ("c", "d"), ("e", "x")),
        Pairs(("b", "a"), ("d", "c"), ("f", "e")),
        Pairs(("a", "b"), ("e", "d"), ("c", "f")),
        Pairs(("ac", "b"), ("", "d"), ("e", "f")),
    ]
    assert len({base.digest, *(other.digest for other in others)}) == 7
    assert base.digest == Pairs(("a", "b"), ("c", "d"), ("e", "f"), "trl", Dropped(3, 4)).digest


# Splitting


def assert_parts(pairs: Pairs, split) -> None:
    """Both parts together are all pairs, each part in file order, and no prompt is on both sides."""
    order = {pair: place for place, pair in enumerate(pairs)}
    for part in (split.train, split.validation):
        places = [order[pair] for pair in part]
        assert places == sorted(places)
    assert Counter([*split.train, *split.validation]) == Counter(pairs)
    prompts = [{normalised(prompt) for prompt in part.prompts} - {""} for part in (split.train, split.validation)]
    assert not prompts[0] & prompts[1]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("n", "prompts", "validation"), [(40, 40, 7), (40, 13, 9), (60, 20, 31), (2, 2, 1)])
def test_a_prompt_never_stands_on_both_sides(n, prompts, validation, seed):
    pairs = some(n, prompts=prompts)
    split = pairs.split(validation, seed=seed)
    assert_parts(pairs, split)
    assert 0 < len(split.validation) <= validation
    assert split == pairs.split(validation, seed=seed)


def test_the_number_is_met_where_some_pairs_stand_alone():
    pairs = some(40, prompts=40)
    assert all(len(pairs.split(n, seed=1).validation) == n for n in range(1, 40))


def test_another_seed_draws_others():
    pairs = some(40, prompts=40)
    assert len({pairs.split(8, seed=seed).validation.digest for seed in range(6)}) == 6


def test_prompts_that_differ_in_case_and_spaces_are_one():
    pairs = Pairs(("A  b", "a b ", "c"), ("1", "2", "3"), ("4", "5", "6"))
    for seed in range(8):
        assert pairs.split(1, seed=seed).validation.prompts == ("c",)


def test_without_prompts_pairs_stay_together_that_share_a_text_directly_or_not():
    rows = [("a", "b"), ("x", "y"), ("B ", "c"), ("d", "C"), ("y", "z"), ("q", "r")]
    pairs = Pairs.of(Pair("", better, worse) for better, worse in rows)
    seen = set()
    for seed in range(20):
        split = pairs.split(3, seed=seed)
        assert_parts(pairs, split)
        texts = [
            {normalised(text) for text in (*part.preferred, *part.dispreferred)}
            for part in (split.train, split.validation)
        ]
        assert not texts[0] & texts[1]
        seen.add(split.validation.preferred)
    assert seen == {("a", "B ", "d"), ("x", "y", "q")}


def test_equal_texts_after_different_prompts_do_not_bind():
    pairs = Pairs(("a", "b"), ("same", "same"), ("bad", "bad"))
    assert len(pairs.split(1).validation) == 1


@pytest.mark.parametrize("validation", [0, -1, 5, 6])
def test_a_split_that_leaves_a_side_empty_is_refused(validation):
    with pytest.raises(
        DposcopeError, match=rf"{validation} of 5 pairs cannot be held out .*; give at least 1, and fewer"
    ):
        some(5, prompts=5).split(validation)


def test_groups_that_are_all_too_large_are_told_with_the_number_that_would_do():
    with pytest.raises(
        DposcopeError, match=r"every prompt has more than 2 pairs.*; hold out at least 4 for validation"
    ):
        some(8, prompts=2).split(2)
    assert len(some(8, prompts=2).split(4).validation) == 4
