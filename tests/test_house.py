"""The house: which room may import which, no circles, no crowded folder, tests that mirror the code."""

import ast
import re
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from helpers.light import MODULES

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "dposcope"
TESTS = ROOT / "tests"

ORDER = [
    "errors",
    "memory",
    "files",
    "foreign_text",
    "processes",
    "terminal",
    "cache",
    "protocols",
    "options",
    "durable",
    "reading",
    "artefacts",
    "marks",
    "wheels",
    "data",
    "service",
    "paper",
    "model",
    "directions",
    "neurons",
    "interventions",
    "evaluation",
    "pairs",
    "training",
    "search",
    "report",
    "report/edit",
    "report/browser",
    "shipping",
    "jobs",
    "jobs/ingredients",
    "jobs/measuring",
    "jobs/processes",
    "jobs/pairs",
    "jobs/dpo",
    "jobs/edit",
    "jobs/evaluate",
    "jobs/tune",
    "jobs/explain",
    "jobs/estimate",
    "jobs/reproduce",
    "talk",
    "cli",
    "__init__",
    "__main__",
]
"""From the ground up: a room imports from itself and from rooms before it. `docs/architecture.md` draws it."""
MOST_FILES = 15
"""In one folder, of its own."""
NAME_SETTINGS = {
    "jobs/ingredients/data.py",  # reads what they name
    "jobs/dpo/training_record.py",  # keeps them
    "jobs/tune/learning.py",  # makes those of other jobs from them
}
"""Files that name a class of settings, beside `settings.py`, `job.py`, the command line and the estimates of plans."""
NOT_MIRRORED = {"benchmarks", "docs", "helpers", "hostile", "properties", "real", "tools"}
"""Folders of tests that are of no room: of the scripts beside the package, of the documentation, of all rooms."""


def modules() -> dict[str, Path]:
    """Dotted name below the package → file."""
    return {name_of(path): path for path in sorted(SOURCE.rglob("*.py"))}


def name_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def room_of(path: Path) -> str:
    """A file's folder, or the file itself where it stands beside the folders; parts of a job belong to the job."""
    parts = path.relative_to(SOURCE).parts
    folder = parts[:-1]
    if not folder:
        return path.stem
    return "/".join(folder[: 2 if folder[0] in ("jobs", "report") else 1])


def imports(path: Path, known: Mapping[str, Path]) -> Iterator[str]:
    """The package's modules that a file names in an import, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.ImportFrom(module=str(module)) if module.partition(".")[0] == "dposcope":
                below = module.partition(".")[2]
                for one in node.names:
                    whole = f"{below}.{one.name}" if below else one.name
                    yield whole if whole in known else below or "__init__"
            case ast.Import():
                for one in node.names:
                    if one.name.startswith("dposcope."):
                        yield one.name.removeprefix("dposcope.")
            case _:
                pass


@pytest.fixture(scope="module")
def arrows() -> dict[str, set[str]]:
    """Module → modules that it imports."""
    known = modules()
    return {name: set(imports(path, known)) - {name, "__init__"} for name, path in known.items()}


def test_every_room_has_its_place_in_the_order():
    assert {room_of(path) for path in modules().values()} == set(ORDER)


def test_no_arrow_points_back(arrows):
    known = modules()
    place = {room: number for number, room in enumerate(ORDER)}
    back = [
        f"{name} imports {other}"
        for name, others in arrows.items()
        for other in others
        if place[room_of(known[other])] > place[room_of(known[name])]
    ]
    assert back == []


def test_no_circle_of_files(arrows):
    try:
        list(TopologicalSorter(arrows).static_order())
    except CycleError as error:
        pytest.fail(f"files import each other: {' → '.join(error.args[1])}")


def test_an_arrow_back_and_a_circle_would_be_seen(tmp_path):
    known = {"neurons.a": tmp_path / "a.py", "jobs.b": tmp_path / "b.py"}
    (tmp_path / "a.py").write_text("def late():\n    from dposcope.jobs import b\n    import dposcope.jobs.b\n")
    (tmp_path / "b.py").write_text("from dposcope.neurons.a import x\nimport dposcope\n")
    assert set(imports(known["neurons.a"], known)) == {"jobs.b"}
    assert set(imports(known["jobs.b"], known)) == {"neurons.a"}


def test_no_folder_is_crowded():
    folders = [SOURCE, *(path for path in SOURCE.rglob("*") if path.is_dir() and path.name != "__pycache__")]
    count = {
        str(folder.relative_to(SOURCE)): sum(
            file.suffix == ".py" and file.stem != "__init__" for file in folder.iterdir()
        )
        for folder in folders
    }
    assert {name: number for name, number in count.items() if number > MOST_FILES} == {}


def test_every_folder_of_modules_is_a_package():
    """The pages of the library are made from packages."""
    folders = {path.parent for path in SOURCE.rglob("*.py")}
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


def settings_named(path: Path) -> set[str]:
    """Classes of settings that a file names, wherever it does."""
    words = {
        word
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for word in (getattr(node, "id", None), getattr(node, "attr", None), getattr(node, "name", None))
    }
    return {word for word in words if isinstance(word, str) and re.fullmatch("[A-Z][A-Za-z]*Settings", word)}


def test_settings_end_at_the_top():
    below = [
        path.relative_to(SOURCE).as_posix()
        for path in modules().values()
        if settings_named(path)
        and path.name not in ("job.py", "settings.py")
        and room_of(path) not in ("cli", "jobs/estimate", "jobs/reproduce")
    ]
    assert set(below) == NAME_SETTINGS


def test_tests_mirror_the_code():
    folders = {file.parent.relative_to(TESTS) for file in TESTS.rglob("test_*.py")}
    strangers = [
        str(folder)
        for folder in folders
        if folder.parts and folder.parts[0] not in NOT_MIRRORED and not (SOURCE / folder).is_dir()
    ]
    assert strangers == []


def test_light_runs_shorten_every_measured_text():
    naming = [path for path in SOURCE.rglob("*.py") if "GENERATED_TOKENS" in path.read_text("utf-8")]
    names = {".".join(path.relative_to(SOURCE.parent).with_suffix("").parts) for path in naming}
    assert names == {module.__name__ for module in MODULES}


def test_tests_import_no_other_tests():
    for file in TESTS.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            named = node.module if isinstance(node, ast.ImportFrom) else None
            assert not (named or "").rpartition(".")[2].startswith("test_"), f"{file} imports {named}"
