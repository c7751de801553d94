"""Pairs from a model's own continuations, against a loop that samples one prompt at a time."""

from dataclasses import replace

import numpy as np
import pytest

from dposcope.errors import DposcopeError
from dposcope.model.generate import Sampling, generate
from dposcope.pairs.pairs import Pair
from dposcope.pairs.sampled import Pairer, Sampled, ScoredPair, _distinct, sample_completions
from helpers.families import TEXTS
from helpers.jobs import softness

OPTIONS = {"samples": 5, "new_tokens": 8, "seed": 3}
GAP, SIDES = 0.05, 0.4
"""Of the extremes; and where harmless ends and toxic begins."""
RANDOM = Pairer(preferred_below=SIDES, dispreferred_from=SIDES, seed=3)


class Softness:
    """`jobs.softness` as a scorer that counts how often it is asked."""

    name = "softness"

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, texts) -> np.ndarray:
        self.asked += 1
        return softness(texts)


def naive_texts(lm, prompts, *, samples, new_tokens, seed) -> list[list[tuple[float, str]]]:
    """Score and text of one continuation at a time, by prompt."""
    found = []
    for p, prompt in enumerate(prompts):
        scored = []
        for j in range(samples):
            sampling = Sampling(top_p=0.95, seed=seed, first_row=p * samples + j)
            (written,) = generate(lm, [prompt], new_tokens=new_tokens, sampling=sampling)
            text = written.text
            if text.strip() and text not in [other for _, other in scored]:
                scored.append((softness([text])[0], text))
        found.append(scored)
    return found


def test_extremes_are_those_of_the_naive_loop(lm):
    expected = []
    for prompt, scored in zip(TEXTS, naive_texts(lm, TEXTS, **OPTIONS), strict=True):
        scored.sort(key=lambda one: one[0])
        for rank in range(min(2, len(scored) // 2)):
            low, high = scored[rank], scored[-1 - rank]
            if high[0] - low[0] > GAP:
                expected.append(ScoredPair(Pair(prompt, low[1], high[1]), low[0], high[0]))
    assert Pairer("extremes", min_gap=GAP).pairs(sample_completions(lm, TEXTS, Softness(), **OPTIONS)) == expected
    assert len(expected) > len(TEXTS), "too few pairs: this tests too little"


def test_random_pairs_are_those_of_the_naive_loop(lm):
    expected = []
    for row, (prompt, scored) in enumerate(zip(TEXTS, naive_texts(lm, TEXTS, **OPTIONS), strict=True)):
        harmless = [one for one in scored if one[0] < SIDES]
        toxic = [one for one in scored if one[0] >= SIDES]
        stream = np.random.default_rng([OPTIONS["seed"], row])
        chosen = [[side[place] for place in stream.permutation(len(side))] for side in (harmless, toxic)]
        for low, high in list(zip(*chosen, strict=False))[:2]:
            expected.append(ScoredPair(Pair(prompt, low[1], high[1]), low[0], high[0]))
    assert replace(RANDOM, most=2).pairs(sample_completions(lm, TEXTS, Softness(), **OPTIONS)) == expected
    assert len(expected) > 2, "too few pairs: this tests too little"


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_neither_batches_nor_parts_change_a_pair(llama, batch_size):
    whole = sample_completions(llama, TEXTS, Softness(), **OPTIONS)
    pairs = RANDOM.pairs(whole)
    parts = [
        sample_completions(
            llama, TEXTS[start : start + 3], Softness(), **OPTIONS, first_row=start, batch_size=batch_size
        )
        for start in range(0, len(TEXTS), 3)
    ]
    assert [pair for part in parts for pair in RANDOM.pairs(part)] == pairs
    assert RANDOM.pairs(sample_completions(llama, TEXTS, Softness(), **OPTIONS | {"seed": 4})) != pairs
    assert replace(RANDOM, seed=4).pairs(whole) != pairs


def test_the_defaults_are_those_that_are_documented(llama):
    asked = {}

    def noting(lm, prompts, **options):
        asked.update(options, prompts=len(prompts))
        return generate(lm, prompts, **options)

    sample_completions(llama, TEXTS[:2], Softness(), write=noting)
    assert asked["prompts"] == 2 * 16
    assert asked["new_tokens"] == 20
    assert asked["sampling"] == Sampling(temperature=1.0, top_p=0.95, seed=0, first_row=0)


def test_the_scorer_is_asked_once(llama):
    scorer = Softness()
    sample_completions(llama, TEXTS, scorer, **OPTIONS)
    assert scorer.asked == 1


def test_progress_counts_continuations(llama):
    calls = []
    sample_completions(llama, TEXTS, Softness(), **OPTIONS, batch_size=16, progress=lambda *call: calls.append(call))
    assert calls == [(16, 40), (32, 40), (40, 40)]


def test_no_prompt_gives_no_pair(llama):
    assert Pairer().pairs(sample_completions(llama, [], Softness())) == []


# Which continuations meet


def sampled(texts, scores, row=0) -> Sampled:
    return Sampled("p", row, _distinct(texts, scores))


def told(found) -> list[tuple[str, str, float, float]]:
    return [(one.pair.preferred, one.pair.dispreferred, one.preferred_score, one.dispreferred_score) for one in found]


def pairs(texts, scores, gap=0.3, most=2):
    return told(Pairer("extremes", min_gap=gap, most=most).pairs([sampled(texts, scores)]))


def test_the_ends_of_the_ranking_meet_from_the_outside_in():
    texts, scores = list("abcdef"), [0.5, 0.0, 1.0, 0.4, 0.9, 0.1]
    assert pairs(texts, scores) == [("b", "c", 0.0, 1.0), ("f", "e", 0.1, 0.9)]
    assert pairs(texts, scores, gap=0.0, most=9) == [("b", "c", 0.0, 1.0), ("f", "e", 0.1, 0.9), ("d", "a", 0.4, 0.5)]
    assert pairs(texts, scores, most=1) == [("b", "c", 0.0, 1.0)]


def test_a_gap_must_be_wider_than_asked():
    assert pairs(["a", "b"], [0.25, 0.5], gap=0.25) == []
    assert pairs(["a", "b"], [0.25, 0.5], gap=0.24) == [("a", "b", 0.25, 0.5)]


def test_one_continuation_stands_in_one_pair_at_most():
    assert pairs(["a", "b", "c"], [0.0, 0.5, 1.0]) == [("a", "c", 0.0, 1.0)]


def test_blank_and_repeated_continuations_are_left_out():
    assert pairs(["", " \n", "a", "a", "b"], [0.0, 0.0, 0.2, 0.2, 0.9]) == [("a", "b", 0.2, 0.9)]
    assert pairs(["", "a"], [0.0, 0.9]) == []
    assert told(Pairer().pairs([sampled(["", "a", "a", "b"], [0.0, 0.1, 0.1, 0.9])])) == [("a", "b", 0.1, 0.9)]


def test_random_pairs_stand_on_both_sides_of_the_thresholds():
    texts, scores = list("abcdefgh"), [0.0, 0.1, 0.19, 0.2, 0.49, 0.5, 0.9, 1.0]
    found = told(Pairer(most=9).pairs([sampled(texts, scores)]))
    assert {better for better, *_ in found} == set("abc")
    assert {worse for _, worse, *_ in found} == set("fgh")
    assert len(found) == 3
    assert told(Pairer(most=2).pairs([sampled(texts, scores)])) == found[:2]
    assert [one.text for one in Pairer().harmless(sampled(texts, scores))] == list("abc")
    strictest = Pairer(preferred_below=0.1, dispreferred_from=1)
    assert told(strictest.pairs([sampled(list("abcd"), [0.09, 0.1, 0.99, 1.0])])) == [("a", "d", 0.09, 1.0)]


def test_a_random_draw_favours_no_rank():
    """Over many prompts every harmless text is preferred equally often; the extremes always take the same one."""
    texts, scores = list("abcdef"), [0.0, 0.05, 0.1, 0.7, 0.8, 0.9]
    for side in (0, 1):
        every = told(Pairer(most=1).pairs(sampled(texts, scores, row) for row in range(600)))
        drawn = [one[side] for one in every]
        counts = [drawn.count(text) for text in sorted(set(drawn))]
        assert len(counts) == 3
        assert min(counts) > 150


def test_a_prompt_with_one_side_only_gives_no_random_pair():
    assert Pairer().pairs([sampled(["a", "b"], [0.0, 0.1])]) == []
    assert Pairer().pairs([sampled(["a", "b"], [0.6, 0.9])]) == []


def test_completions_keep_their_order_and_scores(llama):
    (one, *_) = sample_completions(llama, TEXTS[:2], Softness(), **OPTIONS, first_row=5)
    assert one.prompt == TEXTS[0]
    assert one.row == 5
    assert [text.score for text in one.texts] == softness([text.text for text in one.texts]).tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preferred_below": 0.6}, "preferred completions below 0.6 and dispreferred ones from 0.5 do not part"),
        ({"min_gap": -0.1}, r"the gap of -0\.1 between two scores is outside \[0, 1\); give a value"),
        ({"min_gap": 1.0}, r"the gap of 1\.0"),
        ({"most": 0}, "0 pairs per prompt leave none; give at least 1"),
    ],
)
def test_pairs_without_meaning_are_refused(options, message):
    with pytest.raises(DposcopeError, match=message):
        Pairer(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"samples": 1}, "1 completion per prompt gives no pair; sample at least 2"), ({"top_p": 0.0}, "top_p")],
)
def test_samples_without_meaning_are_refused(llama, options, message):
    with pytest.raises(DposcopeError, match=message):
        sample_completions(llama, TEXTS, Softness(), **options)
