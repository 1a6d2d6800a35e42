"""Our Gaussian process beside well-kept ones, a forest and a linear model, told the same few values.

    python -m benchmarks.surrogates [RUN_FOLDER ...] [--draws N] [--even] [--only WORD] [--out DIR]

Prints a table of mean Spearman correlations with the truth, a row for each kind of function and number of points, and
writes `benchmarks/results/surrogates.json`. Draws have odd seeds; even ones are for those who develop the model.
A model that predicts the same everywhere ranks nothing and gets 0. The published accuracies of NAS-Bench-201 are a
task where `HCDC_DATA_DIR` has them.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.records import RESULTS, kept
from benchmarks.surrogate_peers import Peer, installed
from benchmarks.surrogate_tasks import Draw, Task, drawn_tasks, mirrored, published_tasks, run_tasks
from hcdc_jax import metrics
from hcdc_jax.errors import UserError
from hcdc_jax.search import surrogate

OURS, WITH_GRADIENTS, WITHOUT_SYMMETRY = "ours", "ours, hypergradients", "ours, no symmetry"
TOLERANCE = 0.02
"""How far below the best peer ours may be on average."""


class Row(NamedTuple):
    """Spearman correlations [draws] on one task, by model."""

    task: Task
    found: dict[str, list[float]]

    def best_of(self, peers: Iterable[str]) -> str:
        return max(peers, key=lambda name: np.mean(self.found[name]))


def ours(draw: Draw) -> dict[str, np.ndarray]:
    """Predictions [q] of our model: of values alone, and what slopes and symmetries are worth where there are any."""
    told = {OURS: (draw.space, None)}
    if draw.gradients is not None:
        told[WITH_GRADIENTS] = draw.space, draw.gradients
    if draw.space.orbit is not None:
        told[WITHOUT_SYMMETRY] = draw.space._replace(orbit=None), None
    return {
        name: surrogate.predict(surrogate.fit(space, draw.points, draw.values, gradients), draw.queries)[0]
        for name, (space, gradients) in told.items()
    }


def theirs(draw: Draw, peers: dict[str, Peer]) -> dict[str, np.ndarray]:
    scale = np.asarray(draw.space.prior_std)
    return {name: peer(draw.points / scale, draw.values, draw.queries / scale) for name, peer in peers.items()}


def compared(task: Task, peers: dict[str, Peer]) -> Row:
    """All models on all draws of a task."""
    found: dict[str, list[float]] = {}
    for seed in task.seeds:
        draw = task.draw(seed)
        values = (draw.values - draw.values.mean()) / (draw.values.std() or 1.0)
        standard = draw._replace(values=values)
        predictions = ours(draw) | theirs(mirrored(standard) if task.mirrored else standard, peers)
        for name, predicted in predictions.items():
            rank = metrics.spearman(draw.truth, predicted)
            found.setdefault(name, []).append(0.0 if math.isnan(rank) else rank)
    return Row(task, found)


def record(row: Row, peers: Iterable[str]) -> dict[str, Any]:
    best = row.best_of(peers)
    return {
        "task": row.task.name,
        "points": row.task.count,
        "draws": len(row.task.seeds),
        "spearman": {name: float(np.mean(values)) for name, values in row.found.items()},
        "best_peer": best,
        "ours_minus_best_peer": dict(
            zip(("mean", "low", "high"), metrics.paired_interval(row.found[OURS], row.found[best]), strict=True)
        ),
    }


def table(records: Sequence[dict[str, Any]], peers: Iterable[str]) -> list[str]:
    """In Markdown: a line for each record, the best peer in bold, then where ours is too far below it."""
    models = (OURS, *peers, WITH_GRADIENTS, WITHOUT_SYMMETRY)
    columns = ("function", "points", "draws", *models, "ours minus best peer", "95 % interval")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for one in records:
        cells = [f"{one['spearman'][name]:.3f}" if name in one["spearman"] else "" for name in models]
        cells[models.index(one["best_peer"])] = f"**{one['spearman'][one['best_peer']]:.3f}**"
        mean, low, high = one["ours_minus_best_peer"].values()
        interval = "one draw" if math.isnan(low) else f"{low:+.3f} to {high:+.3f}"
        cells = [one["task"], str(one["points"]), str(one["draws"]), *cells, f"{mean:+.3f}", interval]
        lines.append(f"| {' | '.join(cells)} |")
    under = [one for one in records if one["ours_minus_best_peer"]["mean"] < -TOLERANCE]
    named = "; ".join(f"{one['task']}, {one['points']} points ({one['best_peer']})" for one in under)
    verdict = f"Ours is more than {TOLERANCE} below the best peer on {len(under)} of {len(records)}: {named or 'none'}."
    return [*lines, "", verdict]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, metavar="RUN_FOLDER", help="of a finished run")
    parser.add_argument("--draws", type=int, default=40, help="of each kind of function")
    parser.add_argument("--even", action="store_true", help="draws of even seeds, which the prior was chosen on")
    parser.add_argument("--only", default="", metavar="WORD", help="tasks whose name has this in it")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the record")
    args = parser.parse_args()
    seeds = range(0 if args.even else 1, 2 * args.draws, 2)
    try:
        published = published_tasks(seeds) if os.environ.get("HCDC_DATA_DIR") else []
        of_runs = [task for folder in args.folders for task in run_tasks(folder, seeds)]
    except UserError as error:
        parser.error(str(error))
    peers, missing = installed()
    records = []
    for task in [*drawn_tasks(seeds), *published, *of_runs]:
        if args.only in task.name:
            records.append(record(compared(task, peers), peers))
            print(table(records[-1:], peers)[2], flush=True)
    kept("surrogates", records, args.out)
    print("\n".join(["", *table(records, peers)]))
    for name in missing:
        print(f"{name} is not installed and left out")


if __name__ == "__main__":
    main()
