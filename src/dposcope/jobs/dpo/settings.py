"""The settings of `dposcope dpo`, and the objective and schedule that follow from them."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from cyclopts import Group, Parameter
from pydantic import Field, model_validator

from dposcope.jobs.numbers import (
    BatchSize,
    Count,
    CountOrNone,
    Epochs,
    LearningRate,
    Norm,
    NotAll,
    Pool,
    Rank,
    Scale,
    Seed,
    SomeStrength,
    SomeWeight,
    Tokens,
    TwoTokens,
    Weight,
)
from dposcope.jobs.settings import ChatSettings, LoadSettings
from dposcope.options import EITHER, Only, is_table
from dposcope.training.objective import KlOn, Loss, Objective
from dposcope.training.optimizers import Optimizer
from dposcope.training.schedule import Schedule, steps_for

_PAIRS = Group("Data", sort_key=1)
_LOSS = Group("Loss", sort_key=2)
_TRAINING = Group("Training", sort_key=3)
_MACHINE = Group("Machine", sort_key=5)

Kind = Literal["full", "lora", "gains"]
_Value = TypeVar("_Value")

PAPER_KL_WEIGHTS = {"gpt2": 0.02, "llama": 0.1, "gemma2": 0.05, "mistral": 0.05}
"""λ by model_type (paper, Table 10)."""
_OTHER_KL_WEIGHT = 0.05
"""λ of families that are not in the paper."""
_BEYOND = {
    *("train", "lora_rank", "lora_alpha", "validation", "max_prompt_tokens", "max_completion_tokens"),
    *("window_tokens", "window_pool", "reference_dtype", "sparsity", "heads", "neurons"),
}
_ON_HARMLESS = ("harmless", "mixed")
_ON_NEUTRAL = ("neutral", "mixed")
_RATES = {"full": 1e-5, "lora": 2e-4, "gains": 1e-2}
_EPOCHS = {"full": 2.0, "lora": 2.0, "gains": 3.0}
_WARMUP = {"full": 0, "lora": 10, "gains": 10}
_NORMS = {"full": None, "lora": 1.0, "gains": 1.0}


@dataclass(frozen=True)
class Cut:
    """Most tokens of the two parts of a text."""

    prompt: int
    """Of a longer one the end is kept."""
    completion: int
    """Of a longer one the start is kept."""


@dataclass(frozen=True)
class NeutralWindows:
    """The windows of neutral text that batches draw from."""

    count: int
    tokens: int
    """Of each."""
    seed: int
    """Of their places in the text."""


class DpoSettings(LoadSettings, ChatSettings):
    """Settings of `dposcope dpo`. An option that is None has the value of the preset."""

    ONLY = (
        Only(("lora_rank", "lora_alpha"), lambda s: s.train == "lora", "--train lora"),
        Only(("heads", "sparsity", "start"), lambda s: s.train == "gains", "--train gains"),
        Only(("neurons",), lambda s: s.start is not None, "--start, whose edit they are chosen from"),
        Only(("teacher_weight", "teacher_strength"), lambda s: s.teacher is not None, "--teacher"),
        Only(("beta",), lambda s: s.loss == "dpo", "--loss dpo"),
        Only(
            ("dtype",),
            lambda s: s.train != "full" or s.dtype != "float16",
            "--train gains or lora where it is float16",
            EITHER,
        ),
        Only(("harmless",), lambda s: s.kl_text in _ON_HARMLESS, "--kl-on harmless or mixed", EITHER),
        Only(
            ("learn_text", "learn_text_column", "window_tokens"),
            lambda s: s.kl_text in _ON_NEUTRAL,
            "--kl-on neutral or mixed",
            EITHER,
        ),
        Only(("windows_per_batch",), lambda s: s.kl_text != "pairs", "--kl-on neutral, harmless or mixed", EITHER),
        Only(("window_pool",), lambda s: s.kl_text == "neutral", "--kl-on neutral"),
        Only(("learn_text_column",), lambda s: is_table(s.learn_text), "--learn-text with a table"),
    )

    pairs: Annotated[str, Parameter(group=_PAIRS)] = Field(
        description="Preference pairs; the columns tell the format: prompt_text, unpert_gen_text, pert_gen_text "
        "(dposcope pairs); prompt, chosen, rejected (TRL); toxic, neutral (ParaDetox). JSONL, CSV, TSV, Parquet or "
        "hub:owner/name.",
    )
    train: Annotated[Kind, Parameter(group=_TRAINING)] = Field(
        default="full",
        description="full: all weights (strongest); lora: a low-rank adapter, merged at the end (needs peft); gains: "
        "one factor per neuron, written as an edit and folded (least memory; 4 bytes per neuron to ship).",
    )
    preset: Annotated[Literal["best", "paper"], Parameter(group=_TRAINING)] = Field(
        default="best",
        description="best: the defaults below; paper: RMSprop 1e-5, 150 warm-up steps (at most a fifth of all steps), "
        "batch 1 × 4, gradient norm 10, 5 epochs, λ by model family, KL on the pairs, 64 validation pairs (8 at a "
        "time) every 100 examples, patience 30 (Table 9), no --max-examples; lora and gains keep their own learning "
        "rate, because gains learn nothing at 1e-5. Options that you give have priority.",
    )
    beta: Annotated[SomeStrength, Parameter(group=_LOSS)] = Field(
        default=0.1, description="β of DPO: how strongly the model is held near its base (paper: 0.1)."
    )
    kl_weight: Annotated[Weight | None, Parameter(group=_LOSS)] = Field(
        default=None, description="λ, the weight of the KL term, per nat and token. Default: 1 (paper: 0.02–0.1)."
    )
    kl_on: Annotated[KlOn | None, Parameter(group=_LOSS)] = Field(
        default=None,
        description="Text for KL(base‖tuned): neutral (windows of --learn-text), harmless (the texts of --harmless "
        "with their prompts), mixed (the texts of --harmless and a third as many windows of --learn-text) or pairs "
        "(both completions, as in the paper). Default: mixed with --harmless, else neutral.",
    )
    loss: Annotated[Loss, Parameter(group=_LOSS)] = Field(
        default="dpo",
        description="dpo, or likelihood: raise the likelihood of preferred completions, without a comparison.",
    )
    unlikelihood: Annotated[Weight, Parameter(group=_LOSS)] = Field(
        default=0.0,
        description="With --loss likelihood: weight of −log(1 − p) of each token of dispreferred completions.",
    )
    teacher: Annotated[str | None, Parameter(group=_LOSS)] = Field(
        default=None,
        description="With --train gains or lora: distil a model that was tuned from MODEL, such as the model/ of "
        "--train full on the same pairs, on both completions. A pair says which text is better; a teacher gives a "
        "distribution for every token. Default: none.",
    )
    teacher_weight: Annotated[SomeWeight | None, Parameter(group=_LOSS)] = Field(
        default=None,
        description="κ, the weight of KL(teacher‖tuned) on both completions, per nat and token. Default: 1 with "
        "--teacher.",
    )
    teacher_strength: Annotated[SomeStrength, Parameter(group=_LOSS)] = Field(
        default=1.0,
        description="s of the teacher's weights W₀ + s (W₁ − W₀), with W₀ of MODEL and W₁ of the teacher. Above 1 the "
        "effect of tuning is larger, and so is its cost.",
    )
    learn_text: Annotated[str | None, Parameter(group=_PAIRS)] = Field(
        default=None,
        description="Neutral text to learn from, for --kl-on neutral or mixed: TXT (WikiText-like), or a table. "
        "Measure on another text. Default: built-in text.",
    )
    harmless: Annotated[str | None, Parameter(group=_PAIRS)] = Field(
        default=None,
        description="Harmless texts of the model's own, which the KL keeps as they are: a table with the columns "
        "prompt and text, such as the NAME.harmless.jsonl of dposcope pairs --method sample. Default: none.",
    )
    learn_text_column: Annotated[str, Parameter(group=_PAIRS)] = Field(
        default="text", description="Column of the text, if --learn-text is a table."
    )
    protocol: Annotated[Literal["strict", "reference"], Parameter(group=_LOSS)] = Field(
        default="strict",
        description="strict: KL over completion tokens; reference: KL averaged over prompt and padding too, as in the "
        "authors' code.",
    )
    learning_rate: Annotated[LearningRate | None, Parameter(group=_TRAINING)] = Field(
        default=None,
        description="Learning rate. Default, also with --preset paper: full 1e-5, lora 2e-4, gains 1e-2.",
    )
    optimizer: Annotated[Optimizer | None, Parameter(group=_TRAINING)] = Field(
        default=None,
        description="Optimiser; those of 8 bits keep a byte for each state instead of four (they need bitsandbytes). "
        "Default: rmsprop for full (paper), adamw (without weight decay) for lora and gains.",
    )
    epochs: Annotated[Epochs | None, Parameter(group=_TRAINING)] = Field(
        default=None, description="Passes over the training pairs. Default: full and lora 2, gains 3."
    )
    max_examples: Annotated[Count | None, Parameter(group=_TRAINING)] = Field(
        default=None,
        description="Stop after so many pairs, repetitions counted. Default: 3000; with --preset paper no limit but "
        "--epochs.",
    )
    batch_size: Annotated[BatchSize | None, Parameter(group=_TRAINING)] = Field(
        default=None, description="Pairs per optimiser step. Default: 8 (paper: 4)."
    )
    micro_batch_size: Annotated[BatchSize | None, Parameter(group=_TRAINING)] = Field(
        default=None, description="Pairs in memory at a time. Default: the whole batch (paper: 1)."
    )
    warmup_steps: Annotated[CountOrNone | None, Parameter(group=_TRAINING)] = Field(
        default=None,
        description="Steps over which the learning rate rises. Default: full 0, lora and gains 10 (paper: 150; its "
        "preset takes at most a fifth of all steps, because a short training would otherwise never reach the full "
        "rate).",
    )
    decay: Annotated[Literal["none", "linear"], Parameter(group=_TRAINING)] = Field(
        default="none",
        description="Learning rate after the warm-up: none (constant, paper) or linear (falls to 0 at the end).",
    )
    max_grad_norm: Annotated[Norm | None, Parameter(group=_TRAINING)] = Field(
        default=None,
        description="Gradients longer than this are clipped. Default: full no clipping, so that steps get shorter "
        "during learning; lora and gains 1 (paper: 10).",
    )
    validation: Annotated[Count | None, Parameter(group=_PAIRS)] = Field(
        default=None,
        description="Number of validation pairs; they share no prompt with training pairs. Default: a tenth, at most "
        "64.",
    )
    validate_every: Annotated[Count, Parameter(group=_TRAINING)] = Field(
        default=100, description="Examples between validations; a checkpoint is written at each (paper: 100)."
    )
    patience: Annotated[Count | None, Parameter(group=_TRAINING)] = Field(
        default=None,
        description="Stop after so many validations without a lower loss, and take the best step (paper: 30). "
        "Default: no early stopping; the last step is taken.",
    )
    windows_per_batch: Annotated[BatchSize | None, Parameter(group=_TRAINING)] = Field(
        default=None,
        description="Texts for the KL with each micro-batch, where --kl-on is not pairs. Default: 2 windows of neutral "
        "text, or 8 with --harmless, whose texts are shorter.",
    )
    window_tokens: Annotated[TwoTokens, Parameter(group=_TRAINING)] = Field(
        default=128, description="Tokens per window."
    )
    window_pool: Annotated[Pool, Parameter(group=_TRAINING)] = Field(
        default=512, description="Number of windows drawn from the text; batches draw from these."
    )
    max_prompt_tokens: Annotated[Tokens, Parameter(group=_PAIRS)] = Field(
        default=64, description="A longer prompt is cut; its end is kept (paper: 64)."
    )
    max_completion_tokens: Annotated[Tokens, Parameter(group=_PAIRS)] = Field(
        default=64, description="A longer completion is cut; its start is kept (paper: 64)."
    )
    lora_rank: Annotated[Rank, Parameter(group=_TRAINING)] = Field(default=16, description="Rank of the adapter.")
    lora_alpha: Annotated[Scale, Parameter(group=_TRAINING)] = Field(
        default=32, description="The adapter is scaled by alpha / rank."
    )
    heads: Annotated[bool, Parameter(group=_TRAINING)] = Field(
        default=False,
        description="With --train gains: also one factor per channel of the attention heads. These fold into a "
        "checkpoint, but not into GGUF; the paper edits neurons only.",
    )
    sparsity: Annotated[NotAll, Parameter(group=_TRAINING)] = Field(
        default=0.0,
        description="With --train gains: weight of a penalty on |gain − 1| that leaves many gains at exactly 1. It "
        "must be below 1, where no gain would change; the larger it is, the fewer neurons change.",
    )
    start: Annotated[str | None, Parameter(group=_TRAINING)] = Field(
        default=None,
        description="With --train gains: initial gains from a saved edit (edit.safetensors, the folder of its run, or "
        "a bundled model's name), for example for a second round on pairs of the edited model. Default: all gains are "
        "1.",
    )
    neurons: Annotated[Count | None, Parameter(group=_TRAINING)] = Field(
        default=None,
        description="With --start: train only so many gains, those of that edit with the largest |gain − 1|; all "
        "others are exactly 1. Default: all gains.",
    )
    precompute_reference: Annotated[bool, Parameter(group=_MACHINE)] = Field(
        default=False,
        description="Run the base over all pairs and windows before training, and keep its final states on disk (d "
        "numbers per token of both completions) until training is done. With --train full, only the base's output "
        "layer (vocabulary × d) then stays in memory, and no second copy of the weights.",
    )
    recompute: Annotated[bool, Parameter(group=_MACHINE)] = Field(
        default=False,
        description="With --train full or lora: compute activations again in the backward pass instead of keeping "
        "them. It needs less memory for long texts and some more time; the result is the same.",
    )
    reference_dtype: Annotated[Literal["same", "bfloat16"], Parameter(group=_MACHINE)] = Field(
        default="same",
        description="Precision of the second copy with --train full without --precompute-reference. bfloat16 halves "
        "its memory; rewards then start near 0 instead of at 0.",
    )
    seed: Annotated[Seed, Parameter(group=_MACHINE)] = Field(
        default=0, description="Seed of the split, the order of pairs, the windows and the adapter."
    )

    @model_validator(mode="before")
    @classmethod
    def _usual_numbers(cls, given: Any) -> Any:
        # As numbers, because the folder of a run records its settings.
        if not isinstance(given, dict):
            return given
        usual: dict[str, Any] = {}
        if given.get("max_examples") is None and given.get("preset", "best") == "best":
            usual["max_examples"] = 3000
        if given.get("windows_per_batch") is None:
            usual["windows_per_batch"] = 2 if given.get("harmless") is None else 8
        return given | usual

    @model_validator(mode="after")
    def _parts_fit(self) -> "DpoSettings":
        if self.protocol == "reference" and self.kl_on not in (None, "pairs"):
            raise ValueError(
                f"the reference protocol has its KL on pairs; leave --kl-on {self.kl_on} out, or choose --protocol "
                "strict"
            )
        if self.kl_on in _ON_HARMLESS and self.harmless is None:
            raise ValueError(
                f"--kl-on {self.kl_on} needs harmless texts; name a file with --harmless (dposcope pairs --method "
                "sample writes one)"
            )
        if self.unlikelihood and self.loss != "likelihood":
            raise ValueError("--unlikelihood is for --loss likelihood; give that, or leave --unlikelihood out")
        if self.teacher is not None and self.train == "full":
            raise ValueError("--teacher is for --train gains or lora; give one of them, or leave --teacher out")
        if self.quantise is not None and self.train == "full":
            raise ValueError("quantised weights cannot be trained; give --train gains or lora, or leave --quantise out")
        if self.device_map is not None and self.train == "full":
            raise ValueError(
                "all weights are trained on one device; give --train gains or lora, or leave --device-map out"
            )
        if self.recompute and self.train == "gains":
            raise ValueError("gains act through hooks, which do not run in the backward pass; leave --recompute out")
        if self.teacher is not None and self.protocol == "reference":
            raise ValueError("the reference protocol has no teacher; leave --teacher out, or choose --protocol strict")
        if self.reference_dtype != "same" and self.train != "full":
            raise ValueError(
                f"with --train {self.train} the reference is the model itself, in its precision; leave "
                "--reference-dtype out"
            )
        if self.reference_dtype != "same" and self.precompute_reference:
            raise ValueError(
                "with --precompute-reference there is no second copy, and the reference has the model's precision; "
                "leave "
                "--reference-dtype or --precompute-reference out"
            )
        if self.protocol == "reference" and self.precompute_reference:
            raise ValueError(
                "the reference protocol needs the base at every position; leave --precompute-reference out"
            )
        return self

    @property
    def cut(self) -> Cut:
        """Most tokens of the texts of pairs."""
        return Cut(self.max_prompt_tokens, self.max_completion_tokens)

    @property
    def neutral_windows(self) -> NeutralWindows:
        """The windows of neutral text."""
        return NeutralWindows(self.window_pool, self.window_tokens, self.seed)

    @property
    def kl_text(self) -> KlOn:
        """What the KL is on."""
        if self.kl_on is not None:
            return self.kl_on
        if self.protocol == "reference":
            return "pairs"
        if self.harmless is not None:
            return "mixed"
        return "pairs" if self.preset == "paper" else "neutral"

    def objective(self, model_type: str) -> Objective:
        """The objective for a family of models."""
        paper = self.preset == "paper"
        weight = PAPER_KL_WEIGHTS.get(model_type, _OTHER_KL_WEIGHT) if paper else 1.0
        return Objective(
            self.beta,
            weight if self.kl_weight is None else self.kl_weight,
            self.kl_text,
            self.protocol,
            0.0 if self.teacher is None else self.teacher_weight or 1.0,
            self.loss,
            self.unlikelihood,
        )

    def schedule(self, pairs: int, *, autocast: bool) -> Schedule:
        """The schedule for a number of training pairs."""
        paper = self.preset == "paper"

        def chosen(given: _Value | None, papers: _Value, best: _Value) -> _Value:
            return given if given is not None else papers if paper else best

        norm = 10.0 if paper else _NORMS[self.train]
        batch = chosen(self.batch_size, 4, 8)
        micro = chosen(self.micro_batch_size, 1, None)
        seen = round(pairs * chosen(self.epochs, 5.0, _EPOCHS[self.train]))
        steps = steps_for(seen if self.max_examples is None else min(self.max_examples, seen), pairs, batch)
        return Schedule(
            optimizer=self.optimizer or ("rmsprop" if paper or self.train == "full" else "adamw"),
            learning_rate=self.learning_rate or _RATES[self.train],
            warmup_steps=chosen(self.warmup_steps, min(150, steps // 5), _WARMUP[self.train]),
            decay=self.decay,
            batch_size=batch,
            micro_batch_size=micro,
            validation_batch_size=8 if paper else None,
            steps=steps,
            max_grad_norm=norm if self.max_grad_norm is None else self.max_grad_norm,
            validate_every=max(1, min(steps, round(self.validate_every / batch))),
            patience=self.patience or (30 if paper else None),
            windows_per_batch=self.windows_per_batch or 2,
            seed=self.seed,
            autocast=autocast,
        )

    def beyond_schedule(self) -> dict[str, Any]:
        """Other settings that change the result, for the inputs of the stage."""
        return self.model_dump(mode="json", include=_BEYOND)

    def validation_pairs(self, pairs: int) -> int:
        """Number of validation pairs."""
        return self.validation or (min(64, max(1, pairs // 10)))
