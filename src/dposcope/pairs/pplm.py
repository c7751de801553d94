"""PPLM, batched: text steered along a direction by perturbing the model's memory, not its weights.

Dathathri et al. 2020, *Plug and Play Language Models*. Before each new token the cached keys and values of
the text so far are moved uphill on an attribute model, here the projection of the residual stream on a
direction; the token is then chosen from a mixture of what the perturbed and the plain model predict.

Where this differs from the published code, and why:

- The objective is the mean projection over the newest position and `horizon` further ones. The published one
  also averages in every earlier position, from the plain model: a constant, which does not change the gradient
  of a linear attribute beyond its length. The newest position counts with its gradient (there it is detached).
- The further steps read the perturbed memory (there the plain one), so what is climbed is what will be used.
- Steps are shares of the norm of each cached tensor, so one size fits every layer and model.
- Each token starts again from the plain memory (there perturbations pile up over the text), so what is written
  depends on the text so far and nothing else.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from transformers import DynamicCache

from dposcope.directions.direction import Direction
from dposcope.errors import DposcopeError
from dposcope.model.batches import Batch, batches, encode
from dposcope.model.cache import cached_tensors, copied, holding, movable, row_norms
from dposcope.model.frames import Frame, prompted
from dposcope.model.generate import Continuation, Progress, likeliest
from dposcope.model.hooks import hooked, residual_site
from dposcope.model.language_model import LanguageModel


@dataclass(frozen=True)
class Perturbation:
    """How strongly, and towards what trade-off, a text is steered (SPEC section 6, Pairs)."""

    step_size: float = 0.02
    """Length of one step, as a share of the norm of each layer's cached keys, and values, of each row (published: 0.02
    to 0.04, in the units of the cache); 0.01 steers less and reads better."""
    iterations: int = 2
    """Steps uphill before each token (published: 3, with a discriminator 10); 0 is the plain model."""
    horizon: int = 1
    """Tokens looked ahead, each through the expected embedding of the one before (published: 1); 0 is none."""
    window: int = 0
    """Perturb only so many of the most recent cached tokens; 0 is all (published: 0)."""
    gamma: float = 1.0
    """Exponent γ of the gradient's norm (published: 1.0 to 1.5); at 1 every layer moves by `step_size` whatever its
    gradient, below 1 those with a larger gradient move further."""
    gm_scale: float = 0.8
    """Share of the perturbed model in p ∝ perturbed^gm · plain^(1−gm), in [0, 1] (published: 0.9 to 0.95)."""
    kl_scale: float = 0.01
    """Weight of KL(perturbed‖plain) of the next token in nats, against the projection in class distances
    (published: 0.01)."""
    top_k: int = 10
    """Draw among so many of the likeliest tokens (published: 10); 0 is all. The likeliest one is always among them."""
    sample: bool = False
    """Draw a token; otherwise take the likeliest (published: either)."""
    seed: int = 0
    """With `sample`, row r draws from a generator of its own, seeded by (seed, r)."""

    def __post_init__(self) -> None:
        """Refuse settings without meaning."""
        for name in ("step_size", "gamma", "kl_scale"):
            value: float = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise DposcopeError(f"{name} {value} is no finite number of 0 or more; give one")
        for name in ("iterations", "horizon", "window", "top_k"):
            count: int = getattr(self, name)
            if count < 0:
                raise DposcopeError(f"{name} {count} is below 0; give 0 or more")
        if not 0 <= self.gm_scale <= 1:
            raise DposcopeError(
                f"gm_scale {self.gm_scale} is outside [0, 1]; 0 is the plain model, 1 the perturbed one"
            )


def perturbed_continuations(
    lm: LanguageModel,
    prompts: Sequence[str],
    direction: Direction,
    settings: Perturbation = Perturbation(),
    *,
    new_tokens: int = 20,
    max_prompt_tokens: int | None = 64,
    keep: Literal["start", "end"] = "end",
    batch_size: int = 32,
    first_row: int = 0,
    progress: Progress | None = None,
) -> list[Continuation]:
    """Continue each prompt, steered towards the positive side of a direction; in the order of `prompts`.

    Weights, their `requires_grad` and `.grad`, and the model's mode are not touched. Rows do not see one another,
    so a batch equals its members one by one, up to rounding. A prompt of a single token has nothing cached to
    perturb, so its first new token is the plain model's.

    Args:
        lm: the model.
        prompts: texts.
        direction: the attribute; its block says where the residual stream is read, before any final norm.
        settings: strength and trade-offs.
        new_tokens: most tokens to write per prompt (paper: 20); a row stops at its end-of-text token.
        max_prompt_tokens: longer prompts are cut (None: never).
        keep: the side of a long prompt that stays.
        batch_size: prompts at a time.
        first_row: number of the first prompt; a chunk of a longer list draws what the whole list draws.
        progress: called after each batch.

    Raises:
        DposcopeError: the direction does not fit the model, prompt and continuation exceed the context, a prompt is
            empty, or the model is in training mode or makes its inputs by more than a scaled embedding.
    """
    if new_tokens < 1:
        raise DposcopeError(f"new_tokens {new_tokens} is below 1; give a positive number")
    if lm.model.training:
        raise DposcopeError("the model is in training mode, where dropout makes text random; call model.eval() first")
    if direction.vector.shape != (lm.d_model,) or not -lm.n_blocks <= direction.block < lm.n_blocks:
        raise DposcopeError(
            f"a direction of width {len(direction.vector)} at block {direction.block} does not fit a model of width "
            f"{lm.d_model} and {lm.n_blocks} blocks; make the direction with this model"
        )
    if not prompts:
        return []
    encoded = encode(lm, prompts, max_tokens=max_prompt_tokens, keep=keep)
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
    # Under a caller's inference_mode there would be no gradient to climb.
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
    texts = lm.tokenizer.batch_decode(written, skip_special_tokens=True)
    return [Continuation(p, c, t) for p, c, t in zip(encoded, written, texts, strict=True)]


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


@dataclass(frozen=True)
class _Pass:
    """What one pass over one further token per row gave."""

    normed: Tensor
    """After the final norm, `[B, d]`."""
    stream: Tensor
    """At the end of the direction's block, `[B, d]`."""
    cache: DynamicCache
    """The memory with this token in it."""
    mask: Tensor
    """`[B, T]`, this token's column included."""


class _Steps:
    """A batch of texts, one token longer at a time, and what may come next."""

    def __init__(
        self, lm: LanguageModel, direction: Direction, settings: Perturbation, batch: Batch, newest: _Newest
    ) -> None:
        self.lm = lm
        self._settings = settings
        self._seen = newest
        self._lengths = batch.lengths
        self._weights = (direction.vector / direction.norm**2).to(lm.device)
        self._embedding_scale = _embedding_scale(lm) if settings.horizon > 0 else 1.0
        self._precise = torch.promote_types(lm.dtype, torch.float32)
        self.newest = batch.ids[:, -1]
        self.mask = batch.mask
        self.cache = DynamicCache(config=lm.model.config.get_text_config())
        """Plain keys and values of all but the newest token; a perturbed one is never kept."""
        self._next_cache: DynamicCache | None = None
        if batch.ids.shape[1] > 1:
            mask = batch.mask[:, :-1]
            with prompted(self._lengths):
                lm.model.base_model(
                    input_ids=batch.ids[:, :-1],
                    attention_mask=mask,
                    position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
                    past_key_values=self.cache,
                    use_cache=True,
                )

    def append(self, token: Tensor) -> None:
        """Make `token`, `[B]`, the newest one; `scores` has just been called."""
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
            places = movable(self.cache, self.mask[:, :-1], settings.window)
            sizes = [row_norms(tensor, place) for tensor, place in zip(cached_tensors(self.cache), places, strict=True)]
            # Half precision would round most of a small step away.
            moves = [torch.zeros_like(tensor, dtype=self._precise) for tensor in cached_tensors(self.cache)]
            plain: Tensor | None = None
            for _ in range(settings.iterations):
                with torch.enable_grad():
                    leaves = [move.requires_grad_() for move in moves]
                    read = self._read(self._moved(leaves), self.mask, ids=self.newest)
                    own = self._log_probabilities(read)
                    gain = self._gain(read, own, plain)
                    slopes = torch.autograd.grad(gain.sum(), leaves, materialize_grads=True)
                if plain is None:  # nothing was moved yet, so this pass was the plain model's
                    plain = own.detach()
                    self._next_cache = holding(read.cache, [tensor.detach() for tensor in cached_tensors(read.cache)])
                moves = [
                    move.detach() + _step(slope, place, size, settings)
                    for move, slope, place, size in zip(moves, slopes, places, sizes, strict=True)
                ]
            assert plain is not None
            perturbed = self._log_probabilities(self._read(self._moved(moves), self.mask, ids=self.newest))
        return settings.gm_scale * perturbed + (1 - settings.gm_scale) * plain

    def _gain(self, read: _Pass, own: Tensor, plain: Tensor | None) -> Tensor:
        """What is climbed, per row `[B]`: the mean projection x·W/|W|², less the weighted KL divergence.

        `plain` is None at the plain model itself, where the divergence is at its minimum and has no slope.
        """
        streams = [read.stream]
        log_probabilities = own
        for step in range(self._settings.horizon):
            if step > 0:
                log_probabilities = self._log_probabilities(read)
            read = self._read(read.cache, _longer(read.mask), embedding=self._expected_embedding(log_probabilities))
            streams.append(read.stream)
        gain = torch.stack([stream.double() @ self._weights for stream in streams]).mean(0)
        if plain is None or self._settings.kl_scale == 0:
            return gain
        return gain - self._settings.kl_scale * (own.exp() * (own - plain)).sum(-1, dtype=torch.float64)

    def _read(
        self, cache: DynamicCache, mask: Tensor, *, ids: Tensor | None = None, embedding: Tensor | None = None
    ) -> _Pass:
        """One token per row, by ids `[B]` or embedding `[B, d]`, after what `cache` holds; that stays as it is."""
        grown = copied(cache)
        states = self.lm.model.base_model(
            input_ids=None if ids is None else ids.unsqueeze(1),
            inputs_embeds=None if embedding is None else embedding.unsqueeze(1),
            attention_mask=mask,
            position_ids=mask.sum(-1, keepdim=True) - 1,
            past_key_values=grown,
            use_cache=True,
        ).last_hidden_state
        return _Pass(states[:, -1], self._seen.stream, grown, mask)

    def _log_probabilities(self, read: _Pass) -> Tensor:
        return torch.log_softmax(self.lm.unembed(read.normed), -1, dtype=self._precise)

    def _expected_embedding(self, log_probabilities: Tensor) -> Tensor:
        """The input that a token drawn from these would be on average, `[B, d]`."""
        table: Tensor = self.lm.model.get_input_embeddings().weight  # pyright: ignore[reportAssignmentType]
        return (log_probabilities.exp().to(table.dtype) @ table) * self._embedding_scale

    def _moved(self, moves: Sequence[Tensor]) -> DynamicCache:
        pairs = zip(cached_tensors(self.cache), moves, strict=True)
        return holding(self.cache, [(tensor.to(self._precise) + move).to(tensor.dtype) for tensor, move in pairs])


def _embedding_scale(lm: LanguageModel) -> float:
    """What the model multiplies its embedding table by (Gemma: √d), measured on some rows.

    Embedding the whole vocabulary would tell it too, at the cost of a second table.
    """
    embed = lm.model.get_input_embeddings()
    table: Tensor = embed.weight  # pyright: ignore[reportAssignmentType]
    some = table[:64].double()
    embedded: Tensor = embed(torch.arange(len(some), device=table.device)).double()
    scale = float((embedded * some).sum() / (some * some).sum())
    if not torch.allclose(embedded, scale * some, rtol=2e-2, atol=1e-6):  # bfloat16 keeps three digits
        raise DposcopeError(
            f"{type(lm.model).__name__} makes its inputs by more than a scaled embedding: look no further, horizon=0"
        )
    return scale


def _longer(mask: Tensor) -> Tensor:
    """A mask `[B, T]` with a column for one more token."""
    return torch.cat([mask, torch.ones_like(mask[:, :1])], -1)


def _step(slope: Tensor, place: Tensor, size: Tensor, settings: Perturbation) -> Tensor:
    """How far one step moves a cached tensor P, with its gradient g: s·|P|·u/|u|^γ, where u = |P|·g.

    u is the gain per relative change, in class distances, so neither s nor γ depends on a model's scale; at γ = 1
    the step has the length s·|P|. Norms are those of each row, over the positions that may move.
    """
    steepness = size * row_norms(slope, place)
    factor = settings.step_size * size**2 / steepness**settings.gamma
    factor = torch.where(steepness > 0, factor, 0.0).to(slope.dtype)
    return factor[:, None, None, None] * slope.masked_fill(~place, 0)


class _Draw:
    """Draws one token per row. Each row has its own stream, so a batch equals its members one by one."""

    def __init__(self, settings: Perturbation, rows: list[int]) -> None:
        self._top_k = settings.top_k
        self._streams = [torch.Generator().manual_seed(settings.seed * 1_000_003 + row) for row in rows]

    def __call__(self, scores: Tensor) -> Tensor:
        uniform = [float(torch.rand(1, generator=stream, dtype=torch.float64)) for stream in self._streams]
        return torch.stack([self._invert(row, u) for row, u in zip(scores, uniform, strict=True)])

    def _invert(self, scores: Tensor, uniform: float) -> Tensor:
        """The token at which the cumulative probability of those kept passes `uniform`."""
        kept = torch.arange(len(scores), device=scores.device)
        if 0 < self._top_k < len(scores):
            # In the vocabulary's order: near equals may change rank with the batch, and must not change places.
            kept = scores.topk(self._top_k).indices.sort().values
        reached = torch.softmax(scores[kept], -1, dtype=torch.float64).cumsum(-1)
        place = (reached <= uniform * reached[-1]).sum().clamp(max=len(kept) - 1)
        return kept[place]
