"""Every setting in words, as `hcdc options` prints them: names, types and defaults, and the comments of the source."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import textwrap
import tokenize
import typing
from collections.abc import Mapping

from hcdc_jax.config import toml
from hcdc_jax.config.sections import Config
from hcdc_jax.config.values import Sections, in_words

_USAGE = "usage: hcdc run CONFIG.toml [--section.setting VALUE ...]"


def help_text(plugins: Mapping[str, type] | None = None) -> str:
    """Every option with its type and default, and below it what it means.

    Args:
      plugins: the dataclass of the settings of each plugin's method that has some.
    """
    hints = typing.get_type_hints(Config)
    sections: dict[str, type] = {
        name: kind for name, kind in hints.items() if isinstance(kind, type) and dataclasses.is_dataclass(kind)
    }
    sections |= {f"plugins.{name}": cls for name, cls in (plugins or {}).items()}
    lines = [_USAGE, "", *_options("", Config)]
    for name, cls in sections.items():
        lines += ["", f"[{name}] {(cls.__doc__ or '').partition(chr(10))[0]}", *_options(f"{name}.", cls)]
    return "\n".join(lines) + "\n"


def _options(prefix: str, cls: type) -> list[str]:
    """Two lines for each field that is no section."""
    kinds, meanings, lines = typing.get_type_hints(cls, include_extras=True), _comments(cls), []
    for field in dataclasses.fields(cls):
        kind = kinds[field.name]
        if kind != Sections and not dataclasses.is_dataclass(kind):
            default = "None" if field.default is None else toml.text_of(field.default)
            lines += [
                f"  --{prefix}{field.name}  {in_words(kind)} ({default})",
                f"      {meanings.get(field.name, '')}",
            ]
    return lines


def _comments(cls: type) -> dict[str, str]:
    """What the source says of each field: behind it, or above it where nothing stands behind."""
    try:
        source = textwrap.dedent(inspect.getsource(cls))
    except (OSError, TypeError):  # a class of a session has no file
        return {}
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    told, before = {}, 0
    for node in typing.cast(ast.ClassDef, ast.parse(source).body[0]).body:
        end = node.end_lineno or node.lineno
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            behind, above = range(node.lineno, end + 1), range(before + 1, node.lineno)
            lines = [line for line in behind if line in comments] or [line for line in above if line in comments]
            told[node.target.id] = " ".join(comments[line] for line in lines)
        before = end
    return told
