"""The settings of `dposcope generate`, `chat` and `serve`."""

from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Group, Parameter
from pydantic import Field

from dposcope.jobs.numbers import BatchSize, Count, Seed, SignedStrength, SomeShare, Temperature
from dposcope.jobs.settings import ChatSettings, LoadSettings
from dposcope.options import Only, is_table

if TYPE_CHECKING:
    from dposcope.model.generate import Sampling

_WRITING = Group("Writing", sort_key=1)

MOST_NEW_TOKENS: Final = 4_096
"""Of one answer: a page of text has some 500."""
NewTokens = Annotated[int, Field(ge=1, le=MOST_NEW_TOKENS)]


class TalkSettings(LoadSettings, ChatSettings):
    """How a model is asked, and how it writes."""

    ONLY = (Only(("temperature", "top_p", "seed"), lambda s: s.sample, "--sample"),)

    edit: Annotated[str | None, Parameter(group=_WRITING)] = Field(
        default=None,
        description="edit.safetensors of dposcope edit, tune or dpo --train gains, the folder of the run, or the name "
        "of a bundled model, for the edit that comes with dposcope. Default: the edit that comes with dposcope for "
        "MODEL, where there is one; of a run: its own.",
    )
    new_tokens: Annotated[NewTokens, Parameter(group=_WRITING)] = Field(
        default=40, description="Most tokens of an answer."
    )
    sample: Annotated[bool, Parameter(group=_WRITING, negative=())] = Field(
        default=False,
        description="Draw each token at random instead of the likeliest one. All strengths draw with the same numbers.",
    )
    temperature: Annotated[Temperature, Parameter(group=_WRITING)] = Field(
        default=1.0, description="With --sample: below 1 the likely tokens are drawn more often, above 1 less often."
    )
    top_p: Annotated[SomeShare, Parameter(group=_WRITING)] = Field(
        default=1.0,
        description="With --sample: draw among the fewest tokens whose probabilities reach this share; 1: all.",
    )
    seed: Annotated[Seed, Parameter(group=_WRITING)] = Field(default=0, description="With --sample: seed of the draws.")

    @property
    def sampling(self) -> "Sampling | None":
        """How tokens are drawn; None: the likeliest one is taken."""
        from dposcope.model.generate import Sampling  # torch comes with it, and --help need not wait for that

        return Sampling(self.temperature, self.top_p, self.seed) if self.sample else None


class GenerateSettings(TalkSettings):
    """Settings of `dposcope generate`: what is asked, and at which strengths, beside how."""

    ONLY = (
        Only(("limit",), lambda s: s.prompts is not None, "--prompts"),
        Only(("prompt_column",), lambda s: is_table(s.prompts), "--prompts with a table"),
    )

    prompt: Annotated[list[str] | None, Parameter(negative_iterable=())] = Field(
        default=None,
        description="A prompt; may be given several times. Default: those of --prompts, or a few built-in ones.",
    )
    prompts: str | None = Field(
        default=None,
        description="More prompts: a text file with one prompt a line, JSONL, CSV, TSV, JSON, Parquet, or "
        "hub:owner/name. Default: none.",
    )
    prompt_column: str = Field(default="prompt", description="Column of --prompts, if it is a table.")
    limit: Count | None = Field(default=None, description="Use only the first so many of --prompts. Default: all.")
    strength: Annotated[list[SignedStrength] | None, Parameter(consume_multiple=True, negative_iterable=())] = Field(
        default=None,
        description="Strengths of the edit, one column each: 0 is the plain model, 1 the edit as it is, 0.5 half of "
        "it. Default: 0 1; without an edit 0.",
    )
    batch_size: BatchSize | None = Field(
        default=None,
        description="Prompts at a time. Default: up to 128, as many as take 4 GB beside the model's weights.",
    )
