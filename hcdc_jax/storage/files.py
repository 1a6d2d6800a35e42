"""Writing to disk so that a reader never sees half a file.

Every writer puts its bytes into a temporary file in the same folder, syncs it, and renames it over the target: after a
kill or a full disk the old file is still whole. A full disk leaves no temporary file; what a kill leaves is swept up by
the next process that owns the folder.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from hcdc_jax.errors import UserError

_LONGEST = 120  # of 255 bytes: names have endings, and temporary files longer ones
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def as_name(text: str) -> str:
    """The text as the name of a file on any system: runs of what is no letter a to z, digit, dot, - or _ become one _.

    Of a long text the end is told by its hash. Empty where nothing of the text is left.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._-")
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 9]}_{sha256(text.encode())[:8]}"


def write_bytes(path: str | Path, content: bytes) -> None:
    """Writes `content` to `path`, whole or not at all.

    Raises:
      UserError: the file cannot be written; names it and what to mend.
    """
    _write_atomically(Path(path), lambda file: file.write(content))


def write_text(path: str | Path, text: str) -> None:
    """Writes `text` as UTF-8 to `path`, whole or not at all.

    Raises:
      UserError: the file cannot be written; names it and what to mend.
    """
    write_bytes(path, text.encode())


def write_json(path: str | Path, value: Any) -> None:
    """Writes `value` as indented JSON to `path`, whole or not at all.

    NumPy and JAX numbers and arrays become numbers and lists; NaN and infinities, which JSON lacks, become null.

    Raises:
      UserError: the file cannot be written; names it and what to mend.
    """
    write_text(path, json.dumps(_plain(value), indent=2, allow_nan=False) + "\n")


def csv_text(columns: Mapping[str, Sequence[Any] | np.ndarray]) -> str:
    """Columns of equal length as CSV: numbers to eight digits, words as they are, None and NaN left blank."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for row in zip(*columns.values(), strict=True):
        # NaN is the one value that differs from itself.
        writer.writerow(["" if x is None or x != x else x if isinstance(x, str) else format(x, ".8g") for x in row])
    return out.getvalue()


def write_npz(path: str | Path, arrays: Mapping[str, Any]) -> None:
    """Writes named arrays as a compressed .npz without pickles to `path`, whole or not at all.

    The same arrays give the same bytes, so a SHA-256 of the file stands for its content.

    Raises:
      TypeError: an array holds Python objects.
      UserError: the file cannot be written; names it and what to mend.
    """
    host: dict[str, Any] = {name: np.asarray(array) for name, array in arrays.items()}
    for name, array in host.items():
        if array.dtype.kind not in "biufcSU":
            raise TypeError(f"array {name!r} has dtype {array.dtype}, which an .npz cannot hold without pickling")
    _write_atomically(Path(path), lambda file: np.savez_compressed(file, **host))


def append_jsonl(path: str | Path, record: Mapping[str, Any]) -> None:
    """Appends `record` as one JSON line to `path`.

    A last line torn by a kill is cut off first, and a line that does not fit on the disk is taken back, so the file
    holds whole lines only.

    Raises:
      UserError: the file cannot be written; names it and what to mend.
    """
    path = Path(path)
    line = json.dumps(_plain(record), allow_nan=False).encode() + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab+", buffering=0) as file:
            end = _end_of_last_line(file)
            file.truncate(end)
            try:
                _write_all(file, line)
            except OSError:
                file.truncate(end)
                raise
    except OSError as error:
        raise _cannot_write(path, error) from error


def sha256(source: str | Path | bytes) -> str:
    """SHA-256 of a file (given by its path) or of bytes, as 64 hexadecimal digits."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    with open(source, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def temporary_of(path: Path) -> Path:
    """Where to build what is then renamed to `path`; no two calls share one, so that no two processes do."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def is_temporary(path: Path) -> bool:
    """Whether this is what `temporary_of` names: half of a file that a kill has left, if nobody is at work on it."""
    return re.fullmatch(r"\..*\.[0-9a-f]{8}\.tmp", path.name) is not None


def sweep(folder: Path) -> None:
    """Deletes what kills left half built anywhere in `folder`; only for the one process that writes there."""
    for left in list(folder.rglob(".*.*.tmp")):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _write_atomically(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    temporary = temporary_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise _cannot_write(path, error) from error


def _end_of_last_line(file: BinaryIO) -> int:
    """Position after the last newline, which is where the next line belongs; 0 for an empty file."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - 4096)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _write_all(file: BinaryIO, data: bytes) -> None:
    # An unbuffered write may take only a part of the data, with no error, when the disk is nearly full.
    while data:
        data = data[file.write(data) :]


def _cannot_write(path: Path, error: OSError) -> UserError:
    reason = error.strerror or str(error)
    if error.errno in _DISK_FULL:
        mend = f"free space on the disk that holds {path.parent} and run the command again"
    elif isinstance(error, (PermissionError, NotADirectoryError, FileExistsError, IsADirectoryError)):
        mend = "choose a folder that you can write to"
    else:
        mend = "check the disk and run the command again"
    return UserError(f"cannot write {path}: {reason}; {mend}")


def _plain(value: Any) -> Any:
    """`value` in JSON's own types: dict, list, str, int, float, bool, None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "__array__"):
        return _plain(np.asarray(value).tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
