"""Work on many items, shared by the processes of one job: the results are those of one process.

Items are whole batches or windows in a fixed order. Process r of N works on items r, r + N, …, and every process gets
the results of all, in the order of the items. So batches are composed as in one process, and what comes after goes on
the same in all. Results travel by pickle; tensors among them are on the CPU.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import islice
from typing import Any, Protocol, TypeVar, cast

from dposcope.errors import DposcopeError, is_memory
from dposcope.processes.group import Processes

Item = TypeVar("Item")
T = TypeVar("T")
S = TypeVar("S")
T_contra = TypeVar("T_contra", contravariant=True)

_ALONE = Processes()
_SHARING: ContextVar[Processes] = ContextVar("sharing", default=_ALONE)
"""Who shares the work that is done now."""


@contextmanager
def together(processes: Processes) -> Generator[None]:
    """Around a whole job: inside, `shared`, `summed` and `once` divide work among the processes.

    All do the same inside. Where one fails, all do.

    Raises:
        DposcopeError: another process failed, for the reason given.
    """
    if not _SHARING.get().alone:  # the job is a part of another one
        yield
        return
    with _among(processes), processes.ending_together():
        yield


def shared(items: Iterable[Item], work: Callable[[Item], T], *, done: Callable[[Item], None] | None = None) -> list[T]:
    """The result of each item, in their order.

    Args:
        items: the same in all processes.
        work: on one item; it may share nothing itself.
        done: told of every item that one of the processes has worked on.

    Raises:
        DposcopeError: another process failed, for the reason given.
    """
    processes = _SHARING.get()
    own: list[T] = []
    places = 0

    def all_own() -> list[T]:
        nonlocal places
        for turn in _turns(items, processes.count):
            places += len(turn)
            own.append(work(_mine(turn, processes)))
            if done is not None:
                for item in turn:
                    done(item)
        return own

    parts = _by_all(processes, all_own)
    return [parts[place % processes.count][place // processes.count] for place in range(places)]


def check_progress(given: object) -> None:
    """Refuse what cannot be called with (done, total), such as True; None: nothing is called.

    Raises:
        DposcopeError: it cannot.
    """
    if given is not None and not callable(given):
        raise DposcopeError(f"progress {given!r:.40} is no function; give one of (done, total), such as print, or None")


def counting(
    progress: Callable[[int, int], None] | None, total: int, size: Callable[[Item], int]
) -> Callable[[Item], None]:
    """What tells of progress when an item is done.

    Args:
        progress: called with (done, total).
        total: of all items.
        size: of an item.

    Raises:
        DposcopeError: `progress` is no function.
    """
    check_progress(progress)
    so_far = 0

    def done(item: Item) -> None:
        nonlocal so_far
        so_far += size(item)
        if progress is not None:
            progress(so_far, total)

    return done


class Kept(Protocol[T_contra]):
    """What takes the place of sums for a while: it takes what they take, and keeps it."""

    def add_to(self, sums: T_contra, /) -> None:
        """Add what was kept, in its order."""
        ...


K = TypeVar("K", bound=Kept[Any])


def summed(
    items: Iterable[Item],
    work: Callable[[Item, S | K], None],
    sums: S,
    *,
    keep: Callable[[], K],
    done: Callable[[Item], None] | None = None,
) -> S:
    """The sums over all items, equal to the bit to those of one process: floating-point sums depend on the order, so
    each process adds what it has when its item's turn comes.

    Args:
        items: the same in all processes.
        work: gives what it finds in one item to the sums, or to what keeps it for them.
        sums: at the beginning; those that are returned take their place.
        keep: makes what keeps.
        done: told of every item that was added.

    Raises:
        DposcopeError: another process failed, for the reason given.
    """
    processes = _SHARING.get()
    for turn in _turns(items, processes.count):
        if processes.alone:
            work(turn[0], sums)
        else:
            sums = _added(processes, turn, work, sums, keep())
        if done is not None:
            for item in turn:
                done(item)
    return sums


def _added(processes: Processes, turn: Sequence[Item], work: Callable[[Item, S | K], None], sums: S, kept: K) -> S:
    """The sums with those of one item of each process."""

    def mine() -> None:
        work(_mine(turn, processes), kept)

    _by_all(processes, mine)
    for place in range(len(turn)):
        mine_now = place == processes.rank
        if mine_now:
            kept.add_to(sums)
        sums = cast(S, processes.gather(sums if mine_now else None)[place])
    return sums


def sharing() -> int:
    """How many processes share work here; 1 where none does."""
    return _SHARING.get().count


def leads() -> bool:
    """Whether this process is the one whose work `once` gives to all."""
    return _SHARING.get().is_main


@contextmanager
def unshared() -> Generator[None]:
    """Inside, each process does all the work: someone looks on who must see all of it."""
    with _among(_ALONE):
        yield


def once(work: Callable[[], T]) -> T:
    """What the main process gets from work that nobody else does, in all processes.

    Raises:
        DposcopeError: the main process failed, for the reason given.
    """
    processes = _SHARING.get()
    return _by_all(processes, lambda: work() if processes.is_main else None)[0]  # pyright: ignore[reportReturnType]


def _by_all(processes: Processes, work: Callable[[], T]) -> list[T]:
    """What each process makes of it, in the order of ranks; if one of them fails, all do, and can begin again."""
    if processes.alone:
        return [work()]
    made: T | None = None
    failed: Exception | None = None
    try:
        with _among(_ALONE):
            made = work()
    except Exception as error:  # raised again below
        failed = error
    told = None if failed is None else (processes.reason(failed), is_memory(failed))
    every = processes.gather((made, told))
    if failed is not None:
        raise failed
    for _, reason in every:
        if reason is not None:
            raise MemoryError(reason[0]) if reason[1] else DposcopeError(reason[0])
    return [part for part, _ in every]  # pyright: ignore[reportReturnType]


def _turns(items: Iterable[Item], count: int) -> Iterator[list[Item]]:
    left = iter(items)
    while turn := list(islice(left, count)):
        yield turn


def _mine(turn: Sequence[Item], processes: Processes) -> Item:
    """Of the last turn, which may be short, some do the same: an intervention whose hooks never fire is an error."""
    return turn[processes.rank % len(turn)]


@contextmanager
def _among(processes: Processes) -> Generator[None]:
    before = _SHARING.set(processes)
    try:
        yield
    finally:
        _SHARING.reset(before)
