"""Work that waits for others, several pieces at a time."""

from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class _Done(Generic[T]):
    place: int
    result: T


@dataclass(frozen=True)
class _Failed:
    error: BaseException


def in_parallel(
    work: Callable[[int], T], count: int, *, at_once: int, progress: Callable[[int, int], None] | None = None
) -> list[T]:
    """`[work(0), work(1), …]`, several at a time.

    The first error ends it and is raised; pieces that have not begun are left. The threads do not keep the process
    from ending, so Ctrl-C does not wait for a server.

    Args:
        work: a piece of it, by number; called in threads.
        count: of the pieces.
        at_once: pieces at a time.
        progress: called here with (done, total) after each piece.
    """
    waiting: SimpleQueue[int] = SimpleQueue()
    finished: SimpleQueue[_Done[T] | _Failed] = SimpleQueue()
    for place in range(count):
        waiting.put(place)

    def run() -> None:
        while (place := _next(waiting)) is not None:
            try:
                finished.put(_Done(place, work(place)))
            except BaseException as error:
                finished.put(_Failed(error))
                return

    results: dict[int, T] = {}
    try:
        for _ in range(min(at_once, count)):
            Thread(target=run, daemon=True).start()
        while len(results) < count:
            one = finished.get()
            if isinstance(one, _Failed):
                raise one.error
            results[one.place] = one.result
            if progress is not None:
                progress(len(results), count)
    finally:
        while _next(waiting) is not None:
            pass
    return [results[place] for place in range(count)]


def _next(waiting: SimpleQueue[int]) -> int | None:
    try:
        return waiting.get_nowait()
    except Empty:
        return None
