"""Condensed data on disk: what `hcdc condense` leaves behind and everything after it reads.

A run folder holds `condensed/<method>_seed<k>.npz` for every artefact, one `card.json` that describes them all, and
`condensed.npz`, a copy of the primary one (that of `hcdc`, else of the first method): it and the card are all one needs
to pass on. The .npz files hold plain arrays, named by their place: `train/labels`, `val/inputs/nodes`,
`variables/train/features`, ...
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import io
import json
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hcdc_jax.batches.images import Preprocessing, pixels_of, to_preprocessing
from hcdc_jax.data.npz import read_arrays
from hcdc_jax.data.table_preparation import Preparation, from_arrays
from hcdc_jax.errors import UserError
from hcdc_jax.storage.codec import to_arrays, to_batch, to_tree
from hcdc_jax.storage.files import sha256, write_bytes, write_json, write_npz
from hcdc_jax.types import Batch, Variables
from hcdc_jax.version import __version__

PRIMARY_METHOD = "hcdc"
_CARD_FILE, _PRIMARY_FILE = "card.json", "condensed.npz"
_PREPARATION = "preparation/"
_DIVERGED = "diverged"
_REQUIRED = {"method", "seed", "config_hash", "sha256"}
_METHOD_NAME = re.compile(r"[\w.]+")
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "jraph", "numpy", "scipy")


@dataclasses.dataclass(frozen=True)
class Condensed:
    """A condensed data set.

    Attributes:
      train: S_train, decoded.
      val: S_val, decoded.
      card: what made it: method, seed, config_hash, preprocessing, ledger (stored scalars per tensor), stored_scalars,
        source (name and checksum of the full data), versions, sha256; of mtt also learned_learning_rate, the step size
        of gradient descent that belongs to S_train.
      variables: what the containers store, as nested dictionaries of arrays.
      preprocessing: of images: `preprocessing.apply(images)` makes of new images, with pixels from 0 to 1, what a
        network trained on S_train reads, and `preprocessing.invert(train.inputs)` makes condensed ones visible. None
        where nothing was done to the inputs, and for graphs.
      preparation: of a table, what its rows have gone through; see `prepare`.
    """

    train: Batch
    val: Batch
    card: Mapping[str, Any]
    variables: Variables
    preprocessing: Preprocessing | None = None
    preparation: Preparation | None = None

    @property
    def diverged(self) -> str | None:
        """Why this is no data set, in words, and what to change; None where all of its numbers are finite."""
        numbers = to_arrays({"train": self.train, "val": self.val, "variables": self.variables})
        if all(np.isfinite(array).all() for array in numbers.values()):
            return None
        name = f"{self.card['method']}, seed {self.card['seed']}"
        return self.card.get(_DIVERGED, f"{name}, has diverged; lower the rate of its method and run in a new folder")

    def prepare(self, table: Any) -> np.ndarray:
        """New rows of a table, a data frame or columns by name, as a network trained on S_train reads them: [n, d].

        Raises:
          UserError: the data is no table, or a column is missing.
        """
        if self.preparation is None:
            raise UserError(f"{self.card['source']['name']} is no table, so that there are no columns to prepare")
        return self.preparation.apply(table)

    def __repr__(self) -> str:
        sizes = [len(np.asarray(batch.labels)) for batch in (self.train, self.val)]
        made_of = f"{sizes[0]} + {sizes[1]} examples of {self.card.get('source', {}).get('name')}"
        return f"Condensed({self.card['method']}, seed {self.card['seed']}: {made_of})"

    def as_sklearn(self) -> tuple[np.ndarray, np.ndarray, Any]:
        """`(X, y, split)` for scikit-learn's searches: `GridSearchCV(model, grid, cv=split).fit(X, y)`.

        X [n, features] are flattened inputs (of a graph: the features of its nodes), y [n] class numbers; `split` is a
        `PredefinedSplit` that trains on S_train and scores on S_val. Examples of weight 0 are left out.
        """
        from sklearn.model_selection import PredefinedSplit

        (train_x, train_y), (val_x, val_y) = examples(self.train), examples(self.val)
        inputs, labels = np.concatenate([train_x, val_x]), np.concatenate([train_y, val_y])
        fold = np.repeat([-1, 0], [len(train_y), len(val_y)])  # -1: never in a test fold
        classes = labels if labels.ndim == 1 else labels.argmax(axis=1)
        return inputs.reshape(len(inputs), -1), classes, PredefinedSplit(fold)

    def as_torch(self) -> tuple[Any, Any]:
        """S_train and S_val as two `torch.utils.data.TensorDataset` of (inputs, labels).

        Inputs keep their shape; of a graph they are the features of its nodes. Labels are int64 class numbers, or class
        probabilities where the data has those. Examples of weight 0 are left out.

        Raises:
          UserError: PyTorch is not installed.
        """
        try:
            import torch  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise UserError("PyTorch is not installed; install it with: pip install 'hcdc-jax[torch]'") from error

        def dataset(batch: Batch) -> Any:
            inputs, labels = examples(batch)
            labels = labels.astype(np.int64) if labels.ndim == 1 else labels
            return torch.utils.data.TensorDataset(torch.from_numpy(inputs), torch.from_numpy(labels))

        return dataset(self.train), dataset(self.val)

    def save_images(self, folder: str | Path) -> None:
        """Writes each condensed image as `train_003_class2.png` and the like into `folder`.

        Preprocessing is undone; what is then beyond black or white is cut off.

        Raises:
          UserError: the data is a graph, images have neither one nor three channels, or the folder cannot be written.
        """
        from PIL import Image

        if hasattr(self.train.inputs, "nodes"):
            raise UserError(f"{self.card['method']} seed {self.card['seed']} is a condensed graph; it has no images")
        channels = self.train.inputs.shape[-1]
        if channels not in (1, 3):
            raise UserError(f"a PNG has one channel or three, these images have {channels}; export them as npz")
        Path(folder).mkdir(parents=True, exist_ok=True)
        for part, batch in (("train", self.train), ("val", self.val)):
            pixels = np.rint(255 * np.clip(pixels_of(batch.inputs, self.preprocessing), 0, 1)).astype(np.uint8)
            labels = np.asarray(batch.labels)
            for i, label in enumerate(labels if labels.ndim == 1 else labels.argmax(1)):
                buffer = io.BytesIO()
                Image.fromarray(pixels[i, ..., 0] if channels == 1 else pixels[i]).save(buffer, "png")
                write_bytes(Path(folder) / f"{part}_{i:03d}_class{label}.png", buffer.getvalue())


def save_condensed(
    folder: str | Path,
    *,
    method: str,
    seed: int,
    train: Batch,
    val: Batch,
    variables: Variables,
    config_hash: str,
    source: Mapping[str, str],
    preprocessing: str,
    statistics: Preprocessing | None = None,
    preparation: Preparation | None = None,
    facts: Mapping[str, float] | None = None,
    diverged: str | None = None,
) -> dict[str, Any]:
    """Saves one artefact into a run folder and enters it into the folder's card.

    Args:
      folder: the run folder.
      method: what made it.
      seed: of that method.
      train: S_train, decoded.
      val: S_val, decoded.
      variables: what the containers store: nested dictionaries or NamedTuples of arrays.
      config_hash: of the run's configuration.
      source: `name` and `checksum` of the full data.
      preprocessing: what was done to the full data, in words.
      statistics: the same for images, in numbers; stored in float32.
      preparation: the same for tables.
      facts: what else the method learned, entered into the card by name.
      diverged: why its numbers are not finite, in words, and what to change.

    Returns:
      The entry in the card.

    Raises:
      UserError: the folder belongs to another configuration, or cannot be written.
    """
    folder = Path(folder)
    if not _METHOD_NAME.fullmatch(method):
        raise ValueError(f"method must be a word of letters, digits, '_' and '.', got {method!r}")
    card = _card_to_extend(folder, config_hash)
    arrays = to_arrays({"train": train, "val": val, "variables": variables})
    arrays |= {name: array.astype(np.float32) for name, array in to_arrays({"preprocessing": statistics}).items()}
    if preparation is not None:
        arrays |= {f"{_PREPARATION}{name}": array for name, array in preparation.to_arrays().items()}
    name = f"{method}_seed{seed}"
    path = _path(folder, name)
    write_npz(path, arrays)
    ledger = {array: int(value.size) for array, value in arrays.items() if array.startswith("variables/")}
    entry = {
        "method": method,
        "seed": seed,
        "config_hash": config_hash,
        "preprocessing": preprocessing,
        "source": dict(source),
        "ledger": ledger,
        "stored_scalars": sum(ledger.values()),
        "versions": versions(),
        "sha256": sha256(path),
        **(facts or {}),
        **({} if diverged is None else {_DIVERGED: diverged}),
    }
    card["artefacts"][name] = entry
    card["primary"] = _primary(card["artefacts"])
    if card["primary"] == name:
        write_bytes(folder / _PRIMARY_FILE, path.read_bytes())
    write_json(folder / _CARD_FILE, card)
    return entry


def load_condensed(
    folder: str | Path, method: str | None = None, seed: int | None = None, *, config_hash: str | None = None
) -> Condensed:
    """Loads an artefact from a run folder: by default the primary one.

    Args:
      folder: the run folder; for the primary artefact, `condensed.npz` and `card.json` in it are enough.
      method: whose artefact; by default the primary one's method.
      seed: of that method; by default the first that was saved.
      config_hash: if given, the artefact must have been made with this configuration.

    Raises:
      UserError: there is no such artefact, it was made with another configuration, its condensation diverged, or its
        file is missing, damaged or not the one that the card describes.
    """
    condensed = read_condensed(folder, method, seed, config_hash=config_hash)
    if condensed.diverged is not None:
        raise UserError(f"{folder}: {condensed.diverged}")
    return condensed


def read_condensed(
    folder: str | Path, method: str | None = None, seed: int | None = None, *, config_hash: str | None = None
) -> Condensed:
    """`load_condensed`, also of what diverged: for who masks what is not finite, or says so."""
    folder = Path(folder)
    card = read_card(folder)
    name = _find(card, method, seed, folder)
    entry = card["artefacts"][name]
    if config_hash not in (None, entry["config_hash"]):
        raise UserError(
            f"{folder}: {name} was made with configuration {entry['config_hash']}, not {config_hash}; condense anew or "
            "choose another folder"
        )
    path = folder / _PRIMARY_FILE if method is None and seed is None else _path(folder, name)
    if not path.is_file():
        raise UserError(f"{path} is missing, although {folder / _CARD_FILE} lists it; condense anew")
    if sha256(path) != entry["sha256"]:
        raise UserError(f"{path} is not the file that {_CARD_FILE} describes (SHA-256 differs); condense anew")
    arrays = read_arrays(path)
    try:
        prepared = {
            name.removeprefix(_PREPARATION): arrays.pop(name) for name in list(arrays) if name.startswith(_PREPARATION)
        }
        tree = to_tree(arrays)
        statistics = to_preprocessing(tree["preprocessing"]) if "preprocessing" in tree else None
        preparation = from_arrays(prepared) if prepared else None
        batches = to_batch(tree["train"]), to_batch(tree["val"])
        return Condensed(*batches, entry, tree.get("variables"), statistics, preparation)
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} lacks the arrays of a condensed data set ({error}); condense anew") from error


def read_card(folder: str | Path) -> dict[str, Any]:
    """The card of a run folder: `config_hash`, `primary` (a name) and `artefacts` (entries by name).

    Raises:
      UserError: there is no card, or it is damaged.
    """
    folder = Path(folder)
    path = folder / _CARD_FILE
    if not folder.is_dir():
        raise UserError(f"{folder}: no such run folder")
    try:
        if path.exists() and not path.is_file():  # a device or a pipe might never end
            raise ValueError
        card = json.loads(path.read_text(encoding="utf-8"))
        entries = card["artefacts"]
        # Names become those of files: of others the card of a stranger could make paths out of the folder.
        complete = all(
            entry.keys() >= _REQUIRED
            and _METHOD_NAME.fullmatch(entry["method"])
            and name == f"{entry['method']}_seed{entry['seed']}"
            for name, entry in entries.items()
        )
        if not entries or not complete or card["primary"] not in entries or "config_hash" not in card:
            raise ValueError
    except FileNotFoundError as error:
        raise UserError(f"{folder} holds no condensed data ({_CARD_FILE} is missing); condense first") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is damaged; condense anew") from error
    return card


def versions() -> dict[str, str]:
    """Versions of Python, this library and what its numbers depend on."""
    found = {"python": platform.python_version(), "hcdc_jax": __version__}
    return found | {package: importlib.metadata.version(package) for package in _PACKAGES}


def _path(folder: Path, name: str) -> Path:
    return folder / "condensed" / f"{name}.npz"


def _primary(entries: Mapping[str, Mapping[str, Any]]) -> str:
    return next((name for name, entry in entries.items() if entry["method"] == PRIMARY_METHOD), next(iter(entries)))


def _card_to_extend(folder: Path, config_hash: str) -> dict[str, Any]:
    if not (folder / _CARD_FILE).exists():
        return {"config_hash": config_hash, "primary": "", "artefacts": {}}
    card = read_card(folder)
    if card["config_hash"] != config_hash:
        raise UserError(
            f"{folder} belongs to a run with configuration {card['config_hash']}, not {config_hash}; choose another "
            "folder or remove it"
        )
    return card


def _find(card: Mapping[str, Any], method: str | None, seed: int | None, folder: Path) -> str:
    entries = card["artefacts"]
    if method is None:
        method = entries[card["primary"]]["method"]
        if seed is None:
            return card["primary"]
    for name, entry in entries.items():
        if entry["method"] == method and seed in (None, entry["seed"]):
            return name
    wanted = f"method {method!r}" + ("" if seed is None else f" with seed {seed}")
    raise UserError(f"{folder} holds no artefact of {wanted}; it holds {', '.join(entries)}")


def examples(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and labels of the examples that count, on the host."""
    inputs = batch.inputs
    if hasattr(inputs, "nodes"):
        # Nodes of real graphs carry the filter terms P_k X as [n, K + 1, d], and P_0 X is X.
        inputs = inputs.nodes if inputs.nodes.ndim == 2 else inputs.nodes[:, 0]
    counts = np.asarray(batch.weights) > 0
    return np.asarray(inputs)[: len(counts)][counts], np.asarray(batch.labels)[counts]
