"""What the flaws of DC-BENCH's harness change: baselines on cells trained properly, with each flaw, and with all.

    python -m benchmarks.dcbench_compat [--config configs/nb201_mini.toml] [--out DIR] [--section.field value ...]

All networks on condensed images have the labels of their classes, as there. The truth is trained once, and properly;
each variant condenses and ranks in its own folder. Interrupted runs go on. Prints Spearman correlations of losses and
of accuracies and writes `dcbench_compat.md` into the folder of the runs. What is not reproduced: docs/nas_bench_201.md.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from benchmarks.command import CONFIGS, parsed, parser_of
from benchmarks.tables import spread
from hcdc_jax import config as configs
from hcdc_jax import pipeline
from hcdc_jax.config import Config
from hcdc_jax.storage import files
from hcdc_jax.terminal import progress

BASELINES = ("--methods", "random", "herding", "kcenter", "real_val", "train_loss")
OWN_LABELS = ("--labels.teachers", "0", "--labels.val", "own")
VARIANTS = {
    "none": None,
    "softmax": ("softmax",),
    "softmax, narrow": ("softmax", "narrow"),
    "no affine": ("no_affine",),
    "unshuffled": ("unshuffled",),
    "all": ("softmax", "narrow", "no_affine", "unshuffled"),
}


def report_of(config: Config, folder: Path, truth: Path) -> dict:
    """The report of a run that takes the truth of another one, where that has one."""
    with progress() as shown, pipeline.opened(config, folder, progress=shown) as run:
        own = folder / "results" / truth.name
        if truth.exists() and not own.exists():
            files.write_bytes(own, truth.read_bytes())
        pipeline.condense(run)
        pipeline.rank(run)
        pipeline.truth(run)
    return pipeline.write_report(folder)


def lines(reports: dict[str, dict]) -> list[str]:
    """A table of losses and one of accuracies: a line per method, a column per variant."""
    text = []
    for key, what in (("spearman_loss", "losses"), ("spearman_accuracy", "accuracies")):
        text += [f"**Spearman, {what}**", "", f"| flaws | {' | '.join(reports)} |", "|---" * (len(reports) + 1) + "|"]
        for method in next(iter(reports.values()))["methods"]:
            cells = [spread(report["methods"][method][key], 3) for report in reports.values()]
            text.append(f"| `{method}` | {' | '.join(cells)} |")
        text.append("")
    return text


def main() -> None:
    parser = parser_of(__doc__, "dcbench_compat")
    parser.add_argument("--config", type=Path, default=CONFIGS / "nb201_mini.toml", help="of a run on cells")
    args, overrides = parsed(parser)
    base = configs.apply_overrides(configs.load(args.config), [*BASELINES, *OWN_LABELS, *overrides])
    reports = {}
    for name, flaws in VARIANTS.items():
        config = dataclasses.replace(base, training=dataclasses.replace(base.training, dcbench_compat=flaws))
        folder = args.out / name.replace(", ", "_").replace(" ", "_")
        reports[name] = report_of(config, folder, args.out / "none" / "results" / "truth.npz")
    text = "\n".join(lines(reports))
    print(text)
    files.write_text(args.out / "dcbench_compat.md", text + "\n")


if __name__ == "__main__":
    main()
