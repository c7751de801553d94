"""The settings of `dposcope generate`, `chat` and `serve`."""

from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Group, Parameter
from pydantic import Field, model_validator

from dposcope.jobs.numbers import Seed, SomeShare, Temperature
from dposcope.jobs.settings import ChatSettings, LoadSettings

if TYPE_CHECKING:
    from dposcope.model.generate import Sampling

_WRITING = Group("Writing", sort_key=1)

MOST_NEW_TOKENS: Final = 4_096
"""Of one answer: a page of text has some 500."""
NewTokens = Annotated[int, Field(ge=1, le=MOST_NEW_TOKENS)]


class TalkSettings(LoadSettings, ChatSettings):
    """How a model is asked, and how it writes."""

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

    @model_validator(mode="after")
    def _sampling_is_asked_for(self) -> "TalkSettings":
        given = {"temperature", "top_p", "seed"} & self.model_fields_set
        if given and not self.sample:
            option = f"--{min(given).replace('_', '-')}"
            raise ValueError(f"{option} is for --sample; give that, or leave {option} out")
        return self
