"""Whether a server's greedy texts are those of the model at hand."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
from typing_extensions import TypedDict

from dposcope.errors import DposcopeError, plural
from dposcope.memory import halving_batches
from dposcope.model.batches import batches
from dposcope.model.frames import prompted
from dposcope.model.generate import Continuation, likeliest
from dposcope.model.language_model import LanguageModel

LEAST: Final = 0.7
"""Share of tokens below which a server has another model: SmolLM2-135M has 0.58 of Gemma-3-270m's."""
USUAL: Final = 0.9
"""The share of the same model in another precision or by other kernels is larger (Gemma-3-270m by llama.cpp: 0.96);
that of the plain model in an edit's place is smaller (0.76)."""


class StoredAgreement(TypedDict):
    """An `Agreement` in a file."""

    same: int
    tokens: int


@dataclass(frozen=True)
class Agreement:
    """How many of a server's greedy tokens are the first choice of the model at hand, after the same text."""

    same: int
    tokens: int

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    @property
    def share(self) -> float:
        """Of the tokens; 1 where there is none."""
        return self.same / self.tokens if self.tokens else 1.0

    @property
    def note(self) -> str | None:
        """What a person should know where the share is not the usual one."""
        if self.share >= USUAL:
            return None
        return (
            f"{plural(self.tokens, 'greedy token')} of the server were read here, and {self.same:,} are the model's "
            "own first choice: it has another precision, or not this edit"
        )

    def check(self, server: str, name: str) -> "Agreement":
        """Itself, if the server has the model.

        Args:
            server: what it is called, for the message.
            name: of the model at hand, for the message.

        Raises:
            DposcopeError: too few of the tokens are the same.
        """
        if self.share < LEAST:
            raise DposcopeError(
                f"{server} does not write what {name} writes: of {plural(self.tokens, 'greedy token')} {self.same:,} "
                "are the model's own first choice; check which model it serves"
            )
        return self


@halving_batches
@torch.inference_mode()
def agreement(lm: LanguageModel, written: Sequence[Continuation], *, batch_size: int | None = None) -> Agreement:
    """Read greedy texts of a server, and compare each token with the model's own first choice in its place.

    Args:
        lm: the model at hand; hooks of an intervention around this call apply, where they act when it writes.
        written: greedy texts, with their prompts.
        batch_size: texts at a time.
    """
    same = tokens = 0
    rows = [[*one.prompt_ids, *one.ids] for one in written]
    for batch in batches(lm, rows, batch_size=batch_size, side="right"):
        lengths = torch.tensor([len(written[row].prompt_ids) for row in batch.rows], device=batch.ids.device)
        with prompted(lengths, rows=batch.rows):
            hidden = lm.model.base_model(
                input_ids=batch.ids, attention_mask=batch.mask, use_cache=False
            ).last_hidden_state
        for place, row in enumerate(batch.rows):
            start, stop = len(written[row].prompt_ids), len(rows[row])
            if stop > start:
                own = likeliest(lm.unembed(hidden[place, start - 1 : stop - 1]))
                same += int((own == batch.ids[place, start:stop].to(own.device)).sum())
        tokens += sum(len(written[row].ids) for row in batch.rows)
    return Agreement(same, tokens)
