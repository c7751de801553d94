"""Which faults are put into the code, and that a changed module is imported in the place of the file."""

import ast
import importlib.util
import sys
from difflib import get_close_matches
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import mutants as script
from mutants import SOURCE, Mutant, Plan, Result, _Changed, _changed, _changes, _difference, mutants, table

MODULE = "neurons/sets.py"


def test_the_same_ones_are_chosen_and_more_hold_the_fewer():
    few, more = ({one.key for one in mutants(MODULE, most)} for most in (4, 12))
    assert few == {one.key for one in mutants(MODULE, 4)}
    assert few < more
    assert len(more) == 12


def test_each_changes_what_the_module_does():
    source = (SOURCE / MODULE).read_text(encoding="utf-8")
    for one in mutants(MODULE, 12):
        assert ast.dump(ast.parse(one.source)) != ast.dump(ast.parse(source))
        assert one.before in source
        assert one.before != one.after


def changed_places(source):
    return {(family, source.splitlines()[line - 1][column:]) for family, _, _, (line, column) in _changes(source)}


def test_annotations_and_stars_of_signatures_are_left_alone():
    assert changed_places("def f(a: int | None, *, b: list[3] = []) -> 4:\n    g(*a)\n") == set()
    assert changed_places("Δ = a * β") == {("arithmetic", "* β")}
    assert changed_places("def f(a: int = 3): return -a") == {("number", "3): return -a"), ("sign", "-a")}
    assert {family for family, _ in changed_places("for a in b:\n    if not a < 1 and True:\n        continue\n")} == {
        *("loop", "condition", "comparison", "number", "truth"),
    }


def test_a_changed_module_is_imported_in_the_place_of_the_file():
    source = (SOURCE / MODULE).read_text(encoding="utf-8")
    changed = source.replace("mine & ~theirs", "mine | ~theirs")
    finder = _Changed(Mutant(MODULE, 1, "arithmetic", "", "", changed))
    spec = finder.find_spec("dposcope.neurons.sets")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    every, nothing = module.NeuronSet.all(1, 2), module.NeuronSet.empty(1, 2)
    assert len(every - every) == 2  # in the code as it is, none
    assert len(nothing - every) == 0
    assert finder.get_source("dposcope.neurons.sets") == changed
    assert finder.find_spec("dposcope.neurons.toxic") is None


def test_every_module_has_tests_and_everything_listed_is_there():
    plan = Plan.read()
    assert len(plan.modules) > 50
    for module in plan.modules:
        assert plan.tests(module)[: -len(plan.always)], module
    for tests in (plan.always, *plan.also.values()):
        assert all((script.ROOT / one.partition("::")[0]).exists() for one in tests)
    for one in plan.equivalent:
        assert one["why"].endswith(".")
        if "module" in one:
            assert made(one["module"], one["line"]), f"{one['module']} has no such mutant any more: {one['line']}"


def made(module: str, line: str) -> bool:
    """Whether a change of lines like this one gives it: to make all of a module's takes seconds."""
    source = (SOURCE / module).read_text(encoding="utf-8")
    lines = source.splitlines()
    alike = {lines.index(one) for one in get_close_matches(line, lines, n=3, cutoff=0.4)}
    near = {at + step + 1 for at in alike for step in (-1, 0, 1)}
    changed = (_changed(source, name, at) for _, name, at, place in _changes(source) if place[0] in near)
    return any(one is not None and _difference(source, one)[1] == line for one in changed)


@pytest.mark.parametrize(
    ("equivalent", "row"),
    [
        ([], "| neurons/sets.py | 3 | 2 | 0 | 1 | 66.7% |"),
        ([{"pattern": "zwei", "why": "."}], "| neurons/sets.py | 3 | 2 | 1 | 0 | 100.0% |"),
        ([{"module": MODULE, "line": "x = zwei", "why": "."}], "| neurons/sets.py | 3 | 2 | 1 | 0 | 100.0% |"),
        ([{"module": "other.py", "line": "x = zwei", "why": "."}], "| neurons/sets.py | 3 | 2 | 0 | 1 | 66.7% |"),
    ],
)
def test_the_table_counts_what_lives_and_is_listed(equivalent, row):
    outcomes = {"x = eins": "killed", "x = zwei": "lives", "x = drei": "slow"}
    results = [Result(after, MODULE, 1, "x = null", after, outcome) for after, outcome in outcomes.items()]
    assert table(results, Plan([MODULE], 3, {}, [], equivalent)).splitlines()[2] == row
