"""The embedded scorer: what it gives, and what it refuses before it can do harm."""

import importlib
import importlib.util
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from dposcope.errors import DposcopeError
from dposcope.evaluation.profanity import profanity_scorer

TEXTS = [
    "you are kind",
    "you stupid idiot",
    "the river is very long today and you are a kind person",
    "idiot",
    "a river",
]


def test_profanity_scores_lie_between_zero_and_one_and_tell_rude_from_civil():
    scorer = profanity_scorer()
    scores = scorer(["What a stupid idiot you are.", "What a fine day it is."])
    assert scores.dtype == np.float64
    assert scores[0] > 0.9
    assert scores[1] < 0.1
    assert scorer.name == "alt-profanity-check 1.9.1"


def test_profanity_scores_are_the_packages_own():
    scorer = profanity_scorer()
    package = sys.modules["profanity_check"]
    np.testing.assert_array_equal(scorer(TEXTS), package.predict_prob(TEXTS))


def test_profanity_batches_join_in_order():
    texts = [f"{'stupid' if i % 3 else 'kind'} {i}" for i in range(4096 + 7)]
    scores = profanity_scorer()(texts)
    assert scores.shape == (4103,)
    np.testing.assert_allclose(scores[-9:], profanity_scorer()(texts[-9:]), rtol=1e-12)


def real_data():
    return Path(importlib.util.find_spec("profanity_check").origin).parent / "data"


@pytest.fixture
def fake_package(tmp_path, monkeypatch):
    """Put a package in front of the real one; its code leaves a mark where it ran."""

    def make(*, version="1.9.1", data=None, code="", distribution="alt_profanity_check"):
        data = data or real_data()
        package = tmp_path / "profanity_check"
        package.mkdir()
        (package / "__init__.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w').close()\n")
        (package / "profanity_check.py").write_text(code)
        shutil.copytree(data, package / "data")
        about = tmp_path / f"{distribution}-{version}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution.replace('_', '-')}\nVersion: {version}\n"
        )
        for name in [name for name in sys.modules if name.split(".")[0] == "profanity_check"]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.syspath_prepend(tmp_path)
        return package

    yield make
    for name in [name for name in sys.modules if name.split(".")[0] == "profanity_check"]:
        del sys.modules[name]


@pytest.mark.parametrize("file_name", ["model.joblib", "vectorizer.joblib"])
def test_altered_weights_are_never_loaded(fake_package, tmp_path, file_name):
    package = fake_package()
    with (package / "data" / file_name).open("r+b") as stream:
        stream.seek(1000)
        byte = stream.read(1)
        stream.seek(1000)
        stream.write(bytes([byte[0] ^ 1]))
    with pytest.raises(
        DposcopeError, match=rf"{file_name} is not the one .* was not loaded; run: pip install --force-re"
    ):
        profanity_scorer()
    assert not (tmp_path / "imported").exists()


def test_missing_weights_are_named(fake_package):
    package = fake_package()
    (package / "data" / "model.joblib").unlink()
    with pytest.raises(DposcopeError, match=r"model\.joblib is not the one"):
        profanity_scorer()


def test_an_unknown_release_is_never_loaded(fake_package, tmp_path):
    fake_package(version="9.9")
    with pytest.raises(
        DposcopeError, match=r"alt-profanity-check 9\.9 is not .*; run: pip install alt-profanity-check=="
    ):
        profanity_scorer()
    assert not (tmp_path / "imported").exists()


def test_another_package_of_the_same_name_is_never_loaded(fake_package, tmp_path, monkeypatch):
    fake_package(distribution="profanity_check")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(DposcopeError, match="not from alt-profanity-check; run: pip install --force-reinstall"):
        profanity_scorer()
    assert not (tmp_path / "imported").exists()


def test_known_weights_are_loaded(fake_package, tmp_path):
    fake_package(code="vectorizer = model = None")
    profanity_scorer()
    assert (tmp_path / "imported").exists()


def test_weights_of_another_scikit_learn_are_refused(fake_package):
    fake_package(
        code="import warnings\n"
        "from sklearn.exceptions import InconsistentVersionWarning as W\n"
        "warnings.warn(W(estimator_name='x', current_sklearn_version='8', original_sklearn_version='7'))"
    )
    with pytest.raises(DposcopeError, match=r"needs another scikit-learn \(7, not 8\); run: pip install"):
        profanity_scorer()


def test_an_absent_package_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        DposcopeError, match=r'not installed; run: pip install "dposcope\[demo\]", or name another scorer'
    ):
        profanity_scorer()
