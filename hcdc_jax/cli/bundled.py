"""The configurations that come with the library, and what can be told of a target without importing the rest of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hcdc_jax.config import Config, apply_overrides
from hcdc_jax.errors import UserError, did_you_mean, nearest


def configuration(target: str) -> Path:
    """The .toml file that a target names: itself, or one that comes with the library.

    Raises:
      UserError: there is none, with the nearest names.
    """
    path = Path(target)
    if path.is_file():
        return path
    known = bundled()
    if target in known:
        return known[target]
    hint = did_you_mean(nearest(path.stem, known))
    raise UserError(
        f"{target}: no such file, run folder or configuration; {hint or 'hcdc configs lists those there are'}"
    )


def bundled() -> dict[str, Path]:
    """The configurations that come with the library, by name."""
    package = Path(__file__).parents[1]
    folder = next(found for found in (package / "_configs", package.parent / "configs") if found.is_dir())
    return {str(path.relative_to(folder).with_suffix("")): path for path in sorted(folder.rglob("*.toml"))}


def check_early(target: str, overrides: Sequence[str]) -> None:
    """Refuses what is wrong whatever the target holds, before the seconds that importing JAX takes.

    Args:
      target: what a command is to work on, as `resolver.resolve` takes it.
      overrides: settings from the command line.

    Raises:
      UserError: there is no such target, no such setting, or a value is not allowed.
    """
    is_python = ".py" in Path(target).suffix  # told by who reads it, who knows about mine.py:name
    if not is_python and not Path(target).exists():
        configuration(target)
    apply_overrides(Config(), overrides)
