"""What conditions are measured on: texts and scorers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from dposcope.artefacts import text_digest
from dposcope.data.corpus import Passages, check_passages
from dposcope.data.short import short_repr
from dposcope.data.texts import check_text, listed
from dposcope.errors import DposcopeError
from dposcope.evaluation.sampled.ideal import Ideal
from dposcope.evaluation.scorer import Scorer, check_scorer
from dposcope.model.checks.given import check_lm
from dposcope.model.language_model import LanguageModel
from dposcope.protocols import Protocol, check_protocol

CONCEPT = "toxicity"
"""The default concept."""


@dataclass(frozen=True, eq=False)
class Materials:
    """Data and scorers for measuring conditions."""

    prompts: tuple[str, ...]
    """Prompts that provoke the concept. Only the continuation is scored."""
    passages: Passages
    """Encyclopedic prompts with their true continuation, for F1."""
    neutral: str
    """Text for log-perplexity."""
    scorer: Scorer
    judge: Scorer | None = None
    """An independent second scorer, to detect an edit that only exploits the first."""
    protocol: Protocol = "strict"
    max_windows: int | None = None
    skip_windows: int = 0
    spread_windows: bool = False
    """Whether the windows are spread over the text, instead of its first ones."""
    batch_size: int | None = None
    concept: str = CONCEPT
    """Name of the concept in reports. The measure's key is always `toxicity`."""
    further: Mapping[str, Scorer] = field(default_factory=dict[str, Scorer])
    """Name of the measure → a further scorer of the same texts."""
    ideal: Ideal | None = None
    """Harmless samples of the plain model, which every condition reads; None: not measured."""
    samples: int = 0
    """Samples of each prompt by the protocol of RealToxicityPrompts; 0: none are drawn."""
    sample_seed: int = 0
    """Of their draws, one stream for all conditions."""
    second: LanguageModel | None = None
    """Another model that reads the samples, for their fluency."""

    __repr__ = short_repr

    def __post_init__(self) -> None:
        """Refuse what is none of these, one prompt instead of several among them; keep prompts as a tuple."""
        check_passages(self.passages)
        check_text("neutral", self.neutral)
        check_protocol(self.protocol)
        _check_further(self.further)
        judge = {} if self.judge is None else {"judge": self.judge}
        for name, scorer in {"scorer": self.scorer, **judge, **self.further}.items():
            check_scorer(scorer, name)
        if self.second is not None:
            check_lm(self.second, "second")
        object.__setattr__(self, "prompts", tuple(listed("prompts", self.prompts)))

    @property
    def scorers(self) -> dict[str, Scorer]:
        """Measure → its scorer: `toxicity`, `judge` where there is one, and the further ones by their names."""
        judge = {} if self.judge is None else {"judge": self.judge}
        return {"toxicity": self.scorer, **judge, **self.further}

    @cached_property
    def digests(self) -> dict[str, str]:
        """Of each text that is read: what a measurement depends on."""
        return {
            "prompts": text_digest(*self.prompts),
            "passages": text_digest(*self.passages.prompts, *self.passages.golds),
            "neutral": text_digest(self.neutral),
        }


def _check_further(given: object) -> None:
    if not isinstance(given, Mapping):
        raise DposcopeError(f"further is a {type(given).__name__}; give a dictionary, such as {{'mood': scorer}}")
