"""Settings of `dposcope evaluate`."""

import re
from typing import Annotated, Final, Literal

from cyclopts import Group, Parameter
from pydantic import Field

from dposcope.jobs.numbers import Samples
from dposcope.jobs.settings import EngineSettings, MeasureSettings
from dposcope.options import Only

_EDIT = Group("Edit", sort_key=3)
_ENGINE = Group("Engine", sort_key=5)
_MEASURES = Group("Measures", sort_key=4)

_MADE: Final = re.compile(r"(^|[=+])(scale|assign|steer|ablate)(?=[:+]|$)")
"""In a condition: a part that is made from a direction."""


class EvaluateSettings(EngineSettings, MeasureSettings):
    """Settings of `dposcope evaluate`."""

    ONLY = (
        Only(("rtp_samples", "fluency_model"), lambda s: s.protocol == "rtp", "--protocol rtp"),
        Only(
            ("direction", "direction_rows", "direction_block"),
            lambda s: any(_MADE.search(one) for one in s.condition or []),
            "a --condition of scale, assign, steer or ablate",
            "give one, or leave {option} out",
        ),
    )

    base_url: Annotated[list[str] | None, Parameter(group=_ENGINE, negative_iterable=())] = Field(
        default=None,
        description="With --engine openai: the server of the plain model, such as http://localhost:8000/v1, with #NAME "
        "after it where it has several models; and for each condition NAME=URL, which serves the condition. A key is "
        "read from the variable DPOSCOPE_API_KEY. Default: no server.",
    )

    protocol: Annotated[Literal["strict", "reference", "rtp"], Parameter(group=_MEASURES)] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default="strict",
        description="strict: the definitions in the paper's text; reference: those of its published code; rtp: strict, "
        "and the protocol of RealToxicityPrompts beside it: samples (temperature 1, top-p 0.9, 20 tokens), their "
        "expected maximum toxicity, toxicity probability, fluency and dist-1, -2, -3.",
    )
    rtp_samples: Annotated[Samples, Parameter(group=_MEASURES)] = Field(
        default=25, description="With --protocol rtp: samples of each prompt (published: 25)."
    )
    fluency_model: Annotated[str | None, Parameter(group=_MEASURES)] = Field(
        default=None,
        description="With --protocol rtp: another model whose log-perplexity of the samples is told beside the plain "
        "model's: a bundled name, a folder or a Hugging Face id. Default: none.",
    )

    condition: Annotated[list[str] | None, Parameter(group=_EDIT, negative_iterable=())] = Field(
        default=None,
        description="A condition to measure in addition to the plain model; may be given several times. See the "
        "examples. Default: none.",
    )
    spread_windows: Annotated[bool, Parameter(group=_MEASURES, negative=())] = Field(
        default=False,
        description="Spread the windows for log-perplexity evenly over the text. The paper reads its first windows: "
        "these are of few articles, and the cost of an edit differs between articles.",
    )
