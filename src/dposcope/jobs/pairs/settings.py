"""The settings of `dposcope pairs`: the source of prompts, and the method for the dispreferred side."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter
from pydantic import Field, model_validator

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
from dposcope.options import EITHER, Only, is_table
from dposcope.protocols import Pairing

_PAIRS = Group("Pairs", sort_key=0)
_PPLM = Group("Only with --method pplm", sort_key=3)
_SAMPLE = Group("Only with --method sample", sort_key=4)
_MACHINE = Group("Machine", sort_key=5)

Method = Literal["pplm", "sample"]


class PairsSettings(EngineSettings, ChatSettings, MachineSettings, DirectionSettings):
    """Settings of `dposcope pairs`. The defaults of PPLM are those of `Perturbation`, which explains them."""

    ONLY = (
        Only(
            (
                *("prompts", "prompt_column", "use", "report_prompts", "rank_by", "samples", "pairs_per_prompt"),
                *("pairing", "preferred_below", "dispreferred_from", "min_gap", "top_p", "temperature"),
            ),
            lambda s: s.method == "sample",
            "--method sample",
        ),
        Only(
            (
                *("learn_text", "learn_text_column", "prompt_tokens", "step_size", "iterations", "horizon", "window"),
                *("gamma", "gm_scale", "kl_scale", "top_k", "draw"),
            ),
            lambda s: s.method == "pplm",
            "--method pplm",
        ),
        Only(
            ("direction", "direction_block", "direction_rows"),
            lambda s: s.method == "pplm" or s.rank_by == "direction",
            "--method pplm and for --rank-by direction",
            EITHER,
        ),
        Only(
            ("comments",),
            lambda s: s.method == "sample" or s.reads_comments,
            "--direction mean-difference or probe",
            EITHER,
        ),
        Only(("top_k",), lambda s: s.draw, "--draw"),
        Only(
            ("step_size", "horizon", "window", "gamma", "gm_scale"),
            lambda s: s.iterations > 0,
            "--iterations above 0",
        ),
        Only(("kl_scale",), lambda s: s.iterations > 1, "--iterations above 1"),
        Only(("min_gap",), lambda s: s.pairing == "extremes", "--pairing extremes"),
        Only(("dispreferred_from",), lambda s: s.pairing == "random", "--pairing random"),
        Only(
            ("prompt_column",),
            lambda s: is_table(s.prompts) or is_table(s.report_prompts),
            "--prompts or --report-prompts with a table",
        ),
        Only(("learn_text_column",), lambda s: is_table(s.learn_text), "--learn-text with a table"),
    )

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
        description="Scorer of continuations, 0 to 1: profanity (a bag of words), a Hugging Face classifier by id or "
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
        "hub:owner/name. Default: built-in text, enough for about 240 prompts.",
    )
    learn_text_column: Annotated[str, Parameter(group=_PPLM)] = Field(
        default="text", description="Column of the text, if --learn-text is a table."
    )
    prompt_tokens: Annotated[Tokens, Parameter(group=_PPLM)] = Field(default=20, description="Tokens of each prompt.")
    step_size: Annotated[StepSize, Parameter(group=_PPLM)] = Field(
        default=0.02,
        description="Length of a step, as a share of the norm of each block's cached keys and values (published code: "
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
        "direction in distances of the class means (published: 0.01). It acts from the second of --iterations on.",
    )
    top_k: Annotated[TokensOrAll, Parameter(group=_PPLM)] = Field(
        default=10, description="With --draw: tokens kept of the mixture; 0: all (published: 10)."
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
    def _steered_here_and_without_scores(self) -> "PairsSettings":
        if self.method == "pplm" and self.engine != "local":
            raise ValueError("--engine is for --method sample, as pplm steers the model's cache here; leave it out")
        if self.method == "pplm" and self.shuffled:
            raise ValueError("--shuffled is for --method sample, as pplm makes pairs without scores; leave it out")
        return self

    @model_validator(mode="after")
    def _thresholds_part(self) -> "PairsSettings":
        if self.preferred_below > self.dispreferred_from:
            raise ValueError(
                f"--preferred-below {self.preferred_below} is above --dispreferred-from {self.dispreferred_from}, so "
                "that one text could be both; give --preferred-below the smaller value"
            )
        return self

    @property
    def reads_comments(self) -> bool:
        """Whether comments are read for a direction: to make one, or to tell by its projection what it ranks."""
        return super().reads_comments or (self.method == "sample" and self.rank_by == "direction")

    @property
    def direction_spec(self) -> DirectionSpec:
        """Which direction, and how texts are read; always by the strict protocol."""
        return DirectionSpec(self.direction, self.meant, self.direction_block, "strict", self.seed, self.batch_size)

    @property
    def most(self) -> int | None:
        """Most pairs; None: until the end of the prompts."""
        return 800 if self.count is None and self.method == "pplm" else self.count


class CheckSettings(ChatSettings):
    """Settings of `dposcope pairs check`."""

    ONLY = (
        Only(("layout", "logppl"), lambda s: s.model is not None, "--model"),
        Only(("chat", "system", "wrap", "prefill"), lambda s: s.logppl, "--logppl"),
    )

    against: str | None = Field(
        default=None,
        description="Validation pairs, to count how many of them share a prompt or a text with FILE. Default: none.",
    )
    model: str | None = Field(
        default=None,
        description="A model, to count lengths in its tokens: a bundled name, a folder, a .gguf file, or a Hugging "
        "Face id. Default: none.",
    )
    layout: Path | None = Field(
        default=None,
        description="With --model: a .toml file that says where a model of an unknown type keeps its parts. Default: "
        "what dposcope knows or recognises.",
    )
    logppl: bool = Field(
        default=False,
        description="Also compute the log-perplexity of both sides with --model, in nats per token. A dispreferred "
        "side far above the preferred one is broken text.",
    )
    scorer: str = Field(
        default="profanity",
        description="Scorer of both sides: profanity (a bag of words), a Hugging Face classifier, a trained judge, or "
        "module:function.",
    )
