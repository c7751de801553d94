"""A run in several processes: the main one holds the folder and writes the records, the others follow."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from dposcope.jobs.run import Quiet, Reporter, Run, RunPolicy, open_run
from dposcope.training.processes import Processes

T = TypeVar("T")


@contextmanager
def open_shared_run(
    folder: Path,
    command: str,
    settings: Mapping[str, Any],
    *,
    processes: Processes,
    reporter: Reporter,
    policy: RunPolicy,
) -> Generator[Run]:
    """`open_run` for all processes of one run; a process alone gets just that.

    Args:
        folder: `--out`, the same place for all.
        command: `dpo`.
        settings: everything that decides the results, JSON-able.
        processes: all that work in the run.
        reporter: told by the main process alone.
        policy: what to do about what is there already.

    Raises:
        DposcopeError: as `open_run`, in all processes.
    """
    with ExitStack() as held:
        run = processes.on_main(
            lambda: held.enter_context(open_run(folder, command, settings, reporter=reporter, policy=policy))
        )
        if processes.alone and run is not None:
            yield run
        elif run is not None:
            yield _Leading(run, reporter, policy, processes)
        else:
            yield _Following(folder, settings, Quiet(), policy, processes)


class _Leading(Run):
    """Decides what is to be done, and records it when all have done it."""

    def __init__(self, run: Run, reporter: Reporter, policy: RunPolicy, processes: Processes) -> None:
        super().__init__(run.folder, run.settings, reporter, policy)
        self._processes = processes

    def stage(
        self,
        name: str,
        title: str,
        *,
        inputs: Mapping[str, Any],
        files: Sequence[Path] = (),
        make: Callable[[], None],
        load: Callable[[], T],
        revision: int = 1,
    ) -> T:
        """As `Run.stage`."""
        made = False

        def made_by_all() -> None:
            nonlocal made
            made = self._processes.broadcast(True)
            with self._processes.failing_together():
                make()

        def told() -> None:
            if not made:
                self._processes.broadcast(False)

        with self._processes.failing_together():  # until it is recorded
            super().stage(name, title, inputs=inputs, files=files, make=made_by_all, load=told, revision=revision)
        return load()


class _Following(Run):
    """Makes a stage where the main process decides to, and writes no record."""

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], reporter: Reporter, policy: RunPolicy, processes: Processes
    ) -> None:
        super().__init__(folder, settings, reporter, policy)
        self._processes = processes

    def stage(
        self,
        name: str,  # noqa: ARG002
        title: str,  # noqa: ARG002
        *,
        inputs: Mapping[str, Any],  # noqa: ARG002
        files: Sequence[Path] = (),  # noqa: ARG002
        make: Callable[[], None],
        load: Callable[[], T],
        revision: int = 1,  # noqa: ARG002
    ) -> T:
        """As `Run.stage`."""
        with self._processes.failing_together():
            if self._processes.broadcast(False):
                with self._processes.failing_together():
                    make()
        return load()
