"""Image sets that tensorflow-datasets has prepared on this machine, read without TensorFlow."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hcdc_jax.data.images import Part
from hcdc_jax.errors import UserError

PREPARED_DIR_VARIABLE = "TFDS_DATA_DIR"


def read_prepared(name: str) -> Mapping[str, Part] | None:
    """The parts of a set in the folder of tensorflow-datasets; None where it is not there for random access.

    The folder is the one that TFDS_DATA_DIR names, else ~/tensorflow_datasets; the newest version counts. Random access
    is what `tfds build NAME --file_format=array_record` prepares for. Nothing is downloaded.

    Args:
      name: of the set among tensorflow-datasets, with features `image` and `label` and parts train and test.

    Raises:
      UserError: tensorflow-datasets is not installed, or a file of the set is damaged.
    """
    root = Path(os.environ.get(PREPARED_DIR_VARIABLE) or Path.home() / "tensorflow_datasets")
    versions = [path.parent for path in root.glob(f"{name}/*/dataset_info.json")]
    if not versions:
        return None
    newest = max(versions, key=lambda path: [int(number) for number in re.findall(r"\d+", path.name)])
    try:
        import tensorflow_datasets as tfds  # only here: it takes a second to import
    except ImportError as error:
        raise UserError(
            f"reading {newest} needs tensorflow-datasets; install it with: pip install tensorflow-datasets"
        ) from error
    try:
        sources: Any = tfds.builder_from_directory(newest).as_data_source()
        return {part: _part(sources[part]) for part in ("train", "test")}
    except NotImplementedError:  # TFRecord files, which only TensorFlow reads
        return None
    except (ImportError, ValueError, LookupError, OSError, RuntimeError) as error:
        reason = str(error).split("\n", maxsplit=1)[0]
        raise UserError(f"{newest} cannot be read ({reason}); prepare it anew or remove it") from error


def _part(source: Any) -> Part:
    examples = [source[i] for i in range(len(source))]
    images = np.stack([np.asarray(example["image"]) for example in examples])
    return Part(images, np.array([int(example["label"]) for example in examples], np.int32))
