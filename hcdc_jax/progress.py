"""What a run says while it works."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Progress(NamedTuple):
    """How stages report: to a terminal, a log, or nobody.

    Attributes:
      start: `start(what, total, done)` begins a piece of work of which `done` of `total` was done before.
      update: `update(done)` moves it on; reaching the total ends it.
      say: `say(text)` reports one line.
      between: `between()` is called where one piece of work is kept and the next not begun. What it raises ends the run
        there, which goes on later as after any interruption; nothing by default.
    """

    start: Callable[[str, int, int], None]
    update: Callable[[int], None]
    say: Callable[[str], None]
    between: Callable[[], None] = lambda: None

    def track(self, items: Sequence[T], what: str, done: int = 0) -> Iterator[T]:
        """Yields the items that are left to do, after `done` others, and reports how many are done.

        Each item is a piece of work that is kept when the next one is asked for.
        """
        if not items:
            return
        self.start(what, done + len(items), done)
        for place, item in enumerate(items, done + 1):
            yield item
            self.update(place)
            self.between()


def saying_once(progress: Progress) -> Progress:
    """The same, without lines that it has said before: methods that share something meet its faults one by one."""
    said = set()

    def say(text: str) -> None:
        if text not in said:
            said.add(text)
            progress.say(text)

    return progress._replace(say=say)


def silent() -> Progress:
    """Reports nothing."""
    return Progress(lambda what, total, done: None, lambda done: None, lambda text: None)
