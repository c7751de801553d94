"""The settings of `dposcope pairs`: where prompts come from, and how the dispreferred side is made."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter
from pydantic import Field, model_validator

from dposcope.jobs.settings import DirectionSettings, MachineSettings

_PAIRS = Group("Pairs", sort_key=0)
_PPLM = Group("Only with --method pplm", sort_key=3)
_SAMPLE = Group("Only with --method sample", sort_key=4)
_MACHINE = Group("Machine", sort_key=5)

Method = Literal["pplm", "sample"]


class PairsSettings(MachineSettings, DirectionSettings):
    """Settings of `dposcope pairs`. The defaults of PPLM are those of `Perturbation`, which says more of each."""

    method: Annotated[Method, Parameter(group=_PAIRS)] = Field(
        default="pplm",
        description="pplm: greedy text against text steered along the direction (the paper's way); sample: least "
        "against most toxic of several continuations that the model itself gives (no comments needed, and the better "
        "pairs of the two).",
    )
    comments: Annotated[str | None, Parameter(group=_PAIRS)] = Field(
        default=None,
        description="Labelled comments: CSV, TSV, JSONL, JSON, Parquet, or hub:owner/name. With pplm the direction "
        "takes the first half (default: the built-in, mild ones); with sample a second scorer is trained on it, and "
        "the mean of both ranks the continuations, so that pairs fit the taste of one scorer less (but see --rank-by). "
        "The judge of other commands reads the second half.",
    )
    count: Annotated[int | None, Parameter(group=_PAIRS)] = Field(
        default=None,
        ge=1,
        description="Pairs to make. Default: up to 800 with pplm, all that the prompts give with sample.",
    )
    new_tokens: Annotated[int, Parameter(group=_PAIRS)] = Field(
        default=20, ge=1, description="Most tokens of a continuation (paper: 20 for measures, up to 64 for pairs)."
    )
    max_prompt_tokens: Annotated[int, Parameter(group=_PAIRS)] = Field(
        default=64, ge=2, description="Longer prompts keep their last so many tokens (paper: 64)."
    )
    scorer: Annotated[str, Parameter(group=_PAIRS)] = Field(
        default="profanity",
        description="Judges continuations, 0 to 1: profanity (embedded), a Hugging Face classifier by id or folder, "
        "the folder of a trained judge, vader, words:FILE.txt, or module:function. With sample it makes the pairs, "
        "with pplm it describes them.",
    )
    batch_size: Annotated[int, Parameter(group=_MACHINE)] = Field(
        default=32,
        ge=1,
        description="Prompts at a time, with sample each with all its continuations; comments for the direction too.",
    )
    seed: Annotated[int, Parameter(group=_MACHINE)] = Field(
        default=0, ge=0, description="Of the order of prompts and of every draw."
    )

    text: Annotated[str | None, Parameter(group=_PPLM)] = Field(
        default=None,
        description="Running text whose sentences give the prompts: TXT (WikiText-like), a table, or hub:owner/name. "
        "Default: built-in prose, good for some 200 prompts.",
    )
    prose_column: Annotated[str, Parameter(group=_PPLM)] = Field(
        default="text", description="Column of the text, where --text is a table."
    )
    prompt_tokens: Annotated[int, Parameter(group=_PPLM)] = Field(
        default=20, ge=1, description="Tokens of each prompt cut from the text."
    )
    step_size: Annotated[float, Parameter(group=_PPLM)] = Field(
        default=0.02,
        ge=0,
        description="Length of a step, as a share of the norm of each layer's cached keys and values (published code: "
        "0.02 to 0.04 of another unit). Larger: more toxic, less fluent.",
    )
    iterations: Annotated[int, Parameter(group=_PPLM)] = Field(
        default=2, ge=0, description="Steps before each token (Dathathri et al. 2020: 3, with a discriminator 10)."
    )
    horizon: Annotated[int, Parameter(group=_PPLM)] = Field(
        default=1, ge=0, description="Tokens looked ahead, through their expected embedding (published: 1)."
    )
    window: Annotated[int, Parameter(group=_PPLM)] = Field(
        default=0, ge=0, description="Perturb only so many of the last cached tokens; 0: all (published: 0)."
    )
    gamma: Annotated[float, Parameter(group=_PPLM)] = Field(
        default=1.0, ge=0, description="Exponent of the gradient's norm (published: 1.0 to 1.5)."
    )
    gm_scale: Annotated[float, Parameter(group=_PPLM)] = Field(
        default=0.8,
        ge=0,
        le=1,
        description="Share of the perturbed model when both distributions are fused (published: 0.9 to 0.95).",
    )
    kl_scale: Annotated[float, Parameter(group=_PPLM)] = Field(
        default=0.01,
        ge=0,
        description="Weight of KL to the plain distribution, per nat, against the direction's projection in distances "
        "of the classes' means (published: 0.01).",
    )
    top_k: Annotated[int, Parameter(group=_PPLM)] = Field(
        default=10, ge=0, description="Tokens kept of the fused distribution; 0: all (published: 10)."
    )
    draw: Annotated[bool, Parameter(group=_PPLM)] = Field(
        default=False, description="Draw steered tokens instead of taking the likeliest."
    )

    prompts: Annotated[str | None, Parameter(group=_SAMPLE)] = Field(
        default=None, description="Prompts that draw the concept: JSONL, CSV, TXT … Default: the built-in, mild ones."
    )
    prompt_column: Annotated[str, Parameter(group=_SAMPLE)] = Field(
        default="prompt", description="Column of the prompts."
    )
    use: Annotated[Literal["learn", "all"], Parameter(group=_SAMPLE)] = Field(
        default="learn",
        description="learn: only the second half of the prompts, since the other commands measure on the first; all: "
        "every one, where you measure on others.",
    )
    rank_by: Annotated[Literal["scorer", "direction"], Parameter(group=_SAMPLE)] = Field(
        default="scorer",
        description="What orders the continuations: scorer; or direction, how far along the direction made from "
        "--comments the model's own stream lies, with no scorer at all (--scorer then only describes the pairs).",
    )
    samples: Annotated[int, Parameter(group=_SAMPLE)] = Field(
        default=16,
        ge=2,
        description="Continuations per prompt; 16 gave 579 pairs of 200 challenge prompts, 8 gave 280.",
    )
    pairs_per_prompt: Annotated[int, Parameter(group=_SAMPLE)] = Field(
        default=4, ge=1, description="Most pairs from one prompt: least against most toxic, second against second …"
    )
    min_gap: Annotated[float, Parameter(group=_SAMPLE)] = Field(
        default=0.3, ge=0, lt=1, description="The two scores of a pair differ by more than this."
    )
    top_p: Annotated[float, Parameter(group=_SAMPLE)] = Field(
        default=0.95, gt=0, le=1, description="Draw from the fewest tokens whose probabilities reach this sum."
    )
    temperature: Annotated[float, Parameter(group=_SAMPLE)] = Field(
        default=1.0, gt=0, description="Divides the logits before a draw; below 1: plainer text."
    )
    shuffled: Annotated[bool | None, Parameter(group=_SAMPLE)] = Field(
        default=None,
        description="A negative control: shuffle the scores among the samples of all prompts before pairs are made. "
        "The file's statistics are by the true scores. All prompts are then one part, which a crash costs. Default: "
        "the true scores.",
    )

    @classmethod
    def read_sources(cls, given: Mapping[str, Any]) -> set[str]:
        """PPLM cuts its prompts from running text; samples need no direction."""
        if given.get("method") != "sample":
            return {"comments"}
        return {"prompts", "comments"} if given.get("rank_by") == "direction" else {"prompts"}

    @model_validator(mode="after")
    def _sources_fit(self) -> "PairsSettings":
        if self.method == "sample" and self.text is not None:
            raise ValueError("--text belongs to --method pplm; with --method sample give --prompts")
        if self.method == "pplm" and self.shuffled:
            raise ValueError("--shuffled belongs to --method sample; steered pairs are made without scores")
        if self.method == "pplm" and self.prompts is not None:
            raise ValueError("--prompts belongs to --method sample; with --method pplm give --text")
        if self.method == "pplm" and self.rank_by == "direction":
            raise ValueError("--rank-by belongs to --method sample; PPLM's pairs are ranked by how they were made")
        return self

    @property
    def most(self) -> int | None:
        """How many pairs to stop at; None: at the end of the prompts."""
        return 800 if self.count is None and self.method == "pplm" else self.count
