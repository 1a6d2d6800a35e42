"""The plates of a report: its figures in reading order, each with a title and how to read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hcdc_jax.report import evaluations, tables
from hcdc_jax.report.condensed import adjacency, image_grids
from hcdc_jax.report.figures import accuracy_bars, learned_shifts, matching, rank_scatter, rank_strips, time_bars
from hcdc_jax.report.pruning import pruning
from hcdc_jax.report.results import Adjacency, Curve, Images, Pruning
from hcdc_jax.report.style import Drawing
from hcdc_jax.storage import files


class Plate(NamedTuple):
    """A figure with its place in the report.

    Attributes:
      name: file name without ending.
      title: a few words.
      caption: one sentence on how to read it.
      drawing: the figure, or the sentence that says why there is none.
    """

    name: str
    title: str
    caption: str
    drawing: Drawing


def draw_all(
    report: tables.Report,
    truth: np.ndarray | None,
    proxies: Mapping[str, np.ndarray],
    curves: Mapping[str, Sequence[Curve]],
    condensed: Adjacency | Images | None,
    shifts: Mapping[str, np.ndarray],
    prunings: Mapping[str, Sequence[Pruning]],
) -> list[Plate]:
    """Every figure of a report, in reading order.

    Args:
      report: the content of `report.json`.
      truth: [n] losses on the full data, or None.
      proxies: [seeds, n] losses by method.
      curves: what the condensation of each method logged.
      condensed: the graphs or images of the main method, or None.
      shifts: [seeds, h] of the methods that move candidates, in prior standard deviations.
      prunings: of S_train by method, each by seed.
    """
    ordered = {method: proxies[method] for method in tables.best_first(report)}
    parts = {
        method: {
            "full trainings": _nan_if_none(tables.full_training_seconds(report, method)),
            "condensing": _nan_if_none(report["methods"][method]["seconds"]["condense"]),
            "ranking": _nan_if_none(report["methods"][method]["seconds"]["rank"]),
        }
        for method in ordered
    }
    each, n = report["full_training_seconds"], report["space"]["candidates"]
    plates = [
        Plate(
            "rank_scatter",
            "Rank by rank",
            "Each dot is one candidate (and seed): its rank on the full data across, its rank by the method upwards; a "
            "method that ranks as the full data does puts every dot on the diagonal.",
            rank_scatter(truth, ordered),
        ),
        Plate(
            "rank_strips",
            "The order at a glance",
            "Candidates stand in the order of the full data, coloured by the place that each method gives them, one "
            "line a seed: the closer a strip is to the smooth gradient on top, the better the method ranks.",
            rank_strips(truth, ordered),
        ),
        Plate(
            "matching",
            "Matching and ranks during condensation",
            "The matching loss can fall while ranks stand still, so read it beside the rank correlation on candidates "
            "held out from matching; the last step is the one reported.",
            matching(curves),
        ),
        Plate(
            "time",
            "What it cost",
            f"Seconds each method spent until it had ranked {n:,} candidates, above the seconds of training all of "
            "them on the full data. Beside the bars: from how many candidates on a method, one final full training "
            "included, is cheaper than all on the full data, and than successive halving of as many.",
            time_bars(parts, None if each is None else n * each, {m: tables.pays(report, m) for m in ordered}),
        ),
        _images(condensed) if isinstance(condensed, Images) else _graphs(condensed),
    ]
    if shifts:
        plates.append(_shifts(shifts, report["space"]["hparam_names"]))
    # Methods that are ranked on one S_train state one pruning: the first of them is enough.
    return [*plates, _pruning(next(iter(prunings.values())))] if prunings else plates


def evaluation(name: str, stored: Mapping[str, Any]) -> Plate:
    """The figure of one protocol of `evaluation.json`."""
    return Plate(
        f"evaluation_{files.as_name(name)}",
        f"Networks trained on condensed images, protocol {name}",
        "Bars are means over networks and seeds, lines their standard deviations; a set that carries over to other "
        "networks than the one it was made with has high bars everywhere.",
        accuracy_bars(evaluations.pooled(stored)),
    )


def _graphs(graph: Adjacency | None) -> Plate:
    return Plate(
        "adjacency",
        "Learned graphs",
        "Edge weights between the nodes of the condensed graphs, sorted by class; lines are class boundaries, so "
        f"blocks on the diagonal are edges within a class ({tables.MISSING} stands for nodes without one).",
        adjacency(graph),
    )


def _images(images: Images) -> Plate:
    return Plate(
        "condensed_images",
        "Condensed images",
        "One column a class. Colours beyond black and white are cut off, so learned images may look flatter than they "
        "are.",
        image_grids(images),
    )


def _shifts(shifts: Mapping[str, np.ndarray], names: Sequence[str]) -> Plate:
    return Plate(
        "shifts",
        "Learned shifts",
        "By how much candidates are moved before they are trained on the small S_train, so that it wants what the full "
        "data wants; one dot a seed. To the right of zero a hyperparameter is raised.",
        learned_shifts(shifts, names),
    )


def _pruning(prunings: Sequence[Pruning]) -> Plate:
    return Plate(
        "pruning",
        "Pruning to the budget",
        "Left: the area under the margin of every learned image of S_train, low for hard ones; images of the dark "
        "part went. Right: accuracy on real validation images of networks trained on what is left, by the share of "
        "hard ones among those that went; the ring is the share that was chosen.",
        pruning(prunings),
    )


def _nan_if_none(value: float | None) -> float:
    return np.nan if value is None else value
