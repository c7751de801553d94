"""The learned gains beside other ways to make a model less toxic, each at its best over its own sweep.

    python -m benchmarks.rivals gemma-3-270m --prompts F --comments F --judge-comments F --neutral F --passages F \\
        --edit gains=runs/gains/edit --tuned full=runs/full/model --tuned lora=runs/lora/model --out DIR

Methods (--methods, all by default): `edit` and `tuned` (what --edit and --tuned name; a name given again adds a line
to that method's sweep), `shuffled` (the first edit's gains given to other neurons), `paper` and `code` (the paper's
edit by its text and by its code), `default`, `mlp-ablation` and `least-squares` (what dposcope makes without training),
`steer`, `steer-all`, `ablation`, `profs`. The first --edit is what others are compared with. The last four are made
from the comments' two classes, row by row in file order, and, as rows of their own, from --sentence-pairs (a table with
columns toxic and neutral). Abliteration by comments also tries the direction of the edits.

Every point of every sweep is measured on the same prompts, passages and windows: the first --limit prompts of the
first half, and the first --windows windows of the neutral text, none of which anything here is fitted on. Strengths
are placed on the next --placing-windows windows, where they are expected to cost what methods are compared at; at most
--evaluations a method, 5 for one of a single line. How many evaluations there will be, and how long they may take, is
told before the first sweep. A killed comparison goes on with the same command.

DIR gets rivals.md (tables), rivals.svg and .png, rivals.parquet (a row per evaluation, written as each ends),
rivals-at-costs.parquet and rivals.json (settings); nobody's text is in them, but in DIR/conditions it is.
"""

import sys
import time
from collections.abc import Sequence

from benchmarks.rivals.options import read_options
from benchmarks.rivals.run import compare_rivals

from dposcope.errors import DposcopeError


class Lines:
    """Tells every stage on the error stream, with the seconds since the start."""

    def __init__(self) -> None:
        self._begun = time.monotonic()

    def stage(self, title: str) -> None:
        print(f"{time.monotonic() - self._begun:6.0f} s  {title}", file=sys.stderr, flush=True)

    def reused(self, title: str) -> None:
        self.stage(f"{title} (done before)")

    def progress(self, done: int, total: int) -> None:
        """Nothing."""

    def ahead(self, stages: int) -> None:
        """Nothing."""

    def note(self, line: str) -> None:
        self.stage(line)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    try:
        options = read_options(arguments, __doc__ or "")
        compare_rivals(options, reporter=Lines())
    except DposcopeError as error:
        print(f"rivals: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from error
    print(options.out / "rivals.md")


if __name__ == "__main__":
    main()
