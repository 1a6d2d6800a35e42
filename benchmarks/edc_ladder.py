"""EDC from G-VBSM up, one design choice at a time (rungs A to G), and studies of single choices.

    python -m benchmarks.edc_ladder [study ...] [--config FILE] [--out DIR] [--section.field=value ...]

Each variant condenses in a run of its own in DIR and is tested by new networks on the real test part, under the
protocol of its rung; observers are trained once for all variants that have the same. Interrupted runs go on, finished
ones are read. Prints a table per study and writes `edc_<study>.md`, a chart `edc_<study>.png` and a grid of images
`edc_<study>_images.png`. New networks learn the logits of the observers, as in the paper, or with `--protocol edc` the
labels; what the paper reports stands in docs/edc.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.command import CONFIGS, chosen, parser_of
from benchmarks.edc_figures import bars, panels
from benchmarks.networks_on import accuracies, percent
from hcdc_jax import config as configs
from hcdc_jax import files, pipeline
from hcdc_jax.config import Config
from hcdc_jax.evaluation import PROTOCOLS, Protocol, Teacher, with_epochs
from hcdc_jax.pipeline.halves import Half, make_half
from hcdc_jax.pipeline.recipes import train_recipe
from hcdc_jax.pipeline.recipes.edc import observers_of, observing_teacher
from hcdc_jax.pipeline.setup import Setup
from hcdc_jax.report.style import to_png
from hcdc_jax.terminal import progress


class Rung(NamedTuple):
    """A variant: what of the configuration it changes, what of the protocol, and whose S_train it is."""

    label: str
    overrides: tuple[str, ...] = ()
    protocol: dict[str, Any] = {}  # noqa: RUF012
    method: str = "edc"


class Tested(NamedTuple):
    """What came of a variant.

    Attributes:
      values: test accuracies of all networks of all seeds; None for those that failed.
      seconds: that condensing took on average over seeds, without observers and compilation.
      made_by: what decides the images; variants that differ in their protocol alone share it.
      pixels: [n, h, w, c] of the first seed, from 0 to 1 as far as they are images.
      labels: [n] of these.
    """

    values: list[float | None]
    seconds: float
    made_by: str
    pixels: np.ndarray
    labels: np.ndarray


class Study(NamedTuple):
    """Where variants lie, and how they are tested.

    Attributes:
      base: configuration of all variants.
      out: folder of their runs.
      networks: that are trained on each S_train.
      protocol: how.
    """

    base: Config
    out: Path
    networks: int
    protocol: Protocol


BIG_BATCH = 100
"""Images per step before "small batch": all of them at 10 images a class of 10 classes."""

CHOICES = {
    "real images to start from, half the steps": ("condense.init", "edc.iterations"),
    "smoothing learning rate": ("zeta",),
    "flatness": ("edc.flatness",),
    "small batch": ("batch_size",),
    "soft category-aware matching": ("edc.alpha",),
    "weak augmentation": ("edc.crop_area",),
    "average of parameters": ("average",),
}
"""EDC's design choices, and the settings of the run and of the protocol that each of them decides."""


def g_vbsm_with(base: Config, label: str, *settings: str) -> Rung:
    """G-VBSM, with these settings as in EDC: none for rung A, all of them for rung G."""
    run = {
        "condense.init": "noise",
        "edc.iterations": str(2 * base.edc.iterations),  # halved where images start from real ones, as in the paper
        "edc.flatness": "none",
        "edc.alpha": "1.0",
        "edc.crop_area": "0.08",
    }
    protocol = {"zeta": 1.0, "batch_size": BIG_BATCH, "average": 0.0}
    overrides = [word for name, value in run.items() if name not in settings for word in (f"--{name}", value)]
    return Rung(label, tuple(overrides), {name: value for name, value in protocol.items() if name not in settings})


def ladder(base: Config) -> list[Rung]:
    """Rungs A to G, each with one choice more, and the real images that most of them start from."""
    rungs, taken = [g_vbsm_with(base, "A: G-VBSM")], []
    for letter, (choice, settings) in zip("BCDEF", CHOICES.items(), strict=False):
        taken += settings
        rungs.append(g_vbsm_with(base, f"{letter}: + {choice}", *taken))
    return [
        *rungs,
        Rung("G: + weak augmentation and average"),
        Rung("real images as they are, tested like G", method="random"),
    ]


def alone(base: Config) -> list[Rung]:
    """Rung A with each choice by itself."""
    ours = [g_vbsm_with(base, f"A + {choice}", *settings) for choice, settings in CHOICES.items()]
    return [g_vbsm_with(base, "A: G-VBSM"), *ours]


def one_setting(label: str, setting: str, *values: Any) -> Callable[[Config], list[Rung]]:
    """Rungs of a study that changes one setting of the run."""
    return lambda base: [Rung(f"{label} {value}", (f"--{setting}", str(value))) for value in values]


def of_protocol(label: str, setting: str, *values: float) -> Callable[[Config], list[Rung]]:
    """Rungs of a study that changes one setting of the protocol."""
    return lambda base: [Rung(f"{label} {value}", (), {setting: value}) for value in values]


def observers(base: Config) -> list[Rung]:
    """The first few of the observers, who also give the labels, and more of them."""
    known = base.edc.observers
    more = tuple(one for one in ("convnet:width=8,depth=2", "convnet:width=32,depth=2") if one not in known)
    sets = [known[:count] for count in range(1, len(known))] + [known + more]
    return [Rung(f"observers: {len(one)}", ("--edc.observers", *one)) for one in sets]


def norms(base: Config) -> list[Rung]:
    """All observers with batch norm, fixed to the statistics of all real images."""
    theirs = [f"{one}{',' if ':' in one else ':'}norm=batch" for one in base.edc.observers]
    return [Rung("observers with batch norm", ("--edc.observers", *theirs))]


def label_noise(base: Config) -> list[Rung]:
    """Classes that overlap: statistics of classes against those of all images, by the share of wrong labels."""
    del base
    return [
        Rung(f"label noise {share}, alpha {alpha}", ("--data.label_noise", str(share), "--edc.alpha", str(alpha)))
        for share in (0.2, 0.4)
        for alpha in (0.0, 0.5, 1.0)
    ]


AS_CONFIGURED = Rung("as configured")

STUDIES: dict[str, Callable[[Config], list[Rung]]] = {
    "ladder": ladder,
    "alone": alone,
    "alpha": one_setting("alpha", "edc.alpha", 0.0, 0.25, 0.75, 1.0),
    "zeta": of_protocol("zeta", "zeta", 1.0, 1.5, 2.5, 3.0),
    "start": one_setting("start", "condense.init", "noise", "mosaics"),
    "observers": observers,
    "observer_epochs": one_setting("epochs of observers:", "edc.observer_epochs", 1, 2, 10, 20),
    "norms": norms,
    "label_noise": label_noise,
    "statistics": one_setting("variances of the", "edc.statistics", "code"),
    "crops": of_protocol("crops in evaluation of at least", "crop_area", 0.5, 1.0),
}


def made(config: Config, folder: Path, method: str, asks: bool) -> tuple[Setup, list[Half], Teacher | None]:
    """The S_train of every seed, and its observers as teacher where the protocol asks one.

    Takes over observers from a run beside it that has the same.
    """
    ours = observers_of(folder, "train")
    with progress() as shown, pipeline.opened(config, folder, resume=True, progress=shown) as run:
        lenders = [] if ours.exists() else _with_observers_of(config, folder.parent)
        if lenders:
            copied = ours.with_name(f".{ours.name}.{secrets.token_hex(4)}.tmp")
            shutil.copytree(observers_of(lenders[0], "train"), copied)
            os.replace(copied, ours)  # whole or not at all
        recipe = train_recipe(config, method)
        halves = [make_half(run, recipe, "train", seed, method=method) for seed in config.seeds]
        return run.setup, halves, observing_teacher(run) if asks else None


def _with_observers_of(config: Config, out: Path) -> list[Path]:
    """Folders of runs that have observers of the same networks, data and training."""

    def read_by(one: Config) -> tuple:
        edc = one.edc
        return (
            one.data,
            one.condense.augmentation,
            edc.observers,
            edc.observer_epochs,
            edc.observer_rate,
            edc.observer_batch_size,
        )

    folders = [path.parent for path in sorted(out.glob("*/config.toml")) if observers_of(path.parent, "train").exists()]
    return [folder for folder in folders if read_by(configs.load(folder / "config.toml")) == read_by(config)]


def tested(study: Study, rung: Rung) -> Tested:
    """A variant made and tested, or read."""
    config = configs.apply_overrides(study.base, rung.overrides)
    folder = study.out / configs.config_hash(config)
    protocol = dataclasses.replace(study.protocol, **rung.protocol)
    setup, halves, teacher = made(config, folder, rung.method, protocol.label_weight is not None)
    values = [
        value
        for seed, half in zip(config.seeds, halves, strict=True)
        for value in accuracies(
            folder / f"tested_{rung.method}_seed{seed}.json", setup, seed, half.batch, protocol, study.networks, teacher
        )
    ]
    first = halves[0].batch
    pixels = first.inputs if setup.preprocessing is None else setup.preprocessing.invert(first.inputs)
    seconds = float(np.mean([half.cost.seconds for half in halves]))
    return Tested(values, seconds, f"{folder.name} {rung.method}", np.asarray(pixels), np.asarray(first.labels))


def table(study: Study, name: str) -> list[str]:
    """The table of a study, line by line as its variants are done; draws its chart and its images."""
    rungs = STUDIES[name](study.base)
    rungs = rungs if name in ("ladder", "alone") else [AS_CONFIGURED, *rungs]
    lines = [f"**{name.replace('_', ' ')}**", "", "| | test accuracy, % | seconds to condense |", "|---|---|---|"]
    values, images, titles = {}, {}, {}
    for rung in rungs:
        found = tested(study, rung)
        lines.append(f"| {rung.label} | {percent(found.values)} | {found.seconds:.0f} |")
        print(lines[-1], flush=True)
        values[rung.label] = [100 * value for value in found.values if value is not None]
        titles.setdefault(found.made_by, []).append(rung.label)
        images[found.made_by] = (found.pixels, found.labels)
    shown = {"; ".join(titles[made_by]): pair for made_by, pair in images.items()}
    for ending, figure in (("", bars(values)), ("_images", panels(shown))):
        assert not isinstance(figure, str)
        files.write_bytes(study.out / f"edc_{name}{ending}.png", to_png(figure))
    return [*lines, ""]


def parsed() -> tuple[argparse.Namespace, Study]:
    """What the command line asks for."""
    parser = parser_of(__doc__, "edc_ladder")
    parser.add_argument("--config", type=Path, default=CONFIGS / "images" / "edc_mini.toml")
    parser.add_argument("--networks", type=int, default=3, help="new networks per seed")
    parser.add_argument("--epochs", type=int, default=300, help="of each of them")
    parser.add_argument(
        "--protocol", choices=("edc_soft", "edc"), default="edc_soft", help="labels of observers, or hard"
    )
    args, overrides = chosen(parser, "study", STUDIES, usual=STUDIES, by_default="all")
    base = configs.apply_overrides(configs.load(args.config), ["--methods", "edc", *overrides])
    return args, Study(base, args.out, args.networks, with_epochs(PROTOCOLS[args.protocol], args.epochs))


def main() -> None:
    args, study = parsed()
    seeds = ", ".join(map(str, study.base.seeds))
    how = f"{args.networks} networks each, protocol {args.protocol} over {args.epochs} epochs"
    head = f"{args.config.stem}, seeds {seeds}, {how}; mean ± standard deviation over all networks"
    for name in args.names:
        text = "\n".join([head, "", *table(study, name)])
        files.write_text(args.out / f"edc_{name}.md", text)
        print(text)


if __name__ == "__main__":
    main()
