"""Condensed data as a `datasets.DatasetDict` of Hugging Face."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hcdc_jax.condensed import Condensed, examples
from hcdc_jax.errors import UserError


def as_datasets(condensed: Condensed) -> Any:
    """`DatasetDict` with `train` and `validation`, each with columns `inputs` and `label`.

    Raises:
      UserError: `datasets` is not installed.
    """
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError("Hugging Face's datasets is not installed; install it with: pip install datasets") from error
    parts = {"train": condensed.train, "validation": condensed.val}
    columns = {name: dict(zip(("inputs", "label"), examples(batch), strict=True)) for name, batch in parts.items()}
    return datasets.DatasetDict({name: datasets.Dataset.from_dict(both) for name, both in columns.items()})


def write_datasets(condensed: Condensed, out: Path) -> None:
    """A folder for `datasets.load_from_disk`."""
    as_datasets(condensed).save_to_disk(str(out))
