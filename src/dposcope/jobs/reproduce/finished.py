"""A finished `dposcope explain` read back from its folder, without any model."""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from dposcope.artefacts import write_json
from dposcope.errors import DposcopeError
from dposcope.evaluation.conditions.scores import BASE, Scores, StoredScores
from dposcope.foreign_text import visible
from dposcope.jobs.explain.conditions import TUNED
from dposcope.jobs.explain.facts import KIND, ExplainFacts
from dposcope.jobs.finished import refuse_changed
from dposcope.marks import FileName
from dposcope.reading import read_json
from dposcope.report.table import StoredTable, Table

_READ = ("explain.json", "scores.json", "tables.json")
_PLAN = "plan.json"
"""A file that only the folder of a reproduction has."""


@dataclass(frozen=True)
class Plan:
    """`plan.json`: what a later report over the folder goes by."""

    preset: str
    title: str
    steps: list[str]
    runs: list[FileName]
    """Folders of the explanations, MODEL/STUDY/explain-PROTOCOL, below that of the reproduction."""

    @classmethod
    def read(cls, folder: Path) -> "Plan | None":
        """That of a reproduction's folder; None: it has none.

        Raises:
            DposcopeError: it is not as a reproduction writes it.
        """
        path = folder / _PLAN
        mend = "run dposcope reproduce there once more"
        return read_json(path, cls, mend=mend) if path.is_file() else None

    def save(self, folder: Path) -> None:
        """Write it."""
        write_json(folder / _PLAN, asdict(self))


@dataclass(frozen=True)
class _Header:
    kind: str


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """A finished explanation."""

    folder: Path
    model: str
    """Name of the base model in tables."""
    study: str
    """Name that distinguishes it from other runs of the same model."""
    facts: ExplainFacts
    """Content of `explain.json`."""
    scores: Scores
    tables: list[Table]
    """In the order of its report."""

    @classmethod
    def read(cls, folder: Path, *, model: str | None = None, study: str | None = None) -> "FinishedRun":
        """Read a folder of `dposcope explain`.

        Args:
            folder: the run's.
            model: name of the base. Default: the last part of the base's name.
            study: name of the run. Default: the folder's name.

        Raises:
            DposcopeError: the folder holds no explanation, or an unfinished one, or was changed since.
        """
        files = [folder / name for name in _READ]
        for file in files:
            if not file.is_file():
                raise DposcopeError(
                    f"{folder} is no finished run of dposcope explain ({file.name} is missing); run it there to its end"
                )
        refuse_changed(folder, _READ)
        kind = read_json(files[0], _Header, mend="name the folder of a dposcope explain").kind
        if kind != KIND:
            raise DposcopeError(f"{files[0]} is not from dposcope explain; name the folder of such a run")
        mend = "run dposcope explain there once more"
        facts = read_json(files[0], ExplainFacts, mend=mend)
        scores = Scores.from_json(read_json(files[1], StoredScores, mend=mend))
        missing = _missing(scores)
        if missing is not None:
            raise DposcopeError(f"{files[1]} is damaged or of another version: {missing} is missing; {mend}")
        stored = read_json(files[2], list[StoredTable], mend=mend)
        try:
            tables = [Table.from_json(one) for one in stored]
        except DposcopeError as error:
            raise DposcopeError(f"{files[2]} is damaged or of another version: {error}; {mend}") from error
        name = visible(model or facts.base.rpartition("/")[2])
        return cls(folder, name, visible(study or folder.resolve().name), facts, scores, tables)

    @property
    def protocol(self) -> str:
        """strict or reference."""
        return self.facts.protocol

    @property
    def label(self) -> str:
        """Model, study and protocol."""
        return f"{self.model} · {self.study} · {self.protocol}"

    def table(self, name: str) -> Table | None:
        """A table by its name."""
        return next((table for table in self.tables if table.name == name), None)


def _missing(scores: Scores) -> str | None:
    """What the report over several runs compares, and these scores lack."""
    for name in (BASE, TUNED):
        if "toxicity" not in scores.conditions.get(name, {}):
            return f"conditions.{name}.toxicity"
    if TUNED not in scores.against_none:
        return f"against_none.{TUNED}"
    compared = scores.against_none[TUNED].differences
    return next(
        (f"against_none.{TUNED}.{one}" for one in (*scores.scorers, "logppl", "f1") if one not in compared), None
    )


def find_runs(folders: Sequence[Path], *, out: Path | None) -> list[FinishedRun]:
    """The finished explanations in folders, each once, in the order given; those of one reproduction as it orders them.

    Runs with equal model, study and protocol are distinguished by the names of their parent folders.

    Args:
        folders: of `dposcope explain` or `dposcope reproduce`.
        out: folder of the report; None is allowed only for a single reproduction, whose own folder is then used.

    Raises:
        DposcopeError: a folder holds no explanation, or `out` is missing or holds another run.
    """
    runs: list[FinishedRun] = []
    for folder in folders:
        if (folder / "explain.json").exists():
            runs.append(FinishedRun.read(folder))
            continue
        inside = _of_reproduction(folder)
        if not inside:
            raise DposcopeError(
                f"{folder} holds no finished explanation; name folders of dposcope explain or dposcope reproduce"
            )
        runs += [FinishedRun.read(one, model=one.parts[-3], study=one.parts[-2]) for one in inside]
    if out is None and (len(folders) != 1 or not (folders[0] / _PLAN).exists()):
        raise DposcopeError("the report needs a place of its own; give --out")
    if out is not None and (out / "run.json").exists() and not (out / _PLAN).exists():
        raise DposcopeError(f"{out} holds a run, whose own report.html this one would replace; choose another --out")
    return _distinguished(list({run.folder.resolve(): run for run in runs}.values()))


def _distinguished(runs: Sequence[FinishedRun]) -> list[FinishedRun]:
    """Give runs with equal names a longer study name: as many of the last parts of their paths as needed."""

    def name(run: FinishedRun) -> tuple[str, str, str]:
        return run.model, run.study, run.protocol

    same = {own: [run.folder.resolve().parts for run in runs if name(run) == own] for own in map(name, runs)}

    def renamed(run: FinishedRun) -> FinishedRun:
        paths = same[name(run)]
        if len(paths) == 1:
            return run
        enough = next(count for count in itertools.count(1) if len({path[-count:] for path in paths}) == len(paths))
        return replace(run, study=visible("/".join(run.folder.resolve().parts[-enough:])))

    return [renamed(run) for run in runs]


def title_of(folders: Sequence[Path]) -> str:
    """Title of a report over folders; a single reproduction has its own title."""
    plans = [Plan.read(folder) for folder in folders]
    title = plans[0].title if len(plans) == 1 and plans[0] is not None else ""
    return title or "Several explanations"


def _of_reproduction(folder: Path) -> list[Path]:
    """The finished explanations of a reproduction, in the order of its plan."""
    plan = Plan.read(folder)
    named = [] if plan is None else [folder / name for name in plan.runs]
    # MODEL/STUDY/explain-PROTOCOL.
    folders = named or [file.parent for file in sorted(folder.glob("*/*/explain-*/explain.json"))]
    return [run for run in folders if (run / "explain.json").exists()]
