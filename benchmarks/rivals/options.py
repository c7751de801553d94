"""The command line of the comparison, read and checked before any model runs."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.rivals.roster import METHODS, Trained

from dposcope.errors import DposcopeError
from dposcope.jobs.evaluate.settings import EvaluateSettings

_DATA = ("prompts", "comments", "neutral", "passages")


@dataclass(frozen=True)
class Options:
    """What the user asked for."""

    model: str
    out: Path
    settings: EvaluateSettings
    """Data, direction, scorer and machine."""
    methods: tuple[str, ...] = METHODS
    edits: tuple[Trained, ...] = ()
    tuned: tuple[Trained, ...] = ()
    obtained: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)
    sentence_pairs: str | None = None
    limit: int = 100
    windows: int = 16
    placing_windows: int = 2
    evaluations: int = 8

    def to_json(self) -> dict[str, Any]:
        """For `rivals.json`."""
        return {
            "model": self.model,
            "settings": self.settings.model_dump(mode="json"),
            "methods": list(self.methods),
            "edits": {one.path: one.name for one in self.edits},
            "tuned": {one.path: one.name for one in self.tuned},
            "sentence_pairs": self.sentence_pairs,
            "limit": self.limit,
            "windows": self.windows,
            "placing_windows": self.placing_windows,
            "evaluations": self.evaluations,
        }


def read_options(arguments: Sequence[str] | None, description: str) -> Options:
    """Parse the command line.

    Raises:
        DposcopeError: a value means nothing.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rivals",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model")
    for name in _DATA:
        parser.add_argument(f"--{name}")
    parser.add_argument("--judge-comments", action="append")
    parser.add_argument("--sentence-pairs", help="toxic and neutral sentences, for further rows")
    parser.add_argument("--edit", action="append", default=[], metavar="NAME=STEM")
    parser.add_argument("--tuned", action="append", default=[], metavar="NAME=DIR")
    parser.add_argument("--obtained", action="append", default=[], metavar="NAME=MINUTES,GB")
    parser.add_argument("--methods", default=",".join(METHODS), help="some of %(default)s")
    parser.add_argument("--evaluations", type=int, default=8, help="most of one method")
    parser.add_argument("--limit", type=int, default=100, help="prompts to measure, of the first half of all")
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--placing-windows", type=int, default=2)
    parser.add_argument("--max-passages", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--scorer", default="profanity")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    methods = tuple(given.methods.split(","))
    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        raise DposcopeError(f"--methods names no method {unknown[0]!r}; choose from {', '.join(METHODS)}")
    for name in ("evaluations", "limit", "windows", "placing_windows"):
        if getattr(given, name) < 1:
            raise DposcopeError(f"--{name.replace('_', '-')} is {getattr(given, name)}; give 1 or more")
    settings = EvaluateSettings(
        **{name: getattr(given, name) for name in (*_DATA, "judge_comments", "max_passages", "batch_size")},
        scorer=given.scorer,
        dtype=given.dtype,
        device=given.device,
        seed=given.seed,
        max_windows=given.windows,
    )
    edits = tuple(_named(text, "--edit") for text in given.edit)
    tuned = tuple(_named(text, "--tuned") for text in given.tuned)
    return Options(
        given.model,
        given.out,
        settings,
        methods,
        edits,
        tuned,
        dict(_obtained(text, {one.name for one in (*edits, *tuned)}) for text in given.obtained),
        given.sentence_pairs,
        given.limit,
        given.windows,
        given.placing_windows,
        given.evaluations,
    )


def _named(text: str, option: str) -> Trained:
    name, found, path = text.partition("=")
    if not (found and name and path):
        raise DposcopeError(f"{option} {text!r} is not NAME=PATH, such as gains=runs/gains/edit")
    return Trained(name, path.removesuffix(".safetensors"))


def _obtained(text: str, names: set[str]) -> tuple[str, tuple[float | None, float | None]]:
    name, _, numbers = text.partition("=")
    try:
        minutes, gigabytes = (float(part) if part else None for part in numbers.split(","))
    except ValueError as error:
        raise DposcopeError(f"--obtained {text!r} is not NAME=MINUTES,GB, such as gains=9,3.1") from error
    if name not in names:
        raise DposcopeError(f"--obtained names {name!r}, which no --edit or --tuned is called")
    return name, (minutes, gigabytes)
