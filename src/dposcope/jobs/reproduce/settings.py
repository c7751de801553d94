"""The settings of `dposcope reproduce`: the user's data and machine. The preset says what is done with them."""

from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter
from pydantic import Field

from dposcope.jobs.numbers import BatchSize, Refits, Seed, Splittable
from dposcope.jobs.settings import LAYOUT, LayoutOption, Settings
from dposcope.model.chat.asking import ChatMode

_DATA = Group("Data", sort_key=1)
_STABILITY = Group("Stability", sort_key=4)
_MACHINE = Group("Machine", sort_key=5)
_CHAT = Group("Chat models", sort_key=2)


class ReproduceSettings(Settings):
    """Settings of `dposcope reproduce`. None means the value of the preset, or else the default of each command."""

    concept: Annotated[str | None, Parameter(group=_DATA)] = Field(
        default=None,
        description="The concept to study: a built-in concept, or your own concept spec, a TOML file that names "
        "comments, prompts and a scorer. Default: toxicity.",
    )
    prompts: Annotated[str | None, Parameter(group=_DATA)] = Field(
        default=None,
        description="Prompts whose continuations often have the concept. Pairs are sampled on the second half, and "
        "without --report-prompts everything is measured on the first. Default: built-in, mild ones.",
    )
    report_prompts: Annotated[str | None, Parameter(group=_DATA)] = Field(
        default=None,
        description="Other prompts, which only the last step of each explanation reads: everything is measured on all "
        "of them. Prompts of --prompts that stand here, too, are left out there. Default: a part of --prompts.",
    )
    comments: Annotated[str | None, Parameter(group=_DATA)] = Field(
        default=None, description="Labelled comments, for the direction and the judge. Default: built-in."
    )
    judge_comments: Annotated[list[str] | None, Parameter(group=_DATA, negative_iterable=())] = Field(
        default=None, description="Additional comments for the judge. May be given several times. Default: none."
    )
    learn_text: Annotated[str | None, Parameter(group=_DATA)] = Field(
        default=None,
        description="Running text to learn from: for the prompts of PPLM, and for the KL on neutral text. Default: "
        "built-in.",
    )
    neutral: Annotated[str | None, Parameter(group=_DATA)] = Field(
        default=None, description="Other text, which is only measured on: for log-perplexity. Default: built-in."
    )
    passages: Annotated[str | None, Parameter(group=_DATA)] = Field(
        default=None, description="Encyclopedic prompts with their true continuations, for F1. Default: built-in."
    )
    prompt_column: Annotated[str | None, Parameter(group=_DATA)] = Field(
        default=None, description="Column of the prompts. Default: prompt."
    )
    text_column: Annotated[str | None, Parameter(group=_DATA)] = Field(
        default=None, description="Column of the comments. Default: comment_text."
    )
    label_column: Annotated[str | None, Parameter(group=_DATA)] = Field(
        default=None, description="Column of the labels of the comments. Default: toxic."
    )
    positive_label: Annotated[str | None, Parameter(group=_DATA)] = Field(
        default=None,
        description="The label that means the concept. Default: 1, true, toxic, or a score of 0.5 and more.",
    )
    learn_text_column: Annotated[str | None, Parameter(group=_DATA)] = Field(
        default=None, description="Column of the text, if --learn-text is a table. Default: text."
    )
    neutral_column: Annotated[str | None, Parameter(group=_DATA)] = Field(
        default=None, description="Column of the text, if --neutral is a table. Default: text."
    )
    passage_prompt_column: Annotated[str | None, Parameter(group=_DATA)] = Field(
        default=None, description="Column of the prompts of the passages. Default: prompt."
    )
    passage_gold_column: Annotated[str | None, Parameter(group=_DATA)] = Field(
        default=None, description="Column of the true continuations. Default: gold."
    )
    scorer: Annotated[str | None, Parameter(group=_DATA)] = Field(
        default=None, description="Scorer of continuations. Default: that of the preset, usually profanity."
    )
    token_judge: Annotated[str | None, Parameter(group=_DATA)] = Field(
        default=None,
        description="Judge of toxic tokens: words (a built-in list), or the https address of an OpenAI-compatible "
        "endpoint (paper: GPT-4o). Default: words.",
    )
    chat: Annotated[ChatMode | None, Parameter(group=_CHAT)] = Field(
        default=None,
        description="Whether a prompt is a message to a chat model: on, off or auto (on where the tokenizer has a "
        "template). Default: that of the preset, or auto.",
    )
    system: Annotated[str | None, Parameter(group=_CHAT)] = Field(
        default=None, description="System prompt of a chat model. Default: that of the preset, or of the template."
    )
    wrap: Annotated[str | None, Parameter(group=_CHAT)] = Field(
        default=None,
        description="What a chat model is asked, with {prompt} once in it. Default: that of the preset, or the prompt "
        "itself.",
    )
    prefill: Annotated[str | None, Parameter(group=_CHAT)] = Field(
        default=None,
        description="How a chat model's answer begins, with the prompt where it says {prompt}. Default: that of the "
        "preset, or the model begins its answer.",
    )
    limit: Annotated[Splittable | None, Parameter(group=_DATA)] = Field(
        default=None, description="Use only the first so many prompts. Default: that of the preset."
    )
    folds: Annotated[Refits | None, Parameter(group=_STABILITY)] = Field(
        default=None, description="Parts of the prompts whose groups of neurons are compared. Default: 2."
    )
    seeds: Annotated[Refits | None, Parameter(group=_STABILITY)] = Field(
        default=None, description="Refits of the direction whose groups of neurons are compared. Default: 5."
    )
    bootstrap: Annotated[bool | None, Parameter(group=_STABILITY)] = Field(
        default=None, description="Also refit on resampled comments. Default: yes."
    )
    dtype: Annotated[Literal["auto", "float32", "bfloat16", "float16"] | None, Parameter(group=_MACHINE)] = Field(
        default=None, description="Precision of the weights. Default: that of the preset."
    )
    device: Annotated[str | None, Parameter(group=_MACHINE)] = Field(
        default=None, description="cpu, cuda …. Default: a GPU if there is one."
    )
    layout: LayoutOption = Field(default=None, description=LAYOUT)
    batch_size: Annotated[BatchSize | None, Parameter(group=_MACHINE)] = Field(
        default=None, description="Texts at a time in measurements. Default: that of the preset."
    )
    seed: Annotated[Seed | None, Parameter(group=_MACHINE)] = Field(
        default=None, description="Seed of everything random. Default: that of the preset, usually 0."
    )

    def given(self) -> dict[str, Any]:
        """The given settings, with the names of the commands."""
        return self.model_dump(mode="python", exclude_none=True)
