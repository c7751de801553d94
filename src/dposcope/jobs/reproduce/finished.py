"""A finished `dposcope explain` read back from its folder, without any model."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dposcope.artefacts import read_json
from dposcope.errors import DposcopeError
from dposcope.evaluation.suite import Scores
from dposcope.report.table import Table

_PLAN = "plan.json"
"""What the folder of a reproduction has, and no other."""


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """What an explanation found."""

    folder: Path
    model: str
    """The base model, as tables name it."""
    study: str
    """What tells it from other runs of the model."""
    facts: dict[str, Any]
    """`explain.json`."""
    scores: Scores
    tables: list[Table]
    """In the order of its report."""

    @classmethod
    def read(cls, folder: Path, *, model: str | None = None, study: str | None = None) -> "FinishedRun":
        """Read a folder of `dposcope explain`.

        Args:
            folder: the run's.
            model: what to call its base. Default: the last part of its name.
            study: what to call the run. Default: the folder's name.

        Raises:
            DposcopeError: it is none, or not finished.
        """
        files = [folder / name for name in ("explain.json", "scores.json", "tables.json")]
        for file in files:
            if not file.is_file():
                raise DposcopeError(
                    f"{folder} is no finished run of dposcope explain ({file.name} is missing); run it there to its end"
                )
        facts, scores, tables = (read_json(file) for file in files)
        if not isinstance(facts, dict) or facts.get("kind") != "dposcope explain":
            raise DposcopeError(f"{files[0]} is not from dposcope explain; name the folder of such a run")
        try:
            name = model or str(facts["base"]).rpartition("/")[2]
            read = [Table.from_json(one) for one in tables]
            return cls(folder, name, study or folder.resolve().name, facts, Scores.from_json(scores), read)
        except (KeyError, TypeError, AttributeError) as error:
            raise DposcopeError(
                f"{folder} was written by another version ({error!r}); run dposcope explain there once more"
            ) from error

    @property
    def protocol(self) -> str:
        """strict or reference."""
        return str(self.facts["protocol"])

    @property
    def label(self) -> str:
        """Model, study and protocol."""
        return f"{self.model} · {self.study} · {self.protocol}"

    def table(self, name: str) -> Table | None:
        """A table by its name."""
        return next((table for table in self.tables if table.name == name), None)


def find_runs(folders: Sequence[Path], *, out: Path | None) -> list[FinishedRun]:
    """The finished explanations that folders are or hold, in the order given and below that by name, each once.

    Runs of one model and protocol whose folders have one name are told apart by the folders above.

    Args:
        folders: of `dposcope explain` or `dposcope reproduce`.
        out: where the report goes; None only where `folders` is one reproduction, which has a place for it.

    Raises:
        DposcopeError: a folder holds none, or it is not clear where the report goes.
    """
    found: list[FinishedRun] = []
    for folder in folders:
        if (folder / "explain.json").exists():
            found.append(FinishedRun.read(folder))
            continue
        inside = _of_reproduction(folder)
        if not inside:
            raise DposcopeError(
                f"{folder} holds no finished explanation; name folders of dposcope explain or dposcope reproduce"
            )
        found += [FinishedRun.read(one, model=one.parts[-3], study=one.parts[-2]) for one in inside]
    if out is None and (len(folders) != 1 or not (folders[0] / _PLAN).exists()):
        raise DposcopeError("the report needs a place of its own; give --out")
    if out is not None and (out / "run.json").exists() and not (out / _PLAN).exists():
        raise DposcopeError(f"{out} holds a run, whose own report.html this one would replace; choose another --out")
    return _told_apart(list({run.folder.resolve(): run for run in found}.values()))


def check_place(out: Path) -> None:
    """Refuse to write a report over several runs where it does not belong.

    Raises:
        DposcopeError: the folder holds something, and it is neither an earlier report's nor a reproduction.
    """
    own = ("overview.json", _PLAN, "run.json")
    if out.is_dir() and any(out.iterdir()) and not any((out / name).exists() for name in own):
        raise DposcopeError(f"{out} holds files that are no report's; choose an empty or new folder for --out")


def _told_apart(runs: Sequence[FinishedRun]) -> list[FinishedRun]:
    """Runs that would be called alike take as much of their paths as it needs."""

    def called(run: FinishedRun) -> tuple[str, str, str]:
        return run.model, run.study, run.protocol

    alike = {one: [run.folder.resolve().parts for run in runs if called(run) == one] for one in map(called, runs)}

    def told(run: FinishedRun) -> FinishedRun:
        paths = alike[called(run)]
        if len(paths) == 1:
            return run
        enough = next(count for count in itertools.count(1) if len({path[-count:] for path in paths}) == len(paths))
        return replace(run, study="/".join(run.folder.resolve().parts[-enough:]))

    return [told(run) for run in runs]


def title_of(folders: Sequence[Path]) -> str:
    """What a report over folders is called: as a single reproduction calls itself."""
    own = [_plan_of(folder).get("title") for folder in folders]
    return str(own[0]) if len(own) == 1 and own[0] else "Explanations beside one another"


def _of_reproduction(folder: Path) -> list[Path]:
    """Its explanations in the order of its plan; while it is not whole, those that are there."""
    named = [folder / name for name in _plan_of(folder).get("runs", [])]
    # MODEL/STUDY/explain-PROTOCOL.
    there = named or [file.parent for file in sorted(folder.glob("*/*/explain-*/explain.json"))]
    return [one for one in there if (one / "explain.json").exists()]


def _plan_of(folder: Path) -> dict[str, Any]:
    path = folder / _PLAN
    found = read_json(path) if path.is_file() else {}
    return found if isinstance(found, dict) else {}
