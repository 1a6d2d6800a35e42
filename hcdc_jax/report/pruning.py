"""Figures of pruning: which of the learned images went, and how that was chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hcdc_jax.report.results import Pruning
from hcdc_jax.report.style import BLUE, GREY, PALE, PALETTE, WIDTH, Drawing, house_style

MOST_BINS = 40


@house_style
def pruning(prunings: Sequence[Pruning]) -> Drawing:
    """The histogram of margins, and accuracy over the share of hard images among those that went.

    Args:
      prunings: of one method, by seed; the histogram is of all seeds together.
    """
    judged = [one for one in prunings if one.margins.size]
    if not judged:
        return "Images went at random, so that there are no margins to show."
    tried = [one for one in judged if one.accuracies.size]
    figure = Figure(figsize=(WIDTH, 3.0), layout="constrained")
    panels = figure.subplots(1, 2 if tried else 1, squeeze=False)[0]
    _histogram(panels[0], judged)
    if tried:
        _curves(panels[1], tried)
    return figure


def _histogram(axes: Any, judged: Sequence[Pruning]) -> None:
    """Margins of the images that stayed, and on top of them of those that went."""
    margins = np.concatenate([one.margins for one in judged])
    stayed = np.concatenate([np.isin(np.arange(len(one.margins)), one.kept) for one in judged])
    bins = np.histogram_bin_edges(margins, min(MOST_BINS, max(len(margins) // 8, 5)))
    axes.hist([margins[stayed], margins[~stayed]], bins, stacked=True, color=[PALE, BLUE], label=["stayed", "went"])
    axes.set(xlabel="area under the margin", ylabel="images")
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.legend()


def _curves(axes: Any, tried: Sequence[Pruning]) -> None:
    """A line a seed, and their mean where there are several."""
    for place, one in enumerate(tried):
        colour = PALETTE[place % len(PALETTE)]
        best = int(one.accuracies.argmax())
        axes.plot(one.betas, 100 * one.accuracies, ".-", color=colour, label=f"seed {one.seed}")
        axes.plot(one.betas[best], 100 * one.accuracies[best], "o", markersize=10, fillstyle="none", color=colour)
    if len(tried) > 1 and all(np.array_equal(one.betas, tried[0].betas) for one in tried):
        mean = 100 * np.mean([one.accuracies for one in tried], axis=0)
        axes.plot(tried[0].betas, mean, color=GREY, linewidth=3, alpha=0.5, label="mean")
    axes.set(xlabel="share of hard images among those that went, β", ylabel="validation accuracy, %")
    if len(tried) > 1:
        axes.legend()
