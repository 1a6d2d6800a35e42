"""HCDC's Table 2 (arXiv 2405.17535), every rival in the same runs, and the paper's numbers beside ours.

    python -m benchmarks.table2 [row ...] [--out DIR] [--section.field value ...]

Rows are the names of configurations, `cora_1.8` and so on; all six by default. Runs that were interrupted go on, runs
that are finished are read. Prints the table in Markdown and writes `table2.md` into the folder of the runs. The paper's
ratios, filter order and protocol are not all known (docs/protocol.md): its column shows the pattern, not a bar.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from hcdc_jax import config as configs
from hcdc_jax import files, pipeline
from hcdc_jax.terminal import progress

CONFIGS = Path(__file__).parents[1] / "configs"

# Spearman correlations of Random, GCond-X, GCond and HCDC as printed in the paper's Table 2.
PAPER = {
    "cora_0.9": {"random": 0.29, "gcond_x": 0.16, "gcond": 0.61, "hcdc": 0.80},
    "cora_1.8": {"random": 0.40, "gcond_x": 0.21, "gcond": 0.76, "hcdc": 0.85},
    "cora_3.6": {"random": 0.51, "gcond_x": 0.23, "gcond": 0.81, "hcdc": 0.90},
    "citeseer_1.3": {"random": 0.38, "gcond_x": 0.15, "gcond": 0.68, "hcdc": 0.79},
    "citeseer_2.6": {"random": 0.56, "gcond_x": 0.29, "gcond": 0.79, "hcdc": 0.83},
    "citeseer_5.2": {"random": 0.71, "gcond_x": 0.35, "gcond": 0.83, "hcdc": 0.89},
}


def row(name: str, out: Path, overrides: list[str]) -> dict:
    """The report of one row, from a run that is made, continued or read."""
    config = configs.apply_overrides(configs.load(CONFIGS / f"{name}.toml"), overrides)
    with progress() as shown:
        return pipeline.run(config, out / name, resume=True, progress=shown)


def lines(name: str, report: dict) -> list[str]:
    """The table of one row: a line per method."""
    ceiling = report["truth"]["seed_ceiling_spearman"]
    agreement = f", two full trainings agree at {ceiling:.3f}" if ceiling is not None else ""
    table = [
        f"**{name}**{agreement}",
        "",
        "| method | paper | Spearman, losses | Spearman, accuracies | regret, points | full trainings | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for method, entry in sorted(report["methods"].items(), key=lambda item: -(item[1]["spearman_loss"]["mean"] or 0)):
        paper = PAPER[name].get(method)
        table.append(
            f"| `{method}` | {'' if paper is None else f'{paper:.2f}'} | {spread(entry['spearman_loss'], 3)} | "
            f"{spread(entry['spearman_accuracy'], 3)} | {spread(entry['regret_test_accuracy'], 2)} | "
            f"{entry['full_trainings_used']} | {sum(entry['seconds'][part] for part in ('condense', 'rank')):.1f} |"
        )
    return [*table, ""]


def spread(summary: dict, digits: int) -> str:
    return "" if summary["mean"] is None else f"{summary['mean']:.{digits}f} ± {summary['std']:.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="row", help=f"of {', '.join(PAPER)}; all by default")
    parser.add_argument("--out", type=Path, default=Path("runs/table2"), help="folder of the runs")
    args, overrides = parser.parse_known_args()
    unknown = set(args.rows) - set(PAPER)
    if unknown:
        parser.error(f"no such row: {', '.join(sorted(unknown))}; rows are {', '.join(PAPER)}")
    text = "\n".join(line for name in args.rows or PAPER for line in lines(name, row(name, args.out, overrides)))
    print(text)
    files.write_text(args.out / "table2.md", text + "\n")


if __name__ == "__main__":
    main()
