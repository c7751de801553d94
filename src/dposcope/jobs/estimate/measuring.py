"""The stages that several commands have: a direction, means, the ideal, conditions, and the texts that they read."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dposcope.data.comments import Comments
from dposcope.evaluation.conditions.materials import Materials
from dposcope.evaluation.conditions.measure import PASSAGE_TOKENS, PROMPT_TOKENS, REFERENCE_PROMPT
from dposcope.evaluation.direction_scorer import MAX_TOKENS
from dposcope.evaluation.overlap import GENERATED_TOKENS
from dposcope.evaluation.perplexity import count_windows, longest_window
from dposcope.evaluation.sampled.ideal import evenly, texts_read
from dposcope.evaluation.sampled.real_toxicity import NEW_TOKENS
from dposcope.jobs.estimate.work import Memory, Passes, Running, Stage, Texts
from dposcope.jobs.ingredients.data import Data
from dposcope.jobs.settings import DirectionSpec
from dposcope.model.batches import encode
from dposcope.model.chat.prompts import encode_prompts
from dposcope.model.language_model import LanguageModel
from dposcope.protocols import LEAST_ITEMS, Protocol

MEANS_TOKENS = 20
"""Tokens that the model writes to a prompt for its means."""
FEATURES = 3
"""Copies of the comments' features in memory at a time: all, those fitted on, and those standardised."""
_TEXT = 700.0
"""Bytes that a condition leaves of a prompt: its text, scores and losses."""
_SMALL = 1e6
"""Bytes of the other files of a run."""


@dataclass(frozen=True)
class Counted:
    """The texts of a job in tokens, cut as they are read."""

    learn: Texts
    """Prompts for means."""
    choose: Texts
    """Prompts to choose on."""
    comments: Texts
    """Those that the direction takes."""
    prompts: Texts
    """Prompts to report on."""
    passages: Texts
    windows: Texts
    """Of neutral text."""
    protocol: Protocol = "strict"

    @property
    def sampled(self) -> Texts:
        """The prompts of the ideal, and of the texts that are read for their relevance."""
        return self.prompts.some(evenly(len(self.prompts), texts_read(len(self.prompts))))


def counted(lm: LanguageModel, data: Data, spec: DirectionSpec, *, report: Materials | None = None) -> Counted:
    """Tokenise what a job reads.

    Args:
        lm: gives the tokenizer; it needs no weights.
        data: of the job.
        spec: which direction.
        report: what is measured, where it is other than that of the data.
    """
    report = report or data.report
    strict = report.protocol == "strict"
    window = min(1024, lm.context_length)
    windows = count_windows(
        lm,
        report.neutral,
        protocol=report.protocol,
        most=None if report.max_windows is None else report.skip_windows + report.max_windows,
    )
    return Counted(
        learn=prompts_read(lm, data.learn, strict=spec.protocol == "strict", most=PROMPT_TOKENS, reference=None),
        choose=prompts_read(lm, data.choose, strict=True, most=PROMPT_TOKENS),
        comments=comments_read(lm, data.direction_comments, spec),
        prompts=prompts_read(lm, report.prompts, strict=strict, most=PROMPT_TOKENS),
        passages=prompts_read(lm, report.passages.prompts, strict=strict, most=PASSAGE_TOKENS),
        windows=Texts.alike(max(0, windows - report.skip_windows), window),
        protocol=report.protocol,
    )


def search_window(lm: LanguageModel, text: str) -> int:
    """Tokens of the windows that a strength is searched on.

    Args:
        lm: gives the tokenizer and the context.
        text: neutral text.

    Raises:
        DposcopeError: it is too short.
    """
    return min(longest_window(lm, text, least=LEAST_ITEMS), lm.context_length)


def prompts_read(
    lm: LanguageModel,
    prompts: Sequence[str],
    *,
    strict: bool,
    most: int,
    reference: int | None = REFERENCE_PROMPT,
) -> Texts:
    """Prompts as they are cut.

    Args:
        lm: gives the tokenizer.
        prompts: texts.
        strict: whether by the strict protocol, which keeps the ends.
        most: tokens that it keeps.
        reference: tokens that the reference protocol keeps, from the start; None: all.
    """
    kept, side = (most, "end") if strict else (reference, "start")
    return Texts.of(encode_prompts(lm, prompts, max_tokens=kept, keep=side))


def comments_read(lm: LanguageModel, comments: Comments, spec: DirectionSpec) -> Texts:
    """The comments that a direction of this kind takes; none for a saved one, and for a contrast of tokens."""
    if spec.kind not in ("mean-difference", "probe"):
        return Texts()
    chosen = comments.balanced() if spec.kind == "mean-difference" else comments
    return Texts.of(encode(lm, chosen.texts, max_tokens=min(MAX_TOKENS, lm.context_length), keep="start"))


def loading(running: Running, stored: int, *, models: int = 1) -> Stage:
    """The weights are read; those that run in another precision than they are stored in are in memory in both.

    Args:
        running: the model.
        stored: bytes of a stored weight.
        models: that are loaded.
    """
    more = 0.0 if stored == running.itemsize else float(running.size.parameters * stored)
    moved = float(running.size.parameters * stored * models)
    return Stage("loading", models=models, held=Memory(0.0, weights=more), moved=moved)


def direction(running: Running, comments: Texts, spec: DirectionSpec) -> Stage:
    """The model reads comments, up to the block whose stream is averaged."""
    return Stage(
        "direction",
        passes=features(running, comments, spec),
        held=Memory(0.0, data=8.0 * len(comments) * running.size.width * FEATURES),
        disk=8.0 * running.size.width,
    )


def features(running: Running, comments: Texts, spec: DirectionSpec) -> tuple[Passes, ...]:
    """One reading of the comments."""
    if not len(comments):
        return ()
    depth = (spec.block % running.size.blocks + 1) / running.size.blocks
    if spec.protocol == "strict":
        return (running.reads(comments, batch=spec.batch_size, depth=depth),)
    # Every text is padded to the same length, and padding is read and averaged like it.
    whole = running.reads(Texts.alike(len(comments), MAX_TOKENS), batch=spec.batch_size, depth=depth)
    return (replace(whole, read=comments.tokens),)


def means(running: Running, learn: Texts, spec: DirectionSpec, *, name: str = "means", folds: int = 0) -> Stage:
    """The model writes, and every neuron's activations are added up; by the reference protocol, in a second pass."""
    size, batch = running.size, spec.batch_size
    passes = [running.writes(learn, MEANS_TOKENS, batch=batch)]
    if spec.protocol == "reference":
        passes.append(running.reads(learn.and_new(MEANS_TOKENS), batch=batch))
    rows = min(running.rows_to_write(learn, MEANS_TOKENS, batch), len(learn)) * (
        MEANS_TOKENS if spec.protocol == "reference" else 1
    )
    sums = 16.0 * (1 + folds) * size.neurons
    return Stage(
        name,
        passes=tuple(passes),
        held=Memory(0.0, data=sums + 24.0 * rows * size.mlp),
        disk=sums,
    )


def ideal(running: Running, data: Counted, *, batch: int | None) -> list[Stage]:
    """Samples of the plain model; none by the reference protocol."""
    if data.protocol != "strict":
        return []
    return [Stage("ideal", (running.writes(data.sampled, NEW_TOKENS, batch=batch, drawn=True),))]


def ideal_read(running: Running, data: Counted, *, batch: int | None) -> list[Stage]:
    """The samples are read once more, after other prompts."""
    if data.protocol != "strict" or len(data.sampled) < 2:
        return []
    return [Stage("reading the ideal", (_continued(running, data.sampled, NEW_TOKENS, batch=batch),))]


def condition(
    running: Running,
    data: Counted,
    name: str,
    *,
    batch: int | None,
    models: int = 1,
    held: float = 1.0,
    samples: int = 0,
) -> Stage:
    """One condition, measured.

    Args:
        running: the plain model.
        data: what is read.
        name: of the condition.
        batch: texts at a time.
        models: that run for every token: two under an interchange.
        held: copies of the weights in memory.
        samples: of each prompt, by the protocol of RealToxicityPrompts.
    """
    passes = [running.writes(data.prompts, GENERATED_TOKENS, batch=batch, models=models)]
    if len(data.sampled) > 1:
        passes += 2 * [_continued(running, data.sampled, GENERATED_TOKENS, batch=batch)]
    passes.append(running.writes(data.passages, GENERATED_TOKENS, batch=batch, models=models))
    if data.protocol == "strict":
        passes.append(_continued(running, data.sampled, NEW_TOKENS, batch=batch, models=models))
    windows = data.windows
    passes.append(running.reads(windows, batch=1, predicted=windows.tokens - len(windows), models=models))
    if samples:
        drawn = data.prompts.times(samples)
        passes += [running.writes(drawn, NEW_TOKENS, batch=batch, drawn=True, models=models)]
        passes += [_continued(running, drawn, NEW_TOKENS, batch=batch)]
    kept = len(data.prompts) * (1 + samples) + 0.1 * len(data.passages)
    return Stage(name, tuple(passes), models=held, disk=_TEXT * kept)


def small_files() -> Stage:
    """The scorers, which are not counted, and tables."""
    return Stage("scores and tables", disk=_SMALL)


def checkpoint(running: Running, beside: int, *, name: str = "checkpoint", itemsize: int | None = None) -> Stage:
    """A model is written.

    Args:
        running: the model.
        beside: bytes of the files beside the weights.
        name: of the stage.
        itemsize: bytes of a written weight; None: as it runs.
    """
    written = float(running.size.parameters * (itemsize or running.itemsize))
    return Stage(name, disk=written + beside, moved=written)


def _continued(running: Running, prompts: Texts, tokens: int, *, batch: int | None, models: int = 1) -> Passes:
    """Continuations of so many tokens are read after their prompts."""
    return running.reads(prompts.and_new(tokens), batch=batch, predicted=len(prompts) * tokens, models=models)
