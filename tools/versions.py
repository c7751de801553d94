"""`make test-versions`: every test with the lowest and with the newest packages that pyproject.toml allows.

Each pair of Python and choice of versions has an environment in build/versions, which is kept. Only wheels are
installed. The lowest run also checks that each lower bound is the version that is tested: a bound below what the other
packages need would say something that nobody tried.
"""

import argparse
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
WORK: Final = ROOT / "build" / "versions"
LEFT_OUT: Final = (
    "tests/test_unchanged.py::test_the_numbers_of_four_small_jobs_are_as_recorded",  # other versions round otherwise
    "tests/benchmarks/test_mutants.py",  # needs cosmic-ray, of which no wheels are
)
"""Tests that only the pinned versions can pass."""
BESIDE: Final = ["mkdocs>=1.6", "pip"]
"""What tests use that nothing requires."""
NOT_FOR_TESTS: Final = {"cosmic-ray", "mkdocs-material", "mkdocstrings-python", "pyright", "ruff"}
"""What developers need for other things; it is not installed."""
CHOICES: Final = {"lowest": "lowest-direct", "newest": "highest"}
"""Our name of a choice of versions → uv's."""


@dataclass(frozen=True)
class Bound:
    """A lower bound in pyproject.toml."""

    name: str
    lowest: str

    @classmethod
    def of(cls, requirement: str) -> "Bound | None":
        """Of a requirement such as `numpy>=2.1`; None: it is pinned or names an extra."""
        name, sign, version = requirement.partition(">=")
        return cls(name.lower().replace("_", "-"), version) if sign else None


@dataclass(frozen=True)
class Outcome:
    """What became of one environment."""

    python: str
    choice: str
    told: str
    good: bool


def requirements(pyproject: Path) -> list[str]:
    """All that tests need, those of extras too."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    found = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    return [one for one in found if one.partition(">=")[0] not in NOT_FOR_TESTS]


def bounds(pyproject: Path) -> list[Bound]:
    """All lower bounds."""
    return [bound for bound in map(Bound.of, requirements(pyproject)) if bound is not None]


def untested(found: list[Bound], resolved: str) -> list[str]:
    """Bounds that are lower than the version in a list of `name==version`, each with that version."""
    versions = dict(line.split("==") for line in resolved.split() if "==" in line)
    return sorted(
        {
            f"{bound.name}>={bound.lowest} is never tested, {versions[bound.name]} is"
            for bound in found
            if bound.name in versions and _numbers(versions[bound.name]) != _numbers(bound.lowest)
        }
    )


def _numbers(version: str) -> list[str]:
    """Its parts without zeros at the end, which say nothing."""
    parts = version.split(".")
    while parts and parts[-1] == "0":
        parts.pop()
    return parts


def interpreter(uv: str, asked: str) -> str | None:
    """The path of a Python on this machine, by its version or its path; None: it is not there."""
    done = subprocess.run(
        [uv, "python", "find", "--system", "--no-project", "--no-python-downloads", asked],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() if done.returncode == 0 else None


def install(uv: str, python: str, choice: str, folder: Path) -> str:
    """Make or renew an environment; what was installed, as lines of `name==version`."""
    resolved = folder.parent / f"{folder.name}.txt"
    wheels = ["--only-binary", ":all:"]
    subprocess.run(
        [
            *(uv, "pip", "compile", "--quiet", "--python", python, "--resolution", CHOICES[choice], *wheels),
            *("--upgrade", "--no-annotate", "--no-header", "--output-file", resolved, "-"),
        ],
        input="\n".join([*requirements(ROOT / "pyproject.toml"), *BESIDE]),
        text=True,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    here = folder / "bin" / "python"
    if not here.exists():
        subprocess.run([uv, "venv", "--quiet", "--python", python, folder], check=True)
    subprocess.run([uv, "pip", "sync", "--quiet", "--python", here, *wheels, resolved], check=True)
    subprocess.run([uv, "pip", "install", "--quiet", "--python", here, "--no-deps", "--editable", ROOT], check=True)
    return resolved.read_text(encoding="utf-8")


def test(folder: Path, arguments: list[str]) -> tuple[bool, str]:
    """Run the tests, with their output in a file beside the environment; whether they passed, and their last line."""
    log = folder.parent / f"{folder.name}.log"
    command = [folder / "bin" / "python", "-m", "pytest", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]
    left_out = [part for name in LEFT_OUT for part in ("--deselect", name)]
    with log.open("w") as stream:
        done = subprocess.run(
            [*command, *left_out, *arguments], cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT, check=False
        )
    last = (log.read_text(encoding="utf-8").strip().splitlines() or ["nothing was said"])[-1]
    return done.returncode == 0, f"{last.strip('= ')}  ({log.relative_to(ROOT)})"


def outcome(uv: str, asked: str, choice: str, *, check_bounds: bool, arguments: list[str]) -> Outcome:
    """Test one Python with one choice of versions."""
    python = interpreter(uv, asked)
    if python is None:
        return Outcome(asked, choice, "not tested: there is no such Python on this machine", good=True)
    folder = WORK / f"{asked.strip('/').replace('/', '-')}-{choice}"
    try:
        resolved = install(uv, python, choice, folder)
    except subprocess.CalledProcessError:
        return Outcome(asked, choice, "cannot be installed; see the message above", good=False)
    false = untested(bounds(ROOT / "pyproject.toml"), resolved) if check_bounds else []
    passed, told = test(folder, arguments)
    return Outcome(asked, choice, "; ".join([*false, told]), good=passed and not false)


def main() -> None:
    """Test all and print a line for each; exit with 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--uv", required=True, help="the program uv")
    parser.add_argument("--python", nargs="+", default=["3.11", "3.12", "3.13"], help="versions or paths, lowest first")
    parser.add_argument("--choice", nargs="+", choices=CHOICES, default=list(CHOICES))
    parser.add_argument("--tests", default="", help="arguments for pytest; without any, all tests run")
    options = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    for choice in options.choice:
        for asked in options.python:
            began = time.monotonic()
            print(f"Python {asked}, {choice} versions …", flush=True)
            # Newer Pythons may need newer wheels than the bounds say; the oldest one shows whether these are true.
            check_bounds = choice == "lowest" and asked == options.python[0]
            one = outcome(options.uv, asked, choice, check_bounds=check_bounds, arguments=options.tests.split())
            outcomes.append(one)
            print(f"    {one.told}, {time.monotonic() - began:.0f} s", flush=True)
    print()
    for one in outcomes:
        print(f"{'ok  ' if one.good else 'FAIL'}  Python {one.python}, {one.choice}: {one.told}")
    sys.exit(0 if all(one.good for one in outcomes) else 1)


if __name__ == "__main__":
    main()
