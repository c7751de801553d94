"""Toxic neurons against loops over neurons and tokens, one vector and one token at a time."""

import pytest
import torch

from dposcope.errors import DposcopeError
from dposcope.neurons.toxic import PromotedTokens, promoted_table, promoted_tokens, toxic_neurons
from helpers.families import VOCABULARY, copied, random_direction
from helpers.naive import ranked_naively
from helpers.naive_lens import naive_logits, ranked

# Among 96 tokens: about one in five holds one of these letters.
LETTERS = ("s", "u")


class Letters:
    """Finds tokens with certain letters toxic; remembers how it was asked."""

    name = "letters"

    def __init__(self):
        self.asked = []

    def __call__(self, tokens):
        self.asked.append(list(tokens))
        return [is_toxic(token) for token in tokens]


def is_toxic(token: str) -> bool:
    return any(letter in token for letter in LETTERS)


def tokens_naively(lm, vector: torch.Tensor, k: int) -> list[str]:
    return ranked(lm, naive_logits(lm, vector), k)


def rows_naively(lm, W: torch.Tensor, n: int, k: int, sign: int) -> list[dict]:
    rows = []
    for rank, (cosine, block, i) in enumerate(ranked_naively(lm, sign * W)[:n], start=1):
        tokens = tokens_naively(lm, sign * lm.value_vectors(block)[i].detach(), k)
        toxic = [is_toxic(token) for token in tokens]
        rows.append(
            {
                "rank": rank,
                "block": block,
                "index": i,
                "cosine": pytest.approx(cosine, rel=1e-11),
                "tokens": tokens,
                "toxic": toxic,
                "toxic_tokens": sum(toxic),
            }
        )
    return rows


def as_pairs(neurons):
    return {tuple(pair) for pair in neurons.mask.nonzero().tolist()}


@pytest.mark.parametrize(("side", "sign"), [("toxic", 1), ("anti-toxic", -1)])
def test_rows_and_sets_are_those_of_loops(lm, side, sign):
    W = random_direction(lm)
    found = toxic_neurons(lm, W, Letters(), n=24, k=3, side=side)
    expected = rows_naively(lm, W, 24, 3, sign)
    assert found.to_polars().to_dicts() == expected
    assert (found.side, found.judge, len(found)) == (side, "letters", 24)
    for n in (1, 10, 24):
        assert as_pairs(found.top(n)) == {(row["block"], row["index"]) for row in expected[:n]}
        assert as_pairs(found.with_toxic_tokens(n)) == {
            (row["block"], row["index"]) for row in expected[:n] if any(row["toxic"])
        }
    assert found.top() == found.top(24)
    assert found.with_toxic_tokens() == found.with_toxic_tokens(24)
    assert 0 < len(found.with_toxic_tokens()) < 24, "a judge that says one thing tests nothing"


def test_anti_toxic_neurons_are_the_toxic_ones_of_the_opposite_model(llama):
    """−W and −v: negate W and every value vector, and toxic and anti-toxic change places."""
    W = random_direction(llama)
    opposite = copied(llama)
    with torch.no_grad():
        for block in range(llama.n_blocks):
            opposite.value_vectors(block).neg_()
    anti = toxic_neurons(llama, W, Letters(), n=10, side="anti-toxic")
    toxic = toxic_neurons(opposite, W, Letters(), n=10)
    assert anti.to_polars().equals(toxic.to_polars())
    assert (anti.aligned.cosine > 0).all()


def test_more_vectors_than_one_chunk_of_the_lens(lm):
    W = random_direction(lm)
    found = toxic_neurons(lm, W, Letters(), n=70, k=4)
    for place in (0, 63, 64, 69):
        block, i = int(found.aligned.block[place]), int(found.aligned.index[place])
        assert list(found.promoted[place].tokens) == tokens_naively(lm, lm.value_vectors(block)[i].detach(), 4)


def test_a_half_precision_model_reads_its_own_vectors(llama):
    lm = copied(llama)
    lm.model.to(torch.bfloat16)
    found = toxic_neurons(lm, random_direction(lm), Letters(), n=12, k=1)
    for one, block, i in zip(found.promoted, found.aligned.block.tolist(), found.aligned.index.tolist(), strict=True):
        logits = naive_logits(lm, lm.value_vectors(block)[i].detach())
        # In bfloat16 tokens may tie for the first place.
        best = {lm.tokenizer.decode([t]) for t in range(VOCABULARY) if logits[t] == logits.max()}
        assert one.tokens[0] in best


def test_the_judge_is_asked_once_about_each_different_token(llama):
    judge = Letters()
    found = toxic_neurons(llama, random_direction(llama), judge, n=40, k=5)
    (asked,) = judge.asked
    assert len(asked) == len(set(asked)) < 200
    assert set(asked) == {token for one in found.promoted for token in one.tokens}


def test_a_direction_and_other_vectors_are_read_alike(lm):
    """Tables 1 and 16."""
    vectors = torch.stack([random_direction(lm, seed) for seed in (3, 4)])
    promoted = promoted_tokens(lm, vectors, Letters(), k=6)
    table = promoted_table(dict(zip(["W", "axis"], promoted, strict=True)))
    for name, vector, row in zip(["W", "axis"], vectors, table.to_dicts(), strict=True):
        tokens = tokens_naively(lm, vector, 6)
        toxic = [is_toxic(token) for token in tokens]
        assert row == {"vector": name, "tokens": tokens, "toxic": toxic, "toxic_tokens": sum(toxic)}
    assert promoted_tokens(lm, vectors[0], Letters(), k=6) == promoted[:1]


def test_one_toxic_token_is_enough_and_none_is_not():
    assert PromotedTokens(("a", "b"), (False, True)).hold_toxic
    assert not PromotedTokens(("a", "b"), (False, False)).hold_toxic


def test_no_vectors_give_an_empty_table(llama):
    assert promoted_tokens(llama, torch.zeros(0, llama.d_model), Letters()) == ()
    assert promoted_table({}).columns == ["vector", "tokens", "toxic", "toxic_tokens"]


@pytest.mark.parametrize("n", [0, -1, 11])
def test_more_than_were_ranked_are_refused(llama, n):
    found = toxic_neurons(llama, random_direction(llama), Letters(), n=10)
    for choose in (found.top, found.with_toxic_tokens):
        with pytest.raises(DposcopeError, match=rf"cannot take the top {n} of 10 ranked neurons; rank more of them"):
            choose(n)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 73}, "cannot take the top 73 of 72 neurons"),
        ({"n": 5, "k": 0}, "k 0 is out of range; give 1 to 96 tokens"),
        ({"n": 5, "side": "kind"}, "side 'kind' is unknown; choose from toxic, anti-toxic"),
    ],
)
def test_settings_out_of_range_are_refused(llama, settings, message):
    with pytest.raises(DposcopeError, match=message):
        toxic_neurons(llama, random_direction(llama), Letters(), **settings)


def test_a_judge_that_miscounts_is_refused(llama):
    class Short:
        name = "short"

        def __call__(self, tokens):
            return [True]

    with pytest.raises(DposcopeError, match="judge short gave 1 answer for"):
        toxic_neurons(llama, random_direction(llama), Short(), n=5)
