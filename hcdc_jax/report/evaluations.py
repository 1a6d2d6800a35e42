"""New networks trained on condensed images, as a table and plain sentences, from the content of `evaluation.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from hcdc_jax import metrics
from hcdc_jax.errors import UserError
from hcdc_jax.report.tables import MISSING, Cell, Table, count, seconds

FILE = "evaluation.json"
WHOLE = "whole"
"""The name of the real training part among those of condensed ones."""
WHOLE_ROW = "whole training part"
MADE_BY = ("s_train", "seed", "model", "sha256", "epochs", "learning_rate", "options")
"""What decides the numbers of an entry, besides the settings of its protocol."""
_NUMBERS = {"methods", "images", "test_accuracy", "seconds", "compile_seconds"}


def read(folder: Path) -> dict[str, Any]:
    """The content of `evaluation.json`, without protocols where there is no such file.

    Raises:
      UserError: it is damaged.
    """
    path = folder / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"protocols": {}}
        for stored in content["protocols"].values():
            if not all({*MADE_BY, *_NUMBERS} <= entry.keys() for entry in stored["entries"]):
                raise ValueError
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged; delete it and evaluate again") from error
    return content


class Pooled(NamedTuple):
    """Test accuracies of all networks of all seeds; NaN where every network diverged.

    Attributes:
      mean: in [0, 1], of those that did not diverge.
      std: their sample standard deviation.
      networks: how many were trained.
      failed: how many of them diverged.
    """

    mean: float
    std: float
    networks: int
    failed: int


Grid: TypeAlias = dict[str, dict[str, Pooled]]


def pooled(stored: Mapping[str, Any]) -> Grid:
    """Accuracies by row and network, best rows first, the whole training part last.

    Args:
      stored: one protocol of `evaluation.json`.
    """
    values: dict[str, dict[str, list[float]]] = {}
    for entry in stored["entries"]:
        found = [np.nan if x is None else x for x in entry["test_accuracy"]["values"]]
        values.setdefault(_row(entry), {}).setdefault(entry["model"], []).extend(found)
    grid = {row: {model: _pool(x) for model, x in of_row.items()} for row, of_row in values.items()}
    level = {row: float(np.nan_to_num([cell.mean for cell in cells.values()]).mean()) for row, cells in grid.items()}
    return {row: grid[row] for row in sorted(grid, key=lambda row: (row == WHOLE_ROW, -level[row]))}


def models_of(grid: Grid) -> list[str]:
    """The networks of a grid."""
    return list(dict.fromkeys(model for cells in grid.values() for model in cells))


def table(stored: Mapping[str, Any]) -> Table:
    """Test accuracies in %, a row for each S_train and a column for each network."""
    grid = pooled(stored)
    images = {_row(entry): entry["images"] for entry in stored["entries"]}
    columns = {model: _column([row.get(model) for row in grid.values()], list(grid)) for model in models_of(grid)}
    names = [Cell(row) for row in grid]
    sizes = [Cell(count(images[row])) for row in grid]
    return Table(["S_train", "Images", *columns], list(zip(names, sizes, *columns.values(), strict=True)))


def title(name: str) -> str:
    """Over the table."""
    return f"Test accuracy in % of new networks, protocol {name}"


def reading(stored: Mapping[str, Any]) -> list[str]:
    """How the numbers came about, and what is to be known before they are compared."""
    seeds = sorted({entry["seed"] for entry in stored["entries"]})
    each = stored["networks"]
    sentences = [
        f"Mean ± standard deviation over {each} network{'' if each == 1 else 's'} for each of {len(seeds)} "
        f"seed{'' if len(seeds) == 1 else 's'}, at the last step; {_protocol(stored['settings'])}."
    ]
    sentences += [
        f"{', '.join(others)} train{'s' if len(others) == 1 else ''} on the S_train of {row}."
        for row, others in _sharing(stored).items()
    ]
    sentences += [f"{model} is as in the run: {options}." for model, options in _options(stored)]
    sentences += _stored(stored)
    sentences += [f"Learning rate {rate:.3g} on {row}, learned with its images." for row, rate in _learned(stored)]
    sentences += [f"The whole training part was trained on for {count(epochs)} epochs." for epochs in _whole(stored)]
    for row, cells in pooled(stored).items():
        for model, cell in cells.items():
            if cell.failed:
                sentences.append(f"Left out because they diverged: {cell.failed} of {cell.networks} {model} on {row}.")
            if cell.networks < each * len(seeds) and row != WHOLE_ROW:
                sentences.append(f"Not all seeds yet: {model} on {row}.")
    sentences += [
        f"{model} normalises by batches of test images: what it says of one depends on the others."
        for model in dict.fromkeys(entry["model"] for entry in stored["entries"] if _by_batches(entry))
    ]
    spent, compiled = (sum(entry[name] for entry in stored["entries"]) for name in ("seconds", "compile_seconds"))
    # Logits are asked for once for all networks of an S_train.
    spent += sum({_place(entry): entry.get("label_seconds", 0.0) for entry in stored["entries"]}.values())
    return [*sentences, f"All of it took {seconds(spent)} s, and {seconds(compiled)} s of compilation."]


def _by_batches(entry: Mapping[str, Any]) -> bool:
    return "norm=batch" in entry["model"] or entry["options"].get("norm") == "batch"


def _place(entry: Mapping[str, Any]) -> tuple[str, int]:
    return entry["s_train"], entry["seed"]


def _row(entry: Mapping[str, Any]) -> str:
    """The name of a set: that of the method that makes it, if it was run, else the first one that trains on it."""
    if entry["s_train"] == WHOLE:
        return WHOLE_ROW
    return entry["s_train"] if entry["s_train"] in entry["methods"] else entry["methods"][0]


def _sharing(stored: Mapping[str, Any]) -> dict[str, list[str]]:
    methods = {_row(entry): entry["methods"] for entry in stored["entries"]}
    shared = {row: [name for name in names if name != row] for row, names in methods.items()}
    return {row: names for row, names in shared.items() if names}


def _options(stored: Mapping[str, Any]) -> list[tuple[str, str]]:
    given = {entry["model"]: entry["options"] for entry in stored["entries"] if entry["options"]}
    return [(model, ", ".join(f"{k} {v}" for k, v in options.items())) for model, options in given.items()]


def _learned(stored: Mapping[str, Any]) -> list[tuple[str, float]]:
    usual, entries = stored["settings"]["learning_rate"], stored["entries"]
    return sorted({(_row(e), e["learning_rate"]) for e in entries if e["learning_rate"] != usual})


def _stored(stored: Mapping[str, Any]) -> list[str]:
    """How many numbers a network is trained from, by row; files of older versions do not tell."""
    rows: dict[str, dict[str, int]] = {}
    for entry in stored["entries"]:
        if "stored_numbers" in entry:
            rows.setdefault(_row(entry), entry["stored_numbers"])
    told = [
        f"{row} {count(sum(parts.values()))} ({', '.join(f'{name} {count(n)}' for name, n in parts.items() if n)})"
        for row, parts in rows.items()
    ]
    return [f"Stored numbers that a network is trained from: {'; '.join(told)}."] if told else []


def _whole(stored: Mapping[str, Any]) -> list[int]:
    return sorted({entry["epochs"] for entry in stored["entries"] if entry["s_train"] == WHOLE})


def _protocol(settings: Mapping[str, Any]) -> str:
    # Files of older versions lack what is asked for by `get`.
    unmixed = " with labels unmixed" if settings.get("labels") == "own" else ""
    mixed = f", CutMix{unmixed} in {100 * settings['cutmix']:g} % of the steps" if settings["cutmix"] else ""
    chosen, drawn = settings["augmentation"], settings.get("rand_augment")
    ways = [f"augmented by {', '.join(chosen['operations'])}"] if chosen else []
    ways += [f"RandAugment ({drawn['num_ops']} operations at magnitude {drawn['magnitude']:g})"] if drawn else []
    changed = ", ".join(ways) or "without augmentation"
    cropped = f", crops of at least {100 * area:g} %" if (area := settings.get("crop_area", 1)) < 1 else ""
    averaged = f", parameters averaged with a decay of {decay:g}" if (decay := settings.get("average")) else ""
    asked = {"online": ", on logits asked for in every step", "stored": ", on logits stored for views that all share"}
    taught = asked[settings.get("logits", "online")] if settings.get("label_weight") is not None else ""
    softened = f", softened by {heat:g}" if taught and (heat := settings.get("temperature")) else ""
    batches = f"in batches of at most {settings['batch_size']}"
    return f"{count(settings['epochs'])} epochs {batches}, {changed}{cropped}{mixed}{averaged}{taught}{softened}"


def _pool(values: list[float]) -> Pooled:
    x = np.asarray(values)
    valid = x[np.isfinite(x)]
    spread = metrics.summarise(valid)
    return Pooled(spread["mean"], spread["std"], x.size, x.size - valid.size)


def _column(cells: list[Pooled | None], rows: list[str]) -> list[Cell]:
    """Cells of one network; rounded before they are compared, so that what reads as a tie is a tie."""
    shown = [None if cell is None or not np.isfinite(cell.mean) else round(100 * cell.mean, 1) for cell in cells]
    condensed = [x for x, row in zip(shown, rows, strict=True) if x is not None and row != WHOLE_ROW]
    best = max(condensed) if len(condensed) > 1 else None
    return [
        Cell(_text(cell), x is not None and x == best and row != WHOLE_ROW)
        for cell, x, row in zip(cells, shown, rows, strict=True)
    ]


def _text(cell: Pooled | None) -> str:
    if cell is None or not np.isfinite(cell.mean):
        return MISSING
    deviation = f" ± {100 * cell.std:.1f}" if cell.networks - cell.failed > 1 else ""
    return f"{100 * cell.mean:.1f}{deviation}"
