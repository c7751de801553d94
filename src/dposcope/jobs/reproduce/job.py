"""`dposcope reproduce`: the paper's method section from top to bottom, for any models.

Preference pairs (3.1) → DPO with its KL term (3.1, appendix C) → a direction, contributions of all neurons, the four
groups, patching, steering and editing, each measured (3.2, 3.3, 4 to 6) → every table and figure → one report over all
models, studies and protocols.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dposcope.artefacts import text_digest, write_json
from dposcope.errors import DposcopeError
from dposcope.jobs.dpo.job import run_dpo
from dposcope.jobs.dpo.settings import DpoSettings
from dposcope.jobs.explain.job import run_explain
from dposcope.jobs.explain.settings import ExplainSettings
from dposcope.jobs.measure import file_name
from dposcope.jobs.pairs.job import run_pairs
from dposcope.jobs.pairs.settings import PairsSettings
from dposcope.jobs.reproduce.checks import check_steps
from dposcope.jobs.reproduce.finished import FinishedRun
from dposcope.jobs.reproduce.manifest import Manifest
from dposcope.jobs.reproduce.overview import write_overview
from dposcope.jobs.reproduce.plan import Step, needed, plan
from dposcope.jobs.reproduce.preset import Preset
from dposcope.jobs.reproduce.settings import ReproduceSettings
from dposcope.jobs.reproduce.tiny import TINY, tiny_model
from dposcope.jobs.run import Quiet, Reporter, RunPolicy, open_run
from dposcope.model.load import check_source
from dposcope.model.size import ModelSize


@dataclass(frozen=True)
class PlannedStep:
    """A step and how far it is."""

    step: Step
    name: str
    """Unique within the folder: model and step."""
    key: str
    """Digest of all that decides what the step leaves."""
    done: bool
    size: ModelSize | None
    """Of the model, where the preset says it."""
    pairs: int
    """About how many pairs there will be to train on."""


@dataclass(frozen=True)
class Reproduction:
    """What a finished reproduction left."""

    folder: Path
    steps: list[PlannedStep]
    runs: list[FinishedRun]
    """The explanations, in the order of the plan."""


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
            f"preset {preset.name} has no --{name} of its own; give the paper's (see docs/how-to/reproduce.md)"
        )
    names = list(models) or preset.models
    folders = [model_folder(name) for name in names]
    # Some file systems do not tell capitals from small letters.
    if len({folder.casefold() for folder in folders}) != len(folders):
        raise DposcopeError("two models would share one folder; give them in two calls with their own --out")
    for name in names:
        if name != TINY:
            check_source(name)
    manifest = Manifest.read(out)
    found: list[PlannedStep] = []
    for name, folder in zip(names, folders, strict=True):
        source = str(out / folder / "model") if name == TINY else name
        for step in plan(source, out / folder, preset, settings):
            title = f"{folder}/{step.name}"
            key = text_digest(step.key, "raw") if raw and step.command == "explain" else step.key
            size = None if preset.size is None or models else ModelSize(**preset.size.model_dump())
            done = manifest.has(title, key, step.results)
            found.append(PlannedStep(step, title, key, done, size, _pairs_of(step)))
    return _with_products(found)


def _with_products(steps: list[PlannedStep]) -> list[PlannedStep]:
    """Not done is also what a later step needs and somebody deleted."""
    missing: set[int] = set()
    for planned in reversed(steps):
        if not planned.done or id(planned.step) in missing:
            missing |= {id(step) for step in planned.step.after if not step.product.exists()}
    return [replace(planned, done=planned.done and id(planned.step) not in missing) for planned in steps]


def _pairs_of(step: Step) -> int:
    settings = next((one.settings for one in (step, *step.after) if one.command == "pairs"), None)
    if isinstance(settings, PairsSettings) and settings.method == "pplm":
        return settings.count or 800
    return 500  # what 200 prompts gave


def model_folder(name: str) -> str:
    """A model's folder below `--out`: the last part of its name."""
    path = Path(name).expanduser()
    last = path.resolve().name if path.is_dir() else path.name  # "." and ".." are no names
    return file_name(last.removesuffix(".gguf") or "model")


def run_reproduce(
    models: Sequence[str],
    out: Path,
    preset: Preset,
    settings: ReproduceSettings,
    *,
    raw: bool = False,
    reporter: Reporter | None = None,
    borrow: tuple[Path, ...] = (),
) -> Reproduction:
    """Do all steps that are not done, and write the report; interrupted, it goes on.

    Args:
        models: what to study; empty: the preset's.
        out: the folder of all.
        preset: what is done.
        settings: the user's data and machine.
        raw: write offensive words as they are.
        reporter: told of progress.
        borrow: folders of other runs, whose stages explanations may take.

    Raises:
        DposcopeError: bad input, or a folder that holds something else or is in use.
    """
    reporter = reporter or Quiet()
    # Refuses before anything is written, and before anything takes long.
    planned = plan_reproduction(models, out, preset, settings, raw=raw)
    check_steps([one.step for one in planned if not one.done])
    with open_run(out, "reproduce", {"preset": preset.name}, reporter=reporter, policy=RunPolicy(adopt=True)):
        for name in list(models) or preset.models:
            if name == TINY:
                tiny_model(out / model_folder(name) / "model")
        steps = plan_reproduction(models, out, preset, settings, raw=raw)
        manifest = Manifest.read(out)
        for number, planned in enumerate(steps, 1):
            title = f"{number} of {len(steps)}: {planned.name}"
            if planned.done:
                reporter.reused(title)
                continue
            reporter.stage(title)
            manifest.drop(planned.name)
            # What other explanations measured of the plain model, and earlier ones of the same pairs.
            others = tuple(
                other.step.folder
                for other in steps
                if other.step.command == planned.step.command and other is not planned
            )
            _do(planned.step, reporter, RunPolicy(adopt=True, borrow=others + borrow), raw=raw)
            manifest.enter(planned.name, planned.key, planned.step.folder, root=out, skip=("stages",))
        reporter.stage("Report over all")
        runs = [
            FinishedRun.read(one.step.folder, model=one.name.partition("/")[0], study=one.step.study.name)
            for one in steps
            if one.step.command == "explain"
        ]
        write_json(
            out / "plan.json",
            {
                "preset": preset.name,
                "title": preset.title,
                "steps": [one.name for one in steps],
                "runs": [run.folder.relative_to(out).as_posix() for run in runs],
            },
        )
        write_overview(out, runs, title=preset.title, raw=raw)
    return Reproduction(out, plan_reproduction(models, out, preset, settings, raw=raw), runs)


def _do(step: Step, reporter: Reporter, policy: RunPolicy, *, raw: bool) -> None:
    match step.settings:
        case PairsSettings():
            run_pairs(step.model, step.pairs, step.settings, reporter, policy=policy)
        case DpoSettings():
            run_dpo(step.model, step.folder, step.settings, reporter=reporter, policy=policy)
        case ExplainSettings():
            run_explain(
                step.model,
                step.after[0].explained,
                step.folder,
                step.settings,
                raw=raw,
                reporter=reporter,
                policy=policy,
            )
