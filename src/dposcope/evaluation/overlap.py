"""F1 between predicted and gold token ids (paper 3.3, after Lee et al. 2024)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

GENERATED_TOKENS = 20
"""Tokens generated per prompt throughout the paper, hence also compared in strict."""

REFERENCE_GOLD_TOKENS = 52
"""Where the published code cuts the gold: 32 tokens of prompt and 20 generated."""


@dataclass(frozen=True)
class TokenPair:
    """The two bags of token ids that `token_f1` compares."""

    predicted: tuple[int, ...]
    gold: tuple[int, ...]


def strict_pair(generated: Sequence[int], gold: Sequence[int]) -> TokenPair:
    """The generated tokens against as many of the gold sentence: the first 20 of each.

    `gold` is tokenised without special tokens, or they take places among the 20.
    """
    return TokenPair(tuple(generated[:GENERATED_TOKENS]), tuple(gold[:GENERATED_TOKENS]))


def reference_pair(prompt: Sequence[int], generated: Sequence[int], gold: Sequence[int]) -> TokenPair:
    """Prompt and generation together against the gold cut at 52 tokens, as the published code does.

    The prompt's own words count as predicted ones there, so the figure is not a strict one's.
    """
    return TokenPair((*prompt, *generated), tuple(gold[:REFERENCE_GOLD_TOKENS]))


def token_f1(predicted: Sequence[int], gold: Sequence[int], *, special_ids: frozenset[int]) -> float:
    """F1 of the multiset overlap of two sequences of token ids, in [0, 1].

    A token counts as often as it occurs in both. 0 where nothing overlaps or either side
    has nothing but special tokens. The measure is the mean of this over sentences.

    Args:
        predicted: token ids of the model.
        gold: token ids of the true continuation.
        special_ids: ids left out on both sides, such as BOS, EOS and padding.
    """
    ours = Counter(token for token in predicted if token not in special_ids)
    theirs = Counter(token for token in gold if token not in special_ids)
    overlap = (ours & theirs).total()
    # 2PR / (P + R) with P = overlap / |ours| and R = overlap / |theirs|.
    return 2 * overlap / (ours.total() + theirs.total()) if overlap else 0.0
