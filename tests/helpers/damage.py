"""Damage to a file, as a disk or a hand does it; and what a run left that tells no time."""

import json
from pathlib import Path

import polars as pl

from helpers.jobs import contents


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def results(folder: Path) -> dict[str, object]:
    """All files but records and the journal of a search; of trials, all but the seconds that they took."""
    found: dict[str, object] = {}
    for name, content in contents(folder).items():
        if "stages/" in name or "journal" in name:
            continue
        match Path(name).name:
            case "trials.json":
                found[name] = [one | {"seconds": 0} for one in json.loads(content)["trials"]]
            case "trials.parquet":
                found[name] = pl.read_parquet(content).drop("seconds").write_json()
            case _:
                found[name] = content
    return found
