"""The plan of `dposcope reproduce`: which commands with which settings, in which order, and what each rests on.

A step is one run of a command in a folder of its own. Its key is a digest of everything that decides what it leaves:
settings, the files that they name, the model, and the keys of the steps before it. A step whose key is on record need
not be opened again; where one setting changes, only steps that depend on it get another key.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from dposcope.artefacts import text_digest, value_digest, value_files
from dposcope.data.concept import TOXICITY, Concept
from dposcope.errors import DposcopeError
from dposcope.interventions.shipped import edit_file
from dposcope.jobs.dpo.settings import DpoSettings
from dposcope.jobs.explain.settings import ExplainSettings
from dposcope.jobs.explain.tuned_side import PREFIX
from dposcope.jobs.pairs.settings import PairsSettings
from dposcope.jobs.reproduce.digests import direction_digest, model_digest, named_digest
from dposcope.jobs.reproduce.preset import Preset, Protocol, StudyPreset
from dposcope.jobs.reproduce.settings import ReproduceSettings
from dposcope.jobs.run import CHECKPOINT

Command = Literal["pairs", "dpo", "explain"]
AnySettings = PairsSettings | DpoSettings | ExplainSettings
_S = TypeVar("_S", PairsSettings, DpoSettings, ExplainSettings)

_FILES = ("pairs", "neutral", "text", "prompts", "comments", "judge_comments", "passages", "scorer", "concept")
"""Settings that may name a file, whose content counts."""
_NEWER = ("shuffled",)
"""Options that came later: absent from a key where they are not given, so that runs from before stay finished."""
_MEASURING = ("limit", "batch_size", "folds", "seeds", "bootstrap")


@dataclass(frozen=True)
class Step:
    """One run of a command."""

    model: str
    """A bundled name, a folder, a GGUF file or a hub id."""
    study: StudyPreset
    command: Command
    protocol: Protocol | None
    """Of an explanation."""
    settings: AnySettings
    folder: Path
    """Everything that the step leaves is below it."""
    after: tuple["Step", ...] = ()
    """Steps whose results it reads."""

    @property
    def name(self) -> str:
        """Unique within a model: `explain-sampled-strict`."""
        return "-".join(part for part in (self.command, self.study.name, self.protocol) if part)

    @property
    def title(self) -> str:
        """For people."""
        words = {"pairs": "preference pairs", "dpo": "DPO", "explain": "explanation"}[self.command]
        return f"{self.study.name}: {words}" + (f", {self.protocol} protocol" if self.protocol else "")

    @property
    def pairs(self) -> Path:
        """The file of a `pairs` step."""
        return self.folder / "pairs.jsonl"

    @property
    def tuned(self) -> Path:
        """The checkpoint of a `dpo` step."""
        return self.folder / CHECKPOINT

    @property
    def gains(self) -> bool:
        """Whether it is a `dpo` step that trains gains, which are then explained as gains: see `edited`."""
        return isinstance(self.settings, DpoSettings) and self.settings.train == "gains"

    @property
    def explained(self) -> str:
        """What an explanation takes of a `dpo` step: gains as an edit, where patches of activations carry them."""
        return f"{PREFIX}{self.folder}" if self.gains else str(self.tuned)

    @property
    def results(self) -> list[Path]:
        """What is read of it in the end: where one is missing, the step is not done."""
        names = {
            "pairs": [self.pairs.name],
            "dpo": ["training.json"],
            "explain": ["report.html", "explain.json", "scores.json", "tables.json"],
        }[self.command]
        return [self.folder / name for name in names]

    @property
    def product(self) -> Path:
        """What later steps need of it. A checkpoint that none needs any more may be deleted."""
        if self.gains:
            return self.folder / "edit.safetensors"
        return self.tuned / "config.json" if self.command == "dpo" else self.results[0]

    @cached_property
    def key(self) -> str:
        """Digest of all that decides the results."""
        given = self.settings.model_dump(mode="json")
        # What an earlier step writes is known by that step's key, before it exists.
        own = {str(path) for step in self.after for path in (step.pairs, step.tuned)}
        unasked = {name for name in _NEWER if given.get(name) is None}
        given = {name: value for name, value in given.items() if name not in unasked and str(value) not in own}
        contents = {name: named_digest(given[name]) for name in _FILES if given.get(name) is not None}
        if given.get("start") is not None and value_files(stem := edit_file(given["start"])).tensors.is_file():
            contents["start"] = value_digest(stem)
        if "direction" in given and (saved := direction_digest(given["direction"])) is not None:
            contents["direction"] = saved
        facts = {
            "command": self.command,
            "model": model_digest(self.model),
            # A file by what it holds, wherever it lies.
            "settings": given | contents,
            "after": [step.key for step in self.after],
            # Absent where it is the checkpoint, as in folders from when it always was.
            **({"explained": "edit"} if self.command == "explain" and self.after[0].gains else {}),
        }
        return text_digest(json.dumps(facts, sort_keys=True, default=str))


def plan(model: str, folder: Path, preset: Preset, settings: ReproduceSettings) -> list[Step]:
    """The steps for one model, in an order in which each comes after what it reads.

    Args:
        model: a bundled name, a folder, a GGUF file or a hub id.
        folder: of this model, below `--out`.
        preset: what is done.
        settings: the user's data and machine.

    Raises:
        DposcopeError: the preset names an option that its command does not have, or gives it a wrong value.
    """
    return list(_steps(model, folder, preset, settings))


def _steps(model: str, folder: Path, preset: Preset, settings: ReproduceSettings) -> Iterator[Step]:
    given = settings.given()
    # These mean something else to other commands: DPO's batches are of pairs.
    measuring = {name: given.pop(name) for name in _MEASURING if name in given}
    data = {**_of_concept(preset, settings.concept), **given}
    pairs_of: dict[str, Step] = {}
    for study in preset.study:
        place = folder / study.name
        # Each method has its own source; comments would give sampled pairs a second scorer, as a preset may.
        others = ("text", "comments") if study.pairs.get("method") == "sample" else ("prompts",)
        of_pairs = {name: value for name, value in data.items() if name not in others}
        made = _made(PairsSettings, preset, "pairs", of_pairs, study.pairs)
        # A study that asks for the same pairs as an earlier one reads those.
        asked = made.model_dump_json()
        if asked not in pairs_of:
            pairs_of[asked] = Step(model, study, "pairs", None, made, place / "pairs")
            yield pairs_of[asked]
        pairs = pairs_of[asked]
        for_dpo = {**data, "pairs": str(pairs.pairs), "neutral": data.get("text")}
        dpo = Step(
            model, study, "dpo", None, _made(DpoSettings, preset, "dpo", for_dpo, study.dpo), place / "dpo", (pairs,)
        )
        yield dpo
        for protocol in study.protocols:
            own = {**preset.explain, **getattr(preset, protocol), **study.explain, **measuring, "protocol": protocol}
            yield Step(
                model,
                study,
                "explain",
                protocol,
                _made(ExplainSettings, preset, "explain", data, own),
                place / f"explain-{protocol}",
                (dpo,),
            )


def needed(preset: Preset, settings: ReproduceSettings) -> list[str]:
    """Which data the preset needs and neither the user nor a concept gives."""
    brought = {} if settings.concept is None else Concept.load(settings.concept).options()
    return [name for name in preset.needs if getattr(settings, name) is None and name not in brought]


def _of_concept(preset: Preset, concept: str | None) -> dict[str, Any]:
    """What all commands share, without what belongs to the preset's concept where the user names another."""
    if concept is None or concept == preset.shared.get("concept", TOXICITY.name):
        return preset.shared
    return {name: value for name, value in preset.shared.items() if name not in Concept.load(concept).options()}


def _made(kind: type[_S], preset: Preset, command: str, shared: Mapping[str, Any], own: Mapping[str, Any]) -> _S:
    """A command's settings: of what is shared, only what it knows; of its own, everything."""
    known = {name: value for name, value in shared.items() if name in kind.model_fields}
    try:
        return kind(**{**known, **own})
    except ValidationError as error:
        first = error.errors()[0]
        option = ".".join(str(part) for part in first["loc"]) or "options"
        raise DposcopeError(
            f"preset {preset.name}, [{command}]: {option}: {first['msg'].removeprefix('Value error, ')}"
        ) from error
