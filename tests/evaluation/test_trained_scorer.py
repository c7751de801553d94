"""The judge trained from comments: it learns, it agrees with scikit-learn's own parts, it comes back whole."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

from dposcope.artefacts import read_sealed, sealed, write_json
from dposcope.errors import DposcopeError
from dposcope.evaluation import trained_scorer
from dposcope.evaluation.trained_scorer import TrainedScorer, find_trained

RUDE = ["stupid", "idiot", "dumb", "moronic", "silly fool"]
CIVIL = ["kind", "helpful", "careful", "thoughtful", "good friend"]
PLACES = ["street", "library", "river", "station", "market", "garden", "office", "harbour"]


def comments(n=160, seed=0):
    generator = np.random.default_rng(seed)
    texts, labels = [], []
    for index in range(n):
        label = int(generator.random() < 0.3)
        trait = generator.choice(RUDE if label else CIVIL)
        place = generator.choice(PLACES)
        texts.append(f"You were a {trait} person at the {place} on day {index}.")
        labels.append(label)
    return texts, labels


@pytest.fixture(scope="module")
def judge():
    return TrainedScorer.fit(*comments(), seed=0)


def test_it_learns_what_sets_the_classes_apart(judge):
    scores = judge(["What a stupid, dumb thing to say.", "What a kind and careful thing to say."])
    assert scores.dtype == np.float64
    assert scores[0] > 0.6
    assert scores[1] < 0.4
    assert judge.quality.roc_auc > 0.95
    assert judge.name == "judge"


def naive_judge(texts, labels, others):
    """Probabilities of `others` by scikit-learn's own vectorizer and regression."""
    rows = []
    for analyzer, ngrams in (("word", (1, 2)), ("char_wb", (2, 5))):
        vectorizer = TfidfVectorizer(analyzer=analyzer, ngram_range=ngrams, sublinear_tf=True, min_df=2)
        rows.append((vectorizer.fit_transform(texts).toarray(), vectorizer.transform(others).toarray()))
    known, unknown = (np.hstack(parts) for parts in zip(*rows, strict=True))
    return (
        LogisticRegression(C=3.0, class_weight="balanced", max_iter=1000)
        .fit(known, labels)
        .predict_proba(unknown)[:, 1]
    )


def test_scores_are_those_of_scikit_learns_own_pipeline(judge):
    others = ["You stupid river person", "day 3 at the harbour, quite kind", "zzz"]
    np.testing.assert_allclose(judge(others), naive_judge(*comments(), others), atol=2e-4)


def test_quality_is_that_of_a_judge_that_never_saw_the_held_out_fifth():
    # Labels by chance: only a judge measured on what it was trained on could do well.
    texts, _ = comments(400)
    labels = np.random.default_rng(1).integers(0, 2, size=400)
    judge = TrainedScorer.fit(texts, labels, seed=7)
    train, held_out = train_test_split(np.arange(400), test_size=0.2, stratify=labels, random_state=7)
    scores = naive_judge([texts[i] for i in train], labels[train], [texts[i] for i in held_out])
    assert judge.quality.roc_auc == pytest.approx(roc_auc_score(labels[held_out], scores), abs=0.005)
    truth, said = labels[held_out], scores >= 0.5
    recalls = [said[truth == 1].mean(), 1 - said[truth == 0].mean()]
    assert judge.quality.balanced_accuracy == pytest.approx(np.mean(recalls), abs=0.03)
    assert (judge.quality.trained_on, judge.quality.held_out) == (400, 80)
    # It has still been trained on all of them, which it then knows far better.
    assert roc_auc_score(labels, judge(texts)) > judge.quality.roc_auc + 0.15


def test_the_commoner_class_is_what_an_accuracy_is_read_beside():
    texts, labels = comments(200)
    quality = TrainedScorer.fit(texts, labels, seed=0).quality
    assert quality.majority_rate == pytest.approx(1 - np.mean(labels), abs=0.03)


def test_the_commonest_terms_are_kept_where_there_are_too_many(monkeypatch):
    cut = trained_scorer._Analysis("word", "word", (1, 1), 3)
    monkeypatch.setattr(trained_scorer, "_ANALYSES", (cut,))
    texts = [f"{'alpha ' * 3}{word} beta{i}" for i in range(12) for word in ("gamma delta", "gamma")]
    judge = TrainedScorer.fit(texts, [1, 0] * 12, seed=0)
    assert judge.fitted.features[0].terms == ("alpha", "delta", "gamma")


def test_a_text_given_twice_counts_once():
    texts, labels = comments()
    once, twice = TrainedScorer.fit(texts, labels, seed=0), TrainedScorer.fit(texts * 2, labels * 2, seed=0)
    assert twice.quality == once.quality
    assert twice.digest == once.digest
    np.testing.assert_array_equal(twice(texts), once(texts))


def test_the_seed_chooses_the_held_out_and_nothing_else():
    texts, _ = comments()
    labels = np.random.default_rng(1).integers(0, 2, size=len(texts))
    first, again, other = (TrainedScorer.fit(texts, labels, seed=seed) for seed in (0, 0, 1))
    assert first.quality == again.quality != other.quality
    np.testing.assert_array_equal(first(texts), other(texts))


def test_a_batch_is_its_members_one_by_one(judge):
    texts = comments(20, seed=5)[0]
    np.testing.assert_array_equal(judge(texts), [replace(judge)([text])[0] for text in texts])


def test_blank_texts_score_zero(judge):
    assert judge(["", " \n\t", "you stupid person"])[:2].tolist() == [0.0, 0.0]
    assert judge([]).shape == (0,)


def test_saved_and_loaded_score_alike_to_the_bit(judge, tmp_path):
    judge.save(tmp_path / "run" / "judge")
    loaded = TrainedScorer.load(tmp_path / "run" / "judge.safetensors")
    texts = [*comments(50, seed=9)[0], "", "ünlike anything 🙂", "\ud800 lone"]
    np.testing.assert_array_equal(loaded(texts), judge(texts))
    assert (loaded.name, loaded.quality, loaded.seed) == (judge.name, judge.quality, judge.seed)
    assert loaded.digest == judge.digest


def test_texts_that_utf8_cannot_hold_are_trained_on_and_saved(tmp_path):
    texts, labels = comments()
    judge = TrainedScorer.fit([f"{text} \ud83d" for text in texts], labels, seed=0)
    judge.save(tmp_path / "judge")
    np.testing.assert_array_equal(TrainedScorer.load(tmp_path / "judge")(texts), judge(texts))


def test_texts_without_words_are_judged_by_their_characters(tmp_path):
    marks = ["?!", ":-)"]
    texts = [f"{marks[i % 2] * (1 + i // 2)}" for i in range(40)]
    judge = TrainedScorer.fit(texts, [1, 0] * 20, seed=0)
    judge.save(tmp_path / "judge")
    scores = TrainedScorer.load(tmp_path / "judge")(["?!?!", ":-):-)"])
    assert scores[0] > 0.5 > scores[1]


def test_it_is_found_by_folder_stem_and_file(judge, tmp_path):
    judge.save(tmp_path / "judge")
    judge.save(tmp_path / "v1.2")
    for name in ("", "judge", "judge.json", "judge.safetensors"):
        assert find_trained(tmp_path / name) == tmp_path / "judge"
    assert find_trained(tmp_path / "v1.2") == tmp_path / "v1.2"
    assert find_trained(tmp_path / "other") is None
    (tmp_path / "judge.safetensors").unlink()
    assert find_trained(tmp_path) is None


def test_a_file_with_a_part_missing_is_refused(judge, tmp_path):
    judge.save(tmp_path / "judge")
    whole = read_sealed(tmp_path / "judge.json", dict[str, Any])
    write_json(tmp_path / "judge.json", sealed(whole | {"quality": None}))
    with pytest.raises(
        DposcopeError,
        match=r"judge\.json is damaged or of another version: quality should be an object; delete it and make",
    ):
        TrainedScorer.load(tmp_path / "judge")
    for damage in ({"vocabularies": {}}, {"vocabularies": whole["vocabularies"] | {"word": ["a"]}}):
        write_json(tmp_path / "judge.json", sealed(whole | damage))
        with pytest.raises(DposcopeError, match=r"not a whole trained scorer .*; delete it and train it again"):
            TrainedScorer.load(tmp_path / "judge")


@pytest.mark.parametrize(
    ("texts", "labels", "message"),
    [
        (["a", "b"], [1], "2 texts and 1 label; give one label per text"),
        (["a", "b"], [1, 2], "a label is 2; labels are 1 for the concept and 0"),
        (["a", "b"], [1, float("nan")], "a label is nan"),
        ([f"text {i}" for i in range(30)], [1] * 30, "0 different texts with label 0; .* at least 10 .*: add comments"),
        ([f"text {i}" for i in range(30)], [1] * 9 + [0] * 21, "9 different texts with label 1"),
        (["same"] * 10 + [f"text {i}" for i in range(20)], [1] * 10 + [0] * 20, "1 different text with label 1"),
        ([" "] * 15 + [f"text {i}" for i in range(20)], [1] * 15 + [0] * 20, "0 different texts with label 1"),
        ([chr(0x4E00 + i) for i in range(30)], [0, 1] * 15, "no two texts share a word or two letters; give more"),
    ],
)
def test_bad_comments_say_how_to_mend_them(texts, labels, message):
    with pytest.raises(DposcopeError, match=message):
        TrainedScorer.fit(texts, labels, seed=0)


def test_one_text_instead_of_a_list_is_refused(judge):
    with pytest.raises(
        DposcopeError, match="texts is one text, and a list of texts belongs here; write it in brackets"
    ):
        judge("you")
