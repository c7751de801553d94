"""The lowest versions: a bound that is not the version that gets tested says something that nobody tried."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "tools"))

import versions
from versions import Bound


def test_bounds_are_read_from_the_project(tmp_path):
    (tmp_path / "pyproject.toml").write_text(
        '[project]\ndependencies = ["numpy>=2.1", "lazy_loader>=0.3"]\n'
        '[project.optional-dependencies]\ndemo = ["pinned==1.9.1"]\nsentiment = ["vaderSentiment>=3.3.2"]\n'
    )
    expected = [Bound("numpy", "2.1"), Bound("lazy-loader", "0.3"), Bound("vadersentiment", "3.3.2")]
    assert versions.bounds(tmp_path / "pyproject.toml") == expected


@pytest.mark.parametrize(
    ("bound", "resolved", "false"),
    [
        ("2.1", "2.1.0", False),
        ("2.10", "2.1", True),
        ("2.1", "2.1.1", True),
        ("2", "2.0.0", False),
        ("0.4.3", "0.8.0", True),
    ],
)
def test_a_bound_below_what_is_tested_is_told(bound, resolved, false):
    found = versions.untested([Bound("numpy", bound)], f"numpy=={resolved}\nother==1\n")
    assert found == ([f"numpy>={bound} is never tested, {resolved} is"] if false else [])


def test_every_dependency_of_the_project_has_a_lower_bound_or_is_pinned():
    for requirement in versions.requirements(versions.ROOT / "pyproject.toml"):
        assert Bound.of(requirement) is not None or "==" in requirement, requirement


def test_a_python_that_is_not_there_is_told(tmp_path):
    absent = tmp_path / "uv"
    absent.write_text("#!/bin/sh\nexit 2\n")
    absent.chmod(0o755)
    one = versions.outcome(str(absent), "3.99", "lowest", check_bounds=True, arguments=[])
    assert one.told == "not tested: there is no such Python on this machine"
