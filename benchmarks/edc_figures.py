"""Pictures of EDC's studies: accuracies as bars, and the condensed images of each variant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from hcdc_jax import metrics
from hcdc_jax.report.condensed import image_panels
from hcdc_jax.report.style import BLUE, GREY, PALE, WIDTH, Drawing, house_style

SHOWN = 2
"""Images of each class that a panel has."""


@house_style
def bars(accuracies: Mapping[str, Sequence[float]]) -> Drawing:
    """Test accuracies in percent, a bar for each variant, from the first one down, and a dot for each network."""
    figure = Figure(figsize=(WIDTH, 0.8 + 0.4 * len(accuracies)), layout="constrained")
    axes = figure.subplots()
    for place, values in enumerate(accuracies.values()):
        found = metrics.summarise(values)
        axes.barh(place, found["mean"] or 0.0, color=PALE)
        axes.plot(values, np.full(len(values), place), "o", color=BLUE, markersize=3, alpha=0.7)
        if values:
            axes.text(max(values), place, f"  {found['mean']:.1f}", va="center", color=GREY)
    axes.set_yticks(np.arange(len(accuracies)), list(accuracies))
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.set_xlabel("test accuracy, %")
    return figure


def panels(sets: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Drawing:
    """The first images of each class: pixels [n, h, w, c] from 0 to 1 and labels [n], by title."""
    return image_panels([(title, *_first(pixels, labels)) for title, (pixels, labels) in sets.items()])


def _first(pixels: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    places = np.sort(np.concatenate([np.flatnonzero(labels == c)[:SHOWN] for c in np.unique(labels)]))
    return pixels[places], labels[places]
