"""Kinds of numbers that settings take, each with a smallest and a largest one.

A bound is no judgement of taste. Beyond it a number cannot be meant: a slip of the keyboard, or a value at which sums
overflow, memory ends or a run takes years. None is infinite, and none is "not a number": `Settings` forbids these.
"""

from collections.abc import Callable
from typing import Annotated, Any, Final

from pydantic import Field, TypeAdapter, ValidationError

from dposcope.protocols import LEAST_ITEMS

MOST_REPEATS: Final = 1_000
"""Of whole fits, or samples of one prompt: some hundred give every interval that can be told from the next."""
_MOST_SEED: Final = 2**32 - 1 - MOST_REPEATS
"""NumPy and scikit-learn take 2³² − 1; fits that are repeated take the seeds that follow."""
_MOST_ROWS: Final = 100_000_000
"""A table of a gibibyte, the largest that is read, has fewer."""
_MOST_TOKENS: Final = 10_000_000
"""The longest context that a published model has; vocabularies are smaller."""
_MOST_WEIGHT: Final = 1_000_000.0
"""Nothing but the term with such a weight is left of a loss in float32."""
MOST_STRENGTH: Final = 1_000.0
"""Of an edit or of a difference of weights, where 1 is the whole of it; models give noise from 10 on."""

Seed = Annotated[int, Field(ge=0, le=_MOST_SEED)]
BatchSize = Annotated[int, Field(ge=1, le=65_536)]
"""Texts at a time: no device holds more, even of one token each."""

Requests = Annotated[int, Field(ge=1, le=1_024)]
"""At a time: each has a thread and a connection of its own."""

Count = Annotated[int, Field(ge=1, le=_MOST_ROWS)]
"""Of rows, examples, neurons, steps."""
CountOrNone = Annotated[int, Field(ge=0, le=_MOST_ROWS)]
"""The same, where 0 is one."""
Splittable = Annotated[int, Field(ge=4, le=_MOST_ROWS)]
"""Rows that are enough to be split in quarters."""
Tokens = Annotated[int, Field(ge=1, le=_MOST_TOKENS)]
TokensOrAll = Annotated[int, Field(ge=0, le=_MOST_TOKENS)]
"""0: all there are."""
TwoTokens = Annotated[int, Field(ge=2, le=_MOST_TOKENS)]
"""The first one is given, the second predicted."""

Windows = Annotated[int, Field(ge=1, le=1_000_000)]
"""A gibibyte of text has some 250,000 of 1,024 tokens."""
EnoughWindows = Annotated[int, Field(ge=LEAST_ITEMS, le=1_000_000)]
"""Of which an interval can be told."""
Pool = Annotated[int, Field(ge=1, le=100_000)]
"""Windows that are kept in memory, with a number for every token."""

Refits = Annotated[int, Field(ge=0, le=MOST_REPEATS)]
Samples = Annotated[int, Field(ge=1, le=MOST_REPEATS)]
TwoSamples = Annotated[int, Field(ge=2, le=MOST_REPEATS)]
"""Of which one can be better."""
GradientSteps = Annotated[int, Field(ge=0, le=MOST_REPEATS)]
"""Before each token of each text; published are 3 to 10."""
Trials = Annotated[int, Field(ge=1, le=100_000)]
"""Of a search: each takes seconds."""
LensTokens = Annotated[int, Field(ge=1, le=10_000)]
"""That a person reads, for every neuron."""
MOST_BLOCKS: Final = 1_000
Block = Annotated[int, Field(ge=-MOST_BLOCKS, le=MOST_BLOCKS - 1)]
"""From the first, or −1, −2 … from the last. The deepest models that are published have some 130."""
Blocks = Annotated[int, Field(ge=1, le=MOST_BLOCKS)]
Width = Annotated[int, Field(ge=1, le=10_000_000)]
"""Numbers of a position, or neurons of a block: published are some 60,000."""
Parameters = Annotated[int, Field(ge=1, le=10**14)]
"""Published are some 10¹²."""
Rank = Annotated[int, Field(ge=1, le=10_000)]
"""Of an adapter: beyond the width of the model it adds nothing."""

Share = Annotated[float, Field(ge=0, le=1)]
SomeShare = Annotated[float, Field(gt=0, le=1)]
NotAll = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(ge=0, le=_MOST_WEIGHT)]
"""Of a term of a loss."""
SomeWeight = Annotated[float, Field(gt=0, le=_MOST_WEIGHT)]
Strength = Annotated[float, Field(ge=0, le=MOST_STRENGTH)]
SomeStrength = Annotated[float, Field(gt=0, le=MOST_STRENGTH)]
SignedStrength = Annotated[float, Field(ge=-MOST_STRENGTH, le=MOST_STRENGTH)]
Nats = Annotated[float, Field(gt=0, le=1_000)]
"""Per token: to guess among all tokens of a vocabulary costs 13, so that the largest bounds nothing."""
LearningRate = Annotated[float, Field(gt=0, le=10)]
"""A step of either optimiser moves every number by about the rate, and gains begin at 1."""
Epochs = Annotated[float, Field(gt=0, le=10_000)]
StepSize = Annotated[float, Field(ge=0, le=100)]
"""In norms of what is moved."""
Exponent = Annotated[float, Field(ge=0, le=10)]
Temperature = Annotated[float, Field(ge=0.01, le=100)]
"""Below, quotients of logits overflow, and the text is the greedy one; above, every token is as likely."""
Price = Annotated[float, Field(ge=0, le=_MOST_WEIGHT)]
PerMinute = Annotated[float, Field(ge=0.01, le=100_000)]
"""Requests: one in a hundred minutes, up to what no endpoint answers."""
Scale = Annotated[int, Field(ge=1, le=1_000_000)]
"""Of an adapter."""
Norm = Annotated[float, Field(gt=0, le=1e12)]
"""Of a gradient that is not clipped: the largest clips none."""


def within(kind: Any) -> Callable[[Any, Any], None]:
    """A validator for an option that is in no settings.

    Args:
        kind: one of the above.
    """
    adapter: TypeAdapter[Any] = TypeAdapter(kind)

    def check(_type: Any, value: Any) -> None:
        try:
            adapter.validate_python(value)
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"]) from error

    return check
