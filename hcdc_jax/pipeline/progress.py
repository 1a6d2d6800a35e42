"""What a run says while it works."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Progress(NamedTuple):
    """How stages report: to a terminal, a log, or nobody.

    Attributes:
      start: `start(what, total)` begins a bar.
      update: `update(done)` moves it to `done` of `total`; reaching the total ends it.
      say: `say(text)` reports one line.
    """

    start: Callable[[str, int], None]
    update: Callable[[int], None]
    say: Callable[[str], None]

    def track(self, items: Iterable[T], what: str) -> Iterator[T]:
        """Yields the items and reports how many are done."""
        items = list(items)
        self.start(what, len(items))
        for done, item in enumerate(items, 1):
            yield item
            self.update(done)


def silent() -> Progress:
    """Reports nothing."""
    return Progress(lambda what, total: None, lambda done: None, lambda text: None)
