"""A scorer from the model's own stream: the projection, and nothing else, orders texts."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from dposcope.data.comments import Comments
from dposcope.directions.direction import Direction
from dposcope.directions.means import mean_difference
from dposcope.evaluation.direction_scorer import direction_scorer
from helpers.families import FAMILIES, tiny

TEXTS = [f"{word} {other}" for word in ("sun", "rain", "wind", "snow") for other in ("falls", "goes", "is", "was")]
COMMENTS = Comments(tuple(TEXTS), np.array([index % 2 == 0 for index in range(len(TEXTS))]))


def along(lm, direction: Direction, text: str) -> float:
    """The mean over a text's own tokens of the stream after the last block, times W/|W|; one text, no batch."""
    ids = lm.tokenizer(text)["input_ids"]
    caught = []
    blocks = [module for name, module in lm.model.named_modules() if name.rsplit(".", 1)[-1] == str(lm.n_blocks - 1)]
    handle = blocks[0].register_forward_hook(
        lambda _module, _inputs, out: caught.append(out[0] if isinstance(out, tuple) else out)
    )
    with torch.no_grad():
        lm.model(input_ids=torch.tensor([ids]))
    handle.remove()
    own = [place for place, token in enumerate(ids) if token not in lm.tokenizer.all_special_ids]
    mean = caught[0].reshape(len(ids), -1)[own].double().mean(0)
    return float(mean @ direction.vector / direction.vector.norm())


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_a_rising_function_of_the_projection(family):
    lm = tiny(family)
    direction = mean_difference(lm, COMMENTS.texts, COMMENTS.labels)
    scorer = direction_scorer(lm, direction, COMMENTS, batch_size=5)
    projections = np.array([along(lm, direction, text) for text in TEXTS])
    rows = projections[:, None] / projections.std()
    expected = LogisticRegression(class_weight="balanced").fit(rows, COMMENTS.labels).predict_proba(rows)[:, 1]
    np.testing.assert_allclose(scorer(TEXTS), expected, atol=1e-4)
    order = projections.argsort()
    assert (np.diff(scorer(TEXTS)[order]) > 0).all(), "texts with the concept lie on the positive side"
    # Balanced classes: the boundary lies between their means.
    low, high = (projections[COMMENTS.labels == has].mean() for has in (False, True))
    scores = scorer(TEXTS)[order]
    assert low < np.interp(0.5, scores, projections[order]) < high


def test_comments_that_project_alike_say_nothing():
    lm = tiny("llama")
    direction = mean_difference(lm, COMMENTS.texts, COMMENTS.labels)
    alike = Comments(("sun falls",) * 6, np.array([True, False] * 3))
    np.testing.assert_allclose(direction_scorer(lm, direction, alike)(TEXTS), 0.5, atol=1e-6)


def test_texts_without_a_token_of_their_own_score_0():
    lm = tiny("llama")
    scorer = direction_scorer(lm, mean_difference(lm, COMMENTS.texts, COMMENTS.labels), COMMENTS)
    begin = lm.tokenizer.bos_token
    scores = scorer(["", " \n", begin, TEXTS[0]])
    assert scores[:3].tolist() == [0, 0, 0]
    assert scores[3] == replace(scorer)([TEXTS[0]])[0] > 0
    assert scorer([]).shape == (0,)


def test_its_digest_tells_models_and_directions_apart():
    lm = tiny("llama")
    direction = mean_difference(lm, COMMENTS.texts, COMMENTS.labels)
    scorer = direction_scorer(lm, direction, COMMENTS)
    assert "mean_difference" in scorer.name
    fewer = Comments(COMMENTS.texts[:8], COMMENTS.labels[:8])
    others = (direction_scorer(lm, direction.random_like(0), COMMENTS), direction_scorer(lm, direction, fewer))
    assert len({one.digest for one in (scorer, *others)}) == 3
