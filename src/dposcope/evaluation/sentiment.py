"""A scorer of negative sentiment: VADER, a rated lexicon with rules (Hutto and Gilbert, 2014).

The package contains a lexicon, rated by ten people per word, and rules for negation, degree, capitals and "but". It is
independent of the texts that directions and judges are made from.
"""

import importlib
import importlib.metadata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dposcope.artefacts import text_digest
from dposcope.errors import DposcopeError
from dposcope.evaluation.scorer import Scorer


def sentiment_scorer() -> Scorer:
    """The negative part of VADER's compound score c in [−1, 1]: max(0, −c).

    Neutral and positive texts both score 0. With (1 − c)/2, a neutral text would score 0.5, and an edit could lower the
    score by making neutral texts positive.

    Raises:
        DposcopeError: the package vaderSentiment is absent.
    """
    try:
        package = importlib.import_module("vaderSentiment.vaderSentiment")
    except ModuleNotFoundError as error:
        raise DposcopeError(
            f'the scorer vader needs the package {error.name}; run: pip install "dposcope[sentiment]", or name '
            "another scorer"
        ) from error
    analyser = package.SentimentIntensityAnalyzer()

    def negative(texts: Sequence[str]) -> NDArray[np.float64]:
        compound = [analyser.polarity_scores(text)["compound"] for text in texts]
        return np.clip(-np.array(compound, dtype=np.float64), 0.0, 1.0)

    name = f"VADER {importlib.metadata.version('vaderSentiment')}, negative part"
    return Scorer(name, text_digest(name, repr(analyser.lexicon), repr(analyser.emojis)), negative)
