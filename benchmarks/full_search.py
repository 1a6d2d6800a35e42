"""The same hypergradient search on condensed and on full data, and the test accuracy of what each finds.

    python -m benchmarks.full_search [config ...] [--out DIR] [--num 240] [--section.field value ...]

Every seed condenses anew; what is there is not made again. All networks that are tested were trained on the full data
from one initialisation. Prints a table and writes `full_search.md` into the folder of the runs.
"""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.command import CONFIGS, parsed, parser_of
from benchmarks.tables import spread
from hcdc_jax import config as configs
from hcdc_jax import metrics, pipeline
from hcdc_jax.pipeline import SearchPlan
from hcdc_jax.pipeline.clock import measured
from hcdc_jax.pipeline.scoring import descent_options
from hcdc_jax.pipeline.setup import SEARCH, TRUTH, Setup, key_for
from hcdc_jax.search import hypergradient_search
from hcdc_jax.storage import files
from hcdc_jax.terminal import progress
from hcdc_jax.training.candidates import Scores, evaluate_on
from hcdc_jax.types import Array

TOP = 5
"""Finalists of the condensed search that are trained in full."""


def on_condensed(setup: Setup, folder: Path, seed: int, num: int) -> tuple[float, float, float]:
    """Test accuracies of the best candidate by S_val and of the best of `TOP` by the real part, and seconds."""
    plan = SearchPlan(method="hypergradient", num=num, top=TOP, seed=seed, artefact=f"hcdc_seed{seed}")
    found = pipeline.search(setup, folder, plan)
    return found["finalists"][0]["test_accuracy"], found["selected"]["test_accuracy"], found["seconds"]["search"]


def on_full(setup: Setup, seed: int, num: int) -> tuple[float, float]:
    """Test accuracy of the best candidate of the search on the full data, and seconds."""

    def evaluate_fn(candidates: Array) -> Scores:
        return evaluate_on(
            key_for(TRUTH, 0), setup.problem, candidates, setup.train, (setup.val,), training=setup.training
        )[0]

    extra = descent_options(setup, setup.train, setup.val, setup.training)
    with measured() as elapsed:
        history = hypergradient_search(key_for(SEARCH, seed), setup.space, evaluate_fn, num, **extra)
    best = jnp.asarray(history.hparams[history.best(1)])
    (test,) = evaluate_on(key_for(TRUTH, 0), setup.problem, best, setup.train, (setup.test,), training=setup.training)
    return float(jax.device_get(test.accuracy)[0]), elapsed.run


def main() -> None:
    parser = parser_of(__doc__, "full_search")
    parser.add_argument("configs", nargs="*", type=Path, help="cora_1.8 and citeseer_1.3 by default")
    parser.add_argument("--num", type=int, default=240, help="candidates of a search")
    args, overrides = parsed(parser)
    lines = [
        f"| hypergradient search, {args.num} candidates | condensed, its best | condensed, best of {TOP} | full data | "
        "seconds, condensed | seconds, full |",
        "|---|---|---|---|---|---|",
    ]
    for path in args.configs or [CONFIGS / "cora_1.8.toml", CONFIGS / "citeseer_1.3.toml"]:
        config = configs.apply_overrides(configs.load(path), ["--methods", "hcdc", *overrides])
        folder = args.out / path.stem
        with progress() as shown, pipeline.opened(config, folder, progress=shown) as run:
            pipeline.condense(run)
            rows = [
                [*on_condensed(run.setup, folder, seed, args.num), *on_full(run.setup, seed, args.num)]
                for seed in shown.track(config.seeds, f"searches, {path.stem}")
            ]
        first, finalist, condensed_seconds, full, full_seconds = np.array(rows).T
        shares = " | ".join(spread(metrics.summarise(100 * part), 1) for part in (first, finalist, full))
        lines.append(f"| {path.stem} | {shares} | {condensed_seconds.mean():.1f} | {full_seconds.mean():.1f} |")
        files.write_text(args.out / "full_search.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
