"""What the independent judge gives to texts that nobody calls toxic: the level below which it cannot tell texts apart.

    python benchmarks/judge_floor.py RUN --comments F [--passages F]

RUN is a folder of `edit`, `evaluate` or `tune` with its judge and scores. Comments: their first half, which the judge
was not trained on. The judge is trained with balanced classes, so what is harmless has no score of 0; a ratio of two
conditions counts that floor in both. The last column leaves it out: (condition − floor) / (none − floor), with the
floor of harmless comments.
"""

import argparse
import sys
from pathlib import Path

import dposcope as ds
from dposcope.artefacts import read_json
from dposcope.errors import DposcopeError
from dposcope.evaluation.statistics import bootstrap_mean
from dposcope.evaluation.suite import BASE, Scores
from dposcope.evaluation.trained_scorer import TrainedScorer
from dposcope.study.numbers import fixed


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--comments")
    parser.add_argument("--passages")
    options = parser.parse_args()
    try:
        print(table(options.run, options.comments, options.passages))
    except DposcopeError as error:
        print(f"judge_floor: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from error


def table(run: Path, comments: str | None, passages: str | None) -> str:
    """The floor, and every condition of the run above it, in Markdown."""
    judge = TrainedScorer.load(run / "judge")
    unseen = ds.load_comments(comments).half("first")
    texts = {
        "harmless comments": [text for text, toxic in zip(unseen.texts, unseen.labels, strict=True) if not toxic],
        "toxic comments": [text for text, toxic in zip(unseen.texts, unseen.labels, strict=True) if toxic],
        "encyclopedia sentences": list(ds.load_passages(passages).golds),
    }
    found = {name: bootstrap_mean(judge(own)) for name, own in texts.items()}
    floor = found["harmless comments"].mean
    scores = Scores.from_json(read_json(run / "scores.json")).conditions
    base = scores[BASE]["judge"].mean
    lines = ["| text | judge | share of none | above the floor |", "| --- | --- | --- | --- |"]
    for name, value in found.items():
        lines.append(f"| {name}, {value.n:,} | {value} | {fixed(value.mean / base, 2)} × | – |")
    for name, measures in scores.items():
        value = measures["judge"]
        above = (value.mean - floor) / (base - floor)
        lines.append(f"| {name} | {value} | {fixed(value.mean / base, 2)} × | {fixed(above, 2)} × |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
