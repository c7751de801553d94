"""The settings of `dposcope dpo`, and what they come to: an objective and a schedule."""

from typing import Annotated, Any, Literal, TypeVar

from cyclopts import Group, Parameter
from pydantic import Field, model_validator

from dposcope.jobs.settings import LoadSettings
from dposcope.training.objective import Objective
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
"""Where the paper has no λ for a family."""
_BEYOND = {
    *("train", "lora_rank", "lora_alpha", "validation", "max_prompt_tokens", "max_completion_tokens"),
    *("window_tokens", "window_pool", "reference_dtype", "sparsity", "heads", "neurons"),
}
_RATES = {"full": 1e-5, "lora": 2e-4, "gains": 1e-2}
_EPOCHS = {"full": 2.0, "lora": 2.0, "gains": 3.0}
_WARMUP = {"full": 0, "lora": 10, "gains": 10}
_NORMS = {"full": None, "lora": 1.0, "gains": 1.0}


class DpoSettings(LoadSettings):
    """Settings of `dposcope dpo`. An option that is None takes the preset's value, see `plan`."""

    pairs: Annotated[str, Parameter(group=_PAIRS)] = Field(
        description="Preference pairs, told apart by their columns: prompt_text, unpert_gen_text, pert_gen_text "
        "(dposcope pairs); prompt, chosen, rejected (TRL); toxic, neutral (ParaDetox). JSONL, CSV, TSV, Parquet or "
        "hub:owner/name.",
    )
    train: Annotated[Kind, Parameter(group=_TRAINING)] = Field(
        default="full",
        description="full: all weights (strongest); lora: a low-rank adapter, merged at the end (needs peft); gains: "
        "one factor per neuron, written as an edit and folded (least memory; 4 bytes a neuron to ship).",
    )
    preset: Annotated[Literal["best", "paper"], Parameter(group=_TRAINING)] = Field(
        default="best",
        description="best: the defaults below; paper: RMSprop 1e-5, 150 warm-up steps (a fifth of all steps where that "
        "is less), batch 1 × 4, gradient norm 10, 5 epochs, λ by model family, KL on the pairs, 64 validation pairs "
        "every 100 examples, patience 30 (Table 9), no --max-examples; of lora and gains the rate stays their own, as "
        "gains learn nothing at 1e-5. Options given beside it win.",
    )
    beta: Annotated[float, Parameter(group=_LOSS)] = Field(
        default=0.1, gt=0, description="β of DPO: how strongly the reference holds (paper: 0.1)."
    )
    kl_weight: Annotated[float | None, Parameter(group=_LOSS)] = Field(
        default=None, ge=0, description="λ, the weight of the KL term, per nat and token. Default: 1 (paper: 0.02–0.1)."
    )
    kl_on: Annotated[Literal["pairs", "neutral"] | None, Parameter(group=_LOSS)] = Field(
        default=None,
        description="Where KL(base‖tuned) is taken: neutral (windows of --neutral; keeps other text as it was) or "
        "pairs (both completions, as the paper). Default: neutral.",
    )
    teacher: Annotated[str | None, Parameter(group=_LOSS)] = Field(
        default=None,
        description="With --train gains or lora: a model that was tuned from MODEL, such as the model/ of --train full "
        "on the same pairs. Training then also imitates it on both completions: a pair says which text is better, a "
        "teacher which token, at every place. Default: none.",
    )
    teacher_weight: Annotated[float | None, Parameter(group=_LOSS)] = Field(
        default=None,
        gt=0,
        description="κ, the weight of KL(teacher‖policy) on both completions, per nat and token. Default: 1 with "
        "--teacher.",
    )
    teacher_strength: Annotated[float, Parameter(group=_LOSS)] = Field(
        default=1.0,
        gt=0,
        description="s of the teacher's weights W₀ + s (W₁ − W₀), on the line from MODEL through the teacher: beyond 1 "
        "it does more of what tuning did, at more cost.",
    )
    neutral: Annotated[str | None, Parameter(group=_PAIRS)] = Field(
        default=None,
        description="Neutral text for --kl-on neutral: TXT (WikiText-like), or a table. Not the text that you measure "
        "log-perplexity on. Default: built-in prose.",
    )
    neutral_column: Annotated[str, Parameter(group=_PAIRS)] = Field(
        default="text", description="Column of that text, where it is a table."
    )
    protocol: Annotated[Literal["strict", "reference"], Parameter(group=_LOSS)] = Field(
        default="strict",
        description="strict: KL over completion tokens; reference: averaged over prompt and padding too, as the "
        "authors' code does.",
    )
    learning_rate: Annotated[float | None, Parameter(group=_TRAINING)] = Field(
        default=None, gt=0, description="Default, with --preset paper too: full 1e-5, lora 2e-4, gains 1e-2."
    )
    optimizer: Annotated[Literal["rmsprop", "adamw"] | None, Parameter(group=_TRAINING)] = Field(
        default=None, description="Default: rmsprop for full (paper), adamw (without decay) for lora and gains."
    )
    epochs: Annotated[float | None, Parameter(group=_TRAINING)] = Field(
        default=None, gt=0, description="Passes over the training pairs. Default: full and lora 2, gains 3."
    )
    max_examples: Annotated[int | None, Parameter(group=_TRAINING)] = Field(
        default=None,
        ge=1,
        description="Stop after so many pairs were seen, repeated ones counted. Default: 3000; with --preset paper no "
        "limit but --epochs.",
    )
    batch_size: Annotated[int | None, Parameter(group=_TRAINING)] = Field(
        default=None, ge=1, description="Pairs per optimiser step. Default: 8 (paper: 4)."
    )
    micro_batch_size: Annotated[int | None, Parameter(group=_TRAINING)] = Field(
        default=None, ge=1, description="Pairs in memory at a time. Default: a whole batch (paper: 1)."
    )
    warmup_steps: Annotated[int | None, Parameter(group=_TRAINING)] = Field(
        default=None,
        ge=0,
        description="Steps over which the learning rate rises. Default: full 0, lora and gains 10 (paper: 150; its "
        "preset takes a fifth of all steps where that is less, or a short training would never reach the whole rate).",
    )
    decay: Annotated[Literal["none", "linear"], Parameter(group=_TRAINING)] = Field(
        default="none",
        description="The learning rate after its rise: none (constant, paper) or linear (falls to 0 by the end).",
    )
    max_grad_norm: Annotated[float | None, Parameter(group=_TRAINING)] = Field(
        default=None,
        gt=0,
        description="Longer gradients are shortened to this. Default: full never, so that steps get shorter as pairs "
        "are learned; lora and gains 1 (paper: 10).",
    )
    validation: Annotated[int | None, Parameter(group=_PAIRS)] = Field(
        default=None,
        ge=1,
        description="Pairs kept for validation; none shares a prompt with training. Default: a tenth, at most 64.",
    )
    validate_every: Annotated[int, Parameter(group=_TRAINING)] = Field(
        default=100, ge=1, description="Examples between validations; a checkpoint is kept at each (paper: 100)."
    )
    patience: Annotated[int | None, Parameter(group=_TRAINING)] = Field(
        default=None,
        ge=1,
        description="Stop after so many validations without a lower loss, and take the best (paper: 30). Default: "
        "never; the last is taken.",
    )
    windows_per_batch: Annotated[int, Parameter(group=_TRAINING)] = Field(
        default=2, ge=1, description="Windows of neutral text with each micro-batch, for --kl-on neutral."
    )
    window_tokens: Annotated[int, Parameter(group=_TRAINING)] = Field(default=128, ge=2, description="Tokens of each.")
    window_pool: Annotated[int, Parameter(group=_TRAINING)] = Field(
        default=512, ge=1, description="Windows drawn from the text once, from which batches take theirs."
    )
    max_prompt_tokens: Annotated[int, Parameter(group=_PAIRS)] = Field(
        default=64, ge=1, description="A longer prompt keeps its end (paper: 64)."
    )
    max_completion_tokens: Annotated[int, Parameter(group=_PAIRS)] = Field(
        default=64, ge=1, description="A longer completion keeps its start (paper: 64)."
    )
    lora_rank: Annotated[int, Parameter(group=_TRAINING)] = Field(default=16, ge=1, description="Rank of the adapter.")
    lora_alpha: Annotated[int, Parameter(group=_TRAINING)] = Field(
        default=32, ge=1, description="Its scale is alpha / rank."
    )
    heads: Annotated[bool, Parameter(group=_TRAINING)] = Field(
        default=False,
        description="With --train gains: one factor per channel of the attention heads, too. It folds into a "
        "checkpoint, but not into GGUF, and is beyond the paper's neurons.",
    )
    sparsity: Annotated[float, Parameter(group=_TRAINING)] = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="With --train gains: the weight of a penalty on |gain − 1| that leaves most gains at exactly 1; "
        "below 1, where none would move, and the larger, the fewer neurons are touched.",
    )
    start: Annotated[str | None, Parameter(group=_TRAINING)] = Field(
        default=None,
        description="With --train gains: begin at the gains of a saved edit (edit.safetensors, the folder of its run, "
        "or a bundled model's name), as for a second round on pairs that the edited model gave. Default: at 1.",
    )
    neurons: Annotated[int | None, Parameter(group=_TRAINING)] = Field(
        default=None,
        ge=1,
        description="With --start: train only so many gains, those of that edit that are furthest from 1; all others "
        "are exactly 1. Default: all gains.",
    )
    precompute_reference: Annotated[bool, Parameter(group=_MACHINE)] = Field(
        default=False,
        description="Run the base over all pairs and windows first and keep its final states on disk (d numbers per "
        "token of both completions) until training is done. With --train full, the base's head (vocabulary × d) then "
        "stays in memory, and no other copy of its weights.",
    )
    recompute: Annotated[bool, Parameter(group=_MACHINE)] = Field(
        default=False,
        description="With --train full or lora: compute activations again in the backward pass instead of keeping "
        "them. Less memory where texts are long, some more time, the same result.",
    )
    reference_dtype: Annotated[Literal["same", "bfloat16"], Parameter(group=_MACHINE)] = Field(
        default="same",
        description="Precision of the second copy with --train full and no --precompute-reference. bfloat16 halves it; "
        "rewards then start near 0.",
    )
    seed: Annotated[int, Parameter(group=_MACHINE)] = Field(
        default=0, ge=0, description="Of the split, the order of pairs, the windows and the adapter."
    )

    @model_validator(mode="before")
    @classmethod
    def _usual_limit(cls, given: Any) -> Any:
        # As a number: a run's folder names its settings.
        if isinstance(given, dict) and given.get("max_examples") is None and given.get("preset", "best") == "best":
            return given | {"max_examples": 3000}
        return given

    @model_validator(mode="after")
    def _parts_fit(self) -> "DpoSettings":
        if self.protocol == "reference" and self.kl_on == "neutral":
            raise ValueError("the reference protocol has its KL on pairs; leave --kl-on neutral out, or be strict")
        if self.recompute and self.train == "gains":
            raise ValueError("gains act through hooks that are gone in the backward pass; leave --recompute out")
        if self.heads and self.train != "gains":
            raise ValueError("gains of heads are trained beside those of neurons; give --train gains")
        if self.sparsity and self.train != "gains":
            raise ValueError("a sparsity is one of gains; leave --sparsity out, or give --train gains")
        if self.start is not None and self.train != "gains":
            raise ValueError(
                "training begins at a saved edit with --train gains alone; give that, or leave --start out"
            )
        if self.teacher is not None and self.train == "full":
            raise ValueError("a teacher is a whole tuned model already; give --train gains or lora, or leave it out")
        if self.teacher_weight is not None and self.teacher is None:
            raise ValueError("--teacher-weight weighs a teacher; name one with --teacher")
        if self.teacher_strength != 1 and self.teacher is None:
            raise ValueError("--teacher-strength is of a teacher; name one with --teacher")
        if self.teacher is not None and self.protocol == "reference":
            raise ValueError("the published code has no teacher; leave --teacher out, or be strict")
        if self.neurons is not None and self.start is None:
            raise ValueError("--neurons takes those that an edit moved furthest; name the edit with --start")
        if self.reference_dtype != "same" and self.train != "full":
            raise ValueError(
                f"with --train {self.train} the reference is the model itself, in its precision; leave "
                "--reference-dtype out"
            )
        if self.reference_dtype != "same" and self.precompute_reference:
            raise ValueError(
                "a reference that is computed before is no second copy, and runs in the model's precision; leave "
                "--reference-dtype or --precompute-reference out"
            )
        if self.protocol == "reference" and self.precompute_reference:
            raise ValueError("the reference protocol needs the base at every position; leave --precompute-reference")
        return self

    def objective(self, model_type: str) -> Objective:
        """What is minimised, for a family of models."""
        paper = self.preset == "paper"
        weight = PAPER_KL_WEIGHTS.get(model_type, _OTHER_KL_WEIGHT) if paper else 1.0
        on = "pairs" if paper or self.protocol == "reference" else "neutral"
        return Objective(
            self.beta,
            weight if self.kl_weight is None else self.kl_weight,
            self.kl_on or on,
            self.protocol,
            0.0 if self.teacher is None else self.teacher_weight or 1.0,
        )

    def schedule(self, pairs: int, *, autocast: bool) -> Schedule:
        """How training goes, for a number of training pairs."""
        paper = self.preset == "paper"

        def chosen(given: _Value | None, papers: _Value, best: _Value) -> _Value:
            return given if given is not None else papers if paper else best

        norm = 10.0 if paper else _NORMS[self.train]
        batch = chosen(self.batch_size, 4, 8)
        micro = chosen(self.micro_batch_size, 1, None)
        seen = round(pairs * chosen(self.epochs, 5.0, _EPOCHS[self.train]))
        steps = steps_for(seen if self.max_examples is None else min(self.max_examples, seen), batch)
        return Schedule(
            optimizer=self.optimizer or ("rmsprop" if paper or self.train == "full" else "adamw"),
            learning_rate=self.learning_rate or _RATES[self.train],
            warmup_steps=chosen(self.warmup_steps, min(150, steps // 5), _WARMUP[self.train]),
            decay=self.decay,
            batch_size=batch,
            micro_batch_size=micro,
            steps=steps,
            max_grad_norm=norm if self.max_grad_norm is None else self.max_grad_norm,
            validate_every=max(1, min(steps, round(self.validate_every / batch))),
            patience=self.patience or (30 if paper else None),
            windows_per_batch=self.windows_per_batch,
            seed=self.seed,
            autocast=autocast,
        )

    def beyond_schedule(self) -> dict[str, Any]:
        """What decides the result beside objective and schedule, where it is not the usual: for the stage's inputs."""
        return self.model_dump(mode="json", include=_BEYOND, exclude_defaults=True)

    def validation_pairs(self, pairs: int) -> int:
        """How many are kept for validation."""
        return self.validation or (min(64, max(1, pairs // 10)))
