"""HCDC with one choice changed at a time, against the same truth.

    python -m benchmarks.ablations [study ...] [--config configs/cora_1.8.toml] [--out DIR] [--section.field value ...]

The base run trains the truth once; every variant condenses and ranks in its own folder and is held against that truth.
Interrupted runs go on. Prints one table per study and writes `ablations.md` into the folder of the runs.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import numpy as np

from benchmarks.command import CONFIGS, chosen, parser_of
from benchmarks.tables import BEST, spread
from hcdc_jax import config as configs
from hcdc_jax import metrics, pipeline
from hcdc_jax.config import Config
from hcdc_jax.data.npz import read_arrays
from hcdc_jax.errors import UserError
from hcdc_jax.report.tables import FINALISTS
from hcdc_jax.storage import files
from hcdc_jax.terminal import progress

STUDIES: dict[str, list[list[str]]] = {
    "theta": [["--hcdc.theta", "shared"]],
    "direct term": [["--hcdc.direct", "false"]],
    "solver": [["--hcdc.solver", solver] for solver in ("identity", "neumann", "conjugate_gradient")],
    "terms": [["--hcdc.num_hvps", str(terms)] for terms in (0, 1, 5, 50)],
    "distance": [["--hcdc.distance", name] for name in ("cosine", "weighted_cosine", "shared_l2", "value")],
    "full trainings": [["--hcdc.full_trainings", str(count)] for count in (2, 4, 16, 32)],
    "refinements": [
        ["--hcdc.refinements", "1", "--hcdc.full_trainings", "4"],
        ["--hcdc.refinements", "1"],
        ["--hcdc.refinements", "1", "--hcdc.refined_by", "hypergradient", "--hcdc.searched", "120"],
    ],
    "draws": [["--hcdc.oversampling", str(count)] for count in (1, 2, 32)],
    "extended space": [["--hcdc.extended_space", "trajectories"]],
    "steps": [["--hcdc.steps", str(steps)] for steps in (10, 20, 80, 160)],
    "initialisations": [["--hcdc.inits", str(count)] for count in (1, 4)],
    "size of S_val": [["--condense.val_factor", str(factor)] for factor in (0.5, 1, 4)],
    "start": [["--condense.sampling", "plain"], ["--condense.sampling", "ego"], ["--condense.init", "noise"]],
    "S_train": [["--hcdc.train_method", name] for name in ("gcond", "gradient_matching")],
}


def finished(config: Config, folder: Path) -> Path:
    """A run folder with everything but a report: made, continued, or found."""
    with progress() as shown, pipeline.opened(config, folder, progress=shown) as run:
        pipeline.condense(run)
        pipeline.rank(run)
        if config.truth.enabled:
            pipeline.truth(run)
    return folder


def row(label: str, folder: Path, truth: dict[str, np.ndarray]) -> str:
    """One line of a table: mean and spread over the seeds of a run."""
    found = [read_arrays(path) for path in sorted((folder / "results").glob("hcdc_seed?.npz"))]
    loss, accuracy = truth["loss"].mean(0), truth["test_accuracy"].mean(0)
    reports = [metrics.rank_report(loss, one["loss"], bootstrap=0) for one in found]
    ranks, overlaps, inside = (
        [one[key] for one in reports] for key in ("spearman", "overlap_top_10", "spearman_top_10")
    )
    regrets = [
        [metrics.regret(accuracy, -one["loss"], k=k, decided_by=-loss, higher_is_better=True) for one in found]
        for k in FINALISTS
    ]
    return (
        f"| {label} | {spread(metrics.summarise(ranks), 3)} | {min(ranks):.3f} | "
        f"{spread(metrics.summarise(overlaps), 2)} | {spread(metrics.summarise(inside), 2)} | "
        f"{' / '.join(f'{100 * statistics.mean(of_seeds):.1f}' for of_seeds in regrets)} | "
        f"{statistics.mean(float(one['seconds_condense']) for one in found):.1f} |"
    )


def main() -> None:
    parser = parser_of(__doc__, "ablations")
    parser.add_argument("--config", type=Path, default=CONFIGS / "cora_1.8.toml")
    args, overrides = chosen(parser, "study", STUDIES, usual=STUDIES, by_default="all")
    common = ["--methods", "hcdc", *overrides]
    base = configs.apply_overrides(configs.load(args.config), common)
    folder = finished(base, args.out / "base")
    truth = read_arrays(folder / "results" / "truth.npz")
    lines = [f"{args.config.stem}, seeds {', '.join(map(str, base.seeds))}", ""]
    columns = ("", "Spearman, losses", "lowest seed", *BEST, "seconds to condense")
    lines += [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    lines.append(row("**default**", folder, truth))
    for study in args.names:
        for change in STUDIES[study]:
            label = " ".join(change).removeprefix("--")
            config = configs.apply_overrides(base, [*change, "--truth.enabled", "false"])
            try:
                lines.append(row(f"`{label}`", finished(config, args.out / label.replace(" ", "_")), truth))
            except UserError as error:  # a variant that this graph cannot have
                lines.append(f"| `{label}` | {error} | | | | | |")
    print("\n".join(lines))
    files.write_text(args.out / "ablations.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
