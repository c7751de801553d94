"""The search: warm starts first, resumable after a kill with the same proposals, shared, and honest about bounds."""

import json
import signal
import time
from dataclasses import replace

import pytest

from dposcope.errors import DposcopeError
from dposcope.reading import parse_json
from dposcope.search.family import Point
from dposcope.search.search import front
from dposcope.search.trials import REPETITION_NOISE, Trial, Written
from helpers.forked import TESTS
from helpers.jobs import script
from helpers.made_up_search import TEXT_BOUND, family, formula, run, slowest_last
from helpers.together import script_together

PROGRAM = TESTS / "helpers/made_up_search.py"


def told(trials):
    return [trial.to_json() for trial in trials]


def test_warm_starts_come_first_and_then_new_points(tmp_path):
    found = run(tmp_path)
    warm = family().warm_starts()
    assert [trial.number for trial in found] == list(range(14))
    for trial, point in zip(found, warm, strict=False):
        assert trial.point.source == point.source
        assert trial.point.strength == pytest.approx(point.strength)
        assert trial.point.ablate == pytest.approx(point.ablate)
    assert len({trial.point for trial in found[len(warm) :]}) == 14 - len(warm)


def test_fewer_trials_than_were_run_are_the_first_ones(tmp_path):
    longer = run(tmp_path / "one", trials=14)
    assert told(run(tmp_path / "one", trials=9)) == told(longer[:9]) == told(run(tmp_path / "other", trials=9))
    assert told(run(tmp_path / "one", trials=14)) == told(longer)


def test_texts_that_say_too_little_are_infeasible(tmp_path):
    """Optuna is told both excesses: of repetition, and of the distinct word pairs that are missing."""

    def poor(point: Point, number: int) -> Trial:
        return replace(formula(point, number), excess=-1.0, written=Written(0.1, 0.1, 0.1, 0.25, 0.4, 0.25))

    run(tmp_path, trials=2, try_out=poor)
    told = [json.loads(line) for line in (tmp_path / "journal.log").read_text().splitlines()]
    constraints = json.dumps([entry for entry in told if "constraint" in json.dumps(entry)])
    for excess in (0.25 - (0.15 + REPETITION_NOISE), 0.9 * 0.5 - 0.4):
        assert str(excess) in constraints


def test_it_finds_better_than_its_warm_starts(tmp_path):
    found = run(tmp_path, trials=40)
    best = front(found, text_bound=TEXT_BOUND)[-1]
    warm = front(found[: len(family().warm_starts())], text_bound=TEXT_BOUND)[-1]
    assert best.written.concept <= warm.written.concept
    assert any(trial.written is None for trial in found)  # it goes beyond the bound, and is told


def test_the_same_seed_gives_the_same_trials_and_another_others(tmp_path):
    first, again, other = run(tmp_path / "a"), run(tmp_path / "b"), run(tmp_path / "c", seed=5)
    assert told(first) == told(again)
    assert told(first) != told(other)


@pytest.mark.parametrize("stop", [0, 2, 9])
def test_a_crash_in_a_trial_costs_that_trial_alone(tmp_path, stop):
    calls = []

    def crashes(point, number):
        calls.append(number)
        if number == stop:
            raise RuntimeError("power cut")
        return formula(point, number)

    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path / "cut", try_out=crashes)
    assert calls == list(range(stop + 1))
    calls.clear()
    resumed = run(tmp_path / "cut", try_out=lambda point, number: (calls.append(number), formula(point, number))[1])
    assert calls == list(range(stop, 14))
    assert told(resumed) == told(run(tmp_path / "whole"))


@pytest.mark.slow
def test_a_killed_process_leaves_a_search_that_goes_on_as_if_undisturbed(tmp_path):
    victim = script(PROGRAM, "slowly", tmp_path / "cut")
    journal = tmp_path / "cut" / "journal.log"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and (not journal.exists() or journal.read_text().count('"trial":') < 3):
        time.sleep(0.05)
    victim.kill()
    victim.communicate()
    assert victim.returncode == -signal.SIGKILL
    assert told(run(tmp_path / "cut")) == told(run(tmp_path / "whole"))


def together(count: int, *arguments: object) -> list[dict]:
    """What each process of one job says of its search."""
    every = script_together(count, TESTS / "helpers/shared_search.py", *arguments)
    assert [(one.code, one.err) for one in every] == [(0, "")] * count
    return [json.loads(one.out) for one in every]


@pytest.mark.slow
def test_processes_of_one_job_share_every_trial(tmp_path):
    (alone,) = together(1, tmp_path / "alone", 12, -1)
    every = together(2, tmp_path / "two", 12, -1)
    assert [(one["sharing"], one["leads"]) for one in (alone, *every)] == [(1, True), (2, True), (2, False)]
    assert [one["trials"] for one in every] == [alone["trials"]] * 2
    assert len(alone["trials"]) == 12
    # Of the three parts of a trial the first process has two. The last turn has one part, which both do.
    assert [part for _, part in every[0]["own"]] == [0, 2] * 12
    assert [part for _, part in every[1]["own"]] == [1, 2] * 12
    # Where one fails, all do, and any number goes on.
    ended = together(2, tmp_path / "ended", 12, 5)
    assert [one["ended"] for one in ended] == ["the disk is full; free some space"] * 2
    (resumed,) = together(1, tmp_path / "ended", 12, -1)
    assert resumed["trials"] == alone["trials"]
    assert min(number for number, _ in resumed["own"]) == 5


def dead_helper(folder):
    """Process A holds trial 0 while B finishes trial 1 and begins trial 2; then the power goes."""

    def helps(point, number):
        if number == 2:
            raise RuntimeError("power cut")
        return formula(point, number)

    with pytest.raises(RuntimeError, match="power cut"):
        run(folder, try_out=lambda _point, number: run(folder, try_out=helps) if number == 0 else None)


def test_a_dead_helpers_warm_start_is_tried_again_and_no_number_twice(tmp_path):
    dead_helper(tmp_path / "cut")
    tried = []
    resumed = run(tmp_path / "cut", try_out=lambda point, number: (tried.append(number), formula(point, number))[1])
    assert tried == [0, *range(2, 14)]
    assert told(resumed) == told(run(tmp_path / "whole"))
    warm = family().warm_starts()
    assert [(trial.point.source, trial.point.ablate) for trial in resumed[: len(warm)]] == [
        (point.source, point.ablate) for point in warm
    ]


def test_a_kill_between_putting_up_a_trial_and_taking_it_loses_nothing(tmp_path, monkeypatch):
    import optuna

    with monkeypatch.context() as patched:
        patched.setattr(optuna.Study, "ask", lambda *_: (_ for _ in ()).throw(RuntimeError("power cut")))
        with pytest.raises(RuntimeError, match="power cut"):
            run(tmp_path / "cut")
    assert told(run(tmp_path / "cut")) == told(run(tmp_path / "whole"))


@pytest.mark.slow
def test_two_processes_share_the_trials(tmp_path):
    other = script(PROGRAM, "helping", tmp_path)
    journal = tmp_path / "journal.log"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and (not journal.exists() or "worker-" not in journal.read_text()):
        time.sleep(0.05)
    mine = []

    def slow(point, number):
        mine.append(number)
        return slowest_last(point, number)

    found = run(tmp_path, try_out=slow)
    _, err = other.communicate()
    assert (other.returncode, err) == (0, "")
    assert sorted(trial.number for trial in found) == list(range(14))
    assert 0 < len(mine) < 14
    # Whoever waited for the slow one: what follows from the warm starts follows from all of them.
    fixed = len(family().warm_starts()) + len(family().likely())
    assert [trial.point for trial in found[:fixed]] == [trial.point for trial in run(tmp_path / "alone")[:fixed]]


def test_a_torn_last_line_is_cut_off(tmp_path):
    before = run(tmp_path, trials=6)
    with (tmp_path / "journal.log").open("a") as stream:
        stream.write('{"op_code":4,"wor')
    assert told(run(tmp_path, trials=8))[:6] == told(before)


def test_nothing_is_tried_again_when_all_is_done(tmp_path):
    before = run(tmp_path)
    assert told(run(tmp_path, try_out=None)) == told(before)


def test_the_front_holds_what_nothing_beats_and_leaves_out_what_says_too_little():
    def trial(kl, concept, repeated=0.1, distinct=0.5):
        return Trial(
            0,
            Point("learned"),
            kl,
            kl,
            0.1,
            -1.0,
            Written(concept, concept, concept, repeated, distinct, repeated),
            0.0,
        )

    cheap, good, worse, babble = trial(0.01, 0.2), trial(0.05, 0.1), trial(0.06, 0.15), trial(0.02, 0.0, 0.4)
    same = trial(0.02, 0.0, distinct=0.44)
    out = Trial(0, Point("learned"), 9.0, 9.0, None, 3.0, None, 0.0)
    assert front([worse, babble, good, same, out, cheap], text_bound=TEXT_BOUND) == [cheap, good]
    assert front([out], text_bound=TEXT_BOUND) == []
    dear = replace(cheap, rise=0.5)
    assert front([worse, dear, good], text_bound=TEXT_BOUND, cost=lambda one: one.rise) == [good]


def changed_lines(folder, change):
    """Every line of a journal, changed; those that stay as they are, left out."""
    lines = (folder / "journal.log").read_text().splitlines()
    for place, line in enumerate(lines):
        for other in change(line):
            if other != line:
                yield "\n".join([*lines[:place], other, *lines[place + 1 :]]) + "\n"


def other_shapes(line):
    """Other JSON, and every name of the line removed or of another type."""
    told = json.loads(line)
    yield from ("", "{", "[]", "null", "7", '"x"', "[" * 100_000, "9" * 5_000)
    for name, value in told.items():
        yield json.dumps({key: one for key, one in told.items() if key != name})
        yield json.dumps(told | {name: "x" if not isinstance(value, str) else [7]})


def test_a_journal_of_any_other_shape_begins_again(tmp_path):
    whole = run(tmp_path / "whole", trials=3)
    for number, content in enumerate(list(changed_lines(tmp_path / "whole", other_shapes))[::5]):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "journal.log").write_text(content)
        assert [trial.point for trial in run(folder, trials=3)] == [trial.point for trial in whole]


def test_an_infinite_cost_is_kept_as_such():
    trial = Trial(1, Point("learned"), float("inf"), float("inf"), float("inf"), float("inf"), None, 0.1)
    assert parse_json(json.dumps(trial.to_json(), allow_nan=False), Trial, source="a trial") == trial


def test_without_optuna_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("dposcope.search.search.find_spec", lambda _: None)
    with pytest.raises(DposcopeError, match=r"pip install 'dposcope\[tune\]'"):
        run(tmp_path)
