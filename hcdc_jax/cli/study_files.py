"""Studies in Python files: `mine.py`, or `mine.py:name`."""

from __future__ import annotations

import dataclasses
import runpy
import sys
from pathlib import Path
from typing import Any

from hcdc_jax.errors import UserCodeError, UserError, unknown
from hcdc_jax.storage.files import sha256
from hcdc_jax.study import Study, StudyFile

DEFAULT = "study"


def is_study_file(target: str | Path) -> bool:
    """Whether a target is written as that of a Python file."""
    return Path(_split(target)[0]).suffix == ".py"


def load_study(target: str | Path) -> Study:
    """The study of a Python file.

    The file is run as a module, with its folder on the path of imports; what stands under `if __name__ == "__main__":`
    is left out.

    Args:
      target: `mine.py`, whose `study` is taken, or `mine.py:name` for another; a `Study`, or a function without
        arguments that returns one.

    Raises:
      UserCodeError: the file raised.
      UserError: there is no such file, or no study of that name in it.
    """
    file, name = _split(target)
    path = Path(file).expanduser().absolute()
    if not path.is_file():
        raise UserError(f"{file}: no such file")
    found = _names_in(path)
    if name not in found:
        studies = [key for key, value in found.items() if isinstance(value, Study)]
        raise (
            unknown(f"study in {file}", name, studies)
            if studies
            else UserError(
                f"{file} has no {name!r}: make one there, {name} = hcdc_jax.Study(problem, space, train=(X, y))"
            )
        )
    study = found[name]
    if callable(study) and not isinstance(study, Study):
        study = _of_user(path, study)
    if not isinstance(study, Study):
        raise UserError(
            f"{name!r} of {file} is a {type(study).__name__}, no hcdc_jax.Study, nor a function that makes one"
        )
    return dataclasses.replace(study, file=StudyFile(f"{path}:{name}", sha256(path.read_bytes())))


def _split(target: str | Path) -> tuple[str, str]:
    file, colon, name = str(target).rpartition(":")
    if colon and file.endswith(".py") and name.isidentifier():
        return file, name
    return str(target), DEFAULT


def _names_in(path: Path) -> dict[str, Any]:
    sys.path.insert(0, str(path.parent))
    try:
        return _of_user(path, lambda: runpy.run_path(str(path), run_name=path.stem))
    finally:
        sys.path.remove(str(path.parent))


def _of_user(path: Path, call: Any) -> Any:
    try:
        return call()
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename != str(path):
            trace = trace.tb_next  # how it came to be run says nothing to its author
        said = " ".join(str(error).split())
        raise UserCodeError(f"{path.name} raised {type(error).__name__}: {said}") from error.with_traceback(trace)
