"""The settings of a job, checked once, whether they come from flags, a TOML or JSON file, or Python."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

from cyclopts import Group, Parameter
from pydantic import BaseModel, ConfigDict, Field, model_validator

from dposcope.data.concept import Concept

_DATA = Group("Data", sort_key=1)
_DIRECTION = Group("Direction", sort_key=2)
_EDIT = Group("Edit", sort_key=3)
_MEASURES = Group("Measures", sort_key=4)
_MACHINE = Group("Machine", sort_key=5)


_COLUMNS = {"comments": ("text_column", "label_column", "positive_label"), "prompts": ("prompt_column",)}
"""Table → the options that name its columns."""


class Settings(BaseModel):
    """Frozen, and without unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class LoadSettings(Settings):
    """How the model is loaded."""

    dtype: Annotated[Literal["auto", "float32", "bfloat16", "float16"], Parameter(group=_MACHINE)] = Field(
        default="auto",
        description="Precision of the weights. auto: as stored, but a float32 checkpoint runs in bfloat16 where the "
        "hardware multiplies that natively (half the time).",
    )
    device: Annotated[str, Parameter(group=_MACHINE)] = Field(
        default="auto", description="cpu, cuda, cuda:1 …; auto: a GPU where there is one."
    )


class MachineSettings(LoadSettings):
    """Where and how the model runs."""

    batch_size: Annotated[int, Parameter(group=_MACHINE)] = Field(default=32, ge=1, description="Texts at a time.")
    seed: Annotated[int, Parameter(group=_MACHINE)] = Field(
        default=0, ge=0, description="Of splits, controls and the judge. Text is greedy and needs none."
    )


class CommentSettings(Settings):
    """A concept, and labelled comments."""

    concept: Annotated[str | None, Parameter(group=_DATA)] = Field(
        default=None,
        description="What is found and edited: toxicity, negative-sentiment (extra sentiment), food-talk, or a .toml "
        "file of your own. Fills the options for comments, prompts and scorer that are not given. Default: toxicity.",
    )
    comments: Annotated[str | None, Parameter(group=_DATA)] = Field(
        default=None,
        description="Labelled comments: CSV, TSV, JSONL, JSON, Parquet, or hub:owner/name. The direction takes the "
        "first half, the judge the second. Default: the built-in, mild ones.",
    )
    text_column: Annotated[str, Parameter(group=_DATA)] = Field(
        default="comment_text", description="Column of the comments."
    )
    label_column: Annotated[str, Parameter(group=_DATA)] = Field(default="toxic", description="Column of the labels.")
    positive_label: Annotated[str | None, Parameter(group=_DATA)] = Field(
        default=None, description="The label that means toxic. Default: 1, true, toxic, or a score of 0.5 and more."
    )

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or given.get("concept") is None:
            return given
        given = cast(Mapping[str, Any], given)
        options = Concept.load(given["concept"]).options()
        # The columns that a concept names are those of its own tables.
        for source, columns in _COLUMNS.items():
            if source in given or source not in cls.read_sources(given):
                options = {name: value for name, value in options.items() if name not in {source, *columns}}
        return {name: value for name, value in options.items() if name in cls.model_fields} | dict(given)

    @classmethod
    def read_sources(cls, given: Mapping[str, Any]) -> set[str]:  # noqa: ARG003 — for subclasses
        """Which tables these settings read."""
        return set(_COLUMNS)

    @property
    def meant(self) -> Concept:
        """The concept; where the single options say otherwise, they hold."""
        return Concept.load(self.concept)


class DirectionSettings(CommentSettings):
    """How the direction is made."""

    direction: Annotated[str, Parameter(group=_DIRECTION)] = Field(
        default="mean-difference",
        description="mean-difference (clearest on small models), probe (the paper's logistic regression), "
        "token-contrast (no comments needed; paper 6.2), or the path of a saved direction.",
    )
    direction_rows: Annotated[int, Parameter(group=_DIRECTION)] = Field(
        default=2000,
        ge=4,
        description="Comments the direction may use, from the top of the file: all of the smaller class among them "
        "and as many of the other.",
    )
    direction_block: Annotated[int, Parameter(group=_DIRECTION)] = Field(
        default=-1, description="Block at whose end the residual stream is read; -1 is the last (paper)."
    )


class MeasureSettings(DirectionSettings):
    """What is measured, on what and by whom."""

    prompts: Annotated[str | None, Parameter(group=_DATA)] = Field(
        default=None,
        description="Prompts that draw the concept: JSONL, CSV, TXT … Results are measured on the first half; means "
        "come from the second. Default: the built-in, mild ones.",
    )
    prompt_column: Annotated[str, Parameter(group=_DATA)] = Field(
        default="prompt", description="Column of the prompts."
    )
    limit: Annotated[int | None, Parameter(group=_DATA)] = Field(
        default=None, ge=4, description="Use only the first so many prompts, before they are halved. Default: all."
    )
    split: Annotated[Literal["halves", "same"], Parameter(group=_DATA)] = Field(
        default="halves",
        description="halves: measure on the first half of the prompts, learn from the second; same: both on all of "
        "them, as the paper does.",
    )
    neutral: Annotated[str | None, Parameter(group=_DATA)] = Field(
        default=None, description="Text for log-perplexity: TXT (WikiText-like), or a table. Default: built-in prose."
    )
    neutral_column: Annotated[str, Parameter(group=_DATA)] = Field(
        default="text", description="Column of the text, where --neutral is a table."
    )
    passages: Annotated[str | None, Parameter(group=_DATA)] = Field(
        default=None, description="Encyclopedic beginnings with their true continuation, for F1. Default: built-in."
    )
    passage_prompt_column: Annotated[str, Parameter(group=_DATA)] = Field(
        default="prompt", description="Their beginnings."
    )
    passage_gold_column: Annotated[str, Parameter(group=_DATA)] = Field(
        default="gold", description="Their continuations."
    )
    max_passages: Annotated[int | None, Parameter(group=_MEASURES)] = Field(
        default=500, ge=1, description="Passages for F1, from the top of the file."
    )
    judge_comments: Annotated[list[str] | None, Parameter(group=_DATA, negative_iterable=())] = Field(
        default=None,
        description="Further comment files for the independent judge, beside the second half of --comments; tables "
        "with columns toxic and neutral (ParaDetox) too. May be given several times.",
    )
    scorer: Annotated[str, Parameter(group=_MEASURES)] = Field(
        default="profanity",
        description="Scorer of continuations: profanity (embedded), a Hugging Face classifier by id or folder "
        "(paper: unitary/toxic-bert), the folder of a trained judge, vader (negative sentiment), words:FILE.txt, or "
        "module:function.",
    )
    protocol: Annotated[Literal["strict", "reference"], Parameter(group=_MEASURES)] = Field(
        default="strict",
        description="strict: what the paper's text says, measured correctly; reference: as its code does.",
    )
    max_windows: Annotated[int, Parameter(group=_MEASURES)] = Field(
        default=12, ge=1, description="Windows of 1,024 tokens for log-perplexity (2 seconds each for 270M on 2 cores)."
    )


class EditSettings(MachineSettings, MeasureSettings):
    """Settings of `dposcope edit`."""

    alpha: Annotated[float | None, Parameter(group=_EDIT)] = Field(
        default=None,
        ge=0,
        description="Shift of the gains: chosen neurons get a gain of 1−α or 1+α. Fixing --alpha or --ablate turns "
        "the search of the strength off. Default: searched.",
    )
    beta: Annotated[float, Parameter(group=_EDIT)] = Field(
        default=0.55, ge=0, le=1, description="Fraction of each neuron group that is edited (paper: 0.55)."
    )
    ablate: Annotated[float | None, Parameter(group=_EDIT)] = Field(
        default=None,
        ge=0,
        description="Share w of the direction that all output projections lose; 1 removes it, 2 turns it round. "
        "Default: searched.",
    )
    ranking: Annotated[Literal["cosine", "signed", "activation", "reference"], Parameter(group=_EDIT)] = Field(
        default="cosine",
        description="Which neurons of a group come first: by |cosine|, signed cosine, smallest |mean|, or "
        "as the authors' code does.",
    )
    mix: Annotated[Literal["both", "gains", "ablation"], Parameter(group=_EDIT)] = Field(
        default="both", description="What the searched edit is made of."
    )
    max_logppl_increase: Annotated[float, Parameter(group=_EDIT)] = Field(
        default=0.2,
        gt=0,
        description="Strength is raised until log-perplexity on neutral text rises by this many nats per token "
        "(0.2: a fifth of a nat, about 22 per cent in perplexity).",
    )
    controls: Annotated[bool, Parameter(group=_MEASURES)] = Field(
        default=True,
        description="Also measure a control: the same gains shuffled in each layer, a random direction ablated.",
    )
    learned: Annotated[bool, Parameter(group=_MEASURES)] = Field(
        default=True,
        description="Where an edit learned for the model comes with dposcope, measure it, too.",
    )

    @model_validator(mode="after")
    def _ablation_fits(self) -> "EditSettings":
        if self.mix != "both" and (self.alpha is not None or self.ablate is not None):
            raise ValueError("--mix belongs to the searched edit; with --alpha or --ablate leave it out")
        return self


class EvaluateSettings(MachineSettings, MeasureSettings):
    """Settings of `dposcope evaluate`."""

    condition: Annotated[list[str] | None, Parameter(group=_EDIT, negative_iterable=())] = Field(
        default=None,
        description="What to measure beside the plain model; may be given several times. See the examples below.",
    )
    spread_windows: Annotated[bool, Parameter(group=_MEASURES, negative=())] = Field(
        default=False,
        description="Read the windows for log-perplexity evenly over the text, not its first ones as the paper does: "
        "neighbours are of one article, and what an edit costs differs from article to article.",
    )


class ProbeSettings(MachineSettings, DirectionSettings):
    """Settings of `dposcope probe`."""

    direction: Annotated[str, Parameter(group=_DIRECTION)] = Field(
        default="probe",
        description="probe (the paper's logistic regression), mean-difference, token-contrast, or the path of a "
        "saved direction.",
    )

    protocol: Annotated[Literal["strict", "reference"], Parameter(group=_DIRECTION)] = Field(
        default="strict", description="Features and fit: strict, or as the authors' code does."
    )
