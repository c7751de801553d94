"""What `dposcope pairs` does."""

from dataclasses import replace
from pathlib import Path

from dposcope.data.text_prompts import cut_prompts
from dposcope.jobs.estimate.measuring import comments_read, direction, features, loading, prompts_read
from dposcope.jobs.estimate.start import start
from dposcope.jobs.estimate.work import TRAINING, Memory, Passes, Running, Stage, Texts, Work
from dposcope.jobs.ingredients.direction import check_of_model
from dposcope.jobs.pairs.job import check_out, read_source
from dposcope.jobs.pairs.parts import PART, rows_at_once
from dposcope.jobs.pairs.settings import PairsSettings
from dposcope.model.batches import rows_to_read
from dposcope.model.cache import check_keys_and_values

_PAIR = 400.0
"""Bytes of a pair in its file."""


def pairs_work(model: str, out: Path, settings: PairsSettings) -> Work:
    """Check everything that can be checked without weights, and count.

    Args:
        model: its name.
        out: the file of pairs.
        settings: of the command.

    Raises:
        DposcopeError: bad input, as of the command itself.
    """
    check_out(out)
    source = read_source(settings)
    started = start(model, settings, settings)
    prompts = source.texts
    if settings.method == "pplm":
        prompts = cut_prompts(
            source.texts[0],
            started.lm.tokenizer,
            count=settings.count,
            prompt_tokens=settings.prompt_tokens,
            seed=settings.seed,
            spare=True,
        )[: settings.most]
    comments, every = Texts(), Texts()
    if source.comments is not None:
        check_of_model(started.lm, settings.direction_spec, fits=settings.fits_direction)
        if settings.method == "pplm":
            check_keys_and_values(started.lm.model)
        comments = comments_read(started.lm, source.comments, settings.direction_spec)
        balanced = replace(settings.direction_spec, kind="mean-difference")
        every = comments_read(started.lm, source.comments, balanced)
    texts = prompts_read(started.lm, prompts, strict=True, most=settings.max_prompt_tokens)
    stages = pairs_stages(started.running, settings, texts, comments, every, stored=started.stored)
    notes = ("Pairs may be complete before all prompts are read, as --count ends it.",) if _may_end(settings) else ()
    return Work("pairs", model, started.running, tuple(stages), started.precision, notes=notes)


def _may_end(settings: PairsSettings) -> bool:
    return settings.method == "sample" and settings.count is not None


def pairs_stages(
    running: Running, settings: PairsSettings, prompts: Texts, comments: Texts, ranking: Texts, *, stored: int
) -> list[Stage]:
    """All stages.

    Args:
        running: the model.
        settings: of the command.
        prompts: that are continued.
        comments: that the direction takes.
        ranking: comments that are read once more where a direction ranks.
        stored: bytes of a stored weight.
    """
    spec, stages = settings.direction_spec, [loading(running, stored)]
    disk = _PAIR * len(prompts)
    if settings.method == "pplm":
        stages += [direction(running, comments, spec), _steered(running, settings, prompts, disk)]
        return stages
    batch = rows_at_once(settings.batch_size, settings.samples)
    passes = [_of_parts(running, prompts, settings, batch)]
    if settings.rank_by == "direction":
        written = Texts.alike(len(prompts) * settings.samples, settings.new_tokens)
        passes += [*features(running, ranking, replace(spec, kind="mean-difference")), running.reads(written, batch=32)]
        stages.append(direction(running, comments, spec))
    sampled = Stage("sampling", tuple(passes), disk=disk * settings.samples)
    return [*stages, sampled if settings.engine == "local" else sampled.written_elsewhere()]


def _of_parts(running: Running, prompts: Texts, settings: PairsSettings, batch: int) -> Passes:
    """Prompts are sampled some at a time, each with all its continuations."""
    size = len(prompts) if settings.shuffled else PART["sample"]
    parts = [
        running.writes(
            Texts(prompts.lengths[first : first + size]).times(settings.samples),
            settings.new_tokens,
            batch=batch,
            drawn=True,
        )
        for first in range(0, len(prompts), size)
    ]
    held = max((part.held for part in parts), key=lambda one: one.total, default=Memory(0.0))
    return Passes(
        sum(part.read for part in parts),
        sum(part.written for part in parts),
        sum(part.operations for part in parts),
        sum(part.bytes for part in parts),
        sum(part.blocks for part in parts),
        held,
    )


def _steered(running: Running, settings: PairsSettings, prompts: Texts, disk: float) -> Stage:
    """PPLM: of each token gradient steps, and a pass over the perturbed cache; the plain text beside."""
    new, size = settings.new_tokens, running.size
    batch = rows_to_read(settings.batch_size)
    plain = running.writes(prompts, new, batch=batch)
    rows = min(batch, len(prompts))
    # Of a gradient step: the newest token and the expected ones forward, and backward, which is twice as long.
    passes = settings.iterations * (1 + settings.horizon) * 3 + 1
    steered = Passes(
        read=prompts.tokens - len(prompts),
        written=plain.written,
        operations=passes * plain.written * 2.0 * (size.body + size.unembedding) / TRAINING,
        bytes=passes * plain.bytes,
        blocks=passes * plain.blocks,
        held=replace(
            plain.held,
            # Of the cache: plain, perturbed, the step and its gradient, in float32 and as the model runs.
            cache=6 * plain.held.cache,
            activations=60.0 * rows * (1 + settings.horizon) * size.blocks * size.width,
            logits=4 * plain.held.logits,
        ),
    )
    return Stage("steering", (plain, steered), disk=disk)
