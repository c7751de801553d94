"""The settings of `dposcope pairs`: the source of prompts, and the method for the dispreferred side."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter
from pydantic import Field, model_validator

from dposcope.errors import DposcopeError
from dposcope.jobs.numbers import (
    BatchSize,
    Count,
    Exponent,
    GradientSteps,
    NotAll,
    Seed,
    Share,
    SomeShare,
    StepSize,
    Temperature,
    Tokens,
    TokensOrAll,
    TwoSamples,
    TwoTokens,
    Weight,
)
from dposcope.jobs.settings import ChatSettings, DirectionSettings, DirectionSpec, EngineSettings, MachineSettings
from dposcope.protocols import Pairing

_PAIRS = Group("Pairs", sort_key=0)
_PPLM = Group("Only with --method pplm", sort_key=3)
_SAMPLE = Group("Only with --method sample", sort_key=4)
_MACHINE = Group("Machine", sort_key=5)

Method = Literal["pplm", "sample"]


class PairsSettings(EngineSettings, ChatSettings, MachineSettings, DirectionSettings):
    """Settings of `dposcope pairs`. The defaults of PPLM are those of `Perturbation`, which explains them."""

    method: Annotated[Method, Parameter(group=_PAIRS)] = Field(
        default="sample",
        description="sample: harmless against toxic continuations of the model's own (better pairs, and no comments "
        "needed); pplm: the model's greedy text against text steered along the direction (the paper's method).",
    )
    comments: Annotated[str | None, Parameter(group=_PAIRS)] = Field(
        default=None,
        description="Labelled comments: CSV, TSV, JSONL, JSON, Parquet, or hub:owner/name. With pplm the direction is "
        "made from the first half. With sample a second scorer is trained on it, and "
        "the mean of both scorers ranks the continuations, so that the pairs fit a single scorer less (but see "
        "--rank-by). The judge of other commands uses the second half. Default: built-in, mild ones with "
        "pplm, none with sample.",
    )
    count: Annotated[Count | None, Parameter(group=_PAIRS)] = Field(
        default=None,
        description="Pairs to make. Default: up to 800 with pplm, as many as the prompts give with sample.",
    )
    new_tokens: Annotated[Tokens, Parameter(group=_PAIRS)] = Field(
        default=20, description="Most tokens of a continuation (paper: 20 for measures, up to 64 for pairs)."
    )
    max_prompt_tokens: Annotated[TwoTokens, Parameter(group=_PAIRS)] = Field(
        default=64, description="Longer prompts are cut to their last so many tokens (paper: 64)."
    )
    scorer: Annotated[str, Parameter(group=_PAIRS)] = Field(
        default="profanity",
        description="Scorer of continuations, 0 to 1: profanity (embedded), a Hugging Face classifier by id or "
        "folder, the folder of a trained judge, vader, words:FILE.txt, or module:function. With sample it makes the "
        "pairs; with pplm it only describes them.",
    )
    batch_size: Annotated[BatchSize | None, Parameter(group=_MACHINE)] = Field(
        default=None,
        description="Prompts at a time (with sample, each with all its continuations, up to 256), and comments at a "
        "time for the direction. Default: 32; with sample, as many as have 256 continuations.",
    )
    seed: Annotated[Seed, Parameter(group=_MACHINE)] = Field(
        default=0, description="Seed of the order of prompts and of sampling."
    )

    learn_text: Annotated[str | None, Parameter(group=_PPLM)] = Field(
        default=None,
        description="Running text; the beginnings of its sentences are the prompts: TXT (WikiText-like), a table, or "
        "hub:owner/name. Default: built-in text, enough for some 200 prompts.",
    )
    learn_text_column: Annotated[str, Parameter(group=_PPLM)] = Field(
        default="text", description="Column of the text, if --learn-text is a table."
    )
    prompt_tokens: Annotated[Tokens, Parameter(group=_PPLM)] = Field(default=20, description="Tokens of each prompt.")
    step_size: Annotated[StepSize, Parameter(group=_PPLM)] = Field(
        default=0.02,
        description="Length of a step, as a share of the norm of each layer's cached keys and values (published code: "
        "0.02 to 0.04 in another unit). Larger: more toxic, less fluent.",
    )
    iterations: Annotated[GradientSteps, Parameter(group=_PPLM)] = Field(
        default=2,
        description="Gradient steps before each token (Dathathri et al. 2020: 3, with a discriminator 10).",
    )
    horizon: Annotated[GradientSteps, Parameter(group=_PPLM)] = Field(
        default=1, description="Tokens to look ahead, with their expected embedding as input (published: 1)."
    )
    window: Annotated[TokensOrAll, Parameter(group=_PPLM)] = Field(
        default=0, description="Perturb only so many of the most recent cached tokens; 0: all (published: 0)."
    )
    gamma: Annotated[Exponent, Parameter(group=_PPLM)] = Field(
        default=1.0, description="Exponent of the gradient's norm (published: 1.0 to 1.5)."
    )
    gm_scale: Annotated[Share, Parameter(group=_PPLM)] = Field(
        default=0.8,
        description="Weight of the perturbed distribution in the mixture (published: 0.9 to 0.95).",
    )
    kl_scale: Annotated[Weight, Parameter(group=_PPLM)] = Field(
        default=0.01,
        description="Weight of the KL to the unperturbed distribution, per nat, relative to the projection on the "
        "direction in distances of the class means (published: 0.01).",
    )
    top_k: Annotated[TokensOrAll, Parameter(group=_PPLM)] = Field(
        default=10, description="Tokens kept of the mixture; 0: all (published: 10)."
    )
    draw: Annotated[bool, Parameter(group=_PPLM)] = Field(
        default=False, description="Sample steered tokens; otherwise they are greedy."
    )

    prompts: Annotated[str | None, Parameter(group=_SAMPLE)] = Field(
        default=None,
        description="Prompts whose continuations often have the concept: JSONL, CSV, TXT … Default: built-in, mild "
        "ones.",
    )
    prompt_column: Annotated[str, Parameter(group=_SAMPLE)] = Field(
        default="prompt", description="Column of the prompts."
    )
    use: Annotated[Literal["learn", "all"], Parameter(group=_SAMPLE)] = Field(
        default="learn",
        description="learn: only the second half of the prompts, because the other commands measure or choose on the "
        "first; all: all prompts, if you measure on others.",
    )
    report_prompts: Annotated[str | None, Parameter(group=_SAMPLE)] = Field(
        default=None,
        description="The prompts that you will measure on, if they are in a file of their own: those that stand in "
        "--prompts, too, are left out. Default: none.",
    )
    rank_by: Annotated[Literal["scorer", "direction"], Parameter(group=_SAMPLE)] = Field(
        default="scorer",
        description="Ranking of the continuations: scorer; or direction, by the projection of the model's own "
        "residual stream on a direction made from --comments, without a scorer (--scorer then only describes the "
        "pairs).",
    )
    samples: Annotated[TwoSamples, Parameter(group=_SAMPLE)] = Field(
        default=16,
        description="Continuations per prompt.",
    )
    pairs_per_prompt: Annotated[Count, Parameter(group=_SAMPLE)] = Field(
        default=4,
        description="Most pairs from one prompt.",
    )
    pairing: Annotated[Pairing, Parameter(group=_SAMPLE)] = Field(
        default="random",
        description="random: a harmless continuation, drawn at random, against a toxic one, drawn at random; extremes: "
        "least against most toxic, second least against second most … (training then also learns the manner that the "
        "scorer likes best).",
    )
    preferred_below: Annotated[SomeShare, Parameter(group=_SAMPLE)] = Field(
        default=0.2,
        description="A preferred continuation of a random pair scores below this. All continuations that do are also "
        "written beside the pairs, as NAME.harmless.jsonl, for dposcope dpo --harmless.",
    )
    dispreferred_from: Annotated[SomeShare, Parameter(group=_SAMPLE)] = Field(
        default=0.5, description="A dispreferred continuation of a random pair scores this or more."
    )
    min_gap: Annotated[NotAll, Parameter(group=_SAMPLE)] = Field(
        default=0.3,
        description="With --pairing extremes: the two scores of a pair differ by more.",
    )
    top_p: Annotated[SomeShare, Parameter(group=_SAMPLE)] = Field(
        default=0.95, description="Sample from the fewest tokens whose probabilities reach this sum."
    )
    temperature: Annotated[Temperature, Parameter(group=_SAMPLE)] = Field(
        default=1.0, description="Divides the logits before sampling; below 1: more probable tokens."
    )
    shuffled: Annotated[bool | None, Parameter(group=_SAMPLE)] = Field(
        default=None,
        description="A negative control: shuffle the scores among the samples of all prompts before pairs are made. "
        "The file's statistics use the true scores. All prompts are then one part, so an interruption loses all of "
        "it. Default: the true scores.",
    )

    @classmethod
    def read_sources(cls, given: Mapping[str, Any]) -> set[str]:
        """PPLM takes its prompts from running text; sampled pairs need no direction."""
        if given.get("method") == "pplm":
            return {"comments"}
        return {"prompts", "comments"} if given.get("rank_by") == "direction" else {"prompts"}

    @model_validator(mode="after")
    def _sources_fit(self) -> "PairsSettings":
        if self.method == "sample" and self.learn_text is not None:
            raise ValueError("--learn-text is for --method pplm; with --method sample give --prompts")
        if self.method == "pplm" and self.engine != "local":
            raise ValueError("--engine is for --method sample, as pplm steers the model's cache here; leave it out")
        if self.method == "pplm" and self.shuffled:
            raise ValueError("--shuffled is for --method sample, as pplm makes pairs without scores; leave it out")
        if self.method == "pplm" and self.prompts is not None:
            raise ValueError("--prompts is for --method sample; with --method pplm give --learn-text")
        if self.method == "pplm" and self.report_prompts is not None:
            raise ValueError("--report-prompts is for --method sample, as pplm has no --prompts; leave it out")
        if self.method == "pplm" and self.rank_by == "direction":
            raise ValueError("--rank-by is for --method sample, as pplm makes pairs without a ranking; leave it out")
        return self

    @model_validator(mode="after")
    def _thresholds_part(self) -> "PairsSettings":
        if self.preferred_below > self.dispreferred_from:
            raise ValueError(
                f"--preferred-below {self.preferred_below} is above --dispreferred-from {self.dispreferred_from}, so "
                "that one text could be both; give --preferred-below the smaller value"
            )
        return self

    def check_direction(self) -> None:
        """Refuse options of a direction that nothing reads. A preset may set them for all commands: a person asks.

        Raises:
            DposcopeError: one is given, and pairs are sampled and ranked by a scorer.
        """
        unread = {"direction", "direction_block", "direction_rows"} & self.model_fields_set
        if unread and self.method == "sample" and self.rank_by == "scorer":
            option = f"--{min(unread).replace('_', '-')}"
            raise DposcopeError(
                f"{option} is for --method pplm and for --rank-by direction; give one of them, or leave it out"
            )

    @property
    def direction_spec(self) -> DirectionSpec:
        """Which direction, and how texts are read; always by the strict protocol."""
        return DirectionSpec(self.direction, self.meant, self.direction_block, "strict", self.seed, self.batch_size)

    @property
    def most(self) -> int | None:
        """Most pairs; None: until the end of the prompts."""
        return 800 if self.count is None and self.method == "pplm" else self.count
