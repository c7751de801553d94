"""The plan of `dposcope reproduce`: which commands with which settings, in which order, and which of them are done.

A step is one run of a command in a folder of its own, and that run itself is asked whether it is finished: see
`is_finished`. Where one setting or one file changes, only steps that depend on it are done again.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from dposcope.data.concept import TOXICITY, Concept
from dposcope.errors import DposcopeError
from dposcope.interventions.tuned import PREFIX
from dposcope.jobs.dpo.job import described as dpo_described
from dposcope.jobs.dpo.settings import DpoSettings
from dposcope.jobs.explain.job import described as explain_described
from dposcope.jobs.explain.settings import ExplainSettings
from dposcope.jobs.finished import CHECKPOINT, is_finished
from dposcope.jobs.measuring.measure import file_name
from dposcope.jobs.pairs.job import pairs_finished
from dposcope.jobs.pairs.settings import PairsSettings
from dposcope.jobs.renamed import other_name
from dposcope.jobs.reproduce.preset import Preset, Protocol, StudyPreset
from dposcope.jobs.reproduce.settings import ReproduceSettings
from dposcope.jobs.reproduce.tiny import TINY
from dposcope.model.language_model import short_name
from dposcope.model.load import check_source
from dposcope.model.size import ModelSize

Command = Literal["pairs", "dpo", "explain"]
AnySettings = PairsSettings | DpoSettings | ExplainSettings
_S = TypeVar("_S", PairsSettings, DpoSettings, ExplainSettings)

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
    def product(self) -> Path:
        """What later steps read of a `pairs` or `dpo` step. A checkpoint that none reads any more may be deleted."""
        if self.command == "pairs":
            return self.pairs
        return self.folder / "edit.safetensors" if self.gains else self.tuned / "config.json"

    def finished(self, *, raw: bool) -> bool:
        """Whether its run says that it is finished; no model is needed.

        Args:
            raw: whether tables have offensive words as they are.
        """
        match self.settings:
            case PairsSettings():
                return pairs_finished(self.model, self.pairs, self.settings)
            case DpoSettings():
                return is_finished(self.folder, "dpo", dpo_described(self.model, self.settings))
            case ExplainSettings():
                of_run = explain_described(self.model, self.after[0].explained, self.settings, raw=raw)
                return is_finished(self.folder, "explain", {**of_run.settings, **of_run.free})


@dataclass(frozen=True)
class PlannedStep:
    """A step and how far it is."""

    step: Step
    name: str
    """Unique within the folder: model and step."""
    done: bool
    size: ModelSize | None
    """Of the model, where the preset says it."""
    pairs: int
    """About how many pairs there will be to train on."""


def plan_reproduction(
    models: Sequence[str], out: Path, preset: Preset, settings: ReproduceSettings, *, raw: bool = False
) -> list[PlannedStep]:
    """All steps for all models, and which are done; nothing is written.

    Args:
        models: what to study; empty: the preset's.
        out: the folder.
        preset: what is done.
        settings: the user's data and machine.
        raw: whether tables have offensive words as they are.

    Raises:
        DposcopeError: two models of one name, a name of none, data missing that the preset needs, or options that do
            not fit.
    """
    for name in needed(preset, settings):
        raise DposcopeError(
            f"preset {preset.name} has no --{name} of its own; give the paper's (see docs/how-to/reproduce-presets.md)"
        )
    names = list(models) or preset.models
    folders = {model_folder(name).casefold() for name in names}
    # Some file systems do not tell capitals from small letters.
    if len(folders) != len(names):
        raise DposcopeError("two models would share one folder; give them in two calls with their own --out")
    for name in names:
        if name != TINY:
            check_source(name)
    size = None if preset.size is None or models else ModelSize(**preset.size.model_dump())
    planned: list[PlannedStep] = []
    for name in names:
        folder = out / model_folder(name)
        steps = plan(str(folder / "model") if name == TINY else name, folder, preset, settings)
        _check_used(steps, preset, settings.given())
        done = _done(steps, raw=raw)
        planned += [
            PlannedStep(step, f"{folder.name}/{step.name}", step.name in done, size, _pairs_of(step)) for step in steps
        ]
    return planned


def _done(steps: Sequence[Step], *, raw: bool) -> set[str]:
    """Names of the steps that are finished and rest on finished ones, but for those of which something is missing that
    an unfinished one reads."""
    done: set[str] = set()
    for step in steps:
        if all(before.name in done for before in step.after) and step.finished(raw=raw):
            done.add(step.name)
    for step in reversed(steps):
        if step.name not in done:
            done -= {before.name for before in step.after if not before.product.exists()}
    return done


def _pairs_of(step: Step) -> int:
    settings = next((one.settings for one in (step, *step.after) if one.command == "pairs"), None)
    if isinstance(settings, PairsSettings) and settings.method == "pplm":
        return settings.count or 800
    return 500  # what 200 prompts gave


def model_folder(name: str) -> str:
    """A model's folder below `--out`: the last part of its name."""
    return file_name(Path(short_name(name)).name or "model")


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
    _check_shared(preset)
    given = settings.given()
    # These mean something else to other commands: DPO's batches are of pairs.
    measuring = {name: given.pop(name) for name in _MEASURING if name in given}
    data = {**_of_concept(preset, settings.concept), **given}
    pairs_of: dict[str, Step] = {}
    for study in preset.study:
        place = folder / study.name
        # Each method has its own source; comments would give sampled pairs a second scorer, as a preset may.
        others = ("learn_text", "comments") if study.pairs.get("method") == "sample" else ("prompts", "report_prompts")
        of_pairs = {name: value for name, value in data.items() if name not in others}
        made = _made(PairsSettings, preset, "pairs", of_pairs, study.pairs, given=study.pairs)
        # A study that asks for the same pairs as an earlier one reads those.
        asked = made.model_dump_json()
        if asked not in pairs_of:
            pairs_of[asked] = Step(model, study, "pairs", None, made, place / "pairs")
            yield pairs_of[asked]
        pairs = pairs_of[asked]
        for_dpo = {**data, "pairs": str(pairs.pairs)}
        trained = _made(DpoSettings, preset, "dpo", for_dpo, study.dpo, given=study.dpo)
        dpo = Step(model, study, "dpo", None, trained, place / "dpo", (pairs,))
        yield dpo
        for protocol in study.protocols:
            own = {**preset.explain, **getattr(preset, protocol), **study.explain, **measuring, "protocol": protocol}
            yield Step(
                model,
                study,
                "explain",
                protocol,
                _made(ExplainSettings, preset, "explain", data, own, given=study.explain),
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


def _check_used(steps: Sequence[Step], preset: Preset, given: Iterable[str]) -> None:
    """Refuse an option of the user that counts in no step."""
    for name in given:
        idle = [step.settings.idle([name]) for step in steps if name in step.settings.model_fields_set]
        if idle and all(idle):
            raise DposcopeError(f"preset {preset.name}: {idle[0][0]}")


def _check_shared(preset: Preset) -> None:
    """A slip there would be taken for an option of another command, and be left out."""
    known = {name for kind in (PairsSettings, DpoSettings, ExplainSettings) for name in kind.model_fields}
    for name in preset.shared:
        if name not in known:
            raise DposcopeError(f"preset {preset.name}, [shared]: {_unknown(name, 'pairs', 'dpo', 'explain')}")


def _unknown(name: str, *commands: str) -> str:
    other = other_name(name, commands)
    return f"there is no option {name}; " + ("mend it there" if other is None else f"its name is {other}")


def _made(
    kind: type[_S],
    preset: Preset,
    command: str,
    shared: Mapping[str, Any],
    own: Mapping[str, Any],
    *,
    given: Collection[str],
) -> _S:
    """A command's settings: of what is shared, only what it knows; of its own, everything.

    What is shared need not count in every study; what is `given` for this one must.
    """
    known = {name: value for name, value in shared.items() if name in kind.model_fields}
    try:
        return kind.filled({**known, **own}, given=given)
    except ValidationError as error:
        first = error.errors()[0]
        option = ".".join(str(part) for part in first["loc"]) or "options"
        if first["type"] == "extra_forbidden":
            raise DposcopeError(f"preset {preset.name}, [{command}]: {_unknown(option, command)}") from error
        raise DposcopeError(
            f"preset {preset.name}, [{command}]: {option}: {first['msg'].removeprefix('Value error, ')}; mend it there"
        ) from error
