"""Entries of one kind by name: those that come with the library, those of plugins, those registered in a session.

A registry is the one thing in the library that holds state, since what is installed and what a session adds is not
known beforehand. Names are only ever added, or taken back by who added them by hand; an entry never changes.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import re
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from hcdc_jax.errors import UserError, unknown

Entry = TypeVar("Entry")

LIBRARY, SESSION = "hcdc_jax", "hc.register"
"""By whom a name may be taken, besides plugins."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")


class _Listed(NamedTuple):
    entry: Any
    by: str


class Registry(Mapping[str, Entry], Generic[Entry]):
    """A mapping from names to entries of one kind.

    Entry points of plugins are loaded once: that of a name when it is asked for and the library does not have it, the
    rest when all names are. So a run imports what it names. A plugin that fails is a `UserWarning` of one line, and the
    others work.

    Changes replace the table and are made under a lock: who iterates in another thread sees the names of when it began.
    Modules of plugins must not look into registries while they are imported.

    Attributes:
      what: what an entry is called in messages, such as "image network".
      group: of the entry points, such as "hcdc_jax.models".
      kind: for `hc.register`, such as "model".
    """

    def __init__(
        self,
        what: str,
        entries: Mapping[str, Entry],
        *,
        group: str,
        wanted: str,
        accept: Callable[[Any], Entry | None],
        reserved: Iterable[str] = (),
    ) -> None:
        """A registry of the library's own entries.

        Args:
          what: what an entry is called, for messages.
          entries: that come with the library.
          group: of entry points, such as "hcdc_jax.spaces".
          wanted: what may be registered, in words, such as "a Method".
          accept: what is stored of an object that is registered; None where it is none of these.
          reserved: names that mean something else where names of entries stand.
        """
        self.what, self.group, self.kind = what, group, group.rpartition(".")[2].removesuffix("s")
        self._wanted, self._accept, self._reserved = wanted, accept, frozenset(reserved)
        self._table = {name: _Listed(entry, LIBRARY) for name, entry in entries.items()}
        self._failed: dict[str, str] = {}
        self._pending: Sequence[importlib.metadata.EntryPoint] | None = None  # not yet looked for
        self._lock = threading.RLock()

    def __getitem__(self, name: str) -> Entry:
        if name not in self._table:
            _tell(self._load(name))
        return self._table[name].entry

    def __iter__(self) -> Iterator[str]:
        _tell(self._load())
        return iter(self._table)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def look_up(self, name: str, *, where: str = "", also: Iterable[str] = ()) -> Entry:
        """The entry of that name.

        Args:
          name: what was asked for.
          where: words that say where the name stands, such as "in 'space.name'".
          also: other names that could stand there, for the message.

        Raises:
          UserError: there is none of that name, with the nearest; or its plugin failed, with the reason.
        """
        if name not in self._table:
            self._load(name)
        if name in self._table:
            return self._table[name].entry
        if name in self._failed:
            raise UserError(f"{self.what} {name!r}{where and f' {where}'}: {self._failed[name]}")
        raise unknown(self.what, name, [*self, *also], where=where)

    def register(self, name: str, entry: Any = None) -> Any:
        """Adds an entry for this process; without one a decorator of what is registered.

        Returns:
          What was given, so that a decorated name stays what it is.

        Raises:
          UserError: the name is taken, or cannot be one; or what is given is no such entry.
        """
        if entry is None:
            return lambda decorated: self.register(name, decorated)
        with self._lock:
            _tell(self._load(name))
            self._add(name, entry, SESSION)
        return entry

    def unregister(self, name: str) -> None:
        """Takes back what `register` added.

        Raises:
          UserError: there is no such name, or the library or a plugin brought it.
        """
        with self._lock:
            self.look_up(name)
            by = self._table[name].by
            if by != SESSION:
                raise UserError(f"the {self.what} {name!r} is of {by}; only what hc.register added can be taken back")
            self._table = {other: listed for other, listed in self._table.items() if other != name}

    def _add(self, name: str, entry: Any, by: str) -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name) or re.search(r"_seed\d+$", name):
            raise UserError(
                f"the {self.what} {name!r} cannot have this name: take small letters, digits and _, a letter first and "
                "no _seed<number> last"
            )
        if name in self._reserved or name in self._table:
            taken = LIBRARY if name in self._reserved else self._table[name].by
            hint = f", or first hc.unregister({self.kind!r}, {name!r})" if taken == SESSION else ""
            raise UserError(f"the {self.what} {name!r} is taken by {taken}: choose another name{hint}")
        accepted = self._accept(entry)
        if accepted is None:
            got = entry.__name__ if isinstance(entry, type) else type(entry).__name__
            raise UserError(f"the {self.what} {name!r} must be {self._wanted}, got {got}")
        self._table = {**self._table, name: _Listed(accepted, by)}

    def _load(self, name: str | None = None) -> list[str]:
        """Loads the entry points of that name, or all that are left; returns what went wrong, a line each."""
        failed = {}
        with self._lock:
            if self._pending is None:
                points = importlib.metadata.entry_points(group=self.group)
                self._pending = sorted(points, key=lambda point: (point.name, point.value))
            due = [point for point in self._pending if name in (None, point.name)]
            # First of all: while it is imported a plugin may ask for names, or register more.
            self._pending = [point for point in self._pending if point not in due]
            for point in due:
                by = "a plugin" if point.dist is None else f"{point.dist.name} {point.dist.version}"
                try:
                    self._add(point.name, point.load(), by)
                except UserError as error:
                    failed[point.name] = f"left out of {by}: {error}"
                except Exception as error:  # whatever a plugin does wrong, the rest of the library works
                    reason = " ".join(str(error).split())
                    failed[point.name] = f"left out of {by}, {point.value}: {type(error).__name__}: {reason}"
            self._failed = self._failed | failed
        return [f"{self.what} {name!r}: {reason}" for name, reason in failed.items()]


def _tell(failures: list[str]) -> None:
    for failure in failures:
        warnings.warn(failure, UserWarning, stacklevel=3)


def function(entry: Any) -> Any | None:
    """For `Registry.accept`: the entry itself, where it can be called."""
    return entry if callable(entry) else None


def first_line(entry: Any) -> str:
    """What an entry says of itself: the first line of its docstring, without its full stop; empty without one."""
    return (inspect.getdoc(entry) or "").partition("\n")[0].rstrip(".")
