"""What new networks reach on the images of each rung of a ladder: a table, a chart, the images, and a page of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from hcdc_jax import metrics
from hcdc_jax.report import html, style, tables
from hcdc_jax.report.condensed import image_panels
from hcdc_jax.report.style import BLUE, GREY, PALE, WIDTH, house_style
from hcdc_jax.report.tables import Cell, Table
from hcdc_jax.storage import files

SHOWN = 2
"""Images of each class that a panel has."""
ENDINGS = (".json", ".md", ".html", ".png", "_images.png")
"""Of the files of a report."""


class Step(NamedTuple):
    """A rung that was made and tested.

    Attributes:
      name: of the rung.
      folder: name of its run folder; rungs that differ by their protocol alone share one.
      protocol: of the rung.
      test_accuracy: of each network in [0, 1], None where one diverged.
      seconds: to condense, without observers, mean over seeds.
    """

    name: str
    folder: str
    protocol: str
    test_accuracy: list[float | None]
    seconds: float


def table(steps: Sequence[Step]) -> Table:
    """A line for each rung: mean and deviation of test accuracies in %, networks that diverged, what it took."""
    found = [metrics.summarise(_percent(step)) for step in steps]
    means = [round(one["mean"], 1) if one["values"] else None for one in found]
    best = max((mean for mean in means if mean is not None), default=None)
    rows = []
    for step, spread, mean in zip(steps, found, means, strict=True):
        networks = len(step.test_accuracy)
        rows.append(
            [
                Cell(step.name),
                Cell(
                    tables.MISSING if mean is None else tables.spread(spread, 1), best=mean is not None and mean == best
                ),
                Cell(str(networks)),
                Cell(str(networks - len(_percent(step)))),
                Cell(tables.seconds(step.seconds)),
            ]
        )
    return Table(["Rung", "Test accuracy, %", "Networks", "Diverged", "Seconds to condense"], rows)


def reading(steps: Sequence[Step]) -> list[str]:
    """How the numbers came about."""
    return [
        "Mean ± standard deviation over the networks of all seeds, at the last step of their training, without those "
        "that diverged.",
        "Seconds to condense: mean over seeds, without the training of observers and without compilation.",
        *(f"Protocol of {step.name}: {step.protocol}." for step in steps),
    ]


@house_style
def bars(steps: Sequence[Step]) -> Figure:
    """Test accuracies in percent, a bar for each rung, from the first one down, and a dot for each network."""
    figure = Figure(figsize=(WIDTH, 0.8 + 0.4 * len(steps)), layout="constrained")
    axes = figure.subplots()
    for place, values in enumerate(map(_percent, steps)):
        found = metrics.summarise(values)
        axes.barh(place, found["mean"] if values else 0.0, color=PALE)
        axes.plot(values, np.full(len(values), place), "o", color=BLUE, markersize=3, alpha=0.7)
        if values:
            axes.text(max(values), place, f"  {found['mean']:.1f}", va="center", color=GREY)
    axes.set_yticks(np.arange(len(steps)), [step.name for step in steps], parse_math=False)
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.set_xlabel("test accuracy, %")
    return figure


def panels(sets: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """The first images of each class: pixels [n, h, w, c] from 0 to 1 and labels [n], by title."""
    return image_panels([(title, *_first(pixels, labels)) for title, (pixels, labels) in sets.items()])


def write(
    folder: Path,
    name: str,
    steps: Sequence[Step],
    images: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> None:
    """Writes `<name>` with all `ENDINGS`.

    Args:
      folder: where to.
      name: of the files and of the page.
      steps: from the lowest rung up.
      images: pixels and labels of the S_train in each run folder that `steps` name.
    """
    titles: dict[str, list[str]] = {}
    for step in steps:
        titles.setdefault(step.folder, []).append(step.name)
    chart = style.to_png(bars(steps))
    grids = style.to_png(panels({"; ".join(names): images[made_in] for made_in, names in titles.items()}))
    found, told = table(steps), reading(steps)
    files.write_json(folder / f"{name}.json", [step._asdict() for step in steps])
    files.write_bytes(folder / f"{name}.png", chart)
    files.write_bytes(folder / f"{name}_images.png", grids)
    text = "\n\n".join([f"**{name}**", tables.to_markdown(found), *told])
    files.write_text(folder / f"{name}.md", text + "\n")
    pictures = [
        html.Picture("Test accuracy", "Bars are means over networks, dots are networks.", chart),
        html.Picture(
            "Condensed images", f"The first {SHOWN} of each class that each rung has, of its first seed.", grids
        ),
    ]
    files.write_text(folder / f"{name}.html", html.short_page(name, found, told, pictures))


def _percent(step: Step) -> list[float]:
    return [100 * value for value in step.test_accuracy if value is not None]


def _first(pixels: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    classes = labels if labels.ndim == 1 else labels.argmax(1)
    places = np.sort(np.concatenate([np.flatnonzero(classes == c)[:SHOWN] for c in np.unique(classes)]))
    return pixels[places], labels[places]
