"""What people see while a job runs and when it is done."""

import sys
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING

from rich.box import SIMPLE
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from dposcope import terminal
from dposcope.cli.machine.allocator import GivingBack
from dposcope.cli.shown.ahead import Ahead
from dposcope.cli.shown.widths import column_widths, wrapped
from dposcope.data.masking import mask_offensive
from dposcope.errors import plural
from dposcope.evaluation.conditions.scores import BASE, Scores
from dposcope.evaluation.numbers import NOTHING
from dposcope.foreign_text import one_line, visible
from dposcope.terminal import cell, say

if TYPE_CHECKING:
    from dposcope.report.table import Cell
    from dposcope.report.table import Table as StudyTable


class Pace(ProgressColumn):
    """Steps per second and the time left, of a stage at work whose length is known; else nothing."""

    def render(self, task: Task) -> Text:
        """Like `3.2/s, 4:05 left`, or `2.5 s each, 4:05 left` where steps are slow."""
        speed, left = task.speed, task.time_remaining
        if task.finished or not speed or left is None:
            return Text("")
        pace = f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each"
        return Text(f"{pace}, {_clock(left)} left")


class _Whole(Progress):
    """Bars below one line about all that is over."""

    above = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        """The line, where there is one, and the bars."""
        if self.above:
            yield Text(self.above)
        yield self.make_tasks_table(self.tasks)


class Bars:
    """A `Reporter` that draws the stage at work as a bar on the error stream; silent where that is no terminal.

    A stage that is over leaves its bar: one line counts them, so that a run of fifty stages does not fill the screen.
    """

    def __init__(self, *, quiet: bool, time: Callable[[], float] = monotonic) -> None:
        """`quiet` draws nothing anywhere, and writes notes alone; `time` is the clock, in seconds."""
        console = Console(stderr=True)
        self._quiet = quiet
        self._shown = not quiet and console.is_terminal
        self._time = time
        self._began, self._done, self._before = time(), 0, 0
        self._ahead = Ahead(time)
        self._bars = _Whole(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            Pace(),
            console=console,
            disable=not self._shown,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> "Bars":
        """Start drawing."""
        if self._shown:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop drawing, and leave the line on the screen; where something failed, the bar of its stage too."""
        if kind is None:
            self._finish()
        if self._shown:  # some versions of rich print an empty line even for bars that are not drawn
            self._bars.stop()

    def stage(self, title: str) -> None:
        """A new bar."""
        self._finish()
        self._ahead.begin()
        self._task = self._bars.add_task(visible(title), total=None)
        self._draw()

    def reused(self, title: str) -> None:  # noqa: ARG002 — a part of `Reporter`
        """One more in the line, as done before."""
        self._finish()
        self._ahead.pass_over()
        self._before += 1
        self._draw()

    def progress(self, done: int, total: int) -> None:
        """Move the current bar."""
        if self._task is not None:
            self._bars.update(self._task, completed=min(done, total), total=total)

    def ahead(self, stages: int) -> None:
        """For the time left in the line."""
        self._finish()
        self._ahead.expect(stages)

    def step(self, line: str) -> None:
        """A line above the bars."""
        if self._shown:
            self._bars.console.print(Text(visible(line)), soft_wrap=True)

    def note(self, line: str) -> None:
        """A line above the bars; with `quiet`, too."""
        self.step(line)
        if self._quiet:
            sys.stderr.write(f"note: {one_line(line)}\n")

    def _finish(self) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None
            self._done += 1
            self._ahead.end()
            self._draw()

    def _draw(self) -> None:
        parts = [f"{plural(self._done, 'stage')} done in {_clock(self._time() - self._began)}"] if self._done else []
        if self._before:
            parts.append(f"{self._before} done before")
        if (left := self._ahead.seconds) is not None:
            parts.append(f"{self._ahead.stages} more in about {_clock(left)}")
        self._bars.above = ", ".join(parts)
        if self._shown:
            self._bars.refresh()


class Lines:
    """A `Reporter` for logs: what takes long gets a line on the error stream now and then, what is quick none."""

    FIRST, NEXT = 60.0, 300.0
    """Seconds of a stage before its first line, and from one line to the next."""

    def __init__(self, *, time: Callable[[], float] = monotonic) -> None:
        """`time` is the clock, in seconds."""
        self._time = time
        self._title: str | None = None
        self._began = self._due = 0.0
        self._counted: tuple[float, int] | None = None
        self._ahead = Ahead(time)

    def __enter__(self) -> "Lines":
        """Nothing is told yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The last stage is over, unless it failed."""
        if kind is None:
            self._finish()

    def stage(self, title: str) -> None:
        """Another stage begins."""
        self._finish()
        self._ahead.begin()
        self._title, self._began, self._counted = title, self._time(), None
        self._due = self._began + self.FIRST

    def reused(self, title: str) -> None:  # noqa: ARG002 — a part of `Reporter`
        """What was done before takes no time and no line."""
        self._finish()
        self._ahead.pass_over()

    def progress(self, done: int, total: int) -> None:
        """A line, where one is due. What a resumed run finds done at its first step counts for no speed."""
        now = self._time()
        if self._counted is None:
            self._counted = (now, done)
        if self._title is None or now < self._due:
            return
        self._due = now + self.NEXT
        since, before = self._counted
        left = f", {_clock((now - since) * (total - done) / (done - before))} left" if before < done < total else ""
        self._tell(f"{min(done, total)} of {total}{left}")

    def ahead(self, stages: int) -> None:
        """For the time left, told at the end of a long stage."""
        self._finish()
        self._ahead.expect(stages)

    def step(self, line: str) -> None:
        """A line of its own."""
        self.note(line)

    def note(self, line: str) -> None:
        """A line of its own."""
        sys.stderr.write(f"{datetime.now():%H:%M:%S}  {one_line(line)}\n")
        sys.stderr.flush()

    def _finish(self) -> None:
        if self._title is None:
            return
        self._ahead.end()
        if (took := self._time() - self._began) >= self.FIRST:
            left, stages = self._ahead.seconds, self._ahead.stages
            more = "" if left is None else f", {stages} more in about {_clock(left)}"
            self._tell(f"done in {_clock(took)}{more}")
        self._title = None

    def _tell(self, what: str) -> None:
        sys.stderr.write(f"{datetime.now():%H:%M:%S}  {one_line(self._title or '')}: {what}\n")
        sys.stderr.flush()


@contextmanager
def reporting(*, quiet: bool) -> Generator[GivingBack]:
    """Bars where the error stream is a terminal, lines where it goes to a file, and notes alone with `quiet`."""
    with Bars(quiet=quiet) if quiet or sys.stderr.isatty() else Lines() as shown:
        yield GivingBack(shown)


def _clock(seconds: float) -> str:
    """Like `4:05` and `1:04:05`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def print_table(shown: "StudyTable") -> None:
    """A table with its title and notes; columns wrap where the terminal is narrow."""
    _print_grid(_Grid(shown.title, shown.head, shown.rows))
    for note in shown.notes:
        _print_words(note)


def print_facts(rows: Iterable[tuple[str, str]]) -> None:
    """Names and values side by side."""
    _print_grid(_Grid("", ("", ""), tuple(rows)))


@dataclass(frozen=True)
class _Grid:
    """What a table shows: the first column names the rows."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    ruled: bool = False
    """Numbers on the right, and a line between rows."""

    @property
    def widths(self) -> list[int] | None:
        """Of the columns in this terminal; None where it is too narrow for their numbers."""
        columns = [
            [visible(line) for text in column for line in text.split("\n")]
            for column in zip(self.head, *self.rows, strict=True)
        ]
        # On both sides of each column a space; between two, and at both ends, one of the box.
        return column_widths(columns, terminal.out.width - 3 * len(columns) - 1, cell_len)


def _print_grid(grid: _Grid) -> None:
    """As a table, or row by row where the terminal is too narrow for the numbers."""
    widths = grid.widths
    if widths is None:
        _print_stacked(grid)
        return
    table = Table(
        title=cell(grid.title) if grid.title else None,
        title_justify="left",
        box=SIMPLE,
        show_header=any(grid.head),
        show_lines=grid.ruled,
    )
    for place, (name, width) in enumerate(zip(grid.head, widths, strict=True)):
        justify = "right" if grid.ruled and place else "left"
        table.add_column(cell(name), justify=justify, overflow="fold", width=width)
    for row in grid.rows:
        table.add_row(*map(cell, row))
    terminal.out.print(table)


def _print_stacked(grid: _Grid) -> None:
    """Each row as a paragraph: its name, and below it what there is of values, each behind the name of its column."""
    if grid.title:
        _print_words(grid.title)
    for name, *values in grid.rows:
        if len(values) == 1 and not any(grid.head):
            _print_words(f"{name}: {values[0]}")
            continue
        say("")
        _print_words(name)
        for label, value in zip(grid.head[1:], values, strict=True):
            if value not in ("", NOTHING):
                _print_words(f"{label}: {value}", indent=2)
    say("")


def _print_words(text: str, *, indent: int = 0) -> None:
    """A text that breaks between words alone; what follows its first line stands further in."""
    room = terminal.out.width - indent - _FURTHER_IN
    for row, line in enumerate(wrapped(visible(" ".join(text.split())), room, cell_len)):
        say(" " * (indent + (_FURTHER_IN if row else 0)) + line)


_FURTHER_IN = 2


_NARROWEST = 26
"""Columns of a text beside others; below, texts stand one under the other."""


def print_beside(texts: Mapping[str, str]) -> None:
    """Texts side by side under their names, or one under the other where the terminal is narrow."""
    if terminal.out.width >= _NARROWEST * len(texts):
        table = Table(box=SIMPLE, padding=(0, 2, 0, 0), expand=True)
        for name in texts:
            table.add_column(cell(name), ratio=1, overflow="fold")
        table.add_row(*map(cell, texts.values()))
        terminal.out.print(table)
        return
    for name, text in texts.items():
        terminal.out.print(Padding(cell(f"{name}:"), (1, 0, 0, 2)))
        terminal.out.print(Padding(cell(text), (0, 0, 0, 4)))


def print_scores_as_json(scores: Scores, *, raw: bool) -> None:
    """As `scores.json` has them; phrases of texts with stars, unless `raw`."""
    told = scores.to_json()
    if not raw:
        told["phrases"] = {
            name: [phrase | {"words": mask_offensive(phrase["words"])} for phrase in phrases]
            for name, phrases in told["phrases"].items()
        }
    terminal.print_json(told)


def print_scores(scores: Scores) -> None:
    """The tables of a run's `scores.md`, turned: `none` and as many conditions side by side as there is room for.

    Where there is none for two, conditions stand one below the other.
    """
    from dposcope.jobs.measuring.measure import scores_table
    from dposcope.report.sampled import sampled_table
    from dposcope.report.table import Cell

    nothing = Cell(NOTHING)
    tables = [table for table in (scores_table(scores), sampled_table(scores)) if table is not None]
    title = tables[0].title.removesuffix(".")
    labels = [label for table in tables for label in table.head[1:]]
    by_name = [dict(zip(table.lines["condition"], table.cells, strict=True)) for table in tables]
    columns = {
        name: [
            _stacked(one)
            for table, found in zip(tables, by_name, strict=True)
            for one in found.get(name, (nothing,) * len(table.head))[1:]
        ]
        for name in scores.conditions
    }
    grids = _side_by_side(title, labels, columns)
    if grids is None:
        _print_stacked(_Grid(title, ("", *labels), tuple((name, *values) for name, values in columns.items())))
    for grid in grids or ():
        _print_grid(grid)
    for table in tables:
        for note in table.notes:
            _print_words(note)


def _side_by_side(title: str, labels: Sequence[str], columns: Mapping[str, Sequence[str]]) -> list[_Grid] | None:
    """Conditions beside `none`, as many to a table as there is room for; None where there is room for none."""

    def beside(names: Sequence[str]) -> _Grid:
        rows = zip(labels, columns[BASE], *(columns[name] for name in names), strict=True)
        return _Grid(title, ("", BASE, *names), tuple(rows), ruled=True)

    left = [name for name in columns if name != BASE]
    grids: list[_Grid] = []
    while left or not grids:
        fitting = (beside(left[:count]) for count in range(len(left), 0 if left else -1, -1))
        grid = next((one for one in fitting if one.widths is not None), None)
        if grid is None:
            return None
        grids.append(grid)
        left = left[len(grid.head) - 2 :]
    return grids


def _stacked(one: "Cell") -> str:
    """A value with its marks, and its interval below; phrases of texts have stars."""
    told = mask_offensive(f"{one.value}{one.mark}")
    return f"{told}\n({one.interval})" if one.interval else told
