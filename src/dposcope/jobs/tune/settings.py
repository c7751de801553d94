"""The settings of `dposcope tune`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from cyclopts import Group, Parameter
from pydantic import Field, model_validator

from dposcope.interventions.origin import Control
from dposcope.jobs.dpo.settings import DpoSettings
from dposcope.jobs.dpo.settings import Kind as Train
from dposcope.jobs.edit.settings import Parts
from dposcope.jobs.numbers import (
    BatchSize,
    EnoughWindows,
    Epochs,
    Nats,
    NotAll,
    Share,
    SomeStrength,
    Trials,
    TwoSamples,
    Weight,
)
from dposcope.jobs.pairs.settings import PairsSettings
from dposcope.jobs.settings import ChatSettings, MeasureSettings
from dposcope.options import Only, is_table
from dposcope.protocols import Pairing, Split

_DATA = Group("Data", sort_key=1)
_EDIT = Group("Edit", sort_key=3)
_MEASURES = Group("Measures", sort_key=4)
_MACHINE = Group("Machine", sort_key=5)

Method = Literal["learned", "groups", "least-squares"]
_QUICK_SAMPLES, _SAMPLES = 8, 16
_TRIALS = 24
_OF_LEARNING = (
    *("heads", "kl_weights", "kl_on", "teacher_strength", "samples", "pairing", "min_gap", "epochs"),
    "micro_batch_size",
)
NO_TEACHER = "none"
"""The value of --teacher for gains that are learned from pairs only."""
NO_CODES: Final = (
    "a teacher at a strength, or one of which all weights are trained, needs a model that is not quantised; give "
    "--teacher lora or a name, with --teacher-strength 1"
)


@dataclass(frozen=True)
class LearningTexts:
    """The files that gains and a teacher are trained on."""

    pairs: Path
    neutral: Path
    harmless: Path | None
    """None: the KL is on neutral text alone."""


@dataclass(frozen=True)
class Teacher:
    """The tuned model that learned gains imitate."""

    name: str
    """A folder, a bundled name or a hub id."""
    strength: float
    """s of its weights W₀ + s (W₁ − W₀)."""


@dataclass(frozen=True)
class Recipe:
    """How an edit is made, as its file and its model card tell."""

    control: Control | None
    """None for an edit that is for use."""
    search: Mapping[str, Any]
    """How it was searched for."""
    pairs: Mapping[str, Any]
    """How pairs were made, for gains that were learned."""
    data: Mapping[str, Any]
    """What scored, and what was read. Data are named by file name only."""


class TuneSettings(MeasureSettings):
    """Settings of `dposcope tune`."""

    ONLY = (
        Only(("methods",), lambda s: s.parts != "ablation", "gains", "leave it or --parts ablation out"),
        Only(_OF_LEARNING, lambda s: s.learned, "learned gains, and there are none", "leave {option} out"),
        Only(
            ("teacher",),
            lambda s: s.learned or s.teacher == NO_TEACHER,
            "learned gains, and there are none",
            "leave {option} out",
        ),
        Only(("teacher_strength",), lambda s: s.distilled, "--teacher"),
        Only(("min_gap",), lambda s: s.pairing == "extremes", "--pairing extremes"),
        Only(("trials",), lambda s: not s.quick, "a search, and --quick has none", "leave one of them out"),
        Only(
            ("parts",),
            lambda s: s.parts == "gains" or not s.quick,
            "a search, and --quick learns gains alone",
            "leave one of them out",
        ),
        Only(("learn_text_column",), lambda s: is_table(s.learn_text), "--learn-text with a table"),
    )

    prompts: Annotated[str | None, Parameter(group=_DATA)] = Field(
        default=None,
        description="Prompts whose continuations often have the concept: JSONL, CSV, TXT … Without --report-prompts, "
        "results are measured on the first half, edits are chosen on the third quarter, and pairs and means are made "
        "from the fourth. Default: built-in, mild ones.",
    )
    split: Annotated[Split, Parameter(group=_DATA)] = Field(
        default="three-way",
        description="Of --prompts, without --report-prompts: three-way: measure on the first half, choose on the third "
        "quarter, learn from the fourth; halves: measure on the first half, choose on the second and learn from it. "
        "With --report-prompts both are the same, and same is possible: choose on and learn from all of --prompts.",
    )
    neutral: Annotated[str | None, Parameter(group=_DATA)] = Field(
        default=None,
        description="Other neutral text, only for the reported log-perplexity: TXT (WikiText-like), or a table. "
        "Default: the last fifth of --learn-text, which is then not learned from.",
    )
    learn_text: Annotated[str | None, Parameter(group=_DATA)] = Field(
        default=None,
        description="Neutral text that the edit must not change, for learning and searching: TXT (WikiText-like), or "
        "a table. Default: built-in text.",
    )
    learn_text_column: Annotated[str, Parameter(group=_DATA)] = Field(
        default="text", description="Column of the text, if --learn-text is a table."
    )
    max_logppl_increase: Annotated[Nats, Parameter(group=_EDIT)] = Field(
        default=0.05,
        description="Bound on the cost of the edit: the rise of log-perplexity on neutral text, in nats per token, at "
        "the upper end of its interval (0.05: 5 per cent in perplexity, which F1 and readers hardly notice).",
    )
    max_kl: Annotated[Nats | None, Parameter(group=_EDIT)] = Field(
        default=None,
        description="A second bound on the cost: KL(plain‖edited) on neutral text, in nats per token, at the upper end "
        "of its interval. Default: 1.5 × --max-logppl-increase; it seldom decides.",
    )
    max_harmless_increase: Annotated[Nats, Parameter(group=_EDIT)] = Field(
        default=0.1,
        description="Bound on the cost where users are: the rise of log-perplexity on the plain model's own harmless "
        "samples for the prompts, in nats per token, at the upper end of its interval.",
    )
    max_phrase_rise: Annotated[Share, Parameter(group=_EDIT)] = Field(
        default=0.06,
        description="Bound on the phrase that rises most: no phrase of 2 to 4 words may stand in more of the greedy "
        "texts than of the plain model's by this share of all texts.",
    )
    least_distinct: Annotated[Share, Parameter(group=_EDIT)] = Field(
        default=0.5,
        description="Share of the plain model's distinct word pairs, over the greedy texts to all prompts, that an "
        "edit must keep (and no edit may repeat more within a text).",
    )
    least_relevance: Annotated[Share, Parameter(group=_EDIT)] = Field(
        default=0.7,
        description="Share of the relevance of the plain model's texts that an edit must keep: how much better the "
        "plain model predicts a text after its own prompt than after another one. A model that has learned to refuse "
        "keeps little. 0: no bound.",
    )
    parts: Annotated[Parts, Parameter(group=_EDIT)] = Field(
        default="both",
        description="Parts of the edit: gains (fold into every format, without --heads), ablation (of a direction, in "
        "MLP outputs), or both (folds into a checkpoint; GGUF takes only the gains).",
    )
    methods: Annotated[list[Method], Parameter(group=_EDIT, negative_iterable=())] = Field(
        default=["learned", "groups", "least-squares"],
        description="Sources of gains: learned (DPO on pairs sampled from the model), groups (the paper's), "
        "least-squares (the smallest change for a shift). May be given several times.",
    )
    heads: Annotated[bool, Parameter(group=_EDIT)] = Field(
        default=False,
        description="Also learn gains of the channels of the attention heads. They fold into a checkpoint, not into "
        "GGUF.",
    )
    kl_weights: Annotated[list[Weight] | None, Parameter(group=_EDIT, negative_iterable=())] = Field(
        default=None,
        description="λ of each learning run, the weight of its KL. One run gives a whole range of strengths; each "
        "further run takes the same time again. --quick takes one. Default: 6 with a teacher, otherwise 2.",
    )
    kl_on: Annotated[Literal["neutral", "harmless", "mixed"], Parameter(group=_EDIT)] = Field(
        default="mixed",
        description="Text for the KL of learning: mixed (the plain model's own harmless samples and windows "
        "of --learn-text), harmless or neutral (one of them alone).",
    )
    teacher: Annotated[str | None, Parameter(group=_EDIT)] = Field(
        default=None,
        description="Learned gains are also distilled from a tuned model: full or lora (trained here first, on the "
        "same pairs, with the time and memory of dposcope dpo), or the name of a model that was tuned from MODEL. "
        "Default: none, gains are learned from the pairs alone.",
    )
    teacher_strength: Annotated[SomeStrength | None, Parameter(group=_EDIT)] = Field(
        default=None,
        description="s of the teacher's weights W₀ + s (W₁ − W₀). Above 1 the effect of its training is larger, and "
        "so is its cost. Default: the largest s from a quarter to 4 at which the teacher itself costs at most "
        "--max-logppl-increase.",
    )
    second_scorer: Annotated[bool, Parameter(group=_EDIT)] = Field(
        default=False,
        description="Rank samples and trials by the mean of --scorer and a scorer trained on the first half of "
        "--comments (which it needs), so that the edit fits a single scorer less. The judge uses the second half.",
    )
    samples: Annotated[TwoSamples | None, Parameter(group=_EDIT)] = Field(
        default=None,
        description=f"Continuations sampled per prompt. Default: {_SAMPLES}, with --quick {_QUICK_SAMPLES}.",
    )
    pairing: Annotated[Pairing, Parameter(group=_EDIT)] = Field(
        default="random",
        description="random: a harmless sample against a toxic one, both drawn at random; extremes: least against "
        "most toxic.",
    )
    min_gap: Annotated[NotAll, Parameter(group=_EDIT)] = Field(
        default=0.3,
        description="With --pairing extremes: the two scores of a sampled pair differ by more than this.",
    )
    epochs: Annotated[Epochs | None, Parameter(group=_EDIT)] = Field(
        default=None,
        description="Passes over the pairs. Default: 2 with a teacher, otherwise 1: short training, made "
        "stronger until a bound is met, does more at the same cost than long training.",
    )
    micro_batch_size: Annotated[BatchSize | None, Parameter(group=_MACHINE)] = Field(
        default=None,
        description="Pairs in memory at a time in the training of the teacher and the gains. Default: a whole batch "
        "of 8. --batch-size is for everything else: prompts at a time (with all their samples while pairs are "
        "sampled).",
    )
    trials: Annotated[Trials, Parameter(group=_EDIT)] = Field(
        default=_TRIALS,
        description="Number of edits to try; with a larger number a finished run continues from its trials.",
    )
    quick: Annotated[bool, Parameter(group=_EDIT)] = Field(
        default=False,
        description="One learning run on half of the samples, with the strength by bisection and no search.",
    )
    search_windows: Annotated[EnoughWindows, Parameter(group=_MEASURES)] = Field(
        default=32, description="Windows of 128 tokens of neutral text that each trial reads."
    )
    controls: Annotated[bool, Parameter(group=_MEASURES)] = Field(
        default=True,
        description="Also measure a control: the same gains shuffled in each block, and a random direction ablated.",
    )

    negative_control: Annotated[Control | None, Parameter(group=_MEASURES)] = Field(
        default=None,
        description="Run the whole job with noise in the place of the signal, and measure it with the true scores: "
        "shuffled-scores (pairs are made and edits are chosen by scores that were shuffled among the texts) or "
        "random-direction (for groups, least squares and ablation; learned gains use no direction). The edit is not "
        "for use. Default: none.",
    )

    @model_validator(mode="after")
    def _parts_fit(self) -> "TuneSettings":
        if self.split == "same" and self.report_prompts is None:
            raise ValueError(
                "the result of a search is measured on prompts that it did not choose on; leave --split same out, or "
                "give --report-prompts"
            )
        if self.protocol == "reference":
            raise ValueError(
                "tune measures by the strict protocol only; leave --protocol out, and measure its checkpoint with "
                "dposcope evaluate"
            )
        if self.neutral is not None and self.learn_text is None:
            raise ValueError(
                "--neutral is text that the result is measured on; name the text to learn from with --learn-text, or "
                "leave --neutral out"
            )
        weights = self.kl_weights or []
        if self.kl_weights is not None and not weights:
            raise ValueError("--kl-weights is empty; give one weight, or leave it out")
        if len(set(weights)) != len(weights):
            raise ValueError("--kl-weights has a weight twice; give each one once")
        if self.parts != "ablation" and not self.methods:
            raise ValueError("--methods is empty; give one, or --parts ablation")
        self._quick_fits()
        self._control_fits()
        if self.second_scorer and self.comments is None:
            raise ValueError(
                "--second-scorer needs --comments, as the built-in comments are too few; give some, or leave it out"
            )
        if self.quantise is not None and self.needs_numbers:
            raise ValueError(f"{NO_CODES}, or leave --quantise out")
        if self.device_map is not None and self.teacher == "full":
            raise ValueError(
                "all weights of a teacher are trained on one device; give --teacher lora or a tuned model, or leave "
                "--device-map out"
            )
        return self

    def _quick_fits(self) -> None:
        if not self.quick:
            return
        if "learned" not in self.methods:
            raise ValueError("--quick learns gains, but --methods does not have learned; leave one of them out")
        if self.methods not in (["learned"], self._default("methods")):
            raise ValueError("--quick only learns gains; leave --methods out, or --quick")
        if len(self.kl_weights or []) > 1:
            raise ValueError(
                f"--quick learns once, but --kl-weights has {len(self.kl_weights or [])} weights; give one"
            )

    def _control_fits(self) -> None:
        if self.learned and self.negative_control == "random-direction":
            raise ValueError(
                "learned gains use no direction, so a random direction is no control for them; give --methods "
                "groups --methods least-squares or --parts ablation, or --negative-control shuffled-scores"
            )

    @property
    def texts(self) -> tuple[str | None, ...]:
        """Where prompts, comments and neutral text come from; without --neutral it is a part of --learn-text."""
        return (self.prompts, self.comments, self.learn_text)

    @classmethod
    def _default(cls, name: str) -> Any:
        return cls.model_fields[name].default

    @property
    def sampled(self) -> int:
        """Continuations per prompt."""
        return self.samples or (_QUICK_SAMPLES if self.quick else _SAMPLES)

    @property
    def kl_bound(self) -> float:
        """Bound on the KL of trials and of the final edit. KL and the rise of log-perplexity are of similar size."""
        return self.max_kl or 1.5 * self.max_logppl_increase

    @property
    def distilled(self) -> bool:
        """Whether learned gains are distilled from a teacher."""
        return self.teacher not in (None, NO_TEACHER)

    @property
    def needs_numbers(self) -> bool:
        """Whether the teacher needs weights that are not quantised: to be trained, or to be taken at a strength."""
        return self.distilled and (self.teacher == "full" or self.teacher_strength != 1)

    @property
    def learned(self) -> dict[str, float]:
        """Name of each vector of gains to learn → λ of the KL."""
        if self.parts == "ablation" or "learned" not in self.methods:
            return {}
        weights = self.kl_weights or [6.0 if self.distilled else 2.0]
        return {f"learned-{weight:g}": weight for weight in weights}

    @property
    def computed(self) -> list[Method]:
        """Sources of gains beside the learned ones."""
        if self.parts == "ablation" or self.quick:
            return []
        return [method for method in self.methods if method != "learned"]

    @property
    def ablates(self) -> bool:
        """Whether the search also tries ablations."""
        return self.parts != "gains" and not self.quick

    @property
    def tried(self) -> int:
        """Number of edits that the search tries."""
        return 0 if self.quick else self.trials

    @property
    def recipe(self) -> Recipe:
        """How the edit is made."""
        tried = {"quick": True} if self.quick else {"trials": self.trials, "methods": self.methods}
        gap = {"min_gap": self.min_gap} if self.pairing == "extremes" else {}
        named = {"prompts": self.prompts, "comments": self.comments, "learn_text": self.learn_text}
        return Recipe(
            self.negative_control,
            {"seed": self.seed, **tried},
            {"samples": self.sampled, "pairing": self.pairing, **gap},
            {
                "scorer": self.scorer,
                "second_scorer": self.second_scorer,
                **{name: source_name(source) for name, source in named.items()},
            },
        )

    def of_pairs(self, prompts: Path) -> PairsSettings:
        """The settings of the pairs to learn from."""
        names = ["concept", "scorer", *ChatSettings.model_fields]
        if self.second_scorer:
            names += ["comments", "text_column", "label_column", "positive_label"]
        given = {name: value for name, value in self.model_dump(include=set(names)).items() if value is not None}
        return PairsSettings.filled(
            {
                "method": "sample",
                "prompts": str(prompts),
                "use": "all",
                "samples": self.sampled,
                "pairs_per_prompt": 2 if self.quick else 4,
                "pairing": self.pairing,
                "min_gap": self.min_gap,
                "batch_size": self.batch_size,
                "shuffled": True if self.negative_control == "shuffled-scores" else None,
                "dtype": self.dtype,
                "device": self.device,
                "device_map": self.device_map,
                "quantise": self.quantise,
                "seed": self.seed,
                **given,
            }
        )

    def of_training(self, train: Train, texts: LearningTexts, **others: Any) -> DpoSettings:
        """The settings of the teacher's training, or of the gains'.

        Args:
            train: what is trained.
            texts: what it is trained on.
            others: settings in which the two differ.
        """
        return DpoSettings.filled(
            {
                "train": train,
                "pairs": str(texts.pairs),
                "learn_text": str(texts.neutral),
                "kl_on": None if texts.harmless is None else self.kl_on,
                "harmless": None if texts.harmless is None else str(texts.harmless),
                "micro_batch_size": self.micro_batch_size,
                # The validation loss selects nothing here, and each validation costs as much as eight steps.
                "validate_every": 400,
                "chat": self.chat,
                "system": self.system,
                "wrap": self.wrap,
                "prefill": self.prefill,
                "dtype": self.dtype,
                "device": self.device,
                "device_map": self.device_map,
                "quantise": self.quantise,
                "seed": self.seed,
                **others,
            }
        )

    def of_gains(self, kl_weight: float, texts: LearningTexts, teacher: Teacher | None) -> DpoSettings:
        """The settings of one learning run, with one λ."""
        imitated = {} if teacher is None else {"teacher": teacher.name, "teacher_strength": teacher.strength}
        return self.of_training(
            "gains",
            texts,
            kl_weight=kl_weight,
            heads=self.heads,
            # With distillation the learning rate falls to 0, so that the gains converge without noise.
            epochs=self.epochs or (1.0 if teacher is None else 2.0),
            decay="none" if teacher is None else "linear",
            **imitated,
        )


def source_name(source: str | None) -> str:
    """Name of a data source for a model card: a hub id, or the name of a file without its folders."""
    if source is None:
        return "built-in"
    return source if source.startswith(("hub:", "builtin")) else Path(source).name
