"""The settings of `dposcope reproduce`: the user's data and machine; what is done with them is the preset's."""

from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter
from pydantic import Field

from dposcope.jobs.settings import Settings

_DATA = Group("Data", sort_key=1)
_STABILITY = Group("Stability", sort_key=4)
_MACHINE = Group("Machine", sort_key=5)


class ReproduceSettings(Settings):
    """Settings of `dposcope reproduce`. What is None is left to the preset, and then to each command's default."""

    concept: Annotated[str | None, Parameter(group=_DATA)] = Field(
        default=None,
        description="What is studied: a built-in concept or a TOML file of one's own, which names comments, prompts "
        "and a scorer. Default: toxicity.",
    )
    prompts: Annotated[str | None, Parameter(group=_DATA)] = Field(
        default=None,
        description="Prompts that draw the concept; pairs are sampled from the second half and everything is measured "
        "on the first. Default: the built-in, mild ones.",
    )
    comments: Annotated[str | None, Parameter(group=_DATA)] = Field(
        default=None, description="Labelled comments, for the direction and the judge. Default: built-in."
    )
    judge_comments: Annotated[list[str] | None, Parameter(group=_DATA, negative_iterable=())] = Field(
        default=None, description="Further comments for the judge. May be given several times."
    )
    text: Annotated[str | None, Parameter(group=_DATA)] = Field(
        default=None,
        description="Running text to learn from: prompts of PPLM, and the KL on neutral text. Default: built-in.",
    )
    neutral: Annotated[str | None, Parameter(group=_DATA)] = Field(
        default=None, description="Other running text, to measure log-perplexity on. Default: built-in."
    )
    passages: Annotated[str | None, Parameter(group=_DATA)] = Field(
        default=None, description="Encyclopedic beginnings with their continuation, for F1. Default: built-in."
    )
    prompt_column: Annotated[str | None, Parameter(group=_DATA)] = Field(
        default=None, description="Column of the prompts. Default: prompt."
    )
    text_column: Annotated[str | None, Parameter(group=_DATA)] = Field(
        default=None, description="Column of the comments. Default: comment_text."
    )
    label_column: Annotated[str | None, Parameter(group=_DATA)] = Field(
        default=None, description="Column of their labels. Default: toxic."
    )
    positive_label: Annotated[str | None, Parameter(group=_DATA)] = Field(
        default=None,
        description="The label that means the concept. Default: 1, true, toxic, or a score of 0.5 and more.",
    )
    passage_prompt_column: Annotated[str | None, Parameter(group=_DATA)] = Field(
        default=None, description="Column of the passages' beginnings. Default: prompt."
    )
    passage_gold_column: Annotated[str | None, Parameter(group=_DATA)] = Field(
        default=None, description="Column of their continuations. Default: gold."
    )
    scorer: Annotated[str | None, Parameter(group=_DATA)] = Field(
        default=None, description="Scorer of continuations. Default: the preset's, mostly profanity (embedded)."
    )
    token_judge: Annotated[str | None, Parameter(group=_DATA)] = Field(
        default=None,
        description="Says which tokens are toxic: words (embedded), or the https address of an OpenAI-compatible "
        "endpoint (paper: GPT-4o). Default: words.",
    )
    limit: Annotated[int | None, Parameter(group=_DATA)] = Field(
        default=None, ge=4, description="Use only the first so many prompts. Default: the preset's."
    )
    folds: Annotated[int | None, Parameter(group=_STABILITY)] = Field(
        default=None, ge=0, description="Folds of the prompts whose groups are compared. Default: 2."
    )
    seeds: Annotated[int | None, Parameter(group=_STABILITY)] = Field(
        default=None, ge=0, description="Fits of the direction whose groups are compared. Default: 5."
    )
    bootstrap: Annotated[bool | None, Parameter(group=_STABILITY)] = Field(
        default=None, description="Fit some of them on resampled comments. Default: yes."
    )
    dtype: Annotated[Literal["auto", "float32", "bfloat16", "float16"] | None, Parameter(group=_MACHINE)] = Field(
        default=None, description="Precision of the weights. Default: the preset's."
    )
    device: Annotated[str | None, Parameter(group=_MACHINE)] = Field(
        default=None, description="cpu, cuda …. Default: a GPU where there is one."
    )
    batch_size: Annotated[int | None, Parameter(group=_MACHINE)] = Field(
        default=None, ge=1, description="Texts at a time, where one measures. Default: the preset's."
    )
    seed: Annotated[int | None, Parameter(group=_MACHINE)] = Field(
        default=None, ge=0, description="Of everything random. Default: the preset's, mostly 0."
    )

    def given(self) -> dict[str, Any]:
        """What was given, by the names that the commands use."""
        return self.model_dump(mode="python", exclude_none=True)
