import pytest

from dposcope.errors import DposcopeError
from dposcope.evaluation.scorer import Scorer
from dposcope.talk import scores
from dposcope.talk.scores import OfflineScorers


@pytest.fixture
def loaded(monkeypatch, tmp_path):
    """Scorers that are asked for, by name; the neural one is in the cache."""
    asked = []

    def load(name):
        asked.append(name)
        if name == "profanity" and "missing" in asked:
            raise DposcopeError("the scorer profanity is not installed; run: pip install")
        return Scorer(name, "", lambda texts: [len(text) / 10 for text in texts])

    monkeypatch.setattr(scores, "load_scorer", load)
    monkeypatch.setattr(scores, "neural_folder", lambda: tmp_path)
    return asked


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (None, ["profanity", "neural"]),
        ("profanity", ["profanity", "neural"]),
        ("vader", ["vader"]),
        ("words:rain.txt", ["words:rain.txt"]),
        ("perspective", ["profanity", "neural"]),
        ("unitary/toxic-bert", ["profanity", "neural"]),
        ("module:function", ["profanity", "neural"]),
    ],
)
def test_scorers_that_ask_no_server_and_run_no_foreign_code(loaded, wanted, names):
    found = OfflineScorers.find(wanted)
    assert list(found.scorers) == loaded == names
    assert found.of("abcde") == dict.fromkeys(names, 0.5)
    assert found.of(" ") == dict.fromkeys(names, 0.0)


def test_what_is_not_in_the_cache_is_not_fetched(loaded, monkeypatch, tmp_path):
    monkeypatch.setattr(scores, "neural_folder", lambda: tmp_path / "none")
    assert list(OfflineScorers.find().scorers) == ["profanity"]


def test_a_scorer_that_is_not_installed_leaves_a_note(loaded):
    loaded.append("missing")
    found = OfflineScorers.find()
    assert list(found.scorers) == ["neural"]
    assert found.notes == ("No score by profanity: the scorer profanity is not installed; run: pip install.",)
