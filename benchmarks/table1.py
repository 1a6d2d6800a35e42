"""HCDC's Table 1 (arXiv 2405.17535): cells ranked on condensed images, with every rival and the paper's numbers.

    python -m benchmarks.table1 [row ...] [--out DIR] [--section.field value ...]

Rows are `mini`, `cifar10` and `cifar100`, the names of configurations after `nb201_`; `mini`, which a CPU can check, by
default. Runs that were interrupted go on, runs that are finished are read. Prints tables in Markdown and writes
`table1.md` into the folder of the runs, and for each row `table1_<row>.png` as the paper's Fig. 2. In the paper a
baseline has the S_train and the S_val of its method with their own labels, and correlations are of accuracies; its
numbers stand beside rows of the same name, whose S_train has labels of teachers here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.tables import BEST, PRICE, best, price, spread, table, write
from hcdc_jax.report import figures, results
from hcdc_jax.report.style import Drawing

# Correlation, and test accuracy in per cent of the selected cell, as printed in the paper's Table 1.
PAPER: dict[str, dict[str, tuple[float, float]]] = {
    "mini": {},
    "cifar10": {
        "random": (-0.12, 91.3),
        "kcenter": (0.19, 91.4),
        "herding": (-0.05, 90.2),
        "dc": (-0.21, 89.2),
        "dsa": (-0.33, 73.5),
        "dm": (-0.10, 92.2),
        "kip": (-0.27, 91.8),
        "mtt": (-0.07, 75.2),
        "hcdc": (0.74, 92.9),
    },
    "cifar100": {
        "random": (-0.05, 71.1),
        "kcenter": (-0.07, 69.5),
        "herding": (0.08, 67.9),
        "dc": (-0.13, 64.9),
        "dsa": (-0.28, 59.0),
        "dm": (-0.15, 70.1),
        "kip": (-0.08, 68.8),
        "mtt": (-0.09, 51.3),
        "hcdc": (0.63, 72.4),
    },
}
COLUMNS = (
    "method", "paper", "Spearman, losses", "Spearman, accuracies", "given log #parameters",
    "rank mean with log #parameters", *BEST, "selected, test %", "paper", *PRICE,
)  # fmt: skip


def lines(name: str, report: dict) -> list[str]:
    """The table of one row: a line per method."""

    def cells(method: str, entry: dict) -> list[str]:
        paper = PAPER[name].get(method)
        rho, chosen = ("", "") if paper is None else (f"{paper[0]:.2f}", f"{paper[1]:.1f}")
        percent = {key: _percent(value) for key, value in entry["selected_test_accuracy"].items()}
        return [
            f"`{method}`", rho, spread(entry["spearman_loss"], 3), spread(entry["spearman_accuracy"], 3),
            *(spread(entry["beyond_size"][key], 3) for key in ("partial_spearman", "spearman_of_rank_mean")),
            *best(entry), spread(percent, 1), chosen, *price(report, method),
        ]  # fmt: skip

    return table(name, report, COLUMNS, cells)


def strips(name: str, folder: Path) -> Drawing:
    """Fig. 2 of the paper from a finished run: candidates by truth, coloured by rank; methods of the paper first."""
    run, paper = results.read(folder), PAPER[name]
    shared = [method for method in paper if method in run.results]
    others = [method for method in run.results if method not in paper]
    losses = {
        f"{method} (paper {paper[method][0]:.2f})" if method in paper else method: np.stack(
            [result.loss for result in run.results[method]]
        )
        for method in (*shared, *others)
    }
    return figures.rank_strips(run.truth.loss if len(run.truth.losses) else None, losses)


def _percent(value: list[float] | float | None) -> list[float] | float | None:
    if isinstance(value, list):
        return [100 * one for one in value if one is not None]
    return None if value is None else 100 * value


if __name__ == "__main__":
    write(__doc__, "table1", PAPER, lines, usual=["mini"], by_default="mini", prefix="nb201_", drawing=strips)
