"""PPLM, batched: generation steered along a direction by perturbing the key-value cache, not the weights.

Dathathri et al. 2020, *Plug and Play Language Models*. Before each new token, gradient ascent changes the cached keys
and values of the text so far. The objective is an attribute model: here the projection of the residual stream on a
direction. The token is then chosen from a mixture of the perturbed and the unperturbed prediction.

Differences from the published code, with reasons:

- The objective is the mean projection over the newest position and `horizon` further positions. The published objective
  also includes every earlier position of the unperturbed model. That is a constant: for a linear attribute it changes
  only the length of the gradient. The newest position contributes its gradient here; it is detached in the published
  code.
- The further positions read the perturbed cache (published: the unperturbed cache), so the objective is computed on the
  cache that is used.
- A step is a share of the norm of each cached tensor, so one step size fits every layer and model.
- Each token starts from the unperturbed cache (published: perturbations accumulate over the text), so a token depends
on
  the text so far and on nothing else.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from transformers import DynamicCache

from dposcope.data.given.numbers import number, seed_of, whole
from dposcope.data.short import short_repr
from dposcope.data.texts import listed
from dposcope.directions.direction import Direction, as_direction
from dposcope.errors import DposcopeError
from dposcope.memory import halving_batches
from dposcope.model.batches import Batch, batches
from dposcope.model.cache import (
    cache_argument,
    cached_tensors,
    check_keys_and_values,
    copied,
    new_cache,
    positions_to_shift,
    row_norms,
    with_tensors,
)
from dposcope.model.chat.prompts import encode_prompts
from dposcope.model.checks.given import check_lm
from dposcope.model.frames import Frame, prompted
from dposcope.model.generate import Continuation, Progress, likeliest
from dposcope.model.hooks import hooked, residual_site
from dposcope.model.language_model import LanguageModel
from dposcope.processes.shared import check_progress


@dataclass(frozen=True)
class Perturbation:
    """Strength and trade-offs of the steering."""

    step_size: float = 0.02
    """Length of one step, as a share of the norm of the cached keys or values of a block and row (published: 0.02 to
    0.04, in the units of the cache). 0.01 steers less, and the text is more fluent."""
    iterations: int = 2
    """Gradient steps before each token (published: 3, with a discriminator 10); 0: no steering."""
    horizon: int = 1
    """Positions to look ahead, each with the expected embedding of the previous prediction as input (published: 1)."""
    window: int = 0
    """Perturb only so many of the most recent cached tokens; 0: all (published: 0)."""
    gamma: float = 1.0
    """Exponent γ of the gradient's norm (published: 1.0 to 1.5). At 1 every block changes by `step_size`; below 1,
    blocks with a larger gradient change more."""
    gm_scale: float = 0.8
    """Exponent gm of the perturbed model, p ∝ perturbed^gm · unperturbed^(1−gm), in [0, 1] (published: 0.9 to 0.95)."""
    kl_scale: float = 0.01
    """Weight of KL(perturbed‖unperturbed) of the next token in nats, relative to the projection in class distances
    (published: 0.01)."""
    top_k: int = 10
    """Choose among so many of the most probable tokens (published: 10); 0: all."""
    sample: bool = False
    """Sample a token; otherwise generation is greedy (published: both)."""
    seed: int = 0
    """With `sample`, row r has its own random generator, seeded by (seed, r)."""

    __repr__ = short_repr

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        for name in ("step_size", "gamma", "kl_scale"):
            value: float = getattr(self, name)
            if not (math.isfinite(number(name, value)) and value >= 0):
                raise DposcopeError(f"{name} is {value}; give a finite number of 0 or more")
        for name in ("iterations", "horizon", "window", "top_k"):
            count: int = getattr(self, name)
            if whole(name, count) < 0:
                raise DposcopeError(f"{name} {count} is below 0; give 0 or more")
        object.__setattr__(self, "seed", seed_of(self.seed))
        if not 0 <= number("gm_scale", self.gm_scale) <= 1:
            raise DposcopeError(
                f"gm_scale {self.gm_scale} is outside [0, 1]; 0 is the unperturbed model, 1 the perturbed model"
            )


@halving_batches
def perturbed_continuations(
    lm: LanguageModel,
    prompts: Sequence[str],
    direction: Direction | Tensor,
    settings: Perturbation = Perturbation(),
    *,
    new_tokens: int = 20,
    max_prompt_tokens: int | None = 64,
    keep: Literal["start", "end"] = "end",
    batch_size: int | None = None,
    first_row: int = 0,
    progress: Progress | None = None,
) -> list[Continuation]:
    """Continue each prompt, steered towards the positive side of a direction; in the order of `prompts`.

    Weights, their `requires_grad` and `.grad`, and the model's mode are not changed. Rows are independent, so a batch
    equals its members one by one, up to rounding. A prompt of a single token has no cache to perturb, so its first new
    token is that of the unperturbed model.

    Args:
        lm: the model.
        prompts: texts.
        direction: the attribute; the residual stream is read at its block, before the final norm. A vector `[d]` is
            read at the last block.
        settings: strength and trade-offs.
        new_tokens: most new tokens per prompt (paper: 20); a row stops at its end-of-text token.
        max_prompt_tokens: longer prompts are cut; None: never.
        keep: the side of a long prompt that is kept.
        batch_size: prompts at a time.
        first_row: number of the first prompt, so that a part of a list is sampled as in the whole list.
        progress: called after each batch.

    Raises:
        DposcopeError: the direction does not fit the model, prompt and continuation exceed the context, a prompt is
            empty, the model is in training mode, its inputs are not a scaled embedding, or its cache holds more than
            keys and values.
    """
    check_lm(lm)
    check_progress(progress)
    prompts = listed("prompts", prompts, conversations=True)
    _check_settings(settings)
    first_row = whole("first_row", first_row)
    check_keys_and_values(lm.model)
    if whole("new_tokens", new_tokens) < 1:
        raise DposcopeError(f"new_tokens {new_tokens} is below 1; give a positive number")
    if lm.model.training:
        raise DposcopeError("the model is in training mode, where dropout makes text random; call model.eval() first")
    direction = as_direction(direction, lm)
    if not -lm.n_blocks <= direction.block < lm.n_blocks:
        raise DposcopeError(
            f"the direction is of block {direction.block}, and the model has {lm.n_blocks} blocks; make the direction "
            "from this model"
        )
    if not prompts:
        return []
    encoded = encode_prompts(lm, prompts, max_tokens=max_prompt_tokens, keep=keep)
    longest = max(len(ids) for ids in encoded)
    ahead = max(settings.horizon - 1, 0)
    if longest + new_tokens + ahead > lm.context_length:
        raise DposcopeError(
            f"a prompt of {longest:,} tokens, {new_tokens} new ones and {ahead} beyond them exceed the model's context "
            f"of {lm.context_length:,}; lower max_prompt_tokens, new_tokens or horizon"
        )
    written: list[list[int]] = [[] for _ in encoded]
    done = 0
    newest = _Newest()
    # A caller's inference_mode would leave no gradient.
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        hooked(lm, [(residual_site(lm, direction.block % lm.n_blocks), newest)]),
    ):
        for batch in batches(lm, encoded, batch_size=batch_size, side="left"):
            steps = _Steps(lm, direction, settings, batch, newest)
            draw = _Draw(settings, [first_row + row for row in batch.rows]) if settings.sample else None
            for row, ids in zip(batch.rows, _write(steps, draw, new_tokens), strict=True):
                written[row] = ids
            done += len(batch.rows)
            if progress is not None:
                progress(done, len(encoded))
    texts = lm.decode(written)
    return [Continuation(p, c, t) for p, c, t in zip(encoded, written, texts, strict=True)]


def _check_settings(given: object) -> None:
    if not isinstance(given, Perturbation):
        raise DposcopeError(f"settings is a {type(given).__name__}; give dposcope.Perturbation(…)")


def _write(steps: "_Steps", draw: "_Draw | None", new_tokens: int) -> list[list[int]]:
    """Token ids of each row, up to its end of text."""
    ends = torch.tensor(sorted(steps.lm.end_ids), dtype=torch.long, device=steps.lm.device)
    running = torch.ones_like(steps.newest, dtype=torch.bool)
    tokens: list[Tensor] = []
    alive: list[Tensor] = []
    for _ in range(new_tokens):
        scores = steps.scores(running)
        token = likeliest(scores) if draw is None else draw(scores)
        running = running & ~torch.isin(token, ends)
        tokens.append(token)
        alive.append(running)
        if not running.any():
            break
        steps.append(torch.where(running, token, steps.lm.pad_id))
    rows = zip(torch.stack(tokens, 1), torch.stack(alive, 1), strict=True)
    return [row[kept].tolist() for row, kept in rows]


class _Newest:
    """The residual stream at the newest position of the last pass, `[B, d]`, with its gradient."""

    stream: Tensor

    def __call__(self, stream: Tensor, _frame: Frame) -> None:
        self.stream = stream[:, -1]


@dataclass(frozen=True, eq=False)
class _Pass:
    """The result of one pass over one more token per row."""

    normed: Tensor
    """After the final norm, `[B, d]`."""
    stream: Tensor
    """At the end of the direction's block, `[B, d]`."""
    cache: DynamicCache
    """The cache, including this token."""
    mask: Tensor
    """`[B, T]`, including this token's column."""


class _Steps:
    """A batch of texts that grows by one token at a time, with the scores of the next token."""

    def __init__(
        self, lm: LanguageModel, direction: Direction, settings: Perturbation, batch: Batch, newest: _Newest
    ) -> None:
        self.lm = lm
        self._settings = settings
        self._seen = newest
        self._lengths = batch.lengths
        self._weights = (direction.vector / direction.norm**2).to(lm.device_of_block(direction.block % lm.n_blocks))
        self._embedding_scale = _embedding_scale(lm) if settings.horizon > 0 else 1.0
        self._precise = torch.promote_types(lm.dtype, torch.float32)
        self.newest = batch.ids[:, -1]
        self.mask = batch.mask
        self.cache = new_cache(lm.model)
        """Unperturbed keys and values of all tokens but the newest; a perturbed cache is never kept."""
        self._next_cache: DynamicCache | None = None
        if batch.ids.shape[1] > 1:
            mask = batch.mask[:, :-1]
            with prompted(self._lengths):
                lm.model.base_model(
                    input_ids=batch.ids[:, :-1],
                    attention_mask=mask,
                    position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
                    use_cache=True,
                    **{cache_argument(lm.model.base_model): self.cache},
                )

    def append(self, token: Tensor) -> None:
        """Append `token`, `[B]`. Call `scores` before."""
        assert self._next_cache is not None
        self.cache, self._next_cache = self._next_cache, None
        self.newest = token
        self.mask = _longer(self.mask)

    def scores(self, running: Tensor) -> Tensor:
        """Log-probabilities of the next token up to a constant, `[B, vocabulary]`: the mixture of both models."""
        settings = self._settings
        with prompted(self._lengths, running, 1):
            if settings.iterations == 0 or self.cache.get_seq_length() == 0:
                read = self._read(self.cache, self.mask, ids=self.newest)
                self._next_cache = read.cache
                return self._log_probabilities(read)
            places = positions_to_shift(self.cache, self.mask[:, :-1], settings.window)
            sizes = [row_norms(tensor, place) for tensor, place in zip(cached_tensors(self.cache), places, strict=True)]
            # In half precision most of a small step would be lost by rounding.
            moves = [torch.zeros_like(tensor, dtype=self._precise) for tensor in cached_tensors(self.cache)]
            plain: Tensor | None = None
            for _ in range(settings.iterations):
                with torch.enable_grad():
                    leaves = [move.requires_grad_() for move in moves]
                    read = self._read(self._perturbed(leaves), self.mask, ids=self.newest)
                    own = self._log_probabilities(read)
                    gain = self._gain(read, own, plain)
                    slopes = torch.autograd.grad(gain.sum(), leaves, materialize_grads=True)
                if plain is None:  # nothing is perturbed yet, so this is the unperturbed model
                    plain = own.detach()
                    self._next_cache = with_tensors(
                        read.cache, [tensor.detach() for tensor in cached_tensors(read.cache)]
                    )
                moves = [
                    move.detach() + _step(slope, place, size, settings)
                    for move, slope, place, size in zip(moves, slopes, places, sizes, strict=True)
                ]
            assert plain is not None
            perturbed = self._log_probabilities(self._read(self._perturbed(moves), self.mask, ids=self.newest))
        return settings.gm_scale * perturbed + (1 - settings.gm_scale) * plain

    def _gain(self, read: _Pass, own: Tensor, plain: Tensor | None) -> Tensor:
        """The objective per row, `[B]`: the mean projection x·W/|W|² minus the weighted KL divergence.

        `plain` is None for the unperturbed model, where the divergence is 0 and has no gradient.
        """
        streams = [read.stream]
        log_probabilities = own
        for step in range(self._settings.horizon):
            if step > 0:
                log_probabilities = self._log_probabilities(read)
            read = self._read(read.cache, _longer(read.mask), embedding=self._expected_embedding(log_probabilities))
            streams.append(read.stream)
        gain = torch.stack([stream.double() @ self._weights for stream in streams]).mean(0).to(own.device)
        if plain is None or self._settings.kl_scale == 0:
            return gain
        return gain - self._settings.kl_scale * (own.exp() * (own - plain)).sum(-1, dtype=torch.float64)

    def _read(
        self, cache: DynamicCache, mask: Tensor, *, ids: Tensor | None = None, embedding: Tensor | None = None
    ) -> _Pass:
        """Read one token per row, by ids `[B]` or embedding `[B, d]`, after `cache`, which is not changed."""
        grown = copied(cache)
        states = self.lm.model.base_model(
            input_ids=None if ids is None else ids.unsqueeze(1),
            inputs_embeds=None if embedding is None else embedding.unsqueeze(1),
            attention_mask=mask,
            position_ids=mask.sum(-1, keepdim=True) - 1,
            use_cache=True,
            **{cache_argument(self.lm.model.base_model): grown},
        ).last_hidden_state
        return _Pass(states[:, -1], self._seen.stream, grown, mask)

    def _log_probabilities(self, read: _Pass) -> Tensor:
        # Where the next token is read: its embedding, too, is made from them.
        return torch.log_softmax(self.lm.unembed(read.normed), -1, dtype=self._precise).to(self.lm.device)

    def _expected_embedding(self, log_probabilities: Tensor) -> Tensor:
        """The expected input embedding of a token with these probabilities, `[B, d]`."""
        table: Tensor = self.lm.model.get_input_embeddings().weight  # pyright: ignore[reportAssignmentType]
        return (log_probabilities.exp().to(table.dtype) @ table) * self._embedding_scale

    def _perturbed(self, moves: Sequence[Tensor]) -> DynamicCache:
        pairs = zip(cached_tensors(self.cache), moves, strict=True)
        return with_tensors(self.cache, [(tensor.to(self._precise) + move).to(tensor.dtype) for tensor, move in pairs])


def _embedding_scale(lm: LanguageModel) -> float:
    """The factor that the model multiplies its embedding table by (Gemma: √d), measured on some rows.

    Measuring it on the whole vocabulary would need the memory of a second table.
    """
    embed = lm.model.get_input_embeddings()
    table: Tensor = embed.weight  # pyright: ignore[reportAssignmentType]
    some = table[:64].double()
    embedded: Tensor = embed(torch.arange(len(some), device=table.device)).double()
    scale = float((embedded * some).sum() / (some * some).sum())
    if not torch.allclose(embedded, scale * some, rtol=2e-2, atol=1e-6):  # bfloat16 keeps three digits
        raise DposcopeError(
            f"{type(lm.model).__name__} does not use a scaled embedding as input, so it cannot look ahead; set "
            f"horizon=0"
        )
    return scale


def _longer(mask: Tensor) -> Tensor:
    """The mask `[B, T]` with a column for one more token."""
    return torch.cat([mask, torch.ones_like(mask[:, :1])], -1)


def _step(slope: Tensor, place: Tensor, size: Tensor, settings: Perturbation) -> Tensor:
    """The step of a cached tensor P with gradient g: s·|P|·u/|u|^γ, where u = |P|·g.

    u is the gain per relative change, in class distances, so neither s nor γ depends on the scale of a model. At γ = 1
    the step has length s·|P|. Norms are per row, over the perturbed positions.
    """
    steepness = size * row_norms(slope, place)
    factor = settings.step_size * size**2 / steepness**settings.gamma
    factor = torch.where(steepness > 0, factor, 0.0).to(slope.dtype)
    return factor[:, None, None, None] * slope.masked_fill(~place, 0)


class _Draw:
    """Samples one token per row. Each row has its own random generator, so a batch equals its members one by one."""

    def __init__(self, settings: Perturbation, rows: list[int]) -> None:
        self._top_k = settings.top_k
        self._streams = [torch.Generator().manual_seed(settings.seed * 1_000_003 + row) for row in rows]

    def __call__(self, scores: Tensor) -> Tensor:
        uniform = [float(torch.rand(1, generator=stream, dtype=torch.float64)) for stream in self._streams]
        return torch.stack([self._invert(row, u) for row, u in zip(scores, uniform, strict=True)])

    def _invert(self, scores: Tensor, uniform: float) -> Tensor:
        """The token at which the cumulative probability of the kept tokens passes `uniform`."""
        kept = torch.arange(len(scores), device=scores.device)
        if 0 < self._top_k < len(scores):
            # In the order of the vocabulary: nearly equal tokens may change rank with the batch, and must not change
            # places.
            kept = scores.topk(self._top_k).indices.sort().values
        reached = torch.softmax(scores[kept], -1, dtype=torch.float64).cumsum(-1)
        place = (reached <= uniform * reached[-1]).sum().clamp(max=len(kept) - 1)
        return kept[place]
