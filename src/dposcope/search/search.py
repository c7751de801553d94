"""A search by Optuna in one file: two objectives, resumable after any kill, shared by several processes.

Processes share it in two ways. Each may run trials of its own, from one journal. Or they are those of one job and share
the work of every trial: then the first one holds the journal, and tells the others what is tried.

Both the concept's score and the KL on neutral text are minimised. A trial out of bounds is reported to Optuna as
infeasible. Trials are stored in a journal. Each proposal depends only on the trial's number and on the finished trials.
So a search that was killed and restarted proposes the same points as one that was never killed. If a process dies
during a trial, the trial's number is used again.
"""

import json
import time
import uuid
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from filelock import FileLock, Timeout

from dposcope.artefacts import text_digest
from dposcope.errors import DposcopeError, first_line
from dposcope.model.generate import Progress
from dposcope.processes.shared import leads, once
from dposcope.reading import parse_json
from dposcope.search.at_bound import at_the_bound, where_texts_pass
from dposcope.search.family import MOST_ABLATION, MOST_TILT, NO_GAINS, Family, Point
from dposcope.search.trials import TextBound, Trial

TrialOf = Callable[[Point, int], Trial]
"""(point, number of the trial) → the measured trial."""
_WORST = 1.0
"""Score that Optuna gets for a trial that has no texts, because it cost too much. Such a trial is infeasible, and
Optuna ranks it by how far it exceeds the bounds, not by this score."""
_JOURNAL = "journal.log"
_TRIAL, _WORKER, _NUMBER = "trial", "worker", "number"
"""Attributes of a trial in the journal. We number trials ourselves: Optuna's numbers include trials that died."""
_DIGEST = "digest"
"""Of a line of the journal, in that line."""
_HELD = {"RUNNING", "COMPLETE", "WAITING"}
"""States of a trial whose number is in use."""
_DIRECTIONS = ["minimize", "minimize"]
_TURNS = 2
"""Turns in which every kind of edit is tried: at its bound, and then weaker, if its texts there do not pass theirs."""
_PATIENCE = 0.5
"""Seconds between checks for other processes' results."""


def search(
    try_out: TrialOf,
    family: Family,
    *,
    folder: Path,
    trials: int,
    text_bound: TextBound,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Trial]:
    """Run trials until `trials` are done, including those of earlier calls and of other processes.

    Processes of one job (`dposcope.processes.shared`) all call this, and share each trial.

    Args:
        try_out: measures one trial.
        family: all possible edits. Its warm starts come first, then each kind of edit at its bound, then where its
            texts pass, then Optuna's.
        folder: of the journal; one folder per search. Several processes may share it.
        trials: number of trials in total.
        text_bound: a trial whose texts do not pass it is infeasible.
        seed: of the proposals.
        progress: called with (trials done, all trials).

    Returns:
        All finished trials, by number.

    Raises:
        DposcopeError: optuna is missing.
    """
    if find_spec("optuna") is None:
        raise DposcopeError("a search needs the optuna package; install it with: pip install 'dposcope[tune]'")
    if not leads():
        return _followed(try_out)

    def told(point: Point, number: int) -> Trial:
        once(lambda: (point, number))
        return try_out(point, number)

    done = _searched(told, family, folder, trials, text_bound=text_bound, seed=seed, progress=progress)
    once(lambda: done)
    return done


def _followed(try_out: TrialOf) -> list[Trial]:
    """Share the trials that the process tells of which holds the journal, and give back what it has in the end."""
    while True:
        told = once(lambda: cast("tuple[Point, int] | list[Trial]", None))  # the other one's
        if isinstance(told, list):
            return told
        try_out(*told)


def _searched(
    try_out: TrialOf,
    family: Family,
    folder: Path,
    trials: int,
    *,
    text_bound: TextBound,
    seed: int,
    progress: Progress | None,
) -> list[Trial]:
    """See `search`; in the process that holds the journal."""
    import optuna

    folder.mkdir(parents=True, exist_ok=True)
    with _quiet(optuna), _worker(folder) as worker:
        study = _study(optuna, folder / _JOURNAL, alone=not _others(folder, worker))
        while (done := len(_done(study))) < trials:
            if progress is not None:
                progress(done, trials)
            with FileLock(folder / ".proposals.lock"):
                _forget_the_dead(optuna, study, folder)
                proposed = _propose(optuna, study, family, text_bound=text_bound, trials=trials, seed=seed)
                if proposed is not None:
                    proposed.set_user_attr(_WORKER, worker)
            if proposed is None:  # other processes run the remaining trials; if one dies, its trial is free again
                time.sleep(_PATIENCE)
                continue
            trial = try_out(_point(proposed.params, family), proposed.user_attrs[_NUMBER])
            written = trial.written
            proposed.set_constraint("cost", trial.excess)
            for name, excess in text_bound.excess(written or text_bound.plain).items():
                proposed.set_constraint(name, excess)
            proposed.set_user_attr(_TRIAL, trial.to_json())
            study.tell(proposed, [written.concept if written else _WORST, min(trial.kl, 1e6)])
    done = [trial for trial in _done(study) if trial.number < trials]
    if progress is not None:
        progress(len(done), trials)
    return done


def _propose(optuna: Any, study: Any, family: Family, *, text_bound: TextBound, trials: int, seed: int) -> Any:
    """The free trial with the smallest number. None if other processes run all of them, or one that it depends on."""
    taken = {attempt.user_attrs[_NUMBER] for attempt in study.get_trials(deepcopy=False) if attempt.state.name in _HELD}
    number = next(free for free in range(len(taken) + 1) if free not in taken)
    waiting = any(attempt.state.name == "WAITING" for attempt in study.get_trials(deepcopy=False))
    if not waiting:  # otherwise take the trial that a process enqueued before it died
        if number >= trials:
            return None
        warm, likely, start = family.warm_starts(), family.likely(), None
        turn, kind = divmod(number - len(warm), len(likely))
        if number < len(warm):
            start = warm[number]
        elif turn < _TURNS:
            # What follows from the turn before follows from all of it.
            before = len(warm) + turn * len(likely)
            tried = [trial for trial in _done(study) if trial.number < before]
            if len(tried) < before:  # other processes still run some of them
                return None
            start = (
                at_the_bound(likely[kind], tried, family, text_bound)
                if turn == 0
                else where_texts_pass(likely[kind], tried, text_bound)
            )
        if start is not None:
            parameters = _parameters(start, family)
        else:
            parameters = _sampled(optuna, study, family, seed=seed + number, startup=len(warm))
        study.enqueue_trial(parameters, user_attrs={_NUMBER: number})
    return study.ask(_ranges(optuna, family))


def _sampled(optuna: Any, study: Any, family: Family, *, seed: int, startup: int) -> dict[str, Any]:
    """The proposal of TPE, given the finished trials sorted by number, not by the time at which they finished."""
    done = [attempt for attempt in study.get_trials(deepcopy=False) if attempt.state.name == "COMPLETE"]
    sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=startup)
    ordered = optuna.create_study(directions=_DIRECTIONS, sampler=sampler)
    ordered.add_trials(sorted(done, key=lambda attempt: attempt.user_attrs[_NUMBER]))
    return ordered.ask(_ranges(optuna, family)).params


def _ranges(optuna: Any, family: Family) -> dict[str, Any]:
    ranges = {
        "source": optuna.distributions.CategoricalDistribution(family.names),
        "strength": optuna.distributions.FloatDistribution(0, 1),
        "tilt": optuna.distributions.FloatDistribution(-MOST_TILT, MOST_TILT),
    }
    if family.ablates:
        ranges["ablate"] = optuna.distributions.FloatDistribution(0, MOST_ABLATION)
    return ranges


def _parameters(point: Point, family: Family) -> dict[str, Any]:
    """Optuna's parameters of a point. The strength is a share of the source's largest: all sources have one range."""
    most = 1.0 if point.source == NO_GAINS else family.sources[point.source].most
    # Rounding must not give more than 1: Optuna would then refuse the journal for ever.
    given = {"source": point.source, "strength": min(point.strength / most, 1.0), "tilt": point.tilt}
    return given | ({"ablate": min(point.ablate, MOST_ABLATION)} if family.ablates else {})


def _point(parameters: dict[str, Any], family: Family) -> Point:
    source, ablation = parameters["source"], parameters.get("ablate", 0.0)
    if source == NO_GAINS:
        return Point(source, 0.0, 0.0, ablation)
    return Point(source, parameters["strength"] * family.sources[source].most, parameters["tilt"], ablation)


def _done(study: Any) -> list[Trial]:
    complete = [attempt for attempt in study.get_trials(deepcopy=False) if attempt.state.name == "COMPLETE"]
    trials = [parse_json(json.dumps(attempt.user_attrs.get(_TRIAL)), Trial, source=_JOURNAL) for attempt in complete]
    return sorted(trials, key=lambda trial: trial.number)


def _study(optuna: Any, journal: Path, *, alone: bool) -> Any:
    if alone:
        _mend(journal)
    backend = optuna.storages.journal.JournalFileBackend(str(journal), lock_obj=_JournalLock(journal))
    plain = backend.append_logs
    # Every line carries a digest of itself, so that a changed one is noticed; Optuna reads past what it does not know.
    backend.append_logs = lambda logs: plain([{**log, _DIGEST: _digest(log)} for log in logs])
    try:
        storage = optuna.storages.JournalStorage(backend)
        study = optuna.create_study(storage=storage, study_name="search", directions=_DIRECTIONS, load_if_exists=True)
        _done(study)
        for attempt in study.get_trials(deepcopy=False):
            if attempt.state.name in _HELD and not isinstance(attempt.user_attrs.get(_NUMBER), int):
                raise DposcopeError("a trial has no number")
    except OSError:
        raise
    except Exception as error:  # a line that a stranger wrote may fail anywhere in Optuna
        raise DposcopeError(
            f"{journal} is damaged ({first_line(error)}); delete {journal.parent} and run again: the search starts anew"
        ) from error
    return study


class _JournalLock:
    """Held while a line is written. The system releases it when the process dies; Optuna's own would be waited for half
    a minute after a kill."""

    def __init__(self, journal: Path) -> None:
        self._lock = FileLock(journal.with_name(".journal.lock"))

    def acquire(self) -> bool:
        self._lock.acquire()
        return True

    def release(self) -> None:
        self._lock.release()


def _mend(journal: Path) -> None:
    """Remove an incomplete last line, as a full disk leaves it. Where another line is damaged, remove the journal.

    Optuna would refuse the whole journal for the one, and believe the other. A search that begins again proposes the
    same trials.
    """
    if not journal.exists():
        return
    content = journal.read_bytes()
    whole = content.rfind(b"\n") + 1
    if not all(map(_undamaged, content[:whole].splitlines())):
        journal.unlink()
    elif whole < len(content):
        with journal.open("r+b") as stream:
            stream.truncate(whole)


def _undamaged(line: bytes) -> bool:
    try:
        log = json.loads(line)
        return log.pop(_DIGEST) == _digest(log)
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return False


def _digest(log: Mapping[str, Any]) -> str:
    return text_digest(json.dumps(log, sort_keys=True))


def _forget_the_dead(optuna: Any, study: Any, folder: Path) -> None:
    """Mark trials of dead processes as failed. A running process holds the lock file with its name."""
    for attempt in study.get_trials(deepcopy=False):
        if attempt.state.name == "RUNNING" and not _alive(folder, attempt.user_attrs.get(_WORKER)):
            study.tell(attempt.number, state=optuna.trial.TrialState.FAIL)


def _others(folder: Path, worker: str) -> bool:
    names = [path.name.removeprefix(".").removesuffix(".lock") for path in folder.glob(".worker-*.lock")]
    return any(_alive(folder, name) for name in names if name != worker)


def _alive(folder: Path, worker: str | None) -> bool:
    lock = folder / f".{worker}.lock"
    if worker is None or not lock.exists():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


@contextmanager
def _worker(folder: Path) -> Generator[str]:
    name = f"worker-{uuid.uuid4().hex[:12]}"
    path = folder / f".{name}.lock"
    with FileLock(path):
        yield name
    path.unlink(missing_ok=True)


@contextmanager
def _quiet(optuna: Any) -> Generator[None]:
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            # Optuna does not close its journal itself.
            warnings.simplefilter("ignore", ResourceWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)


def _kl(trial: Trial) -> float:
    return trial.kl


def front(trials: Sequence[Trial], *, text_bound: TextBound, cost: Callable[[Trial], float] = _kl) -> list[Trial]:
    """The Pareto front of allowed trials: no other allowed trial is better in both score and cost. Cheapest first.

    Args:
        trials: of a search.
        text_bound: trials whose texts do not pass it are not allowed.
        cost: KL, or another number of a trial for which lower is better.
    """
    allowed = [trial for trial in trials if trial.written is not None and text_bound.allows(trial.written)]
    ordered = sorted(allowed, key=lambda trial: (cost(trial), trial.written.concept if trial.written else 0.0))
    best: list[Trial] = []
    for trial in ordered:
        assert trial.written is not None
        if not best or trial.written.concept < best[-1].written.concept:  # pyright: ignore[reportOptionalMemberAccess]
            best.append(trial)
    return best
