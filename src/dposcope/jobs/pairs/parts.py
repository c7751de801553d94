"""The parts of `dposcope pairs`: some prompts at a time, by one method or the other, each a stage of the run."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Final, Protocol

from dposcope.artefacts import text_digest, value_digest
from dposcope.data.comments import Comments, direction_and_judge
from dposcope.data.corpus import load_neutral
from dposcope.data.prompts import load_split
from dposcope.data.text_prompts import cut_prompts
from dposcope.directions.direction import Direction
from dposcope.evaluation.direction_scorer import direction_scorer
from dposcope.evaluation.scorer import Scorer
from dposcope.evaluation.scorers import load_scorer
from dposcope.evaluation.trained_scorer import with_trained
from dposcope.jobs.ingredients import DIRECTIONS, check_direction, make_direction, read_comments
from dposcope.jobs.pairs.settings import PairsSettings
from dposcope.jobs.run import Quiet, Run
from dposcope.model.generate import generate
from dposcope.model.language_model import LanguageModel
from dposcope.pairs.pairs import Pair
from dposcope.pairs.pplm import Perturbation, perturbed_continuations
from dposcope.pairs.sampled import Pairer, ScoredPair, sample_completions

PART: Final = {"pplm": 32, "sample": 16}
"""Prompts to a part: what a crash can cost, a minute or so."""


_ELSEWHERE: Final = {
    *("prompts", "report_prompts", "text", "comments", "scorer", "concept", "count", "dtype", "device", "shuffled"),
}
"""Settings that decide a part by what they name, which stands among its inputs, or decide none."""


@dataclass(frozen=True, eq=False)
class Source:
    """What is read before any model runs, so that bad input is told at once."""

    texts: tuple[str, ...]
    """One running text (pplm), or prompts (sample)."""
    comments: Comments | None
    """For the direction; None with sample where a scorer ranks, which needs none."""
    saved: str | None
    """Digest of a saved direction."""
    second: Comments | None = None
    """For a second scorer (sample); None: there is none."""

    @classmethod
    def read(cls, settings: PairsSettings) -> "Source":
        """What settings name.

        Raises:
            DposcopeError: a file is missing, damaged or lacks a column.
        """
        if settings.method == "sample":
            how = "same" if settings.use == "all" else "halves"
            split = load_split(settings.prompts, how, report=settings.report_prompts, column=settings.prompt_column)
            used = split.learn
            if settings.rank_by == "direction":
                return cls(used, *cls._for_direction(settings))
            # The judge of every measure reads the second half.
            second = None if settings.comments is None else read_comments(settings).half("first")
            return cls(used, None, None, second)
        text = load_neutral(settings.text, column=settings.prose_column, option="--prose-column")
        return cls((text,), *cls._for_direction(settings))

    @staticmethod
    def _for_direction(settings: PairsSettings) -> tuple[Comments, str | None]:
        check_direction(settings.direction, settings.meant)
        comments = direction_and_judge(read_comments(settings), direction_rows=settings.direction_rows).direction
        return comments, None if settings.direction in DIRECTIONS else value_digest(settings.direction)

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

    def scorer(self, settings: PairsSettings) -> Scorer:
        """What describes pairs, and ranks continuations where no direction does: the scorer that settings name, or its
        mean with one trained on comments."""
        first = load_scorer(settings.scorer)
        return first if self.second is None else with_trained(first, self.second, seed=settings.seed)


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

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Part":
        """What `to_json` gave."""
        kept = [
            ScoredPair(Pair(**row["pair"]), row["preferred_score"], row["dispreferred_score"]) for row in value["kept"]
        ]
        return cls(kept, [Harmless(**row) for row in value["harmless"]], value["identical"], value["blank"])


class _Maker(Protocol):
    """Makes the pairs of some prompts."""

    def __call__(self, prompts: Sequence[str], first_row: int) -> Part:
        """`first_row` is the number of the first prompt among all."""
        ...


def make_parts(run: Run, lm: LanguageModel, source: Source, scorer: Scorer, settings: PairsSettings) -> Iterator[Part]:
    """The parts, made or found, until there are as many pairs as wanted, or the prompts end.

    Raises:
        DposcopeError: the text gives fewer prompts than pairs are wanted, or the model cannot be run so.
    """
    made_from: dict[str, Any] = {
        "model": lm.fingerprint,
        "device": lm.device.type,
        "scorer": scorer.name,
        "scorer_digest": scorer.digest,
        "settings": settings.model_dump(mode="json", exclude=_ELSEWHERE),
        **source.digests,
    }
    # Scores are shuffled among the samples of all prompts, so these are one part.
    most, size = settings.most, len(source.texts) if settings.shuffled else PART[settings.method]
    prompts: Sequence[str] = source.texts
    make: _Maker = _Sampling(lm, scorer, settings)
    if settings.method == "pplm":  # before the direction: a text too short is told at once, and leaves nothing
        prompts = cut_prompts(
            source.texts[0],
            lm.tokenizer,
            count=settings.count,
            prompt_tokens=settings.prompt_tokens,
            seed=settings.seed,
            spare=True,
        )
    if source.comments is not None:
        direction = _direction(run, lm, source.comments, settings, made_from)
        made_from["direction"] = value_digest(run.folder / "direction")
        if settings.method == "pplm":
            make = _Steering(lm, direction, scorer, settings)
        else:
            ranks = direction_scorer(lm, direction, source.comments.balanced(), batch_size=settings.batch_size)
            make = _Sampling(lm, ranks.shuffled(settings.seed) if settings.shuffled else ranks, settings)
    # One bar for all parts instead of one for each.
    silent = Run(run.folder, run.settings, Quiet())
    run.reporter.stage("Pairs by PPLM" if settings.method == "pplm" else "Pairs by sampling")
    start = kept = 0
    while start < len(prompts) and (most is None or kept < most):
        # A steered prompt gives one pair at most, so no more prompts are needed than pairs are missing.
        count = size if most is None or settings.method == "sample" else min(size, most - kept)
        part = _part(silent, make, prompts[start : start + count], start, made_from)
        start, kept = min(start + count, len(prompts)), kept + len(part.kept)
        # Whichever end comes first.
        total = len(prompts) if most is None else min(most, len(prompts))
        run.reporter.progress(start if most is None else min(kept, total), total)
        yield part


def _part(run: Run, make: _Maker, prompts: Sequence[str], start: int, made_from: dict[str, Any]) -> Part:
    name = f"part-{start:06}"
    told = run.json(
        name,
        name,
        inputs={**made_from, "prompts": text_digest(*prompts)},
        make=lambda: make(prompts, start).to_json(),
        file=run.folder / "parts" / f"{name}.json",
    )
    return Part.from_json(told)


def _direction(
    run: Run, lm: LanguageModel, comments: Comments, settings: PairsSettings, made_from: dict[str, Any]
) -> Direction:
    return run.value(
        "direction",
        "Direction from comments",
        Direction,
        inputs={
            **made_from,
            "seeds": asdict(settings.meant.seeds()) if settings.direction == "token-contrast" else None,
        },
        make=lambda: make_direction(lm, comments, settings.direction_spec, progress=run.reporter.progress),
    )


@dataclass(frozen=True)
class _Steering:
    """Greedy text against text steered along the direction."""

    lm: LanguageModel
    direction: Direction
    scorer: Scorer
    settings: PairsSettings

    def __call__(self, prompts: Sequence[str], first_row: int) -> Part:
        chosen, lm = self.settings, self.lm
        plain = generate(
            lm,
            prompts,
            new_tokens=chosen.new_tokens,
            max_prompt_tokens=chosen.max_prompt_tokens,
            batch_size=chosen.batch_size,
        )
        steered = perturbed_continuations(
            lm,
            prompts,
            self.direction,
            Perturbation(
                step_size=chosen.step_size,
                iterations=chosen.iterations,
                horizon=chosen.horizon,
                window=chosen.window,
                gamma=chosen.gamma,
                gm_scale=chosen.gm_scale,
                kl_scale=chosen.kl_scale,
                top_k=chosen.top_k,
                sample=chosen.draw,
                seed=chosen.seed,
            ),
            new_tokens=chosen.new_tokens,
            max_prompt_tokens=chosen.max_prompt_tokens,
            batch_size=chosen.batch_size,
            first_row=first_row,
        )
        pairs = [Pair(p, a.text, b.text) for p, a, b in zip(prompts, plain, steered, strict=True)]
        whole = [pair for pair in pairs if pair.preferred.strip() and pair.dispreferred.strip()]
        different = [pair for pair in whole if pair.preferred.strip() != pair.dispreferred.strip()]
        better = self.scorer([pair.preferred for pair in different]).tolist()
        worse = self.scorer([pair.dispreferred for pair in different]).tolist()
        scored = [ScoredPair(*row) for row in zip(different, better, worse, strict=True)]
        return Part(scored, identical=len(whole) - len(different), blank=len(pairs) - len(whole))


_MOST_ROWS = 256
"""Continuations sampled at a time: a nucleus sorts [rows, vocabulary], at 262,144 tokens 256 MiB."""


@dataclass(frozen=True)
class _Sampling:
    """Harmless against toxic ones of several continuations."""

    lm: LanguageModel
    scorer: Scorer
    settings: PairsSettings

    def __call__(self, prompts: Sequence[str], first_row: int) -> Part:
        chosen = self.settings
        sampled = sample_completions(
            self.lm,
            prompts,
            self.scorer,
            samples=chosen.samples,
            top_p=chosen.top_p,
            temperature=chosen.temperature,
            new_tokens=chosen.new_tokens,
            max_prompt_tokens=chosen.max_prompt_tokens,
            seed=chosen.seed,
            batch_size=min(chosen.batch_size * chosen.samples, _MOST_ROWS),
            first_row=first_row,
        )
        pairer = Pairer(
            chosen.pairing,
            chosen.preferred_below,
            chosen.dispreferred_from,
            chosen.min_gap,
            chosen.pairs_per_prompt,
            chosen.seed,
        )
        return Part(
            [pair for one in sampled for pair in pairer.pairs(one)],
            [Harmless(one.prompt, text.text, text.score) for one in sampled for text in pairer.harmless(one)],
        )
