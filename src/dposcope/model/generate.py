"""Batched generation, greedy or sampled, which gives hooks the position of each token.

This is not `model.generate`, because measurements happen inside the loop: recorders must see only the steps that
predict a real token, interventions need the length of the prompt, and a sampled row must not depend on its batch.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, cast, overload

import torch
from torch import Tensor
from torch.nn.functional import pad

from dposcope.data.given.numbers import number, seed_of, whole
from dposcope.data.short import short_repr
from dposcope.data.texts import listed
from dposcope.errors import DposcopeError
from dposcope.memory import halving_batches
from dposcope.model.batches import Batch, Progress, by_row, rows_to_write
from dposcope.model.cache import cache_argument, new_cache, takes_cache
from dposcope.model.chat.prompts import encode_prompts
from dposcope.model.checks.given import check_lm
from dposcope.model.frames import prompted
from dposcope.model.language_model import LanguageModel

_COLDEST: Final = 1e-30
"""Logits of some thousands, divided by it, are still numbers of float32."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are sampled; without it, generation is greedy."""

    temperature: float = 1.0
    """Logits are divided by it; above 0."""
    top_p: float = 1.0
    """Keep the fewest tokens whose probabilities reach this sum, in (0, 1]."""
    seed: int = 0
    """Row r of the prompts has its own random generator, seeded by (seed, first_row + r). 0 … 2³² − 1."""
    first_row: int = 0
    """Number of the first prompt. With it, prompts given in parts are sampled as if they were given at once."""

    def __post_init__(self) -> None:
        """Normalise numbers; refuse values out of range."""
        object.__setattr__(self, "temperature", number("temperature", self.temperature))
        object.__setattr__(self, "top_p", number("top_p", self.top_p))
        object.__setattr__(self, "seed", seed_of(self.seed))
        object.__setattr__(self, "first_row", whole("first_row", self.first_row))
        if not self.temperature > 0:
            raise DposcopeError(f"temperature {self.temperature} is not above 0; for greedy text leave sampling out")
        if not _COLDEST <= self.temperature <= 1 / _COLDEST:
            raise DposcopeError(
                f"temperature {self.temperature} takes logits out of the range of numbers; for greedy text leave "
                "sampling out"
            )
        if not 0 < self.top_p <= 1:
            raise DposcopeError(f"top_p {self.top_p} is outside (0, 1]; give 1 for all tokens")
        if self.first_row < 0:
            raise DposcopeError(f"first_row {self.first_row} is below 0; rows are counted from 0")


@dataclass(frozen=True)
class Continuation:
    """The continuation of one prompt."""

    prompt_ids: list[int]
    """The prompt as the model read it, cut and with special tokens."""
    ids: list[int]
    """Generated tokens without the end-of-text token."""
    text: str
    """`ids` decoded without special tokens."""

    __repr__ = short_repr


def continuations_given(written: object) -> list[Continuation]:
    """Continuations of any kind of list as a list.

    Args:
        written: what was given for them.

    Raises:
        DposcopeError: it is one continuation, no list, or a list of something else.
    """
    if isinstance(written, Continuation):
        raise DposcopeError("one continuation was given, and a list of them belongs here; write it in brackets: […]")
    found = list(cast(Iterable[object], written)) if isinstance(written, Iterable) else [written]
    for one in found:
        if not isinstance(one, Continuation):
            raise DposcopeError(f"a {type(one).__name__} is no continuation; give what dposcope.generate returns")
    return cast(list[Continuation], found)


Watch = Callable[[int, int], None]
"""Called with (prompt, token id) for each token as it is written; its end-of-text token is left out."""


@overload
def generate(  # pyright: ignore[reportOverlappingOverload] — to Python a text is a sequence of texts, too
    lm: LanguageModel,
    prompts: str,
    *,
    new_tokens: int = 20,
    max_prompt_tokens: int | None = 256,
    keep: Literal["start", "end"] = "end",
    sampling: Sampling | None = None,
    batch_size: int | None = None,
    use_cache: bool = True,
    stop_at_end: bool = True,
    progress: Progress | None = None,
) -> Continuation: ...


@overload
def generate(
    lm: LanguageModel,
    prompts: Sequence[str],
    *,
    new_tokens: int = 20,
    max_prompt_tokens: int | None = 256,
    keep: Literal["start", "end"] = "end",
    sampling: Sampling | None = None,
    batch_size: int | None = None,
    use_cache: bool = True,
    stop_at_end: bool = True,
    progress: Progress | None = None,
) -> list[Continuation]: ...


def generate(
    lm: LanguageModel,
    prompts: str | Sequence[str],
    *,
    new_tokens: int = 20,
    max_prompt_tokens: int | None = 256,
    keep: Literal["start", "end"] = "end",
    sampling: Sampling | None = None,
    batch_size: int | None = None,
    use_cache: bool = True,
    stop_at_end: bool = True,
    progress: Progress | None = None,
) -> Continuation | list[Continuation]:
    """Continue one prompt, or each of a list; the result is one `Continuation`, or a list in the order of `prompts`.

    A model that is asked through its chat template (`with_chat`) answers instead.
    With left padding and absolute positions, a batch gives the same results as its members one by one, up to rounding.
    Without a cache each step reads the whole text again, with the same result.

    Args:
        lm: the model.
        prompts: one text, or several.
        new_tokens: most new tokens per prompt (paper: 20).
        max_prompt_tokens: longer prompts are cut (see `encode_prompts`); None: never.
        keep: the side of a long prompt that is kept.
        sampling: how tokens are sampled; None: greedy.
        batch_size: prompts at a time; None: up to 128, see `rows_to_write`.
        use_cache: keep keys and values between steps.
        stop_at_end: stop a row at its end-of-text token. Otherwise it gets all `new_tokens`, end-of-text tokens
            included.
        progress: called after each batch.

    Raises:
        DposcopeError: prompt and continuation exceed the model's context, or a prompt is empty.
    """
    _check(lm, new_tokens)
    _check_sampling(sampling)
    alone = isinstance(prompts, str)
    given = [prompts] if alone else listed("prompts", prompts, conversations=True)
    if not given:
        return []
    encoded = encode_prompts(lm, given, max_tokens=max_prompt_tokens, keep=keep)
    written = continue_ids(
        lm,
        encoded,
        new_tokens=new_tokens,
        sampling=sampling,
        batch_size=batch_size,
        use_cache=use_cache,
        stop_at_end=stop_at_end,
        progress=progress,
    )
    return written[0] if alone else written


@halving_batches
@torch.inference_mode()
def continue_ids(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    *,
    new_tokens: int = 20,
    sampling: Sampling | None = None,
    batch_size: int | None = None,
    use_cache: bool = True,
    stop_at_end: bool = True,
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> list[Continuation]:
    """Continue prompts that are token ids already, as a chat template makes them; see `generate`.

    Args:
        lm: the model.
        prompts: token ids, with the special ones; none empty.
        new_tokens: see `generate`.
        sampling: see `generate`.
        batch_size: see `generate`.
        use_cache: see `generate`.
        stop_at_end: see `generate`.
        progress: called after each batch.
        watch: called for each token as it is written. What it raises ends the generation.

    Raises:
        DposcopeError: see `generate`.
    """
    check_room(lm, prompts, new_tokens)
    ends = torch.tensor(sorted(lm.end_ids) if stop_at_end else [], dtype=torch.long, device=lm.device)
    written = by_row(
        lm,
        prompts,
        lambda batch: _continue(lm, batch, new_tokens, sampling, use_cache, ends, watch),
        batch_size=rows_to_write(lm, prompts, new_tokens, batch_size),
        side="left",
        progress=progress,
    )
    texts = lm.decode(written)
    return [Continuation(list(p), c, t) for p, c, t in zip(prompts, written, texts, strict=True)]


@torch.inference_mode()
def write_batch(lm: LanguageModel, batch: Batch, *, new_tokens: int) -> None:
    """Continue the prompts of one batch greedily, as `generate` does, for someone who looks on.

    Args:
        lm: the model.
        batch: padded on the left, with room for the new tokens (`check_room`).
        new_tokens: see `generate`.
    """
    ends = torch.tensor(sorted(lm.end_ids), dtype=torch.long, device=lm.device)
    _continue(lm, batch, new_tokens, None, True, ends, None)


def check_room(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
    *,
    mend: str = "shorten the prompts, or lower max_prompt_tokens or new_tokens",
) -> None:
    """Refuse prompts that leave no room for new tokens, and a model that cannot write now.

    Args:
        lm: the model; its weights are not read.
        prompts: token ids.
        new_tokens: of each continuation, at most.
        mend: what a person can do where there is no room.

    Raises:
        DposcopeError: prompt and continuation exceed the model's context, no new token is wanted, or the model is in
            training mode.
    """
    _check(lm, new_tokens)
    longest = max((len(ids) for ids in prompts), default=0)
    if longest + new_tokens > lm.context_length:
        raise DposcopeError(
            f"a prompt of {longest:,} tokens and {new_tokens} new ones exceed the model's context of "
            f"{lm.context_length:,}; {mend}"
        )


def _check_sampling(given: object) -> None:
    if given is not None and not isinstance(given, Sampling):
        raise DposcopeError(
            f"sampling {given!r:.40} says not how; give dposcope.Sampling(temperature=…), or None for greedy text"
        )


def _check(lm: LanguageModel, new_tokens: int) -> None:
    check_lm(lm)
    if whole("new_tokens", new_tokens) < 1:
        raise DposcopeError(f"new_tokens {new_tokens} is below 1; give a positive number")
    if lm.model.training:
        raise DposcopeError("the model is in training mode, where dropout makes text random; call model.eval() first")


def _continue(
    lm: LanguageModel,
    batch: Batch,
    new_tokens: int,
    sampling: Sampling | None,
    use_cache: bool,
    ends: Tensor,
    watch: Watch | None,
) -> list[list[int]]:
    ids, mask = batch.ids, batch.mask
    lengths = batch.lengths
    running = torch.ones(len(batch.rows), dtype=torch.bool, device=ids.device)
    use_cache = use_cache and takes_cache(lm.model)
    cache = new_cache(lm.model) if use_cache else None
    cached = cache_argument(lm.model)
    draw = _Draw(sampling, batch.rows) if sampling is not None else None
    steps: list[Tensor] = []
    alive: list[Tensor] = []
    step_ids = ids
    for step in range(new_tokens):
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -step_ids.shape[1] :]
        with prompted(lengths, running, None if step == 0 else 1, batch.rows):
            logits = (
                lm.model(
                    input_ids=step_ids,
                    attention_mask=mask,
                    position_ids=positions,
                    use_cache=use_cache,
                    logits_to_keep=1,
                    **{cached: cache},
                )
                .logits[:, -1]
                .to(ids.device)
            )
        token = likeliest(logits) if draw is None else draw(logits)
        running = running & ~torch.isin(token, ends)
        steps.append(token)
        alive.append(running)
        if watch is not None:
            for row, one, kept in zip(batch.rows, token.tolist(), running.tolist(), strict=True):
                if kept:
                    watch(row, one)
        if step + 1 == new_tokens or not running.any():
            break
        token = torch.where(running, token, lm.pad_id)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], -1)
        if use_cache:
            step_ids = token.unsqueeze(1)
        else:
            ids = step_ids = torch.cat([ids, token.unsqueeze(1)], -1)
    tokens, keeps = torch.stack(steps, 1).tolist(), torch.stack(alive, 1).tolist()
    return [
        [token for token, kept in zip(row, keep, strict=True) if kept] for row, keep in zip(tokens, keeps, strict=True)
    ]


_WIDTHS = (512, 8_192)
"""The nucleus is searched among so many of the most probable tokens, before the whole vocabulary is sorted."""


class _Draw:
    """Samples one token per row. Each row has its own random generator, so a batch equals its members one by one."""

    def __init__(self, sampling: Sampling, rows: list[int]) -> None:
        self._sampling = sampling
        first = sampling.seed * 1_000_003 + sampling.first_row
        self._streams = [torch.Generator().manual_seed(first + row) for row in rows]

    def __call__(self, logits: Tensor) -> Tensor:
        uniform = torch.cat([torch.rand(1, generator=stream, dtype=torch.float64) for stream in self._streams])
        uniform = uniform.to(logits.device).unsqueeze(1)
        probabilities = torch.softmax(logits.float() / self._sampling.temperature, -1)
        if self._sampling.top_p == 1:
            # Row by row: float64 sums of a whole batch would need twice the memory of its probabilities.
            return torch.stack([_inverse(row, u) for row, u in zip(probabilities, uniform, strict=True)])
        # Sorting a vocabulary of 262,144 costs more than the model; the nucleus is nearly always small.
        vocabulary = probabilities.shape[-1]
        token = torch.zeros(len(probabilities), dtype=torch.long, device=logits.device)
        left = torch.arange(len(probabilities), device=logits.device)
        for width in (*(width for width in _WIDTHS if width < vocabulary), vocabulary):
            token[left], enough = self._in_nucleus(probabilities[left], uniform[left], width)
            left = left[~enough]
            if len(left) == 0:
                break
        return token

    def _in_nucleus(self, probabilities: Tensor, uniform: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """Per row: the token at which the cumulative probability passes the share `uniform` of the nucleus, and whether
        the `width` most probable tokens contain the nucleus."""
        kept, order = probabilities.topk(width)
        reached = kept.cumsum(-1, dtype=torch.float64)
        size = ((reached < self._sampling.top_p).sum(-1, keepdim=True) + 1).clamp(max=width)
        place = (reached <= uniform * reached.gather(-1, size - 1)).sum(-1, keepdim=True)
        token = order.gather(-1, place.minimum(size - 1)).squeeze(-1)
        return token, reached[:, -1] >= self._sampling.top_p


def _inverse(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """The token at which the cumulative probability passes the share `uniform` of the total."""
    reached = probabilities.cumsum(-1, dtype=torch.float64)
    return (reached <= uniform * reached[-1]).sum().clamp(max=len(reached) - 1)


_PIECE = 512


def likeliest(logits: Tensor) -> Tensor:
    """`logits.argmax(-1)` with the same index, but faster: the first of equal values, and NaN above all.

    Args:
        logits: `[…, vocabulary]`.

    Returns:
        Indices, `[…]`, int64.
    """
    missing = -logits.shape[-1] % _PIECE
    whole = pad(logits, (0, missing), value=float("-inf")) if missing else logits
    pieces = whole.unflatten(-1, (-1, _PIECE))
    piece = pieces.amax(-1).argmax(-1, keepdim=True)
    place = pieces.take_along_dim(piece.unsqueeze(-1), -2).squeeze(-2).argmax(-1)
    return piece.squeeze(-1) * _PIECE + place
