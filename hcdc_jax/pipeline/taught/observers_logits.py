"""Logits of observers for all views of an S_train, kept in the run folder: asked for once, learned from by many."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from hcdc_jax.condense.epoch_training import checksum
from hcdc_jax.errors import UserError
from hcdc_jax.evaluation import StoredLogits, Teacher, stored_logits
from hcdc_jax.evaluation.protocols import VIEWS, Protocol, settings_of
from hcdc_jax.pipeline.keeping import kept
from hcdc_jax.pipeline.setup import VIEW_KEYS, key_for
from hcdc_jax.storage import files
from hcdc_jax.types import Batch


class Labels(NamedTuple):
    """What is kept of one S_train.

    Attributes:
      stored: the logits, and the key of the views that they are of.
      seconds: that it took to ask for them, without compilation; whenever that was.
    """

    stored: StoredLogits
    seconds: float


def labels_path(folder: Path, protocol: str, s_train: str, seed: int) -> Path:
    """Where the logits for one S_train under one protocol, in words, lie in a run folder."""
    return folder / "labels" / f"{files.as_name(protocol)}_{s_train}_seed{seed}.npz"


def make_labels(path: Path, seed: int, protocol: Protocol, train: Batch, teacher: Teacher) -> Labels:
    """Asks for the logits of an S_train, or reads them.

    Args:
      path: of the file, written whole or not at all.
      seed: of S_train; the views have a key of their own for each.
      protocol: what is done to images.
      train: S_train.
      teacher: who is asked.

    Raises:
      UserError: the file holds those of other observers, images or views, or is damaged; or the disk is full.
    """
    made_by = {
        "observers": checksum(teacher.params),
        "images": checksum(train),
        "protocol": {name: value for name, value in settings_of(protocol).items() if name in VIEWS},
    }
    key = key_for(VIEW_KEYS, seed)

    def asked() -> dict[str, Any]:
        said = stored_logits(key, protocol, train, teacher)
        return {"logits": said.logits, "made_by": np.array(json.dumps(made_by))}

    try:
        arrays, cost = kept(path, asked)
        theirs, logits = json.loads(str(arrays["made_by"])), arrays["logits"]
    except (KeyError, ValueError) as error:
        raise UserError(f"{path} is damaged; delete it and evaluate again") from error
    for name, value in made_by.items():
        if theirs.get(name) != value:
            raise UserError(
                f"{path} holds logits for other {_WORDS[name]} than are evaluated here; delete it to make them anew"
            )
    return Labels(StoredLogits(key, jnp.asarray(logits)), cost.seconds)


_WORDS = {"observers": "observers", "images": "images or labels of S_train", "protocol": "settings of the protocol"}
