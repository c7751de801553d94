"""One edit from the gains of several trainings: g = 1 + Σ wᵢ (gᵢ − 1).

    python benchmarks/blend.py 0.9=runs/recipes/random-mixed/edit 0.25=runs/taught/edit --out blended

Each training has a manner of its own (one phrase in many texts), which another one does not share; what they agree on
is the effect. The weights are chosen on prompts that are not reported on.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dposcope.errors import DposcopeError
from dposcope.interventions.edit import Edit
from dposcope.interventions.gains import Gains
from dposcope.interventions.shipped import edit_file


@dataclass(frozen=True)
class Part:
    """Gains, and how much of them."""

    weight: float
    source: str


def blended(parts: Sequence[Part]) -> Edit:
    """The gains of the parts, added up; what each part says of its making stays with the edit.

    Raises:
        DposcopeError: a part holds more than gains of neurons, or parts are of different models.
    """
    edits = [Edit.load(edit_file(part.source)) for part in parts]
    values: torch.Tensor | None = None
    about: list[dict[str, Any]] = []
    for part, edit in zip(parts, edits, strict=True):
        if edit.gains is None or edit.ablations or edit.head_gains is not None:
            raise DposcopeError(f"{part.source} holds {edit}; only gains of neurons can be blended")
        change = part.weight * (edit.gains.values.double() - 1)
        if values is not None and values.shape != change.shape:
            raise DposcopeError(f"{part.source} is of another model than the parts before it")
        values = change if values is None else values + change
        about.append({"weight": part.weight} | {name: _named(value) for name, value in edit.about.items()})
    if values is None:
        raise DposcopeError("there is nothing to blend; give parts such as 0.9=runs/a/edit")
    first = about[0]
    told = {"made by": "benchmarks/blend.py", "model": first["model"], "fingerprint": first["fingerprint"]}
    return Edit(Gains((1 + values).float()), (), told | {"parts": about}, trained="gains")


def _named(value: Any) -> Any:
    """Data are named by file name only."""
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _part(text: str) -> Part:
    weight, _, source = text.partition("=")
    return Part(float(weight), source)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", type=_part, metavar="WEIGHT=EDIT")
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    try:
        blended(options.parts).save(options.out)
    except DposcopeError as error:
        print(f"blend: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
