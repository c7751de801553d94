"""The parts of `dposcope pairs`: some prompts at a time, by one method or the other, each a stage of the run."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Final, Protocol

from dposcope.artefacts import text_digest
from dposcope.data.comments import Comments
from dposcope.directions.direction import Direction
from dposcope.evaluation.scorer import Scorer
from dposcope.evaluation.scorers import load_scorer
from dposcope.evaluation.trained_scorer import with_trained
from dposcope.jobs.ingredients.direction import make_direction
from dposcope.jobs.pairs.settings import Method
from dposcope.jobs.run import Run
from dposcope.jobs.settings import DirectionSpec
from dposcope.model.engine.served import Writer
from dposcope.model.generate import Sampling, generate
from dposcope.model.language_model import LanguageModel
from dposcope.pairs.pairs import Pair
from dposcope.pairs.pplm import Perturbation, perturbed_continuations
from dposcope.pairs.sampled import Pairer, ScoredPair, sample_completions
from dposcope.processes.shared import shared, sharing

PART: Final = {"pplm": 32, "sample": 16}
"""Prompts to a part: what a crash can cost, a minute or so."""


@dataclass(frozen=True, eq=False)
class Source:
    """What is read before any model runs, so that bad input is told at once."""

    texts: tuple[str, ...]
    """One running text (pplm), or prompts (sample)."""
    comments: Comments | None = None
    """For the direction; None with sample where a scorer ranks, which needs none."""
    saved: str | None = None
    """Digest of a saved direction."""
    second: Comments | None = None
    """For a second scorer (sample); None: there is none."""

    @cached_property
    def digests(self) -> dict[str, str]:
        """What the pairs depend on."""
        found = {"text": text_digest(*self.texts)}
        comments = self.comments or self.second
        if comments is not None:
            found["comments"] = text_digest(*comments.texts, *(str(bool(x)) for x in comments.labels))
        if self.saved is not None:
            found["direction"] = self.saved
        return found

    def scorer(self, name: str, *, seed: int) -> Scorer:
        """What describes pairs, and ranks continuations where no direction does: the scorer of this name, or its mean
        with one trained on comments."""
        first = load_scorer(name)
        return first if self.second is None else with_trained(first, self.second, seed=seed)


@dataclass(frozen=True)
class Harmless:
    """A harmless continuation."""

    prompt: str
    text: str
    score: float


@dataclass(frozen=True)
class Part:
    """What some prompts gave."""

    kept: list[ScoredPair]
    harmless: list[Harmless] = field(default_factory=list["Harmless"])
    """With sample: every continuation that may be preferred."""
    identical: int = 0
    """Pairs left out because both sides were the same."""
    blank: int = 0
    """Pairs left out because a side was blank."""

    def to_json(self) -> dict[str, Any]:
        """As it is kept in the run's folder."""
        return asdict(self)


class Maker(Protocol):
    """Makes the pairs of some prompts."""

    def __call__(self, prompts: Sequence[str], first_row: int) -> Part:
        """`first_row` is the number of the first prompt among all."""
        ...


def make_parts(
    run: Run,
    make: Maker,
    prompts: Sequence[str],
    made_from: dict[str, Any],
    *,
    method: Method,
    most: int | None,
    size: int,
) -> Iterator[Part]:
    """The parts, made or found, until there are as many pairs as wanted, or the prompts end.

    Args:
        run: whose stages they are.
        make: makes the pairs of some prompts.
        prompts: all of them.
        made_from: what every part depends on, beside its prompts.
        method: of `make`.
        most: pairs that are wanted; None: until the prompts end.
        size: prompts to a part.
    """
    # One bar for all parts instead of one for each.
    silent = run.silent()
    run.reporter.stage("Pairs by PPLM" if method == "pplm" else "Pairs by sampling")
    # Whichever end comes first.
    total = len(prompts) if most is None else min(most, len(prompts))
    kept, turn = 0, _Turn(make, prompts, [])
    start = 0
    while start < len(prompts) and (most is None or kept < most):
        if start not in turn.starts:
            steered = None if most is None or method == "sample" else most - kept
            turn = _Turn(make, prompts, _next_parts(start, len(prompts), size, steered))
        places = turn.starts[start]
        part = _part(silent, turn, prompts[places.start : places.stop], start, made_from)
        start, kept = places.stop, kept + len(part.kept)
        run.reporter.progress(start if most is None else min(kept, total), total)
        yield part


def _next_parts(start: int, end: int, size: int, missing: int | None) -> list[range]:
    """The places of the next parts, one for each process that shares the work, fewer at the end.

    Args:
        start: of the first.
        end: of the prompts.
        size: prompts to a part.
        missing: pairs, where a prompt gives one at most, so that no more prompts are needed; None: any number.
    """
    parts: list[range] = []
    for place in range(sharing()):
        # What a part before this one may give at most is not missing any more.
        left = size if missing is None else missing - place * size
        if parts and left < size:
            break
        begin = start + place * size
        if begin < end:
            parts.append(range(begin, min(begin + min(size, left), end)))
    return parts


class _Turn:
    """Parts that several processes make at the same time, each one of them."""

    def __init__(self, make: Maker, prompts: Sequence[str], parts: Sequence[range]) -> None:
        self.starts = {part.start: part for part in parts}
        self._make, self._prompts = make, prompts
        self._made: dict[int, Part] = {}

    def part(self, start: int) -> Part:
        """The part that begins there; the first one that is asked for makes all."""
        if not self._made:
            parts = list(self.starts.values())
            made = shared(parts, lambda part: self._make(self._prompts[part.start : part.stop], part.start))
            self._made = {part.start: one for part, one in zip(parts, made, strict=True)}
        return self._made[start]


def _part(run: Run, turn: _Turn, prompts: Sequence[str], start: int, made_from: dict[str, Any]) -> Part:
    name = f"part-{start:06}"
    return run.json(
        name,
        name,
        Part,
        inputs={**made_from, "prompts": text_digest(*prompts)},
        make=lambda: turn.part(start).to_json(),
        file=run.folder / "parts" / f"{name}.json",
    )


def direction_stage(
    run: Run, lm: LanguageModel, comments: Comments, spec: DirectionSpec, made_from: dict[str, Any]
) -> Direction:
    """The stage `direction`: along which prompts are steered, or continuations ranked."""
    return run.value(
        "direction",
        "Direction from comments",
        Direction,
        inputs={**made_from, "seeds": asdict(spec.concept.seeds()) if spec.kind == "token-contrast" else None},
        make=lambda: make_direction(lm, comments, spec, progress=run.reporter.progress),
    )


@dataclass(frozen=True)
class Writing:
    """How continuations are written."""

    new_tokens: int
    """Most tokens of one."""
    max_prompt_tokens: int
    """Longer prompts are cut to their end."""
    batch_size: int | None
    """Prompts at a time."""


@dataclass(frozen=True)
class SteeredPairs:
    """Greedy text against text steered along a direction."""

    lm: LanguageModel
    direction: Direction
    scorer: Scorer
    """Only describes the pairs."""
    perturbation: Perturbation
    writing: Writing

    def __call__(self, prompts: Sequence[str], first_row: int) -> Part:
        """The pairs of some prompts."""
        lm, writing = self.lm, self.writing
        plain = generate(
            lm,
            prompts,
            new_tokens=writing.new_tokens,
            max_prompt_tokens=writing.max_prompt_tokens,
            batch_size=writing.batch_size,
        )
        steered = perturbed_continuations(
            lm,
            prompts,
            self.direction,
            self.perturbation,
            new_tokens=writing.new_tokens,
            max_prompt_tokens=writing.max_prompt_tokens,
            batch_size=writing.batch_size,
            first_row=first_row,
        )
        pairs = [Pair(p, a.text, b.text) for p, a, b in zip(prompts, plain, steered, strict=True)]
        whole = [pair for pair in pairs if pair.preferred.strip() and pair.dispreferred.strip()]
        different = [pair for pair in whole if pair.preferred.strip() != pair.dispreferred.strip()]
        better = self.scorer([pair.preferred for pair in different]).tolist()
        worse = self.scorer([pair.dispreferred for pair in different]).tolist()
        scored = [ScoredPair(*row) for row in zip(different, better, worse, strict=True)]
        return Part(scored, identical=len(whole) - len(different), blank=len(pairs) - len(whole))


MOST_ROWS = 256
"""Continuations sampled at a time: a nucleus sorts [rows, vocabulary], at 262,144 tokens 256 MiB."""


def rows_at_once(batch_size: int | None, samples: int) -> int:
    """Continuations at a time: `samples` of each of so many prompts, and at most `MOST_ROWS`; None: those."""
    return MOST_ROWS if batch_size is None else min(batch_size * samples, MOST_ROWS)


@dataclass(frozen=True)
class SampledPairs:
    """Harmless against toxic ones of several continuations."""

    lm: LanguageModel
    scorer: Scorer
    """Ranks the continuations."""
    pairer: Pairer
    samples: int
    """Of each prompt."""
    sampling: Sampling
    writing: Writing
    write: Writer = generate
    """Writes them: the model itself, or a server."""

    def __call__(self, prompts: Sequence[str], first_row: int) -> Part:
        """The pairs of some prompts."""
        sampling, writing = self.sampling, self.writing
        sampled = sample_completions(
            self.lm,
            prompts,
            self.scorer,
            samples=self.samples,
            top_p=sampling.top_p,
            temperature=sampling.temperature,
            new_tokens=writing.new_tokens,
            max_prompt_tokens=writing.max_prompt_tokens,
            seed=sampling.seed,
            batch_size=rows_at_once(writing.batch_size, self.samples),
            first_row=first_row,
            write=self.write,
        )
        return Part(
            self.pairer.pairs(sampled),
            [Harmless(one.prompt, text.text, text.score) for one in sampled for text in self.pairer.harmless(one)],
        )
