"""`make release`: build the distributions, look into them, and use the wheel where nothing else of dposcope is.

Nothing is uploaded.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections import Counter
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
DIST: Final = ROOT / "dist"
LARGEST: Final = 1_000_000
"""Bytes of any file in a distribution."""
SDIST: Final = {"CHANGELOG.md", "CITATION.cff", "LICENSE", "README.md", "SECURITY.md", "pyproject.toml"}
"""What the source distribution must hold beside `src`."""
EXTRAS: Final = "demo,tune,train"

_EVERY_NAME: Final = """
import pathlib, sys, dposcope
for name in dposcope.__all__:
    getattr(dposcope, name)
assert pathlib.Path(dposcope.__file__).is_relative_to(sys.prefix), dposcope.__file__
print(len(dposcope.__all__), "public names")
"""


def faults_of_versions() -> list[str]:
    """Files that name another version than pyproject.toml."""
    version = project()["version"]
    wanted = {
        "CITATION.cff": f"\nversion: {version}\n",
        "CHANGELOG.md": f"\n## {version}",
    }
    return [f"{name} does not have {text.strip()!r}" for name, text in wanted.items() if text not in read(name)]


def project() -> dict[str, str]:
    """The table [project] of pyproject.toml."""
    return tomllib.loads(read("pyproject.toml"))["project"]


def read(name: str) -> str:
    """A file of the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


def tracked(under: str = "") -> set[str]:
    """Files that git knows, by their paths in the repository."""
    told = subprocess.run(["git", "ls-files", "-z", under or "."], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(told.stdout.split("\0")) - {""}


def faults_of_wheel(wheel: zipfile.ZipFile, sources: set[str]) -> list[str]:
    """What a wheel has that it should not have, or lacks.

    Args:
        wheel: open.
        sources: paths of the package's files in the repository.
    """
    sizes = {one.filename: one.file_size for one in wheel.infolist()}
    about = next(name.partition("/")[0] for name in sizes if ".dist-info/" in name)
    wanted = {name.removeprefix("src/") for name in sources}
    wanted |= {f"{about}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")}
    return _faults(sizes, wanted, sizes.keys() - wanted)


def faults_of_sdist(sdist: tarfile.TarFile, known: set[str]) -> list[str]:
    """What a source distribution has that it should not have, or lacks.

    Args:
        sdist: open.
        known: paths of all files in the repository.
    """
    sizes = {one.name.partition("/")[2]: one.size for one in sdist.getmembers() if one.isfile()}
    wanted = SDIST | {name for name in known if name.startswith("src/")}
    return _faults(sizes, wanted, sizes.keys() - known - {"PKG-INFO"})


def _faults(sizes: dict[str, int], wanted: set[str], strange: set[str]) -> list[str]:
    return [
        *(f"{name} is missing" for name in sorted(wanted - sizes.keys())),
        *(f"{name} does not belong there" for name in sorted(strange)),
        *(f"{name} has {size:,} bytes" for name, size in sorted(sizes.items()) if size > LARGEST),
    ]


def contents(names: list[str]) -> str:
    """How many files of each kind: `.py 274, .toml 8, …`."""
    count = Counter(Path(name).suffix or Path(name).name for name in names)
    return ", ".join(f"{kind} {number}" for kind, number in count.most_common())


def use(wheel: Path, uv: Path, python: str) -> None:
    """Install the wheel into a new environment and run the program there, on what it brings with it."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    with tempfile.TemporaryDirectory(prefix="dposcope-release-") as folder:
        environment = {**kept, "DPOSCOPE_CACHE": f"{folder}/cache"}
        own = Path(folder) / "environment"

        def run(*command: str | Path) -> str:
            print(f"    {' '.join(map(str, command)).replace(folder, '…')}"[:110], flush=True)
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                sys.exit(f"FAIL: ended with {done.returncode}: {(done.stderr or done.stdout)[-2000:]}")
            return done.stdout

        run(uv, "venv", "--quiet", "--python", python, own)
        run(uv, "pip", "install", "--quiet", "--python", own / "bin/python", f"{wheel}[{EXTRAS}]")
        run(uv, "pip", "check", "--python", own / "bin/python")
        print(f"        {run(own / 'bin/python', '-W', 'error', '-c', _EVERY_NAME).strip()}")
        program = own / "bin/dposcope"
        if run(program, "--version").strip() != project()["version"]:
            sys.exit("FAIL: it has another version")
        run(program, "--help")
        run(program, "reproduce", "--preset", "smoke", "--quiet", "--out", "smoke")
        (tiny,) = Path(folder, "smoke").rglob("tiny/config.json")
        # The built-in data and the scorer `profanity`.
        quick = ["--limit", "8", "--max-windows", "2", "--max-passages", "2", "--alpha", "0.1", "--ablate", "0.5"]
        run(program, "edit", tiny.parent, "--out", "edit", "--quiet", "--direction-rows", "40", *quick)
        run(program, "fold", tiny.parent, "--edit", "edit", "--out", "folded")
        run(program, "models")
        for made in ("smoke/report.html", "edit/report.html", "folded/model.safetensors"):
            if not Path(folder, made).is_file():
                sys.exit(f"FAIL: there is no {made}")


def main() -> None:
    """Build, look, use; exit with 1 at the first thing that is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--uv", type=Path, required=True, help="the program uv")
    parser.add_argument("--python", default=sys.executable, help="interpreter that uses the wheel")
    parser.add_argument("--only-look", action="store_true", help="do not install and use the wheel")
    options = parser.parse_args()
    faults = faults_of_versions()
    shutil.rmtree(DIST, ignore_errors=True)
    built = subprocess.run(
        [sys.executable, "-m", "build", "--outdir", DIST, ROOT],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if built.returncode != 0:
        sys.exit(f"FAIL: {built.stdout[-4000:]}")
    (wheel,), (sdist,) = DIST.glob("*.whl"), DIST.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as opened:
        faults += faults_of_wheel(opened, tracked("src"))
        print(f"{wheel.name}: {wheel.stat().st_size:,} bytes; {contents(opened.namelist())}")
    with tarfile.open(sdist) as opened:
        faults += faults_of_sdist(opened, tracked())
        print(f"{sdist.name}: {sdist.stat().st_size:,} bytes; {contents(opened.getnames())}")
    if faults:
        sys.exit("\n".join(f"FAIL: {one}" for one in faults))
    if not options.only_look:
        use(wheel, options.uv.resolve(), options.python)
    print("ok")


if __name__ == "__main__":
    main()
