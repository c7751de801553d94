"""Several residual streams: how one `[B, T, d]` is read from what blocks pass on, and written to it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from dposcope.data.short import short_repr


class Streams(ABC):
    """What blocks pass on."""

    @property
    def meet_in_model(self) -> bool:
        """Whether the model itself brings them together after its last block, and no module of it does."""
        return False

    @property
    def read_by_norm(self) -> bool:
        """Whether the final norm reads all of them, and mixes them itself."""
        return False

    @abstractmethod
    def fit(self, passed: Tensor, width: int) -> bool:
        """Whether this is what a block passes on in a model of width d."""

    @abstractmethod
    def read(self, passed: Tensor) -> Tensor:
        """The residual stream, `[B, T, d]`."""

    @abstractmethod
    def written(self, passed: Tensor, new: Tensor) -> Tensor:
        """What is passed on instead, so that `read` gives `new`; the same to the bit where `new` is what is read."""

    @abstractmethod
    def joined(self, passed: Tensor) -> Tensor:
        """All streams side by side, `[B, T, n · d]`."""

    @abstractmethod
    def parted(self, joined: Tensor, like: Tensor) -> Tensor:
        """The inverse of `joined`: in the shape in which `like` is passed on."""

    def alike(self, stream: Tensor) -> Tensor:
        """`[…, d]` as what the final norm reads; where that is all streams, they are the same."""
        return stream


@dataclass(frozen=True)
class ActiveStream(Streams):
    """One of several, `[n, B, T, d]`: the one that attention and MLP read (Gemma 3n: AltUp)."""

    index: int

    __repr__ = short_repr

    @property
    def meet_in_model(self) -> bool:
        """By projections of the model."""
        return True

    def fit(self, passed: Tensor, width: int) -> bool:
        """Four dimensions."""
        return passed.ndim == 4 and passed.shape[-1] == width

    def read(self, passed: Tensor) -> Tensor:
        """It alone."""
        return passed[self.index]

    def written(self, passed: Tensor, new: Tensor) -> Tensor:
        """The others stay."""
        return torch.stack([new if stream == self.index else one for stream, one in enumerate(passed)])

    def joined(self, passed: Tensor) -> Tensor:
        """In their order."""
        return passed.permute(1, 2, 0, 3).flatten(2)

    def parted(self, joined: Tensor, like: Tensor) -> Tensor:
        """In their order."""
        return joined.unflatten(-1, (len(like), -1)).permute(2, 0, 1, 3)


@dataclass(frozen=True)
class MeanStream(Streams):
    """The mean of n streams (hyper-connections, https://arxiv.org/abs/2409.19606).

    Each part of a block reads a weighted sum of the streams and writes to all of them, with weights that depend on the
    token. All begin as the embedding, so where the weights never part them, their mean is the one residual stream of
    other models.
    """

    count: int
    """n."""
    flat: bool
    """Whether a block passes on `[B, T, n · d]`, and the final norm reads that, as in Qwen 4; and not `[B, T, n, d]`,
    of which the final norm reads a weighted sum, as in DeepSeek V4."""

    __repr__ = short_repr

    @property
    def read_by_norm(self) -> bool:
        """Where they stand side by side."""
        return self.flat

    def fit(self, passed: Tensor, width: int) -> bool:
        """n streams."""
        return passed.shape[2:] == ((self.count * width,) if self.flat else (self.count, width))

    def read(self, passed: Tensor) -> Tensor:
        """Their mean."""
        return (passed.unflatten(-1, (self.count, -1)) if self.flat else passed).mean(2)

    def written(self, passed: Tensor, new: Tensor) -> Tensor:
        """Each stream takes what the mean gains, so what sets them apart stays."""
        added = new - self.read(passed)
        return passed + (self.alike(added) if self.flat else added.unsqueeze(2))

    def joined(self, passed: Tensor) -> Tensor:
        """As they are, or flattened."""
        return passed if self.flat else passed.flatten(2)

    def parted(self, joined: Tensor, like: Tensor) -> Tensor:
        """As they were."""
        return joined.view_as(like)

    def alike(self, stream: Tensor) -> Tensor:
        """`[…, n · d]` where the final norm reads that."""
        return torch.cat([stream] * self.count, -1) if self.flat else stream


@dataclass(frozen=True)
class AllStreams:
    """All of them side by side, `[B, T, n · d]`."""

    of: Streams

    __repr__ = short_repr

    def read(self, passed: Tensor) -> Tensor:
        """Of what is passed on."""
        return self.of.joined(passed)

    def written(self, passed: Tensor, new: Tensor) -> Tensor:
        """What is passed on instead."""
        return self.of.parted(new, passed)


def residual_streams(model: PreTrainedModel) -> Streams | None:
    """How the residual stream is read where blocks pass on several, by the config; None for a model with one."""
    config = model.config.get_text_config().to_dict()
    active: int | None = config.get("altup_active_idx")
    if active is not None:
        return ActiveStream(active)
    for name in ("hc_mult", "hc_count"):
        if config.get(name):
            return MeanStream(int(config[name]), flat=name == "hc_count")
    return None
