"""The settings of a job, checked once, whether they come from flags, a TOML or JSON file, or Python."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Self, TypedDict, cast

from cyclopts import Group, Parameter
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationInfo,
    field_validator,
    model_validator,
)

from dposcope.data.concept import Concept
from dposcope.data.named import BUILTIN
from dposcope.jobs.numbers import BatchSize, Block, Count, Requests, Seed, Splittable, Windows
from dposcope.model.chat.asking import ChatMode, ChatOptions, check_prefill, check_wrap
from dposcope.options import EITHER, GIVEN, Only, is_table
from dposcope.protocols import DeviceMap, Protocol, Quantise, Split

_DATA = Group("Data", sort_key=1)
_DIRECTION = Group("Direction", sort_key=2)
_MEASURES = Group("Measures", sort_key=4)
_MACHINE = Group("Machine", sort_key=5)
_CHAT = Group("Chat models", sort_key=2)
_ENGINE = Group("Engine", sort_key=5)
FITTED: Final = ("mean-difference", "probe")
"""Kinds of direction that are made from comments."""
_COLUMNS = {"comments": ("text_column", "label_column", "positive_label"), "prompts": ("prompt_column",)}
"""Table → the options for its columns."""


@dataclass(frozen=True)
class DirectionSpec:
    """Which direction, and how texts are read for it and for the means."""

    kind: str
    """One of `DIRECTIONS`, or the path of a saved direction."""
    concept: Concept
    """Whose seed words a token contrast takes."""
    block: int = -1
    """At whose end the residual stream is read; −1 is the last."""
    protocol: Protocol = "strict"
    """Which features and fit."""
    seed: int = 0
    """Of a probe."""
    batch_size: int | None = None
    """Texts at a time; None: 32 that are read, up to 128 that are continued."""


@dataclass(frozen=True)
class Shown:
    """What a report shows of a run's settings."""

    options: Mapping[str, Any]
    """All of them, by name."""
    seed: int
    built_in: bool
    """Whether some of the data comes with dposcope."""


LAYOUT: Final = (
    "A .toml file that says where a model of an unknown type keeps its blocks, projections and final norm; see "
    "docs/how-to/own-model.md. Default: what dposcope knows or recognises."
)


def _content(given: Any) -> Any:
    """What a layout file says, in one line: a run keeps that, wherever the file goes."""
    if not isinstance(given, str | Path):
        return given
    from dposcope.model.checks.layout_file import read_layout  # torch comes with it, and --help need not wait for that

    return read_layout(given).to_json()


LayoutOption = Annotated[str | None, Parameter(group=_MACHINE), BeforeValidator(_content)]
"""A layout file by its path; afterwards, what it says."""


class Settings(BaseModel):
    """Base of all settings: frozen; unknown names are refused, and options that are given for nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    ONLY: ClassVar[tuple[Only, ...]] = ()
    """The options of this class that do not always count; those of its bases hold, too."""

    @classmethod
    def filled(cls, values: Mapping[str, Any], *, given: Collection[str] = ()) -> Self:
        """Settings that a program fills in, as from a record or a preset: what does not count there is no mistake.

        Args:
            values: by name.
            given: names among them that a person gave, who is told if one does not count.
        """
        return cls.model_validate(values, context={GIVEN: given})

    @classmethod
    def rules(cls) -> tuple[Only, ...]:
        """`ONLY` of the class and of its bases."""
        return tuple(rule for kind in cls.__mro__ for rule in cast(tuple[Only, ...], vars(kind).get("ONLY", ())))

    def idle(self, names: Iterable[str]) -> list[str]:
        """The refusals of the options that do not count here. One that is None or off asks for nothing.

        Args:
            names: of the options that were given.
        """
        # By identity: a block, a seed and a number of tokens may be 0.
        asked = {name for name in names if not any(getattr(self, name) is off for off in (None, False))}
        return [
            rule.refusal(name)
            for rule in self.rules()
            for name in rule.options
            if name in asked and not rule.holds(self)
        ]

    @model_validator(mode="wrap")
    @classmethod
    def _nothing_for_nothing(cls, values: Any, make: ModelWrapValidatorHandler[Self], info: ValidationInfo) -> Self:
        # Here and not after it, because a concept and other defaults are filled in on the way.
        made = make(values)
        given = values if info.context is None else info.context.get(GIVEN, values)
        if isinstance(values, Mapping) and (refused := made.idle(given)):
            raise ValueError(refused[0])
        return made


class ChatSettings(Settings):
    """How prompts are put to the model."""

    ONLY = (Only(("system", "wrap", "prefill"), lambda s: s.chat != "off", "--chat on or auto", EITHER),)

    chat: Annotated[ChatMode, Parameter(group=_CHAT)] = Field(
        default="auto",
        description="Whether a prompt is a message to a chat model. on: the prompt goes through the chat template of "
        "the tokenizer; off: the model continues the text; auto: on where the tokenizer has a template.",
    )
    system: Annotated[str | None, Parameter(group=_CHAT)] = Field(
        default=None,
        description="System prompt of a chat model; \\n begins a new line. Default: that of its template, or none.",
    )
    wrap: Annotated[str | None, Parameter(group=_CHAT)] = Field(
        default=None,
        description="What a chat model is asked, with {prompt} once in it, such as: Continue this text. Write only "
        "what comes next.\\n\\n{prompt} (\\n begins a new line). Default: the prompt itself.",
    )

    prefill: Annotated[str | None, Parameter(group=_CHAT)] = Field(
        default=None,
        description="How a chat model's answer begins, with the prompt where it says {prompt}: with {prompt} alone the "
        "model continues the prompt. Default: the model begins its answer.",
    )

    @field_validator("system")
    @classmethod
    def _lines(cls, given: str | None) -> str | None:
        return None if given is None else given.replace("\\n", "\n")

    @field_validator("wrap")
    @classmethod
    def _one_place(cls, given: str | None) -> str | None:
        if given is None:
            return None
        check_wrap(given)
        return given.replace("\\n", "\n")

    @field_validator("prefill")
    @classmethod
    def _one_place_at_most(cls, given: str | None) -> str | None:
        check_prefill(given)
        return None if given is None else given.replace("\\n", "\n")

    @property
    def chat_options(self) -> ChatOptions:
        """The four as one value."""
        return ChatOptions(self.chat, self.system, self.wrap, self.prefill)


class Loading(TypedDict):
    """How a model is loaded, as `load_native` takes it."""

    dtype: str
    device: str
    device_map: DeviceMap | None
    quantise: Quantise | None


class LoadSettings(Settings):
    """How the model is loaded."""

    dtype: Annotated[Literal["auto", "float32", "bfloat16", "float16"], Parameter(group=_MACHINE)] = Field(
        default="auto",
        description="Precision of the weights. auto: as stored, but a float32 checkpoint runs in bfloat16 if the "
        "hardware supports it natively (half the time).",
    )
    device: Annotated[str, Parameter(group=_MACHINE)] = Field(
        default="auto", description="cpu, cuda, cuda:1 …; auto: a GPU if there is one."
    )
    device_map: Annotated[DeviceMap | None, Parameter(group=_MACHINE)] = Field(
        default=None,
        description="auto: spread one model over all GPUs of this machine, whole blocks, for a model that does not fit "
        "into one; with one GPU or none it changes nothing. Default: one device.",
    )
    quantise: Annotated[Quantise | None, Parameter(group=_MACHINE)] = Field(
        default=None,
        description="Quantise the weights of the blocks on loading, by bitsandbytes (extra quantised): 4bit (NF4) or "
        "8bit. Edits then act by hooks, and are not folded into a checkpoint. Default: as stored.",
    )
    layout: LayoutOption = Field(default=None, description=LAYOUT)

    @model_validator(mode="after")
    def _all_gpus_or_one(self) -> "LoadSettings":
        if self.device_map is not None and self.device not in ("auto", "cuda"):
            raise ValueError(
                f"--device-map {self.device_map} takes all GPUs, and --device {self.device} is one device; leave one "
                "of the two out"
            )
        return self

    @property
    def loading(self) -> Loading:
        """All of it but the layout."""
        return {
            "dtype": self.dtype,
            "device": self.device,
            "device_map": self.device_map,
            "quantise": self.quantise,
        }


class MachineSettings(LoadSettings):
    """Where and how the model runs."""

    batch_size: Annotated[BatchSize | None, Parameter(group=_MACHINE)] = Field(
        default=None,
        description="Texts at a time. Default: 32 when the model reads; when it writes, up to 128, as many as take 4 "
        "GB beside its weights.",
    )
    seed: Annotated[Seed, Parameter(group=_MACHINE)] = Field(
        default=0, description="Seed of splits, controls and the judge. Generation is greedy and needs no seed."
    )


class EngineSettings(Settings):
    """What writes the texts."""

    ONLY = (Only(("base_url", "concurrency"), lambda s: s.engine == "openai", "--engine openai"),)

    engine: Annotated[Literal["local", "openai"], Parameter(group=_ENGINE)] = Field(
        default="local",
        description="What writes the texts. local: the model itself, here; openai: a server with OpenAI's completions, "
        "such as vLLM, SGLang, llama.cpp or Ollama. Everything that needs logits is still computed here.",
    )
    base_url: Annotated[list[str] | None, Parameter(group=_ENGINE, negative_iterable=())] = Field(
        default=None,
        description="With --engine openai: the address of the server, such as http://localhost:8000/v1, with #NAME "
        "after it where it has several models. A key is read from the variable DPOSCOPE_API_KEY. Default: no server.",
    )
    concurrency: Annotated[Requests, Parameter(group=_ENGINE)] = Field(
        default=16, description="With --engine openai: requests at a time."
    )

    @model_validator(mode="after")
    def _server_is_named(self) -> "EngineSettings":
        if self.engine == "openai" and not self.base_url:
            raise ValueError("--engine openai needs the address of a server; give --base-url http://localhost:8000/v1")
        return self


class CommentSettings(Settings):
    """A concept, and labelled comments."""

    ONLY = (Only(("text_column", "label_column", "positive_label"), lambda s: s.comments is not None, "--comments"),)

    concept: Annotated[str | None, Parameter(group=_DATA)] = Field(
        default=None,
        description="The concept to measure and edit: toxicity, negative-sentiment (needs the extra sentiment), "
        "food-talk, or your own concept spec, a .toml file. It sets the defaults for comments, prompts and scorer. "
        "Default: toxicity.",
    )
    comments: Annotated[str | None, Parameter(group=_DATA)] = Field(
        default=None,
        description="Labelled comments: CSV, TSV, JSONL, JSON, Parquet, or hub:owner/name. The direction takes the "
        "first half, the judge the second. Default: built-in, mild ones.",
    )
    text_column: Annotated[str, Parameter(group=_DATA)] = Field(
        default="comment_text", description="Column of the comments."
    )
    label_column: Annotated[str, Parameter(group=_DATA)] = Field(default="toxic", description="Column of the labels.")
    positive_label: Annotated[str | None, Parameter(group=_DATA)] = Field(
        default=None,
        description="The label that means toxic. Default: 1, true, toxic, or a score of 0.5 and more; with --concept "
        "negative-sentiment, negative.",
    )

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or given.get("concept") is None:
            return given
        given = cast(Mapping[str, Any], given)
        options = Concept.load(given["concept"]).options()
        # The columns in a concept spec are those of its own tables.
        for source, columns in _COLUMNS.items():
            if source in given or source not in cls.read_sources(given):
                options = {name: value for name, value in options.items() if name not in {source, *columns}}
        return {name: value for name, value in options.items() if name in cls.model_fields} | dict(given)

    @classmethod
    def read_sources(cls, given: Mapping[str, Any]) -> set[str]:  # noqa: ARG003 — for subclasses
        """The tables that these settings read."""
        return set(_COLUMNS)

    @property
    def meant(self) -> Concept:
        """The concept spec. Single options have priority over it."""
        return Concept.load(self.concept)


class FitSettings(CommentSettings):
    """What a direction is made from."""

    direction_rows: Annotated[Splittable, Parameter(group=_DIRECTION)] = Field(
        default=2000,
        description="Comments for the direction, from the top of the file; all of the smaller class among them and as "
        "many of the larger class are used.",
    )
    direction_block: Annotated[Block, Parameter(group=_DIRECTION)] = Field(
        default=-1, description="Block at whose end the residual stream is read; -1 is the last (paper)."
    )


class DirectionSettings(FitSettings):
    """Which direction, and what it is made from."""

    ONLY = (
        Only(("direction_rows",), lambda s: s.reads_comments, "--direction mean-difference or probe", EITHER),
        Only(("direction_block",), lambda s: s.fits_direction, "--direction mean-difference or probe", EITHER),
    )

    direction: Annotated[str, Parameter(group=_DIRECTION)] = Field(
        default="mean-difference",
        description="mean-difference (clearest on small models), probe (the paper's logistic regression), "
        "token-contrast (no comments needed; paper 6.2), or the path of a saved direction.",
    )

    @property
    def fits_direction(self) -> bool:
        """Whether a direction is made from comments."""
        return self.direction in FITTED

    @property
    def reads_comments(self) -> bool:
        """Whether the comments for a direction are read."""
        return self.fits_direction


class MeasureSettings(ChatSettings, MachineSettings, DirectionSettings):
    """The data, the scorer and the protocol of measurements."""

    ONLY = (
        Only(
            ("prompt_column",),
            lambda s: is_table(s.prompts) or is_table(s.report_prompts),
            "--prompts or --report-prompts with a table",
        ),
        Only(("neutral_column",), lambda s: is_table(s.neutral), "--neutral with a table"),
        Only(("passage_prompt_column", "passage_gold_column"), lambda s: s.passages is not None, "--passages"),
    )

    prompts: Annotated[str | None, Parameter(group=_DATA)] = Field(
        default=None,
        description="Prompts whose continuations often have the concept: JSONL, CSV, TXT … Without --report-prompts, "
        "results are measured on the first half; means are computed on the second. Default: built-in, mild ones.",
    )
    report_prompts: Annotated[str | None, Parameter(group=_DATA)] = Field(
        default=None,
        description="Other prompts, which only the last step reads: results are measured on all of them. Of --prompts, "
        "the second half is then to learn from, and the first half to choose on, where a command chooses; prompts that "
        "stand here, too, are left out there. Same format and column as --prompts. Default: a part of --prompts.",
    )
    prompt_column: Annotated[str, Parameter(group=_DATA)] = Field(
        default="prompt", description="Column of the prompts."
    )
    limit: Annotated[Splittable | None, Parameter(group=_DATA)] = Field(
        default=None,
        description="Use only the first so many of --prompts, before they are split. Default: all.",
    )
    split: Annotated[Split, Parameter(group=_DATA)] = Field(
        default="halves",
        description="Of --prompts, without --report-prompts: halves: measure on the first half, learn from the second; "
        "three-way: measure on the first half, choose on the third quarter, learn from the fourth; same: use all "
        "prompts for everything, as the paper does. With --report-prompts only same changes anything: choose on and "
        "learn from all of --prompts.",
    )
    neutral: Annotated[str | None, Parameter(group=_DATA)] = Field(
        default=None,
        description="Neutral text to measure log-perplexity on: TXT (WikiText-like), or a table. Default: built-in "
        "text.",
    )
    neutral_column: Annotated[str, Parameter(group=_DATA)] = Field(
        default="text", description="Column of the text, if --neutral is a table."
    )
    passages: Annotated[str | None, Parameter(group=_DATA)] = Field(
        default=None, description="Encyclopedic prompts with their true continuations, for F1. Default: built-in."
    )
    passage_prompt_column: Annotated[str, Parameter(group=_DATA)] = Field(
        default="prompt", description="Column of the prompts of the passages."
    )
    passage_gold_column: Annotated[str, Parameter(group=_DATA)] = Field(
        default="gold", description="Column of their true continuations."
    )
    max_passages: Annotated[Count | None, Parameter(group=_MEASURES)] = Field(
        default=500, description="Passages for F1, from the top of the file."
    )
    judge_comments: Annotated[list[str] | None, Parameter(group=_DATA, negative_iterable=())] = Field(
        default=None,
        description="Further comment files for the independent judge, in addition to the second half of --comments; "
        "also tables with columns toxic and neutral (ParaDetox). May be given several times. Default: none.",
    )
    scorer: Annotated[str, Parameter(group=_MEASURES)] = Field(
        default="profanity",
        description="Scorer of continuations: profanity (a bag of words), neural (a small LSTM, fetched once from the "
        "package index), perspective (the Perspective API: texts are sent to Google, its answers kept; key in "
        "PERSPECTIVE_API_KEY), a Hugging Face classifier by id or folder (paper: unitary/toxic-bert), the folder of a "
        "trained judge, vader (negative sentiment), words:FILE.txt, or module:function.",
    )
    also_score: Annotated[list[str] | None, Parameter(group=_MEASURES, negative_iterable=())] = Field(
        default=None,
        description="A further scorer of the same continuations, by a name that --scorer takes; may be given several "
        "times. none: no further one. Default: neural, where it is in the cache and the concept is toxicity.",
    )
    protocol: Annotated[Literal["strict", "reference"], Parameter(group=_MEASURES)] = Field(
        default="strict",
        description="strict: the definitions in the paper's text; reference: those of its published code.",
    )
    max_windows: Annotated[Windows, Parameter(group=_MEASURES)] = Field(
        default=12, description="Windows of 1,024 tokens for log-perplexity (2 seconds each for 270M on 2 cores)."
    )

    @property
    def definitions(self) -> Protocol:
        """Whose definitions of measures hold."""
        return "reference" if self.protocol == "reference" else "strict"

    @property
    def direction_spec(self) -> DirectionSpec:
        """Which direction, and how texts are read."""
        return DirectionSpec(
            self.direction, self.meant, self.direction_block, self.definitions, self.seed, self.batch_size
        )

    @property
    def texts(self) -> tuple[str | None, ...]:
        """Where prompts, comments and neutral text come from."""
        return (self.prompts, self.comments, self.neutral)

    @property
    def shown(self) -> Shown:
        """What a report shows of them."""
        built_in = any(source is None or source.startswith(BUILTIN) for source in self.texts)
        return Shown(self.model_dump(mode="json"), self.seed, built_in)


class ProbeSettings(MachineSettings, FitSettings):
    """Settings of `dposcope probe`."""

    ONLY = (
        Only(
            (
                *("comments", "text_column", "label_column", "positive_label", "direction_rows", "direction_block"),
                "batch_size",
            ),
            lambda s: s.kind in FITTED,
            "--kind probe or mean-difference",
            EITHER,
        ),
        Only(("seed",), lambda s: s.kind == "probe", "--kind probe"),
    )

    comments: Annotated[str | None, Parameter(group=_DATA)] = Field(
        default=None,
        description="Labelled comments: CSV, TSV, JSONL, JSON, Parquet, or hub:owner/name; the first --direction-rows "
        "of the file are used. The judge of other commands takes the second half of theirs, so give them another file. "
        "Default: built-in, mild ones.",
    )
    kind: Annotated[Literal["probe", "mean-difference", "token-contrast"], Parameter(group=_DIRECTION)] = Field(
        default="probe",
        description="Kind of the direction: probe (the paper's logistic regression), mean-difference, or "
        "token-contrast (no comments needed).",
    )

    protocol: Annotated[Literal["strict", "reference"], Parameter(group=_DIRECTION)] = Field(
        default="strict", description="Features and fit: strict, or reference as in the authors' code."
    )

    @property
    def direction_spec(self) -> DirectionSpec:
        """Which direction, and how texts are read."""
        return DirectionSpec(self.kind, self.meant, self.direction_block, self.protocol, self.seed, self.batch_size)
