"""EDC from G-VBSM up, one design choice at a time (rungs A to G), and single studies from the top.

    python -m benchmarks.edc_ladder [study ...] [--config FILE] [--out DIR] [--section.field=value ...]

Each rung condenses in its own folder and is tested by new networks under the protocol of its rung; observers are
trained once and shared. Interrupted runs go on, finished rungs are read. Prints a table per study and writes
`edc_ladder.md` into the folder of the runs. New networks learn the logits of the observers, as in the paper, or with
`--protocol edc` the labels; what the paper reports stands in docs/edc.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
from pathlib import Path
from typing import NamedTuple

from benchmarks.command import CONFIGS, chosen, parser_of
from benchmarks.networks_on import accuracies, percent
from hcdc_jax import config as configs
from hcdc_jax import files, pipeline
from hcdc_jax.config import Config
from hcdc_jax.evaluation import PROTOCOLS, Protocol, Teacher, with_epochs
from hcdc_jax.pipeline.halves import Half, make_half
from hcdc_jax.pipeline.recipes import train_recipe
from hcdc_jax.pipeline.recipes.edc import observers_of, observing_teacher
from hcdc_jax.pipeline.setup import Setup
from hcdc_jax.terminal import progress


class Rung(NamedTuple):
    """A variant: what of the configuration it changes, what of the protocol, and whose S_train it is."""

    label: str
    overrides: tuple[str, ...] = ()
    protocol: dict = {}  # noqa: RUF012
    method: str = "edc"


BIG_BATCH = 100
"""Images per step before "small batch": all of them at 10 images a class of 10 classes."""

# Steps of synthesis are halved where images start from real ones, as in the paper.
NOISE = ("--condense.init", "noise")
REAL = ("--condense.init", "real", "--edc.iterations")
PLAIN = ("--edc.flatness", "none", "--edc.alpha", "1.0", "--edc.crop_area", "0.08")
COSINE, SMOOTH = {"zeta": 1.0}, {"zeta": 2.0}
BIG, SMALL = {"batch_size": BIG_BATCH}, {}


def ladder(iterations: int) -> list[Rung]:
    """The rungs; `iterations` are those of the rungs that start from real images."""
    few, many = str(iterations), str(2 * iterations)
    flat = ("--edc.alpha", "1.0", "--edc.crop_area", "0.08")
    aware = ("--edc.crop_area", "0.08")
    return [
        Rung("A: G-VBSM", (*NOISE, "--edc.iterations", many, *PLAIN), {**COSINE, **BIG, "average": 0.0}),
        Rung("B: + real images to start from, half the steps", (*REAL, few, *PLAIN), {**COSINE, **BIG, "average": 0.0}),
        Rung("C: + smoothing learning rate", (*REAL, few, *PLAIN), {**SMOOTH, **BIG, "average": 0.0}),
        Rung("D: + flatness", (*REAL, few, *flat), {**SMOOTH, **BIG, "average": 0.0}),
        Rung("E: + small batch", (*REAL, few, *flat), {**SMOOTH, **SMALL, "average": 0.0}),
        Rung("F: + soft category-aware matching", (*REAL, few, *aware), {**SMOOTH, **SMALL, "average": 0.0}),
        Rung("G: + weak augmentation and average", (*REAL, few), {**SMOOTH, **SMALL}),
        Rung("real images as they are, tested like G", (*REAL, few), {**SMOOTH, **SMALL}, "random"),
    ]


STUDIES: dict[str, list[Rung]] = {
    "alpha": [Rung(f"alpha {x}", ("--edc.alpha", str(x))) for x in (0.0, 0.25, 0.75, 1.0)],
    "zeta": [Rung(f"zeta {x}", (), {"zeta": x}) for x in (1.0, 1.5, 2.5, 3.0)],
    "start": [Rung(f"start {x}", ("--condense.init", x)) for x in ("noise", "mosaics")],
    "observers": [Rung("one observer", ("--edc.observers", "convnet:width=16,depth=2"))],
    "observer epochs": [Rung(f"{x} epochs of observers", ("--edc.observer_epochs", str(x))) for x in (1, 20)],
    "statistics": [Rung("variances of the code", ("--edc.statistics", "code"))],
    "crops in evaluation": [Rung(f"crops of at least {x}", (), {"crop_area": x}) for x in (0.5, 1.0)],
}


def condensed(
    config: Config, folder: Path, shared: Path, method: str, asks: bool
) -> tuple[Setup, list[Half], Teacher | None]:
    """The S_train of every seed, and its observers as teacher where the protocol asks one.

    Takes over the observers of `shared` if they are its own.
    """
    ours, theirs = observers_of(folder, "train"), observers_of(shared, "train")
    same = theirs.exists() and _same_observers(config, configs.load(shared / "config.toml"))
    with progress() as shown, pipeline.opened(config, folder, resume=True, progress=shown) as run:
        if same and not ours.exists():
            shutil.copytree(theirs, ours)
        recipe = train_recipe(config, method)
        halves = [make_half(run, recipe, "train", seed, method=method) for seed in config.seeds]
        return run.setup, halves, observing_teacher(run) if asks else None


def _same_observers(a: Config, b: Config) -> bool:
    names = ("observers", "observer_epochs", "observer_rate", "observer_batch_size")
    return a.data == b.data and all(getattr(a.edc, name) == getattr(b.edc, name) for name in names)


def row(rung: Rung, base: Config, args: argparse.Namespace, protocol: Protocol) -> str:
    """One line of a table: mean and standard deviation over the networks of all seeds."""
    config = configs.apply_overrides(base, rung.overrides)
    folder = args.out / configs.config_hash(config)
    asks = protocol.label_weight is not None
    setup, halves, teacher = condensed(config, folder, args.out / configs.config_hash(base), rung.method, asks)
    own = dataclasses.replace(protocol, **rung.protocol)
    values = [
        value
        for seed, half in zip(config.seeds, halves, strict=True)
        for value in accuracies(
            folder / f"tested_{rung.method}_seed{seed}.json", setup, seed, half.batch, own, args.networks, teacher
        )
    ]
    return f"| {rung.label} | {percent(values)} |"


def main() -> None:
    parser = parser_of(__doc__, "edc_ladder")
    parser.add_argument("--config", type=Path, default=CONFIGS / "images" / "edc_mini.toml")
    parser.add_argument("--networks", type=int, default=3, help="new networks per seed")
    parser.add_argument("--epochs", type=int, default=300, help="of each of them")
    parser.add_argument(
        "--protocol", choices=("edc_soft", "edc"), default="edc_soft", help="labels of observers, or hard"
    )
    args, overrides = chosen(parser, "study", ["ladder", *STUDIES], usual=["ladder"], by_default="the ladder")
    base = configs.apply_overrides(configs.load(args.config), ["--methods", "edc", *overrides])
    protocol = with_epochs(PROTOCOLS[args.protocol], args.epochs)
    seeds = ", ".join(map(str, base.seeds))
    lines = [f"{args.config.stem}, seeds {seeds}, {args.networks} networks each, protocol {args.protocol}", ""]
    lines += ["| | test accuracy, % |", "|---|---|"]
    # The top first: its observers serve all others.
    top = row(Rung("default"), base, args, protocol)
    for study in args.names:
        rungs = ladder(base.edc.iterations) if study == "ladder" else [Rung("default"), *STUDIES[study]]
        for rung in rungs:
            lines.append(top if rung.label == "default" else row(rung, base, args, protocol))
            print(lines[-1], flush=True)
    print("\n".join(lines))
    files.write_text(args.out / "edc_ladder.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
