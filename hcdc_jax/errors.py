"""The exceptions that are told in one line, and what all say of a name that nobody knows."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake the user can mend: its text is one line that says what is wrong, where, and how to mend it.

    The command line prints it without a traceback and leaves with exit code 2.
    """


class DivergedError(UserError):
    """Nothing can be learned or ranked by one method, since what it builds on diverged; the others of a run go on."""


class NothingLeftError(Exception):
    """A command did its work, and nothing is left of it that could be used; its text is one line that says why.

    The command line prints it without a traceback and leaves with exit code 1.
    """


class UserCodeError(UserError):
    """The user's own code raised; `__cause__` is what it raised, with its traceback."""


def check_name(what: str, name: object, known: Iterable[str], *, where: str = "") -> None:
    """Checks that `name` is among `known`.

    Raises:
      UserError: it is not; arguments and text are those of `unknown`.
    """
    known = list(known)
    if name not in known:
        raise unknown(what, name, known, where=where)


def unknown(what: str, name: object, known: Iterable[str], *, where: str = "", also: str = "") -> UserError:
    """The error of a name that nobody knows: with the nearest ones, or with all where none is near.

    Args:
      what: kind of thing that the name should name, such as "data set".
      name: what was given.
      known: the names that there are.
      where: words that say where the name stands, such as "in 'space.name'".
      also: what else could have been given, such as "or the path of a file".
    """
    known = list(known)
    hint = did_you_mean(nearest(name, known)) or f"known are {', '.join([*known, also] if also else known)}"
    return UserError(f"unknown {what} {name!r}{where and f' {where}'}; {hint}")


def nearest(name: object, known: Iterable[str], likeness: float = 0.6) -> list[str]:
    """Up to three of the known names that look like `name`, the nearest first; large letters are as good as small.

    Args:
      name: what was given.
      known: the names that there are.
      likeness: of those that count, from 0 to 1 (`difflib.SequenceMatcher.ratio`).
    """
    by_small = {one.lower(): one for one in known}
    return [by_small[one] for one in difflib.get_close_matches(str(name).lower(), by_small, cutoff=likeness)]


def did_you_mean(names: Iterable[str]) -> str:
    """The question after those names; empty where there are none."""
    choices = " or ".join(map(repr, names))
    return f"did you mean {choices}?" if choices else ""
