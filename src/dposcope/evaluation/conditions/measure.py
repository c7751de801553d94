"""Measure one condition, item by item."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Final

import numpy as np

from dposcope.data.token_ids import agreed, continued_ids, settled
from dposcope.errors import DposcopeError
from dposcope.evaluation.conditions.materials import Materials
from dposcope.evaluation.conditions.outcome import Outcome
from dposcope.evaluation.overlap import GENERATED_TOKENS, REFERENCE_GOLD_TOKENS, reference_pair, strict_pair, token_f1
from dposcope.evaluation.perplexity import WindowLosses, window_losses, window_of
from dposcope.evaluation.repetition import repetition, share_empty
from dposcope.evaluation.sampled.agreement import Agreement, agreement
from dposcope.evaluation.sampled.continuations import Relevance, continuation_losses, relevance
from dposcope.evaluation.sampled.drawn import Samples, measure_samples
from dposcope.evaluation.sampled.ideal import Ideal, evenly, texts_read
from dposcope.evaluation.sampled.real_toxicity import sample_texts
from dposcope.interventions.assign import Assign
from dposcope.interventions.edited import EditedModel
from dposcope.interventions.gains import Gains
from dposcope.interventions.paired.interchange import InterchangeWith
from dposcope.interventions.weights import OtherWeights
from dposcope.model.batches import encode
from dposcope.model.chat.cut import Side
from dposcope.model.chat.prompts import encode_prompts
from dposcope.model.checks.given import check_lm
from dposcope.model.engine.served import Served, Writer
from dposcope.model.frames import Positions
from dposcope.model.generate import Continuation, Progress, check_room, generate
from dposcope.model.hooks import Intervention
from dposcope.model.language_model import LanguageModel
from dposcope.processes.shared import check_progress
from dposcope.protocols import Protocol

PROMPT_TOKENS: Final = 256
"""Of a longer prompt the end is kept."""
PASSAGE_TOKENS: Final = 64
"""The same of a passage."""
REFERENCE_PROMPT: Final = 32
"""Tokens of a prompt that the published code reads, from its start."""
_SHORTER: Final = "shorten the prompts, or what a system prompt, a wrapper and a prefill add"
"""What a person can do where a prompt leaves no room."""


def measure(
    lm: LanguageModel,
    intervention: Intervention | None,
    materials: Materials,
    *,
    served: Served | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Measure one condition, each measure item by item.

    Of its greedy continuations: every scorer, repetition, and relevance. Beside them: F1, log-perplexity of neutral
    text and, with an ideal, of the ideal's texts.

    Reference protocol: prompts are cut to their first 32 tokens, F1 includes the prompt, and patches, assignments and
    gains act only at position 0 of each perplexity window, as in the published code. A saved edit, an ablation and an
    interchange, which it has not, act at every position, as steering does there.

    Args:
        lm: the model.
        intervention: on the model; None for the plain model. `OtherWeights` and `EditedModel` are measured as models
            of their own, `InterchangeWith` with its second model loaded once.
        materials: data and scorers.
        served: writes the texts in the condition's place; everything that is read is still read here. None: the
            condition writes them itself.
        progress: called with (done, total) over all the work.

    Raises:
        DposcopeError: the server fails, or has another model; or an argument is none of these.
    """
    check_lm(lm)
    check_progress(progress)
    _check_given(intervention, materials)
    if isinstance(intervention, OtherWeights | EditedModel):
        with intervention.second_model(lm) as other:
            return _measure(other, None, materials, plain=lm, served=served, progress=progress)
    if isinstance(intervention, InterchangeWith):
        with intervention.opened(lm) as opened:
            return _measure(opened.lm, opened.interchange, materials, plain=lm, served=served, progress=progress)
    return _measure(lm, intervention, materials, plain=lm, served=served, progress=progress)


def _check_given(intervention: object, materials: object) -> None:
    if intervention is not None and not hasattr(intervention, "on"):
        what = type(intervention).__name__
        raise DposcopeError(f"a {what} is no intervention; give such as an Edit, or None for the plain model")
    if not isinstance(materials, Materials):
        raise DposcopeError(f"materials is a {type(materials).__name__}; give dposcope.Materials(…)")


def score_texts(
    lm: LanguageModel,
    intervention: Intervention | None,
    materials: Materials,
    *,
    progress: Progress | None = None,
) -> dict[str, np.ndarray]:
    """The greedy continuations of one condition, by every scorer, and nothing else.

    Args:
        lm: the model.
        intervention: on the model; None for the plain model.
        materials: prompts and scorers.
        progress: called with (done, total) of the prompts.

    Returns:
        Scorer → one score a prompt, `[prompts]`, float64.
    """
    steps = _Steps(len(materials.prompts), 0, progress)
    with _writing(lm, intervention, None) as write:
        texts = [one.text for one in _continue(lm, write, materials, materials.prompts, PROMPT_TOKENS, steps)]
    return {name: scorer(texts) for name, scorer in materials.scorers.items()}


def _measure(
    lm: LanguageModel,
    intervention: Intervention | None,
    materials: Materials,
    *,
    plain: LanguageModel,
    served: Served | None,
    progress: Progress | None,
) -> Outcome:
    """`plain` is the model without the condition: `lm` itself, or the one that it is a second model to."""
    window = window_of(plain, lm)
    agreed = None if served is None else _agreement(lm, intervention, served, materials)
    ideal = materials.ideal
    rows = evenly(len(materials.prompts), texts_read(len(materials.prompts)))
    read = (2 * len(rows) if len(rows) > 1 else 0) + (0 if ideal is None else len(ideal.rows))
    read += 2 * materials.samples * len(materials.prompts)
    steps = _Steps(len(materials.prompts) + len(materials.passages) + read, materials.max_windows, progress)
    with _writing(lm, intervention, served) as write:
        written = _continue(lm, write, materials, materials.prompts, PROMPT_TOKENS, steps)
    texts = [continuation.text for continuation in written]
    per_prompt = {name: scorer(texts) for name, scorer in materials.scorers.items()} | {
        "repetition": np.array([repetition(text) for text in texts]),
        "empty": np.array([share_empty([text]) for text in texts]),
    }
    explained = _relevance(plain, lm, [written[row] for row in rows], materials, steps)
    with _writing(lm, intervention, served) as write:
        passages = _continue(lm, write, materials, materials.passages.prompts, PASSAGE_TOKENS, steps)
    f1 = _overlap(lm, passages, materials)
    harmless = None if ideal is None else _of_ideal(lm, intervention, ideal, materials, steps)
    with _applied(lm, _for_perplexity(intervention, materials.protocol)):
        losses = window_losses(
            lm,
            materials.neutral,
            protocol=materials.protocol,
            window=window,
            skip_windows=materials.skip_windows,
            max_windows=materials.max_windows,
            spread=materials.spread_windows,
            progress=steps.windows,
        )
    samples = None
    if materials.samples:
        with _writing(lm, intervention, served) as write:
            drawn = _drawn(lm, write, materials, steps)
        samples = _samples(plain, lm, drawn, materials, steps)
    return Outcome(texts, per_prompt, f1, losses, harmless, explained, samples, agreed)


@contextmanager
def _writing(lm: LanguageModel, intervention: Intervention | None, served: Served | None) -> Generator[Writer]:
    """Who writes texts inside the context: a server, or the model itself with the intervention on it."""
    if served is not None:
        yield served.write
        return
    with _applied(lm, intervention):
        yield generate


def _agreement(lm: LanguageModel, intervention: Intervention | None, served: Served, materials: Materials) -> Agreement:
    with _applied(lm, intervention):
        found = agreement(lm, served.probes, batch_size=materials.batch_size)
    return found.check(served.name, lm.name if intervention is None else f"{lm.name} under this condition")


def _drawn(lm: LanguageModel, write: Writer, materials: Materials, steps: "_Steps") -> list[Continuation]:
    written = sample_texts(
        lm,
        materials.prompts,
        samples=materials.samples,
        seed=materials.sample_seed,
        batch_size=materials.batch_size,
        progress=steps.texts,
        write=write,
    )
    steps.finished(len(written))
    return written


def _samples(
    plain: LanguageModel,
    writer: LanguageModel,
    written: list[Continuation],
    materials: Materials,
    steps: "_Steps",
) -> Samples:
    found = measure_samples(
        _spelt(plain, writer, written),
        materials.prompts,
        materials.scorers,
        plain,
        second=materials.second,
        batch_size=materials.batch_size,
        progress=steps.texts,
    )
    steps.finished(len(written))
    return found


def _spelt(plain: LanguageModel, writer: LanguageModel, written: list[Continuation]) -> list[Continuation]:
    """Texts as the plain model reads them: of a second model, which may have other tokens, it reads the spelling."""
    if writer.writer is None:
        return written
    spelt = continued_ids(plain.tokenizer, [one.text for one in written])
    return [replace(one, ids=ids) for one, ids in zip(written, spelt, strict=True)]


def _relevance(
    plain: LanguageModel, writer: LanguageModel, written: list[Continuation], materials: Materials, steps: "_Steps"
) -> Relevance | None:
    if len(written) < 2:
        return None
    found = relevance(plain, _spelt(plain, writer, written), batch_size=materials.batch_size, progress=steps.texts)
    steps.finished(2 * len(written))
    return found if found.measured else None


def _of_ideal(
    lm: LanguageModel, intervention: Intervention | None, ideal: Ideal, materials: Materials, steps: "_Steps"
) -> WindowLosses:
    with _applied(lm, intervention):
        found = continuation_losses(lm, ideal.written, batch_size=materials.batch_size, progress=steps.texts)
    steps.finished(len(ideal.written))
    return found


def _continue(
    lm: LanguageModel,
    write: Writer,
    materials: Materials,
    prompts: tuple[str, ...],
    strict_tokens: int,
    steps: "_Steps",
) -> list[Continuation]:
    strict = materials.protocol == "strict"
    most = strict_tokens if strict else REFERENCE_PROMPT
    keep: Side = "end" if strict else "start"
    # `generate` would name options that are not a person's to choose here.
    check_room(lm, encode_prompts(lm, prompts, max_tokens=most, keep=keep), GENERATED_TOKENS, mend=_SHORTER)
    written = write(
        lm,
        prompts,
        new_tokens=GENERATED_TOKENS,
        max_prompt_tokens=most,
        keep=keep,
        batch_size=materials.batch_size,
        progress=steps.texts,
    )
    steps.finished(len(prompts))
    return written


def _overlap(lm: LanguageModel, written: list[Continuation], materials: Materials) -> np.ndarray:
    special, passages = lm.special_ids, materials.passages
    scores: list[float] = []
    # Of a chat model, the words of the template's frame are no part of the passage.
    alone = [one.prompt_ids for one in written]
    if lm.asking is not None and materials.protocol == "reference":
        alone = encode(lm, passages.prompts, max_tokens=REFERENCE_PROMPT, keep="start")
    for continuation, prompt, gold in zip(written, alone, _golds(lm, passages.golds), strict=True):
        pair = (
            strict_pair(continuation.ids, gold)
            if materials.protocol == "strict"
            else reference_pair(prompt, continuation.ids, gold)
        )
        scores.append(token_f1(pair.predicted, pair.gold, special_ids=special))
    return np.array(scores)


def _golds(lm: LanguageModel, texts: Sequence[str]) -> Iterator[list[int]]:
    """Tokens of the true continuations without special ones: as many as are compared, at least."""
    special = lm.special_ids
    for number, text in enumerate(texts):

        def read(size: int, text: str = text) -> list[int] | None:
            gold = [token for token in encode(lm, [text[:size]])[0] if token not in special]
            enough = size >= len(text) or settled(gold[REFERENCE_GOLD_TOKENS:])
            return gold[:REFERENCE_GOLD_TOKENS] if enough else None

        what = f"the true continuation of passage {number + 1}"
        yield agreed(read, length=len(text), tokens=REFERENCE_GOLD_TOKENS, what=what)


def _for_perplexity(intervention: Intervention | None, protocol: Protocol) -> Intervention | None:
    if protocol == "reference" and isinstance(intervention, Assign | Gains):
        return replace(intervention, positions=Positions.FIRST)
    return intervention


def _applied(lm: LanguageModel, intervention: Intervention | None) -> Any:
    return nullcontext() if intervention is None else intervention.on(lm)


class _Steps:
    """Combines the progress of all parts of one measurement."""

    def __init__(self, texts: int, windows: int | None, progress: Progress | None) -> None:
        self._before, self._texts, self._windows, self._progress = 0, texts, windows, progress

    def texts(self, done: int, _total: int) -> None:
        if self._progress is not None:
            self._progress(self._before + done, self._texts + (1 if self._windows is None else self._windows))

    def finished(self, count: int) -> None:
        self._before += count

    def windows(self, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(self._before + done, self._texts + total)
