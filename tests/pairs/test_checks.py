"""Statistics of pairs, each against a count by hand."""

import json

import numpy as np
import pytest
import torch

from dposcope.errors import DposcopeError
from dposcope.evaluation.scorers import function_scorer
from dposcope.evaluation.statistics.comparisons import bootstrap_mean, bootstrap_ratio, paired_ratio
from dposcope.model.chat.asking import Turn
from dposcope.model.chat.prompts import with_chat
from dposcope.pairs.checks import check_pairs, completion_logppl
from dposcope.pairs.pairs import Dropped, Pair, Pairs
from helpers.chats import PLAIN, with_template
from helpers.families import CIVIL, RUDE, TEXTS, bos_tokenizer, gpt2_like_tokenizer, trace
from helpers.jobs import softness

PAIRS = Pairs.of(
    [
        Pair("the river", " is long", " you idiot"),
        Pair("The  River ", " rose", " dumb thing"),
        Pair("kind words", " cost nothing", " cost nothing "),
        Pair("a day", "", " stupid"),
        Pair("the cat", "the cat sat on the mat", " sat"),
        Pair("", " days", " fool"),
        Pair("", " days and days by the sea", " shut up"),
    ],
    dropped=Dropped(blank=2, identical=5),
)
SCORER = function_scorer(softness, "soft")


# Counts


def test_faults_are_counted_with_those_that_reading_left_out():
    found = check_pairs(PAIRS, None)
    assert (found.count, found.identical, found.blank) == (7, 6, 3)
    assert (found.repeated_prompts, found.prompt_in_text) == (1, 1)
    assert found.lengths is found.scores is found.leakage is found.fluency is None
    assert found.to_json() == {
        "count": 7,
        "identical": 6,
        "blank": 3,
        "repeated_prompts": 1,
        "prompt_in_text": 1,
    }


def test_no_pair_is_refused():
    with pytest.raises(DposcopeError, match="there is no pair to check; give at least one"):
        check_pairs(PAIRS.first(0), None)


@pytest.mark.parametrize("tokenizer", [bos_tokenizer(), gpt2_like_tokenizer()])
def test_lengths_are_tokens_without_special_ones(tokenizer):
    lengths = check_pairs(PAIRS, tokenizer).lengths
    for part, texts in (
        (lengths.prompt, PAIRS.prompts),
        (lengths.preferred, PAIRS.preferred),
        (lengths.dispreferred, PAIRS.dispreferred),
    ):
        counts = [len(tokenizer.encode(text, add_special_tokens=False)) for text in texts]
        assert part.mean == pytest.approx(sum(counts) / len(counts))
        assert part.median == sorted(counts)[3]
        assert part.max == max(counts)
        assert part.p95 == pytest.approx(np.percentile(counts, 95))
        assert type(part.max) is int


# Scores


def test_scores_are_means_with_intervals():
    scores = check_pairs(PAIRS, None, SCORER).scores
    better, worse = SCORER(list(PAIRS.preferred)), SCORER(list(PAIRS.dispreferred))
    wins = [float(b > a) for a, b in zip(better, worse, strict=True)]
    assert 0 < sum(wins) < len(wins)
    assert scores.scorer == "soft"
    assert scores.more_toxic == bootstrap_mean(wins)
    assert scores.preferred == bootstrap_mean(better)
    assert scores.dispreferred == bootstrap_mean(worse)
    assert scores.ratio == paired_ratio(worse, better)


def test_preferred_texts_without_the_concept_have_no_ratio():
    zero = function_scorer(lambda texts: [0.0] * len(texts), "zero")
    scores = check_pairs(PAIRS, None, zero).scores
    assert scores.ratio is None
    assert scores.more_toxic.mean == 0


# Leakage


def test_leakage_counts_validation_pairs_that_share_a_prompt_or_a_text():
    validation = Pairs.of(
        [
            Pair("THE river", " new", " newer"),  # a prompt
            Pair("other", " IS  long", " newest"),  # a text of the same side
            Pair("another", " shut up", " x"),  # a text of the other side
            Pair("", " y", " z"),  # blank prompts are not shared
            Pair("the cat", " rose", " fool"),  # both
        ]
    )
    leakage = check_pairs(PAIRS, None, validation=validation).leakage
    assert (leakage.prompts, leakage.texts, leakage.validation) == (2, 3, 5)


def test_a_split_leaks_no_prompt():
    split = PAIRS.split(2, seed=1)
    assert check_pairs(split.train, None, validation=split.validation).leakage.prompts == 0
    assert check_pairs(PAIRS, None, validation=PAIRS).leakage.prompts == 5


def test_everything_goes_to_json():
    found = check_pairs(PAIRS, bos_tokenizer(), SCORER, PAIRS)
    again = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert again["lengths"]["preferred"]["max"] == found.lengths.preferred.max
    assert again["scores"]["ratio"]["ratio"] == found.scores.ratio.ratio
    assert again["leakage"]["validation"] == 7


# Fluency


READ = Pairs.of(
    Pair(prompt, f" {better}", f" {worse}") for prompt, better, worse in zip(TEXTS[:6], CIVIL, RUDE, strict=True)
)


def naive_losses(lm, prompts, texts):
    """Negative log-likelihood and count of predicted continuation tokens, a whole text at a time, in float64."""
    losses, counts = [], []
    for prompt, text in zip(prompts, texts, strict=True):
        head, ids = (lm.tokenizer(part)["input_ids"] for part in (prompt, prompt + text))
        begin = 0
        while begin < min(len(head), len(ids)) and head[begin] == ids[begin]:
            begin += 1
        logits = trace(lm, ids).logits.double()
        places = [place for place in range(begin, len(ids)) if place > 0]
        log_probabilities = torch.log_softmax(logits, -1)
        losses.append(-sum(float(log_probabilities[place - 1, ids[place]]) for place in places))
        counts.append(len(places))
    return losses, counts


@pytest.mark.parametrize("options", [{}, {"batch_size": 1}, {"batch_size": 4, "chunk": 2}])
def test_log_perplexity_is_that_of_the_naive_loop(lm, options):
    found = completion_logppl(lm, READ, **options)
    for estimate, texts in ((found.preferred, READ.preferred), (found.dispreferred, READ.dispreferred)):
        losses, counts = naive_losses(lm, READ.prompts, texts)
        expected = bootstrap_ratio(losses, counts)
        assert estimate.n == 6
        for part in ("mean", "low", "high"):
            assert getattr(estimate, part) == pytest.approx(getattr(expected, part), rel=1e-5)


def test_a_chat_models_log_perplexity_is_after_its_frame(lm):
    asked = with_chat(with_template(lm, PLAIN), wrap="go on: {prompt}")
    before = (Turn("user", "hi"), Turn("assistant", "ho"))
    pairs = Pairs.of([Pair("who", " a cat", " idiot"), Pair("why", " a mat", " a fool", before)])
    told = ["user: go on: who\nassistant:", "user: hi\nassistant: ho\nuser: go on: why\nassistant:"]
    losses, counts = 0.0, 0
    for head, text in zip(told, pairs.preferred, strict=True):
        alone, ids = (lm.tokenizer(part, add_special_tokens=False)["input_ids"] for part in (head, head + text))
        assert ids[: len(alone)] == alone
        logits = torch.log_softmax(trace(lm, ids).logits.double(), -1)
        losses -= sum(float(logits[place - 1, ids[place]]) for place in range(len(alone), len(ids)))
        counts += len(ids) - len(alone)
    assert completion_logppl(asked, pairs).preferred.mean == pytest.approx(losses / counts, rel=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_without_a_prompt_every_token_counts_that_another_one_precedes(family_lm, family):
    lm = family_lm(family)
    bare = Pairs.of(Pair("", pair.preferred, pair.dispreferred) for pair in READ)
    losses, counts = naive_losses(lm, bare.prompts, bare.preferred)
    length = sum(len(lm.tokenizer.encode(text, add_special_tokens=False)) for text in bare.preferred)
    assert sum(counts) == (length - 6 if family == "gpt2" else length)
    assert completion_logppl(lm, bare).preferred.mean == pytest.approx(sum(losses) / sum(counts), rel=1e-5)


def test_long_texts_lose_the_beginning_of_their_prompt(llama):
    pair = Pair(TEXTS[3], " the river", " idiot")
    whole = llama.tokenizer(pair.prompt + pair.preferred)["input_ids"]
    count = len(whole) - len(llama.tokenizer(pair.prompt)["input_ids"])
    kept = [whole[0], *whole[-(count + 3) :]]
    logits = torch.log_softmax(trace(llama, kept).logits.double(), -1)
    expected = -sum(float(logits[place - 1, kept[place]]) for place in range(len(kept) - count, len(kept))) / count
    found = completion_logppl(llama, Pairs.of([pair]), max_tokens=count + 4)
    assert found.preferred.mean == pytest.approx(expected, rel=1e-5)


def test_a_token_that_crosses_the_boundary_counts(llama):
    """A continuation may change how its prompt ends; from the first changed token on it is the continuation."""
    pairs = Pairs.of([Pair("the ri", "ver is long", "p")])
    head, whole = (llama.tokenizer(text)["input_ids"] for text in ("the ri", "the river is long"))
    assert whole[: len(head)] != head
    losses, counts = naive_losses(llama, pairs.prompts, pairs.preferred)
    assert completion_logppl(llama, pairs).preferred.mean == pytest.approx(losses[0] / counts[0], rel=1e-5)


def test_texts_without_a_predicted_token_are_left_out_and_alone_refused(gpt2):
    short = Pair("", "a", "a")
    with pytest.raises(DposcopeError, match="no text has a token that the model predicts; give longer texts"):
        completion_logppl(gpt2, Pairs.of([short]))
    assert completion_logppl(gpt2, Pairs.of([short, *READ])) == completion_logppl(gpt2, READ)


def test_progress_counts_texts_of_both_sides(llama):
    calls = []
    completion_logppl(llama, READ, batch_size=4, progress=lambda *call: calls.append(call))
    assert calls == [(4, 12), (6, 12), (10, 12), (12, 12)]
