"""EDC (arXiv 2404.13733) one choice at a time: studies around `configs/edc_ladder_mini.toml`, each a ladder; all by
default.

    python -m benchmarks.edc_studies [study ...] [--ladder configs/edc_ladder_mini.toml] [--out DIR]
                                     [--section.field value ...]

The settings that studies change are those of the rung "G: ..." (all of EDC); `alone` starts from rung A. Runs lie in
DIR, what is finished is not made again, and interrupted runs go on. Writes `edc_<study>.md`, `.html`, `.png` and
`_images.png` for each study.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.command import CONFIGS, chosen, parser_of
from hcdc_jax import config as configs
from hcdc_jax.config.values import merge
from hcdc_jax.pipeline.ladder import Rung, climb, load, words_of
from hcdc_jax.terminal import progress


def lowest(ladder: Sequence[Rung]) -> Rung:
    """G-VBSM."""
    return ladder[0]


def height(ladder: Sequence[Rung]) -> int:
    """The place of all of EDC; above it stands what it is compared with."""
    return next(place for place, rung in enumerate(ladder) if rung.name.startswith("G"))


def highest(ladder: Sequence[Rung]) -> Rung:
    """All of EDC, under its own name."""
    return ladder[height(ladder)]._replace(name="EDC")


def alone(ladder: Sequence[Rung]) -> list[Rung]:
    """Rung A with each choice by itself."""
    start = lowest(ladder)
    choices = ladder[1 : height(ladder) + 1]
    taken = [
        Rung(
            f"A, and {rung.name}",
            merge(start.config, rung.settings, where=rung.name),
            words_of(start.protocol, rung.options, where=rung.name),
        )
        for rung in choices
    ]
    return [start, *taken]


def changed(ladder: Sequence[Rung], name: str, *overrides: str) -> Rung:
    """All of EDC but for some settings of the run."""
    rung = highest(ladder)
    return rung._replace(name=name, config=configs.apply_overrides(rung.config, overrides))


def one_setting(label: str, setting: str, *values: Any) -> Callable[[Sequence[Rung]], list[Rung]]:
    """Rungs of a study that changes one setting of the run."""
    return lambda ladder: [
        highest(ladder),
        *(changed(ladder, f"{label} {value}", f"--{setting}", str(value)) for value in values),
    ]


def of_protocol(label: str, setting: str, *values: float) -> Callable[[Sequence[Rung]], list[Rung]]:
    """Rungs of a study that changes one setting of the protocol."""

    def rungs(ladder: Sequence[Rung]) -> list[Rung]:
        rung = highest(ladder)
        others = [
            rung._replace(name=f"{label} {value}", protocol=words_of(rung.protocol, {setting: value}, where=label))
            for value in values
        ]
        return [rung, *others]

    return rungs


def observers(ladder: Sequence[Rung]) -> list[Rung]:
    """The first few of the observers, who also give the labels, and more of them."""
    known = highest(ladder).config.edc.observers
    more = tuple(one for one in ("convnet:width=8,depth=2", "convnet:width=32,depth=2") if one not in known)
    sets = [known[:count] for count in range(1, len(known))] + [known + more]
    return [highest(ladder), *(changed(ladder, f"observers: {len(one)}", "--edc.observers", *one) for one in sets)]


def norms(ladder: Sequence[Rung]) -> list[Rung]:
    """All observers with batch norm, fixed to the statistics of all real images."""
    known = highest(ladder).config.edc.observers
    theirs = [one if "norm=" in one else f"{one}{',' if ':' in one else ':'}norm=batch" for one in known]
    return [highest(ladder), changed(ladder, "observers with batch norm", "--edc.observers", *theirs)]


def label_noise(ladder: Sequence[Rung]) -> list[Rung]:
    """Classes that overlap: statistics of classes against those of all images, by the share of wrong labels."""
    sets = [(share, alpha) for share in (0.2, 0.4) for alpha in (0.0, 0.5, 1.0)]
    noisy = [
        changed(
            ladder, f"label noise {share}, alpha {alpha}", "--data.label_noise", str(share), "--edc.alpha", str(alpha)
        )
        for share, alpha in sets
    ]
    return [highest(ladder), *noisy]


STUDIES: dict[str, Callable[[Sequence[Rung]], list[Rung]]] = {
    "alone": alone,
    "alpha": one_setting("alpha", "edc.alpha", 0.0, 0.25, 0.75, 1.0),
    "zeta": of_protocol("zeta", "zeta", 1.0, 1.5, 2.5, 3.0),
    "start": one_setting("start", "condense.init", "noise", "mosaics"),
    "observers": observers,
    "observer_epochs": one_setting("epochs of observers", "edc.observer_epochs", 1, 2, 10, 20),
    "norms": norms,
    "label_noise": label_noise,
    "statistics": one_setting("statistics of the", "edc.statistics", "code"),
    "crops": of_protocol("crops in evaluation of at least", "crop_area", 0.5, 1.0),
}


def main() -> None:
    parser = parser_of(__doc__, "edc_studies")
    parser.add_argument("--ladder", type=Path, default=CONFIGS / "edc_ladder_mini.toml")
    args, overrides = chosen(parser, "study", STUDIES, usual=STUDIES, by_default="all")
    ladder = load(args.ladder, overrides)
    if not any(rung.name.startswith("G") for rung in ladder):
        parser.error(f"{args.ladder} has no rung G, all of EDC, whose settings the studies change")
    for name in args.names:
        with progress() as shown:
            climb(STUDIES[name](ladder), args.out, f"edc_{name}", resume=True, progress=shown)
        print((args.out / f"edc_{name}.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
