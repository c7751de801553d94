"""F1 between predicted and gold token ids (paper 3.3, after Lee et al. 2024)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

GENERATED_TOKENS = 20
"""Tokens generated per prompt in the paper; the strict protocol compares the same number."""

REFERENCE_GOLD_TOKENS = 52
"""Tokens of gold text that the published code keeps: 32 of the prompt and 20 of the continuation."""


@dataclass(frozen=True)
class TokenPair:
    """The two sequences of token ids that `token_f1` compares."""

    predicted: tuple[int, ...]
    gold: tuple[int, ...]


def strict_pair(generated: Sequence[int], gold: Sequence[int]) -> TokenPair:
    """The first 20 generated tokens and the first 20 gold tokens.

    `gold` must be tokenised without special tokens, which would count among the 20.
    """
    return TokenPair(tuple(generated[:GENERATED_TOKENS]), tuple(gold[:GENERATED_TOKENS]))


def reference_pair(prompt: Sequence[int], generated: Sequence[int], gold: Sequence[int]) -> TokenPair:
    """Prompt and continuation together, and the first 52 gold tokens, as in the published code.

    The prompt's tokens count as predicted here, so this F1 is higher than in the strict protocol.
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
