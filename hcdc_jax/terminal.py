"""How the command speaks: results to standard output, errors and progress to standard error.

On a terminal progress is drawn as bars; anywhere else, such as in the log of a batch job, it is plain lines.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from hcdc_jax.progress import Progress

if TYPE_CHECKING:  # what is said of a mistake need not wait for tables
    from hcdc_jax.report.tables import Table

LOG_WIDTH = 200
"""Columns of a table that is not printed to a terminal."""


def say(text: str) -> None:
    """Prints one line to standard output; a terminal wraps it, a file gets it whole."""
    _output().print(escape(text), soft_wrap=not sys.stdout.isatty())


def say_path(text: str) -> None:
    """Prints one line that ends in a path, which is never broken."""
    _output().print(escape(text), soft_wrap=True)


def say_table(table: Table, title: str | None = None, expendable: Sequence[str] = ()) -> None:
    """Prints a table; where the terminal is too narrow, without the first few of the `expendable` columns."""
    from hcdc_jax.report.tables import to_rich

    console = _output()
    console.print(to_rich(fitted(table, console.width, expendable), title))


def complain(text: str) -> None:
    """Prints one line to standard error."""
    _errors().print(f"[red]hcdc:[/red] {escape(text)}", soft_wrap=True)


def warn_in_lines() -> None:
    """From now on warnings for users are one line, without the place in the code, which is of no use to them."""
    show = warnings.showwarning

    def say(message: Warning | str, category: type[Warning], *place: Any) -> None:
        if category is UserWarning:
            complain(str(message))
        else:
            show(message, category, *place)

    warnings.showwarning = say


@contextmanager
def progress() -> Iterator[Progress]:
    """Progress to standard error, with the time that is left."""
    console = _errors()
    if not console.is_terminal:
        lines = Lines(lambda text: console.print(escape(text), soft_wrap=True))
        yield Progress(lines.start, lines.update, lines.write)
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Bars(*columns, console=console) as bars:
        yield Progress(
            lambda what, total, done: _next_bar(bars, what, total, done),
            lambda done: bars.update(bars.task_ids[-1], completed=done),
            lambda text: bars.console.print(escape(text)),
        )


class Lines:
    """Progress as lines such as `truth: 12/80, 35 s, about 3 min left`, at most one every `pause` seconds."""

    def __init__(
        self, write: Callable[[str], None], pause: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.write = write
        self._pause, self._clock = pause, clock

    def start(self, what: str, total: int, done: int) -> None:
        """Begins a piece of work."""
        self._what, self._total = what, total
        self._began = self._told = self._clock()
        self._first: tuple[int, float] | None = None
        self.write(f"{what}: {done}/{total}")

    def update(self, done: int) -> None:
        """Tells how far it is, unless it told so just now."""
        now = self._clock()
        if self._first is None:  # the time up to here holds compilation, and says little of the time to come
            self._first = done, now
        if done < self._total and now - self._told < self._pause:
            return
        self._told = now
        left = ""
        if self._first[0] < done < self._total:
            rate = (now - self._first[1]) / (done - self._first[0])
            left = f", about {duration(rate * (self._total - done))} left"
        self.write(f"{self._what}: {done}/{self._total}, {duration(now - self._began)}{left}")


def duration(seconds: float) -> str:
    """Seconds in the largest unit that keeps two digits."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 9.5 else f"{seconds:.1f} s"


def fitted(table: Table, width: int, expendable: Sequence[str]) -> Table:
    """The table without the first few of the `expendable` columns, until it is at most `width` characters wide."""
    from hcdc_jax.report.tables import Table

    for gone in range(len(expendable) + 1):
        kept = [place for place, header in enumerate(table.headers) if header not in expendable[:gone]]
        narrow = Table([table.headers[i] for i in kept], [[row[i] for i in kept] for row in table.rows])
        if _width(narrow) <= width:
            break
    return narrow


def _width(table: Table) -> int:
    """Characters of a printed line when headers are broken between words and cells are not."""
    from hcdc_jax.report.tables import header_lines

    headers = [max(map(len, lines), default=0) for lines in header_lines(table)]
    cells = [[len(cell.marked()) for cell in row] for row in table.rows]
    return sum(map(max, zip(headers, *cells, strict=True))) + 3 * len(headers) + 1


def _next_bar(bars: Bars, what: str, total: int, done: int) -> None:
    bars.add_task(escape(what), total=total, completed=done)


def _output() -> Console:
    return Console(highlight=False, width=None if sys.stdout.isatty() else LOG_WIDTH)


def _errors() -> Console:
    return Console(stderr=True, highlight=False)
