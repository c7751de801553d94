"""A run in several processes: the main one holds the folder and writes the files, the others follow."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from dposcope.jobs.opening import open_run
from dposcope.jobs.prompts_read import PromptSet
from dposcope.jobs.reporter import Quiet, Reporter
from dposcope.jobs.run import Run, RunPolicy, nothing
from dposcope.processes.group import Processes
from dposcope.processes.shared import together, unshared

T = TypeVar("T")
M = TypeVar("M")


@contextmanager
def open_shared_run(
    folder: Path,
    command: str,
    settings: Mapping[str, Any],
    *,
    processes: Processes,
    free: Mapping[str, Any] | None = None,
    prompts: Mapping[str, PromptSet] | None = None,
    reporter: Reporter | None = None,
    policy: RunPolicy = RunPolicy(),  # noqa: B008 — frozen
) -> Generator[Run]:
    """`open_run` for all processes of one run; a process alone gets just that.

    All do the same inside, and share work by `dposcope.processes.shared`. Where one fails, all do.

    Args:
        folder: `--out`, the same place for all.
        command: `dpo`, `evaluate`, …
        settings: see `open_run`.
        processes: all that work in the run.
        free: see `open_run`.
        prompts: see `open_run`.
        reporter: told by the main process alone.
        policy: what to do about what is there already.

    Raises:
        DposcopeError: as `open_run`, in all processes.
    """
    with together(processes), ExitStack() as held:
        if not processes.is_main:
            processes.gather(None)  # until the main process holds the folder
            yield _Following(folder, settings, policy, processes)
            return
        run = held.enter_context(
            open_run(folder, command, settings, free=free, prompts=prompts, reporter=reporter, policy=policy)
        )
        processes.gather(None)
        yield run if processes.alone else _Leading(run, policy, processes)


class _Leading(Run):
    """Decides what is to be done, and records it when all have done it."""

    def __init__(self, run: Run, policy: RunPolicy, processes: Processes) -> None:
        super().__init__(run.folder, run.settings, run.reporter, policy, prompts=run.prompts)
        self._processes = processes

    def stage(
        self,
        name: str,
        title: str,
        *,
        inputs: Mapping[str, Any],
        files: Sequence[Path] = (),
        make: Callable[[], M],
        write: Callable[[M], object] = nothing,
        load: Callable[[], T],
        revision: int = 1,
    ) -> T:
        """As `Run.stage`."""
        told = False

        def tell(to_do: bool) -> None:
            nonlocal told
            if not told:
                self._processes.broadcast(to_do)
                told = True

        def made_by_all() -> M:
            tell(True)
            return make()

        super().stage(
            name,
            title,
            inputs=inputs,
            files=files,
            make=made_by_all,
            write=write,
            load=lambda: tell(False),
            revision=revision,
        )
        self._processes.gather(None)  # it is recorded
        return load()

    def write(self, work: Callable[[], object]) -> None:
        """As `Run.write`. The others wait meanwhile, so that nothing within is shared."""
        with unshared():
            super().write(work)
        self._processes.gather(None)


class _Following(Run):
    """Makes a stage where the main process decides to, and writes nothing."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], policy: RunPolicy, processes: Processes) -> None:
        super().__init__(folder, settings, Quiet(), policy)
        self._processes = processes

    def stage(
        self,
        name: str,  # noqa: ARG002
        title: str,  # noqa: ARG002
        *,
        inputs: Mapping[str, Any],  # noqa: ARG002
        files: Sequence[Path] = (),  # noqa: ARG002
        make: Callable[[], M],
        write: Callable[[M], object] = nothing,  # noqa: ARG002
        load: Callable[[], T],
        revision: int = 1,  # noqa: ARG002
    ) -> T:
        """As `Run.stage`."""
        if self._processes.broadcast(False):
            make()
        self._processes.gather(None)
        return load()

    def write(self, work: Callable[[], object]) -> None:  # noqa: ARG002
        """Wait until it is written."""
        self._processes.gather(None)

    def release(self, name: str) -> None:
        """Nothing."""
