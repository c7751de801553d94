"""An independent judge trained from the user's own comments: TF-IDF and logistic regression.

An edit may exploit the scorer that it was searched or learned with. This judge is trained on texts that were not used
for the edit. It needs no download, and it is saved in the run's folder.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array, hstack
from scipy.special import expit
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import train_test_split

from dposcope.artefacts import load_tensors, save_tensors, text_digest
from dposcope.data.comments import Comments
from dposcope.data.given.numbers import seed_of
from dposcope.data.short import short_repr
from dposcope.data.texts import listed
from dposcope.errors import DposcopeError, plural
from dposcope.evaluation.scorer import READ, Scorer, mean_of

FILE_STEM = "judge"
"""Name of the judge's files in a run's folder, so that the folder is enough to load it."""

SMALLEST_CLASS = 10
HELD_OUT_SHARE = 0.2

# Selected on 3,000 comments that were neither used for training nor reported on: 1, 3, 10, 30 gave
# ROC AUC 0.954, 0.955, 0.951, 0.949, so a search in every fit would not help.
INVERSE_L2 = 3.0

# UTF-8 cannot encode lone surrogates, so a vocabulary with one could not be saved as JSON.
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class _Analysis:
    """A kind of n-grams to count; `analyzer` and `ngrams` as in scikit-learn."""

    name: str
    analyzer: str
    ngrams: tuple[int, int]
    largest: int

    def vectorizer(self, vocabulary: Sequence[str] | None = None) -> CountVectorizer:
        return CountVectorizer(analyzer=self.analyzer, ngram_range=self.ngrams, vocabulary=vocabulary)


_ANALYSES = (
    _Analysis("word", "word", (1, 2), 20_000),
    _Analysis("char", "char_wb", (2, 5), 50_000),
)


@dataclass(frozen=True)
class Quality:
    """Quality of the judge on held-out comments, measured before it was trained on all comments."""

    roc_auc: float
    balanced_accuracy: float
    majority_rate: float
    """Accuracy of always predicting the larger class, to compare an accuracy with."""
    trained_on: int
    held_out: int


@dataclass(frozen=True)
class _Facts:
    """Beside the tensors of a `TrainedScorer`."""

    name: str
    seed: int
    data_digest: str
    quality: Quality
    vocabularies: dict[str, list[str]]


@dataclass(frozen=True, eq=False)
class _Features:
    """One fitted analysis: its terms, in column order, and their inverse document frequencies."""

    analysis: _Analysis
    terms: tuple[str, ...]
    idf: NDArray[np.float64]

    def transform(self, texts: Sequence[str]) -> csr_array:
        """Unit-length sublinear TF-IDF rows [n, terms]."""
        if not self.terms:
            return csr_array((len(texts), 0), dtype=np.float64)
        return self.weigh(cast(csr_array, self.analysis.vectorizer(self.terms).transform(texts)))

    def weigh(self, counts: csr_array) -> csr_array:
        """`transform` of counts [n, terms] that were made already."""
        tfidf = TfidfTransformer(sublinear_tf=True)
        tfidf.idf_ = self.idf
        return cast(csr_array, tfidf.transform(counts))


@dataclass(frozen=True, eq=False)
class _Fitted:
    """Features, and the logistic regression over their concatenation."""

    features: tuple[_Features, ...]
    coefficients: NDArray[np.float64]
    intercept: float

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        clean = [_LONE_SURROGATE.sub(" ", text) for text in texts]
        rows = hstack([part.transform(clean) for part in self.features], format="csr")
        return expit(rows @ self.coefficients + self.intercept)


@dataclass(frozen=True, eq=False)
class TrainedScorer(Scorer):
    """Probability that a text has the concept, by a linear model of its words and characters.

    Trained with balanced classes, so 0.5 is the boundary for any share of the concept in the training texts. Use the
    score to rank and compare texts; it is not calibrated to a base rate. Its digest is of its training texts and
    labels, in order.
    """

    quality: Quality
    seed: int
    fitted: _Fitted

    __repr__ = short_repr

    @classmethod
    def fit(
        cls, texts: Sequence[str], labels: Sequence[int] | NDArray[Any], *, seed: int, name: str = "judge"
    ) -> "TrainedScorer":
        """Measure the quality on a held-out fifth of the comments, then train on all comments.

        Features: 1–2-grams of words and 2–5-grams of characters within words, each as sublinear TF-IDF of unit length.
        Terms must be in at least two texts; the most common 20,000 and 50,000 are used. Model: logistic regression
        with balanced classes and C = 3. Equal texts with equal labels count once, so that no text is on both sides of
        the split.

        Args:
            texts: comments with the concept and without it.
            labels: 1 where the text has the concept, else 0.
            seed: of the held-out split.
            name: the judge's name in reports.

        Raises:
            DposcopeError: unequal lengths, labels other than 0 and 1, fewer than 10
                different texts of a class, or texts that have nothing in common.
        """
        texts, seed = listed("texts", texts), seed_of(seed)
        distinct, truth = _distinct(texts, labels)
        order = np.arange(len(distinct))
        train, held_out = cast(
            tuple[NDArray[np.int64], NDArray[np.int64]],
            tuple(train_test_split(order, test_size=HELD_OUT_SHARE, stratify=truth, random_state=seed)),
        )
        # Counting terms costs more than all later steps, so it is done once for both fits.
        counted = [_count(analysis, distinct) for analysis in _ANALYSES]
        trial = _fit_rows(counted, truth, train)
        scores = trial.probabilities([distinct[index] for index in held_out])
        seen = truth[held_out]
        quality = Quality(
            roc_auc=float(roc_auc_score(seen, scores)),
            balanced_accuracy=float(balanced_accuracy_score(seen, scores >= 0.5)),
            majority_rate=float(max(seen.mean(), 1 - seen.mean())),
            trained_on=len(distinct),
            held_out=len(held_out),
        )
        digest = text_digest(*distinct, "".join(map(str, truth)))
        fitted = _fit_rows(counted, truth, order)
        return cls(name, digest, fitted.probabilities, quality, seed, fitted)

    def save(self, stem: str | Path) -> None:
        """Write `stem.safetensors` (weights) and `stem.json` (vocabularies, quality)."""
        tensors = {
            "coefficients": torch.from_numpy(self.fitted.coefficients),
            "intercept": torch.tensor([self.fitted.intercept], dtype=torch.float64),
        } | {f"idf.{part.analysis.name}": torch.from_numpy(part.idf) for part in self.fitted.features}
        about = {
            "name": self.name,
            "seed": self.seed,
            "data_digest": self.digest,
            "quality": asdict(self.quality),
            "vocabularies": {part.analysis.name: list(part.terms) for part in self.fitted.features},
        }
        save_tensors(stem, "TrainedScorer", tensors, about)

    @classmethod
    def load(cls, stem: str | Path) -> "TrainedScorer":
        """Read what `save` wrote; it scores as the saved one did, to the bit.

        Raises:
            DposcopeError: the files are missing, damaged or of another kind.
        """
        saved = load_tensors(stem, "TrainedScorer", _Facts)
        tensors, facts = saved.tensors, saved.facts
        try:
            features = tuple(
                _Features(
                    analysis,
                    tuple(facts.vocabularies[analysis.name]),
                    tensors[f"idf.{analysis.name}"].numpy(),
                )
                for analysis in _ANALYSES
            )
            fitted = _Fitted(features, tensors["coefficients"].numpy(), float(tensors["intercept"]))
            lengths = [len(part.terms) for part in features]
            if lengths != [len(part.idf) for part in features] or sum(lengths) != len(fitted.coefficients):
                raise ValueError("vocabularies and weights differ in length")
            return cls(facts.name, facts.data_digest, fitted.probabilities, facts.quality, facts.seed, fitted)
        except (KeyError, RuntimeError, ValueError) as error:
            raise DposcopeError(
                f"{stem} is not a whole trained scorer ({error}); delete it and train it again"
            ) from error


def find_trained(path: str | Path) -> Path | None:
    """Path of a saved `TrainedScorer`, without suffix, if `path` names its files or a run's folder; else None."""
    given = Path(path)
    own = given.with_suffix("") if given.suffix in {".json", ".safetensors"} else given
    for stem in (given / FILE_STEM, own):
        if all(Path(f"{stem}{suffix}").is_file() for suffix in (".json", ".safetensors")):
            return stem
    return None


def with_trained(first: Scorer, comments: Comments, *, seed: int) -> Scorer:
    """The mean of a scorer and of a scorer trained on comments, which is harder to exploit than either alone.

    Args:
        first: for example `profanity`.
        comments: labelled; a judge must be trained on other comments.
        seed: of the trained scorer.
    """
    labels = [int(label) for label in comments.labels]
    return mean_of([first, TrainedScorer.fit(comments.texts, labels, seed=seed, name="a scorer from --comments")])


def _distinct(texts: Sequence[str], labels: Sequence[int] | NDArray[Any]) -> tuple[list[str], NDArray[np.int64]]:
    """The distinct (text, label) rows without blank texts, in order of first occurrence."""
    if not hasattr(labels, "__len__"):
        raise DposcopeError(f"labels is a {type(labels).__name__}; give one label per text")
    if len(texts) != len(labels):
        raise DposcopeError(f"{plural(len(texts), 'text')} and {plural(len(labels), 'label')}; give one label per text")
    # A NaN label is not in {0, 1} either.
    strange = [label for label in labels if label not in (0, 1)]
    if strange:
        raise DposcopeError(f"a label is {strange[0]}; labels are 1 for the concept and 0 for the rest")
    cleaned = [_LONE_SURROGATE.sub(" ", text[:READ]) for text in texts]
    rows = dict.fromkeys((text, int(label)) for text, label in zip(cleaned, labels, strict=True) if text.strip())
    for wanted in (0, 1):
        count = sum(label == wanted for _, label in rows)
        if count < SMALLEST_CLASS:
            raise DposcopeError(
                f"{plural(count, 'different text')} with label {wanted}; "
                f"a trained scorer needs at least {SMALLEST_CLASS} of each class: add comments"
            )
    return [text for text, _ in rows], np.array([label for _, label in rows], dtype=np.int64)


@dataclass(frozen=True, eq=False)
class _Counted:
    """Counts [texts, terms] of all terms, before selection."""

    analysis: _Analysis
    terms: NDArray[np.object_]
    counts: csr_array


def _count(analysis: _Analysis, texts: Sequence[str]) -> _Counted:
    vectorizer = analysis.vectorizer()
    try:
        counts = cast(csr_array, vectorizer.fit_transform(texts))
    except ValueError:
        # Texts without one word of two letters have no vocabulary of words; characters remain.
        return _Counted(analysis, np.array([], dtype=object), csr_array((len(texts), 0), dtype=np.float64))
    return _Counted(analysis, np.asarray(vectorizer.get_feature_names_out(), dtype=object), counts)


def _fit_rows(counted: Sequence[_Counted], truth: NDArray[np.int64], rows: NDArray[np.int64]) -> _Fitted:
    """Select terms, weight them and fit, using only the given rows."""
    features: list[_Features] = []
    weighed: list[csr_array] = []
    for block in counted:
        counts = block.counts[rows]
        texts_with = np.asarray((counts > 0).sum(axis=0)).ravel()
        total = np.asarray(counts.sum(axis=0)).ravel()
        shared = np.flatnonzero(texts_with >= 2)
        # Stable, so that equally common terms are chosen in alphabetical order.
        commonest = shared[np.argsort(-total[shared], kind="stable")][: block.analysis.largest]
        columns = np.sort(commonest)
        chosen = cast(csr_array, counts[:, columns])
        # Smoothed as if one more text held every term once, scikit-learn's convention.
        idf = np.log((1 + len(rows)) / (1 + texts_with[columns])) + 1
        part = _Features(block.analysis, tuple(block.terms[columns].tolist()), idf)
        features.append(part)
        weighed.append(part.weigh(chosen) if part.terms else chosen)
    if not any(part.terms for part in features):
        raise DposcopeError("no two texts share a word or two letters; give more comments, in running text")
    model = LogisticRegression(C=INVERSE_L2, class_weight="balanced", max_iter=1000)
    model.fit(hstack(weighed, format="csr"), truth[rows])
    coefficients = np.ascontiguousarray(model.coef_[0], dtype=np.float64)
    return _Fitted(tuple(features), coefficients, float(np.ravel(model.intercept_)[0]))
