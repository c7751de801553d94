"""What an edit costs on neutral text: KL(base‖edited) and the rise of log-perplexity, from one pass.

Only what the base's unembedding reads is stored, d numbers per token. Its logits are computed again from that, a few
tokens at a time. So memory grows with the text but not with the vocabulary, and the KL is exact. KL is smoother than
log-perplexity, since it does not depend on one token of the text, and it is exactly 0 without an edit.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dposcope.data.given.numbers import whole
from dposcope.data.short import short_repr
from dposcope.errors import DposcopeError
from dposcope.evaluation.statistics.comparisons import bootstrap_mean, paired_difference
from dposcope.evaluation.statistics.intervals import Difference, Estimate
from dposcope.model.checks.given import check_lm
from dposcope.model.head.logits import transformed
from dposcope.model.head.unembedding import Unembedding
from dposcope.model.language_model import LanguageModel
from dposcope.processes.shared import shared
from dposcope.training.batches.examples import neutral_windows
from dposcope.training.token_statistics import Reference, token_statistics

_BATCH = 8
"""Windows read at a time."""


@dataclass(frozen=True, eq=False)
class Cost:
    """Cost of one edit, window by window. All windows have the same number of predicted tokens."""

    kl: np.ndarray
    """KL(base‖edited), nats per token, `[windows]`."""
    rise: np.ndarray
    """Log-perplexity of the edited model minus that of the base, nats per token, `[windows]`."""

    __repr__ = short_repr

    @property
    def divergence(self) -> Estimate:
        """Mean KL with its interval over windows. A model that overflows has an infinite one."""
        if not np.isfinite(self.kl).all():
            return Estimate(np.inf, np.inf, np.inf, len(self.kl))
        return bootstrap_mean(self.kl)

    @property
    def increase(self) -> Difference:
        """Mean rise with its interval over windows. A model that overflows has an infinite one."""
        if not np.isfinite(self.rise).all():
            return Difference(np.inf, np.inf, np.inf, len(self.rise))
        return paired_difference(self.rise, np.zeros_like(self.rise))


@dataclass(frozen=True, eq=False)
class NeutralText:
    """Windows of neutral text, read by the base once."""

    ids: Tensor
    """`[W, T]`, on the model's device."""
    hidden: Tensor
    """What the base's unembedding reads where a token is predicted, `[W, T−1, d]`, in the model's precision."""

    __repr__ = short_repr

    @classmethod
    @torch.no_grad()
    def read(
        cls, lm: LanguageModel, text: str, *, windows: int = 32, length: int = 128, seed: int = 0
    ) -> "NeutralText":
        """Draw windows and let the plain model read them.

        Args:
            lm: the base; no intervention may be on it.
            text: neutral text.
            windows: how many are drawn; they may overlap.
            length: tokens of each, the beginning-of-text token counted.
            seed: of the draw.

        Raises:
            DposcopeError: the text is shorter than a window.
        """
        check_lm(lm)
        if whole("windows", windows) < 1:
            raise DposcopeError(f"{windows} windows measure nothing; give at least 1")
        drawn = neutral_windows(lm, text, count=windows, length=length, seed=seed)
        ids = torch.tensor([window.prompt for window in drawn], device=lm.device)
        return cls(ids, torch.cat([_states(lm, part) for part in ids.split(_BATCH)]))

    @torch.no_grad()
    def cost(self, lm: LanguageModel) -> Cost:
        """Compare the edited model with the base on the same windows; batches are shared by the processes of a job.

        Args:
            lm: the same model with an edit on it or folded into it; its unembedding is the base's.
        """
        check_lm(lm)
        head = Unembedding.of(lm.model)
        if self.hidden.shape[-1] != head.weight.shape[-1]:
            raise DposcopeError(
                f"the text was read by a model of width {self.hidden.shape[-1]}, and {lm.name} has "
                f"{head.weight.shape[-1]}; let the plain model of this one read it"
            )

        def compare(ids: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
            targets = ids[:, 1:]
            statistics = token_statistics(
                _states(lm, ids).flatten(0, 1),
                head,
                targets=targets.flatten(),
                reference=Reference(hidden.flatten(0, 1), head),
                kl=True,
            )
            assert statistics.kl is not None
            assert statistics.logp is not None
            assert statistics.reference_logp is not None
            rise = statistics.reference_logp - statistics.logp
            return _means(statistics.kl.view(targets.shape)), _means(rise.view(targets.shape))

        parts = list(zip(self.ids.split(_BATCH), self.hidden.split(_BATCH), strict=True))
        kl, rise = zip(*shared(parts, lambda part: compare(*part)), strict=True)
        return Cost(torch.cat(kl).numpy(), torch.cat(rise).numpy())


def _means(values: Tensor) -> Tensor:
    """Of each row, in float64 on the CPU."""
    return values.double().mean(1).cpu()


def _states(lm: LanguageModel, ids: Tensor) -> Tensor:
    """What the unembedding reads at the places that predict, `[B, T−1, d]`."""
    read = lm.model.base_model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    return transformed(lm.model, read.last_hidden_state[:, :-1])
