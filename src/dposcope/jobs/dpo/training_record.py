"""`training.json`: what a finished training was made of, and what it came to. No training code is imported."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import AfterValidator

from dposcope.artefacts import write_json
from dposcope.errors import DposcopeError, plural
from dposcope.foreign_text import code, markdown
from dposcope.jobs.dpo.settings import DpoSettings
from dposcope.pairs.pairs import Dropped
from dposcope.reading import read_json
from dposcope.shipping.metadata import card_head
from dposcope.training.objective import Objective
from dposcope.training.schedule import Schedule, told_steps

KIND: Final = "dposcope dpo"
"""What the file calls itself."""


@dataclass(frozen=True)
class TrainedPairs:
    """The pairs of a training."""

    source: str
    format: str
    """See `Pairs.format`."""
    train: int
    """How many were trained on."""
    validation: int
    """How many were kept for validation."""
    left_out: Dropped
    """Rows of the source that make no pair."""

    @property
    def total(self) -> int:
        """Both parts, as the paper counts pairs."""
        return self.train + self.validation


@dataclass(frozen=True)
class TrainingRecord:
    """One training."""

    model: str
    """The base, as it was named."""
    fingerprint: str
    """Of its weights."""
    pairs: TrainedPairs
    objective: Objective
    schedule: Schedule
    settings: DpoSettings
    """As they were given."""
    steps: int
    """Optimiser steps that were made."""
    examples: int
    """Pairs seen in them, repeated ones counted."""
    best_step: int | None
    """Whose weights were taken; None: the last one's."""
    gains_changed: int | None
    """Neurons with a gain other than 1; None where no gains were trained."""
    curves: list[dict[str, float]]
    """Step by step, in the names of the trainer; see docs/reference/files.md."""
    versions: dict[str, str]
    """Of libraries."""
    asking: dict[str, str | None] | None = None
    """How prompts were put to the model, see `asked_how`; None without a chat template."""

    @property
    def read(self) -> str:
        """Steps, and pairs of a step, in words."""
        return told_steps(self.steps, pairs=self.pairs.train, batch_size=self.schedule.batch_size)

    def to_json(self) -> dict[str, Any]:
        """The layout of `training.json`."""
        return {
            "kind": KIND,
            "model": {"name": self.model, "fingerprint": self.fingerprint},
            "train": self.settings.train,
            "pairs": asdict(self.pairs),
            "protocol": self.objective.protocol,
            "objective": asdict(self.objective),
            "schedule": asdict(self.schedule),
            "settings": self.settings.model_dump(mode="json"),
            "seed": self.settings.seed,
            "steps": self.steps,
            "examples": self.examples,
            "best_step": self.best_step,
            "gains_changed": self.gains_changed,
            "curves": self.curves,
            "versions": self.versions,
            **self._asked,
        }

    @property
    def _asked(self) -> dict[str, Any]:
        return {} if self.asking is None else {"asking": self.asking}

    def about_edit(self) -> dict[str, Any]:
        """What an edit of the learned gains says of its making."""
        objective, schedule, settings = self.objective, self.schedule, self.settings
        return {
            "model": self.model,
            "fingerprint": self.fingerprint,
            **self._asked,
            "made by": "dposcope dpo --train gains",
            "pairs": self.pairs.source,
            "pairs_trained_on": self.pairs.train,
            "learn_text": settings.learn_text or "built-in",
            "beta": objective.beta,
            "kl_weight": objective.kl_weight,
            "kl_on": objective.kl_on,
            **({} if objective.loss == "dpo" else {"loss": objective.loss, "unlikelihood": objective.unlikelihood}),
            "optimizer": schedule.optimizer,
            "learning_rate": schedule.learning_rate,
            "decay": schedule.decay,
            "batch_size": schedule.batch_size,
            "steps": self.steps,
            "seed": settings.seed,
            "heads": settings.heads,
            "sparsity": settings.sparsity,
            "teacher": settings.teacher,
            "teacher_strength": settings.teacher_strength,
        }

    def save(self, path: Path) -> None:
        """Write the file."""
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: Path) -> "TrainingRecord":
        """Read the file.

        Raises:
            DposcopeError: it is missing, or of something else.
        """
        kind = read_json(path, _Header, mend=f"name the folder of a {KIND}").kind
        if kind != KIND:
            raise DposcopeError(f"{path} is told by {kind!r}, not by {KIND}; name the folder of a training")
        told = read_json(path, _Stored, mend="run dposcope dpo once more")
        return cls(
            told.model.name,
            told.model.fingerprint,
            told.pairs,
            told.objective,
            told.schedule,
            told.settings,
            told.steps,
            told.examples,
            told.best_step,
            told.gains_changed,
            told.curves,
            told.versions,
            told.asking,
        )


@dataclass(frozen=True)
class _Header:
    kind: str


@dataclass(frozen=True)
class _Model:
    name: str
    fingerprint: str


def _measured(entry: dict[str, float]) -> dict[str, float]:
    wanted = ("step", *(_VALIDATED if "eval_loss" in entry else ()))
    missing = [name for name in wanted if name not in entry]
    if missing:
        raise ValueError(f"has no {missing[0]}")
    return entry


_VALIDATED: Final = ("eval_accuracy", "eval_margin", "eval_kl")
"""What every validation has beside its loss."""


@dataclass(frozen=True)
class _Stored:
    """`training.json`."""

    model: _Model
    pairs: TrainedPairs
    objective: Objective
    schedule: Schedule
    settings: DpoSettings
    steps: int
    examples: int
    best_step: int | None
    gains_changed: int | None
    curves: list[Annotated[dict[str, float], AfterValidator(_measured)]]
    versions: dict[str, str]
    asking: dict[str, str | None] | None = None


def tuned_card(record: TrainingRecord) -> str:
    """The checkpoint's README: what was trained on what, and what was not tested."""
    objective, schedule, pairs, settings = record.objective, record.schedule, record.pairs, record.settings
    trained = {
        "full": "all weights",
        "lora": "a LoRA adapter, merged",
        "gains": "one gain per MLP neuron, folded into its value vector",
    }[settings.train]
    if settings.heads:
        trained += ", and one per channel of the attention heads, folded into what reads it"
    on = {
        "pairs": "on the pairs",
        "neutral": "on windows of neutral text",
        "harmless": "on the model's own harmless texts",
        "mixed": "on the model's own harmless texts and on windows of neutral text",
    }[objective.kl_on]
    loss = f"DPO with β = {objective.beta:g}"
    if objective.loss == "likelihood":
        loss = "−log likelihood of preferred completions"
        if objective.unlikelihood:
            loss += f", {objective.unlikelihood:g} × unlikelihood of dispreferred ones"
    return "\n".join(
        [
            *card_head(record.model, tags=["dpo"]),
            "",
            "# Tuned checkpoint",
            "",
            f"{code(record.model)} after DPO with dposcope: {trained}. An ordinary checkpoint.",
            "",
            "## How",
            "",
            f"- {plural(pairs.total, 'preference pair')} ({markdown(pairs.format)}), {pairs.validation:,} of them kept "
            "for validation.",
            *(["- Prompts are messages in the model's chat template."] if record.asking else []),
            f"- Loss: {loss}, plus {objective.kl_weight:g} × KL(base‖tuned) {on};"
            f" {objective.protocol} protocol (Yang et al., EMNLP 2025, arXiv:2411.06424, section 3.1).",
            *_taught(record),
            f"- {schedule.optimizer}, learning rate {schedule.learning_rate:g}, {record.read}, seed {settings.seed}.",
            "",
            "## What was not tested",
            "",
            "Nothing is claimed here: measure it beside its base with",
            "`dposcope evaluate BASE --condition tuned=model:THIS_FOLDER --out DIR`.",
            "The base model's licence and terms of use apply to this checkpoint.",
            "",
        ]
    )


def _taught(record: TrainingRecord) -> list[str]:
    """The teacher's line, where there was one."""
    teacher, strength = record.settings.teacher, record.settings.teacher_strength
    if teacher is None:
        return []
    whom = code(teacher) if strength == 1 else f"{code(teacher)} at strength {strength:g}"
    weight = record.objective.teacher_weight
    return [f"- And {weight:g} × KL(teacher‖tuned) on both completions; the teacher: {whom}."]
