"""One of several processes that share the trials of a search: `FOLDER TRIALS FAILS`.

It says as JSON what came of it. The second process fails in trial FAILS; -1: none does.
"""

import json
import sys
from pathlib import Path

import torch

from dposcope.errors import DposcopeError
from dposcope.interventions.gains import Gains
from dposcope.processes.group import Processes
from dposcope.processes.shared import leads, shared, sharing, together
from dposcope.search.family import Family, Point, Source
from dposcope.search.search import search
from dposcope.search.trials import TextBound, Trial, Written

PARTS = 3
"""Of what a trial measures."""


def main() -> None:
    """Search, and tell."""
    folder, trials, fails = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    processes = Processes.joined("cpu")
    own: list[tuple[int, int]] = []

    def try_out(point: Point, number: int) -> Trial:
        def measured(part: int) -> float:
            if number == fails and processes.rank == 1:
                raise DposcopeError("the disk is full; free some space")
            own.append((number, part))
            return (part + 1) * (0.1 * point.strength**2 + 0.02 * point.tilt**2 + 0.05 * point.ablate**2)

        kl = sum(shared(range(PARTS), measured)) / 6
        score = max(0.3 - 0.2 * point.strength - 0.05 * point.ablate, 0.0)
        written = Written(score, score, score, 0.1, 0.5, 0.1) if kl <= 0.1 else None
        return Trial(number, point, kl, kl / 2, None, kl / 0.1 - 1, written, 0.0)

    values = torch.tensor([[1.0, 1.5, 0.5], [2.0, 1.0, 1.0]])
    family = Family({"learned": Source.line(Gains(values))}, torch.tensor([3.0, 4.0]), 2)
    bound = TextBound(Written(0.3, 0.3, 0.3, 0.15, 0.5, 0.15), 0.9)
    told: dict[str, object] = {}
    try:
        with together(processes):
            told = {"sharing": sharing(), "leads": leads()}
            found = search(try_out, family, folder=folder, trials=trials, text_bound=bound)
            told |= {"trials": [trial.to_json() for trial in found], "own": own}
    except DposcopeError as error:
        told["ended"] = str(error)
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main()
