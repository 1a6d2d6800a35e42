"""TOML: files as dictionaries, and values as text."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from hcdc_jax.errors import UserError


def read(path: str | Path) -> dict[str, Any]:
    """What a file holds.

    Raises:
      UserError: no such file, or no TOML; one line.
    """
    path = Path(path)
    try:
        return tomllib.loads(path.read_bytes().decode())
    except IsADirectoryError as error:
        raise UserError(f"{path} is a folder; give the .toml file") from error
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start})") from error
    except (ValueError, RecursionError) as error:  # besides its own errors: numbers and lists beyond all measure
        raise UserError(f"{path} is not valid TOML: {error}") from error


def text_of(value: Any) -> str:
    """A value as TOML writes it; tuples are lists there."""
    if isinstance(value, tuple):
        return "[" + ", ".join(text_of(item) for item in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)  # printable text, which is the same in TOML
    return repr(value)
