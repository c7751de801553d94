"""Scorers by name, and one's own functions as scorers."""

import importlib
import sys

import numpy as np
import pytest

from dposcope.errors import DposcopeError
from dposcope.evaluation.profanity import profanity_scorer
from dposcope.evaluation.scorers import function_scorer, load_scorer
from dposcope.evaluation.trained_scorer import TrainedScorer

TEXTS = ["you are kind", "you stupid idiot", "idiot", "a river"]


def by_length(texts):
    return [len(text) / 100 for text in texts]


def test_a_function_is_a_scorer():
    scorer = function_scorer(by_length, "length")
    assert scorer(["abc", " ", "abcde"]).tolist() == [0.03, 0.0, 0.05]
    assert scorer.name == "length"
    assert load_scorer(by_length).name == "by_length"
    assert load_scorer(by_length)(["abc"]).tolist() == [0.03]
    assert load_scorer(scorer) is scorer


class Half:
    def __call__(self, texts):
        return [0.5] * len(texts)


def test_an_object_that_is_called_has_the_name_of_its_class():
    assert load_scorer(Half()).name == "Half"
    assert load_scorer(Half())(["a"]).tolist() == [0.5]


def test_another_source_of_a_function_is_another_scorer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    digests = []
    for number in ("0.25", "0.5"):
        (tmp_path / "some_scorer_of_mine.py").write_text(f"def score(texts):\n    return [{number}] * len(texts)\n")
        sys.modules.pop("some_scorer_of_mine", None)
        importlib.invalidate_caches()
        digests.append(load_scorer("some_scorer_of_mine:score").digest)
    sys.modules.pop("some_scorer_of_mine")
    assert digests[0] != digests[1]
    # Where there is no file, the name is all that is known.
    assert function_scorer(len, "built in").digest != function_scorer(len, "another").digest


@pytest.fixture
def saved_judge(tmp_path):
    texts = [f"{'stupid' if i % 2 else 'kind'} person {i}" for i in range(60)]
    judge = TrainedScorer.fit(texts, [i % 2 for i in range(60)], seed=0)
    judge.save(tmp_path / "judge")
    return judge


def test_load_scorer_knows_profanity():
    assert load_scorer("profanity").digest == profanity_scorer().digest


def test_load_scorer_reads_a_trained_one_from_its_folder_or_file(saved_judge, tmp_path):
    for spec in (tmp_path, tmp_path / "judge", tmp_path / "judge.json"):
        np.testing.assert_array_equal(load_scorer(str(spec))(TEXTS), saved_judge(TEXTS))


def test_load_scorer_finds_functions_beside_the_caller(tmp_path, monkeypatch):
    (tmp_path / "my_judging.py").write_text("def half(texts):\n    return [0.5] * len(texts)\n\nnumber = 3\n")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    scorer = load_scorer("my_judging:half")
    assert scorer(["a", ""]).tolist() == [0.5, 0.0]
    assert scorer.name == "my_judging:half"
    assert sys.path == before
    for spec, message in (
        ("my_judging:third", "my_judging has no function third; name one that takes texts"),
        ("my_judging:number", "has no function number"),
        ("no_such_module:half", r"cannot import no_such_module .*; run where no_such_module can be imported"),
    ):
        with pytest.raises(DposcopeError, match=message):
            load_scorer(spec)
    monkeypatch.delitem(sys.modules, "my_judging")


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("def half(", r"SyntaxError: '\(' was never closed"),
        ("raise ValueError('no model here')", "ValueError: no model here"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_module_that_fails_while_it_is_imported_is_told(tmp_path, monkeypatch, source, fault):
    (tmp_path / "failing_module.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    importlib.invalidate_caches()
    with pytest.raises(DposcopeError, match=rf"failing_module failed while it was imported \({fault}.*\); mend it"):
        load_scorer("failing_module:half")


def test_what_a_function_prints_goes_beside_the_results(tmp_path, monkeypatch, capsys):
    (tmp_path / "talking_module.py").write_text(
        "print('imported')\n\n\ndef half(texts):\n    print('scoring')\n    return [0.5] * len(texts)\n"
    )
    monkeypatch.chdir(tmp_path)
    importlib.invalidate_caches()
    assert load_scorer("talking_module:half")(["a"]).tolist() == [0.5]
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "imported\nscoring\n")


def test_a_function_that_exits_is_told():
    with pytest.raises(DposcopeError, match=r"scorer leaving failed \(SystemExit: 3\)"):
        function_scorer(lambda _texts: sys.exit(3), "leaving")(["a"])


def test_load_scorer_refuses_a_label_where_there_are_none(saved_judge, tmp_path):
    for spec in ("profanity", "json:loads", str(tmp_path)):
        with pytest.raises(DposcopeError, match="has no labels to choose from; leave the label out"):
            load_scorer(spec, label="toxic")
