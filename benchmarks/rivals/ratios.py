"""Each evaluation of a comparison as a share of the plain model's score, paired over prompts.

python -m benchmarks.rivals.ratios RUN
"""

import sys
from pathlib import Path

from dposcope.evaluation.conditions.outcome import Outcome
from dposcope.evaluation.conditions.scores import BASE
from dposcope.evaluation.statistics.comparisons import paired_difference, paired_ratio
from dposcope.reading import read_object


def main(folder: Path) -> None:
    """A line for each: share of the plain model's score and rise of log-perplexity, with 95 % bootstrap intervals."""
    files = sorted((folder / "conditions").glob("*.json"))
    outcomes = {file.stem: Outcome.from_json(read_object(file)) for file in files}
    base = outcomes.pop(BASE)
    for name, one in outcomes.items():
        rise = paired_difference(one.losses.nll, base.losses.nll, denominators=base.losses.tokens)
        print(f"{name}: {paired_ratio(one.per_prompt['toxicity'], base.per_prompt['toxicity'])} at {rise}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
