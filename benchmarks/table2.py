"""HCDC's Table 2 (arXiv 2405.17535), every rival in the same runs, and the paper's numbers beside ours.

    python -m benchmarks.table2 [row ...] [--out DIR] [--section.field value ...]

Rows are the names of configurations, `cora_1.8` and so on; all six by default. Runs that were interrupted go on, runs
that are finished are read. Prints the table in Markdown and writes `table2.md` into the folder of the runs. The paper's
ratios, filter order and protocol are not all known (docs/protocol.md): its column shows the pattern, not a bar.
"""

from __future__ import annotations

from benchmarks.tables import BEST, PRICE, best, price, spread, table, write

# Spearman correlations of Random, GCond-X, GCond and HCDC as printed in the paper's Table 2.
PAPER = {
    "cora_0.9": {"random": 0.29, "gcond_x": 0.16, "gcond": 0.61, "hcdc": 0.80},
    "cora_1.8": {"random": 0.40, "gcond_x": 0.21, "gcond": 0.76, "hcdc": 0.85},
    "cora_3.6": {"random": 0.51, "gcond_x": 0.23, "gcond": 0.81, "hcdc": 0.90},
    "citeseer_1.3": {"random": 0.38, "gcond_x": 0.15, "gcond": 0.68, "hcdc": 0.79},
    "citeseer_2.6": {"random": 0.56, "gcond_x": 0.29, "gcond": 0.79, "hcdc": 0.83},
    "citeseer_5.2": {"random": 0.71, "gcond_x": 0.35, "gcond": 0.83, "hcdc": 0.89},
}
COLUMNS = ("method", "paper", "Spearman, losses", "Spearman, accuracies", *BEST, *PRICE)


def lines(name: str, report: dict) -> list[str]:
    """The table of one row: a line per method."""

    def cells(method: str, entry: dict) -> list[str]:
        paper = PAPER[name].get(method)
        return [
            f"`{method}`", "" if paper is None else f"{paper:.2f}", spread(entry["spearman_loss"], 3),
            spread(entry["spearman_accuracy"], 3), *best(entry), *price(report, method),
        ]  # fmt: skip

    return table(name, report, COLUMNS, cells)


if __name__ == "__main__":
    write(__doc__, "table2", PAPER, lines, usual=PAPER, by_default="all")
