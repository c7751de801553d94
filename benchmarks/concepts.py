"""How good the scorers of the built-in concepts are: by the concept's own labels, beside the independent judge.

    python benchmarks/concepts.py [--rated FILE]

FILE, for negative sentiment: a table without a header, tabs between id, mean rating (negative below 0) and sentence, as
vaderSentiment's source package holds under additional_resources.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from dposcope.data.comments import direction_and_judge
from dposcope.data.concept import BUILTIN_CONCEPTS
from dposcope.evaluation.scorers import load_scorer
from dposcope.evaluation.trained_scorer import TrainedScorer

CLEAR = 1.0
"""Mean ratings nearer to 0 than this are left out: raters hardly agreed on their sign."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rated", type=Path, help="rated sentences, see above")
    rated = parser.parse_args().rated
    for concept in BUILTIN_CONCEPTS.values():
        parts = direction_and_judge(concept.load_comments())
        scorer = load_scorer(concept.scorer)
        judge = TrainedScorer.fit(parts.judge.texts, [int(label) for label in parts.judge.labels], seed=0)
        print(f"{concept.name}: scorer {scorer.name}")
        # Neither has seen the direction's half.
        for name, judged in (("scorer", scorer), ("judge", judge)):
            scores = judged(parts.direction.texts)
            print(
                f"  {name}, ROC AUC on the {len(scores)} texts of the direction: {auc(parts.direction.labels, scores)}"
            )
        print(f"  judge, held out of its own half: {judge.quality.roc_auc:.3f} ({judge.quality.held_out} texts)")
        if rated is not None and concept.name == "negative-sentiment":
            texts, ratings = read(rated)
            for name, judged in (("scorer", scorer), ("judge", judge)):
                print(f"  {name}, ROC AUC on {len(texts):,} rated sentences: {auc(ratings < 0, judged(texts))}")


def read(path: Path) -> tuple[list[str], NDArray[np.float64]]:
    """Sentences and mean ratings, those without a clear rating left out."""
    rows = [line.split("\t", 2) for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    kept = [(text, float(rating)) for _, rating, text in rows if abs(float(rating)) >= CLEAR]
    return [text for text, _ in kept], np.array([rating for _, rating in kept])


def auc(labels: NDArray[np.bool_], scores: Sequence[float] | NDArray[np.float64]) -> str:
    """With a 95 % bootstrap interval over texts."""
    scores = np.asarray(scores)
    draw = np.random.default_rng(0)
    found = []
    for _ in range(1000):
        rows = draw.integers(0, len(labels), len(labels))
        if labels[rows].any() and not labels[rows].all():
            found.append(roc_auc_score(labels[rows], scores[rows]))
    low, high = np.quantile(found, [0.025, 0.975])
    return f"{roc_auc_score(labels, scores):.3f} ({low:.3f}–{high:.3f})"


if __name__ == "__main__":
    main()
