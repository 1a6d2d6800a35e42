"""Checking values against the types of frozen dataclasses, with messages a user can act on."""

from __future__ import annotations

import dataclasses
import json
import math
import reprlib
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NoReturn, TypeAlias, TypeVar, Union

from hcdc_jax.errors import UserError, did_you_mean, nearest

Dataclass = TypeVar("Dataclass")
Sections: TypeAlias = Mapping[str, Mapping[str, Any]]
"""Sections whose fields are not known where they are read; who knows them checks them, by `merge` with a dataclass."""


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers that a field allows, as metadata of `Annotated`.

    Attributes:
      low: smallest number, itself allowed.
      above: every number above this one, itself not allowed.
      high: largest number, itself allowed.
    """

    low: float = -math.inf
    above: float = -math.inf
    high: float = math.inf

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high and value > self.above

    def __str__(self) -> str:
        limits = {"at least": self.low, "above": self.above, "at most": self.high}
        return " and ".join(f"{word} {limit}" for word, limit in limits.items() if math.isfinite(limit))


REPEATS = "repeats"
"""Metadata of `Annotated` tuples whose items may be equal."""

Count: TypeAlias = Annotated[int, Range(low=1)]
Counts: TypeAlias = Annotated[tuple[Count, ...], REPEATS]
NonNegativeInt: TypeAlias = Annotated[int, Range(low=0)]
Seed: TypeAlias = Annotated[int, Range(low=0, high=2**32 - 1)]
Positive: TypeAlias = Annotated[float, Range(above=0)]
NonNegative: TypeAlias = Annotated[float, Range(low=0)]
Share: TypeAlias = Annotated[float, Range(above=0, high=1)]
Probability: TypeAlias = Annotated[float, Range(low=0, high=1)]


def merge(config: Dataclass, values: Mapping[str, Any], *, where: str, section: str = "") -> Dataclass:
    """`config` with the fields that `values` names replaced; nested dataclasses are nested mappings.

    Args:
      config: an instance of a frozen dataclass.
      values: what TOML gives: mappings, lists, strings, numbers, booleans.
      where: the file, or "command line", for error messages.
      section: the dotted name of `config` with a closing dot, for error messages.

    Raises:
      UserError: an unknown key, a wrong type, a value that is not allowed; one line.
    """
    hints = typing.get_type_hints(type(config), include_extras=True)
    updates = {}
    for key, value in values.items():
        if key not in hints:
            _unknown_key(section + key, hints, where)
        if hints[key] == Sections:
            updates[key] = _merged_sections(getattr(config, key), value, section + key, where)
        elif not dataclasses.is_dataclass(hints[key]):
            updates[key] = _checked(hints[key], value, section + key, where)
        elif isinstance(value, Mapping):
            updates[key] = merge(getattr(config, key), value, where=where, section=f"{section}{key}.")
        else:
            raise UserError(f"{where}: '{section}{key}' is a section, not a value; name a field of it")
    return dataclasses.replace(config, **updates)  # pyright: ignore[reportArgumentType]


def _merged_sections(stored: Sections, values: Any, name: str, where: str) -> Sections:
    """Both, the latter first; None empties a value, which is then left out."""
    if not isinstance(values, Mapping):
        raise UserError(f"{where}: '{name}' holds sections, not a value; name a field of one, as in {name}.mine.steps")
    merged = {key: dict(section) for key, section in stored.items()}
    for key, section in values.items():
        if not isinstance(section, Mapping):
            raise UserError(f"{where}: '{name}.{key}' is a section, not a value; name a field of it")
        fields = {field: _plain(value, f"{name}.{key}.{field}", where) for field, value in section.items()}
        together = merged.get(key, {}) | fields
        merged[key] = {field: value for field, value in together.items() if value is not None}
    return merged


def _plain(value: Any, name: str, where: str) -> Any:
    """What TOML has for any type of a field: a line of text, a finite number, true or false, a list of them."""
    if isinstance(value, (list, tuple)):
        return tuple(_plain(item, name, where) for item in value)
    if value is None or any(_fits(base, value) for base in (bool, int, float, str)):
        return value
    raise UserError(
        f"{where}: '{name}' must be a line of text, a finite number, true or false, or a list of them, got "
        f"{reprlib.repr(value)}"
    )


def _plain_word(word: str) -> Any:
    """A word as TOML reads it, and text where it is none of its values."""
    if word == "None":
        return None
    try:
        value = tomllib.loads(f"word = {word}")["word"]
    except tomllib.TOMLDecodeError:
        return word
    return value if isinstance(value, (bool, int, float, str, list)) else word


def parse_words(cls: type, name: str, words: Sequence[str], *, where: str) -> Any:
    """The words after a command-line option as the value that TOML would have given.

    What does not parse stays a word, and an unknown name keeps its words: `merge` has the messages for both.

    Args:
      cls: the dataclass at the root.
      name: dotted name of the field.
      words: what the user typed.
      where: for error messages.

    Raises:
      UserError: not exactly one word where one value is due.
    """
    kind: Any = cls
    for key in name.split("."):
        if kind == Sections:
            return _plain_word(words[0]) if len(words) == 1 else [_plain_word(word) for word in words]
        kind = typing.get_type_hints(kind, include_extras=True).get(key) if dataclasses.is_dataclass(kind) else None
    if kind is None or dataclasses.is_dataclass(kind):
        return list(words)
    item = _item(kind)
    if item is not None:
        if len(words) == 1 and any(_fits(base, words[0]) for base in _words_of(kind)):
            return words[0]
        return None if _may_be_left_out(kind) and words == ["None"] else [_parse_word(item, word) for word in words]
    if len(words) != 1:
        raise UserError(f"{where}: '{name}' takes one value, got {len(words)}")
    return _parse_word(kind, words[0])


def _parse_word(kind: Any, word: str) -> Any:
    bases = [base for base, _ in _alternatives(kind)]
    if word == "None" and _may_be_left_out(kind):
        return None
    if bool in bases and word.lower() in ("true", "false"):
        return word.lower() == "true"
    for number in (int, float):
        if number in bases:
            try:
                return number(word)
            except ValueError:
                pass
    return word


def _checked(kind: Any, value: Any, name: str, where: str) -> Any:
    """`value` as `kind` stores it, or an error that says what `kind` allows."""
    item = _item(kind)
    if item is not None and not any(_fits(base, value) for base in _words_of(kind)):
        if value is None and _may_be_left_out(kind):
            return None
        return _checked_tuple(kind, value, name, where)
    for base, limits in _alternatives(kind):
        if not _fits(base, value):
            continue
        if limits is not None and value not in limits:
            raise UserError(f"{where}: '{name}' must be {limits}, got {value}")
        return float(value) if base is float else value
    bases = [base for base, _ in _alternatives(kind)]
    choices = [choice for base in bases if typing.get_origin(base) is Literal for choice in typing.get_args(base)]
    hint = did_you_mean(nearest(value, choices))
    raise UserError(f"{where}: '{name}' must be {_expected(kind)}, got {reprlib.repr(value)}{hint and f'; {hint}'}")


def in_words(kind: Any) -> str:
    """What a field allows: "an integer, at least 1 or None"."""
    item = _item(kind)
    if item is not None:
        return f"a list: {in_words(item)}{' or None' if _may_be_left_out(kind) else ''}"
    limits = [str(limits) for _, limits in _alternatives(kind) if limits is not None]
    return ", ".join([_expected(kind), *limits]) + (" or None" if _may_be_left_out(kind) else "")


def _expected(kind: Any) -> str:
    return " or ".join(_describe(base) for base, _ in _alternatives(kind) if base is not types.NoneType)


def _checked_tuple(kind: Any, value: Any, name: str, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        expected = " or ".join([_describe(base) for base in _words_of(kind)] + ["a list"])
        raise UserError(f"{where}: '{name}' must be {expected}, got {reprlib.repr(value)}")
    if not value:
        raise UserError(f"{where}: '{name}' needs at least one value")
    items = tuple(_checked(_item(kind), item, name, where) for item in value)
    for i, item in enumerate(items):
        if item in items[:i] and not _may_repeat(kind):
            raise UserError(f"{where}: '{name}' holds {item!r} twice")
    return items


def _item(kind: Any) -> Any:
    """What the items of a list are; None where no list is due."""
    return next((typing.get_args(base)[0] for base, _ in _alternatives(kind) if typing.get_origin(base) is tuple), None)


def _words_of(kind: Any) -> list[Any]:
    """The literals that may stand in place of a list."""
    return [base for base, _ in _alternatives(kind) if typing.get_origin(base) is Literal]


def _may_repeat(kind: Any) -> bool:
    return any(REPEATS in getattr(part, "__metadata__", ()) for part in (kind, *typing.get_args(kind)))


def _may_be_left_out(kind: Any) -> bool:
    return types.NoneType in (base for base, _ in _alternatives(kind))


def _alternatives(kind: Any) -> list[tuple[Any, Range | None]]:
    """The members of a union, each with its range; a type that is no union is its only member."""
    if typing.get_origin(kind) in (Union, types.UnionType):
        return [member for part in typing.get_args(kind) for member in _alternatives(part)]
    if typing.get_origin(kind) is Annotated:
        base, *metadata = typing.get_args(kind)
        return [(base, next((item for item in metadata if isinstance(item, Range)), None))]
    return [(kind, None)]


def _fits(base: Any, value: Any) -> bool:
    if typing.get_origin(base) is Literal:
        return isinstance(value, str) and value in typing.get_args(base)
    if base is float:  # TOML has nan and inf; no field has a use for them
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if base is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if base is str:
        return isinstance(value, str) and value.isprintable()
    return isinstance(value, base)


def _describe(base: Any) -> str:
    if typing.get_origin(base) is Literal:
        choices = [repr(choice) for choice in typing.get_args(base)]
        return choices[0] if len(choices) == 1 else "one of " + ", ".join(choices)
    return {int: "an integer", float: "a finite number", bool: "true or false", str: "a line of text"}[base]


def _unknown_key(name: str, hints: Mapping[str, Any], where: str) -> NoReturn:
    *_, key = name.split(".")
    in_sections = [
        f"{section}.{key}"
        for section, kind in hints.items()
        if dataclasses.is_dataclass(kind) and key in {field.name for field in dataclasses.fields(kind)}
    ]
    hint = did_you_mean(in_sections or nearest(key, hints)) or f"known are {', '.join(hints)}"
    raise UserError(f"{where}: unknown key '{name}'; {hint}")


def with_defaults(cls: type, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that a file holds, as JSON has them; those younger than the file had their defaults when it was made."""
    fields = dataclasses.fields(cls)
    usual = {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}
    return {**json.loads(json.dumps(usual)), **stored}
