"""The figures of a report: pure functions from arrays to a Matplotlib figure.

A function whose data is missing returns one sentence that says so. Figures are built without pyplot, so drawing needs
no display and leaves no global state behind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hcdc_jax import metrics
from hcdc_jax.report import evaluations
from hcdc_jax.report.results import Curve
from hcdc_jax.report.style import (
    BLUE,
    GREY,
    PALE,
    PALETTE,
    WIDTH,
    Drawing,
    house_style,
)
from hcdc_jax.report.tables import seconds


@house_style
def rank_scatter(truth: np.ndarray | None, proxies: Mapping[str, np.ndarray]) -> Drawing:
    """Rank by the full data against rank by each method, one panel a method, one dot a candidate and seed.

    Args:
      truth: [n] losses on the full data, or None.
      proxies: [seeds, n] losses by method; NaN where a candidate failed.
    """
    if truth is None or not proxies:
        return "No truth was computed, so ranks cannot be compared with it."
    if not np.isfinite(truth).any():
        return "Every full training failed, so there are no true ranks to compare with."
    columns = min(4, len(proxies))
    rows = -(-len(proxies) // columns)
    figure = Figure(figsize=(WIDTH, 0.3 + rows * min(WIDTH / columns + 0.3, 3.4)), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    n = truth.size
    for axes, (method, losses) in zip(grid.flat, proxies.items(), strict=False):
        axes.axline((1, 1), slope=1, color=PALE, linewidth=1, zorder=0)
        for row in losses:
            x, y = _ranks_of_valid(truth, row)
            axes.scatter(x, y, s=8 if n > 300 else 14, color=_colour(method), alpha=0.6, linewidths=0, rasterized=True)
        axes.set_title(f"{method}\nρ = {_mean_std([_spearman(truth, row) for row in losses])}")
        axes.set(xlim=(0, n + 1), ylim=(0, n + 1), aspect="equal")
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    for axes in grid.flat[len(proxies) :]:
        axes.set_axis_off()
    for axes in grid.flat[max(len(proxies) - columns, 0) : len(proxies)]:  # the lowest panel of each column
        axes.tick_params(labelbottom=True)
    figure.supxlabel("rank by the full data (1 = lowest loss)", fontsize=10)
    for axes in grid[:, 0]:
        axes.set_ylabel("rank by the method")
    return figure


@house_style
def rank_strips(truth: np.ndarray | None, proxies: Mapping[str, np.ndarray]) -> Drawing:
    """Candidates in the order of the truth, coloured by each method's rank; a perfect method shows a smooth gradient.

    Args:
      truth: [n] losses on the full data, or None.
      proxies: [seeds, n] losses by method, one thin line a seed; NaN where a candidate failed (light grey).

    References:
      HCDC (arXiv 2405.17535), Fig. 2.
    """
    if truth is None or not proxies:
        return "No truth was computed, so candidates have no true order to be drawn in."
    if not np.isfinite(truth).any():
        return "Every full training failed, so candidates have no true order to be drawn in."
    order = np.argsort(truth, kind="stable")[: np.isfinite(truth).sum()]  # NaN sorts last
    strips = {"the full data": truth[None], **proxies}
    figure = Figure(figsize=(WIDTH, 0.9 + 0.38 * len(strips)), layout="constrained")
    stack = figure.subplots(len(strips), 1, squeeze=False)[:, 0]
    colours = matplotlib.colormaps["cividis_r"].with_extremes(bad=PALE)
    for place, (axes, (method, losses)) in enumerate(zip(stack, strips.items(), strict=True)):
        share = np.stack([_rank_share(row[order]) for row in losses])
        axes.imshow(share, aspect="auto", cmap=colours, vmin=0, vmax=1, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        axes.set_ylabel(method, rotation=0, ha="right", va="center")
        if place > 0:
            rho = _mean_std([_spearman(truth, row) for row in losses])
            axes.text(1.01, 0.5, f"ρ = {rho}", transform=axes.transAxes, va="center")
    stack[-1].set_xlabel("candidates, from lowest (left) to highest loss on the full data")
    # The top strip is the colour scale.
    stack[0].text(0, 1.15, "ranked best", transform=stack[0].transAxes)
    stack[0].text(1, 1.15, "ranked worst", transform=stack[0].transAxes, ha="right")
    return figure


@house_style
def matching(curves: Mapping[str, Sequence[Curve]]) -> Drawing:
    """Matching loss beside held-out rank correlation over the steps of condensation, one line a seed."""
    curves = {method: lines for method, lines in curves.items() if any(line.steps.size for line in lines)}
    if not curves:
        return "No method of this run logged a matching loss."
    checked = any(line.held_out.size for lines in curves.values() for line in lines)
    figure = Figure(figsize=(WIDTH, 0.4 + 2.3 * len(curves)), layout="constrained")
    grid = figure.subplots(len(curves), 2 if checked else 1, sharex="row", squeeze=False)
    for row, (method, lines) in zip(grid, curves.items(), strict=True):
        for line, colour in zip(lines, _cycle(len(lines)), strict=True):
            row[0].plot(line.steps, line.distance, color=colour, label=f"seed {line.seed}")
            if line.held_out.size:
                marker = "o" if line.held_out.size < 30 else ""
                row[1].plot(line.held_out_steps, line.held_out, color=colour, marker=marker, markersize=3.5)
        values = np.concatenate([line.distance for line in lines])
        values = values[np.isfinite(values)]
        if values.size and values.min() > 0 and values.max() > 10 * values.min():
            row[0].set_yscale("log")
        row[0].set_title(f"{method}: matching loss")
        if len(lines) > 1:
            row[0].legend(fontsize=9)
        if checked:
            _finish_held_out(row[1], method, any(line.held_out.size for line in lines))
    for axes in grid[-1]:
        axes.set_xlabel("step")
    return figure


@house_style
def time_bars(parts: Mapping[str, Mapping[str, float]], full_search: float | None, pays: Mapping[str, str]) -> Drawing:
    """Seconds of each part of each method, above what training every candidate on the full data takes.

    Args:
      parts: seconds by method and by part, in the order in which they are spent.
      full_search: seconds to train every candidate on the full data, or None if unknown.
      pays: from how many candidates on a method pays, in words.
    """
    names = list(dict.fromkeys(name for part in parts.values() for name in part))
    spent = np.array([[part.get(name, np.nan) for name in names] for part in parts.values()])
    known = np.isfinite(spent.sum(axis=-1))
    if full_search is None or not np.isfinite(full_search) or not names or not known.any():
        return "The seconds of a full training were not recorded, so costs cannot be compared."
    spent = np.where(known[:, None], spent, 0.0)
    totals = spent.sum(axis=1)
    longest = max(totals.max(), 1e-9)
    cut = full_search > 12 * longest  # at that scale the parts of the methods could not be seen
    right = 2 * longest if cut else 1.45 * max(full_search, longest)
    figure = Figure(figsize=(WIDTH, 1.1 + 0.3 * (len(parts) + 1)), layout="constrained")
    axes = figure.subplots()
    places, starts = np.arange(len(parts)), np.cumsum(spent, axis=1) - spent
    for name, width, left, colour in zip(names, spent.T, starts.T, _cycle(len(names)), strict=True):
        axes.barh(places, width, left=left, color=colour, label=name)
    axes.barh(len(parts), right if cut else full_search, color=GREY)
    for place, (method, total) in enumerate(zip(parts, totals, strict=True)):
        text = f"{seconds(total)} s, pays from: {pays[method]}" if known[place] else "not recorded"
        axes.text(total + 0.01 * right, place, text, va="center")
    if cut:
        text = f"{seconds(full_search)} s, {full_search / longest:,.0f} times the longest method: bar cut"
        axes.text(0.01 * right, len(parts), text, va="center", color="white")
    else:
        axes.text(full_search + 0.01 * right, len(parts), f"{seconds(full_search)} s", va="center")
    axes.set_yticks(np.arange(len(parts) + 1), [*parts, "all on the full data"])
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter("{x:,.10g}")
    axes.set(xlim=(0, right), xlabel="seconds, without compilation")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=4)
    return figure


@house_style
def learned_shifts(shifts: Mapping[str, np.ndarray], names: Sequence[str]) -> Drawing:
    """Shift of each hyperparameter, one row a hyperparameter, one dot a seed.

    Args:
      shifts: [seeds, h] by method, in prior standard deviations.
      names: [h] of the hyperparameters.
    """
    figure = Figure(figsize=(WIDTH, 1.0 + 0.35 * len(names)), layout="constrained")
    axes = figure.subplots()
    rows, spread = np.arange(len(names)), 0.18
    axes.axvline(0, color=PALE, linewidth=1, zorder=0)
    for place, ((method, values), colour) in enumerate(zip(shifts.items(), _cycle(len(shifts)), strict=True)):
        heights = np.broadcast_to(rows + spread * (2 * place - len(shifts) + 1), values.shape)
        axes.plot(values.ravel(), heights.ravel(), "o", color=colour, markersize=4.5, label=method)
    axes.set_yticks(rows, names)
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.set_xlabel("shift, in standard deviations of the prior")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=4)
    return figure


@house_style
def accuracy_bars(grid: evaluations.Grid) -> Drawing:
    """Test accuracies of networks trained on condensed sets: a group for each network, a bar for each set."""
    models, rows = evaluations.models_of(grid), list(grid)
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axes = figure.subplots()
    width, colours = 0.8 / len(rows), _cycle(len(rows))
    for place, (row, cells) in enumerate(grid.items()):
        condensed = row != evaluations.WHOLE_ROW
        means, spreads = (
            [100 * getattr(cells[model], name) if model in cells else np.nan for model in models]
            for name in ("mean", "std")
        )
        axes.bar(
            np.arange(len(models)) + (place - (len(rows) - 1) / 2) * width,
            means, 0.9 * width, yerr=spreads, capsize=2, error_kw={"elinewidth": 1},
            color=colours[place] if condensed else GREY,
            hatch="//" if condensed and place >= len(PALETTE) else None, edgecolor="white", linewidth=0, label=row,
        )  # fmt: skip
    margin = max(0.6, 1.2 / len(models))  # so that a single group does not fill the width
    axes.set_xticks(np.arange(len(models)), models)
    axes.tick_params(axis="x", length=0)
    axes.set(xlim=(-margin, len(models) - 1 + margin), ylim=(0, None), ylabel="test accuracy, %")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=5)
    return figure


def _finish_held_out(axes: Any, method: str, any_check: bool) -> None:
    axes.set_title(f"{method}: Spearman on held-out candidates")
    if any_check:
        lowest = axes.dataLim.y0 if np.isfinite(axes.dataLim.y0) else 0.0
        margin = 0.05 * max(1 - lowest, 0.01)
        axes.set_ylim(lowest - margin, 1 + margin)
        axes.axhline(1, color=PALE, linewidth=1, zorder=0)
    else:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "not checked", transform=axes.transAxes, ha="center", va="center", color=GREY)


def _colour(method: str) -> str:
    return BLUE if method.startswith("hcdc") else GREY


def _cycle(n: int) -> list[str]:
    return [PALETTE[i % len(PALETTE)] for i in range(n)]


def _ranks_of_valid(truth: np.ndarray, proxy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    valid = np.isfinite(truth) & np.isfinite(proxy)
    return metrics.ranks(truth[valid]), metrics.ranks(proxy[valid])


def _rank_share(losses: np.ndarray) -> np.ndarray:
    """[n] place in the ranking from 0 (best) to 1 (worst); NaN where the loss is."""
    share = np.full(losses.shape, np.nan)
    valid = np.isfinite(losses)
    share[valid] = (metrics.ranks(losses[valid]) - 1) / max(valid.sum() - 1, 1)
    return share


def _spearman(truth: np.ndarray, proxy: np.ndarray) -> float:
    valid = np.isfinite(truth) & np.isfinite(proxy)
    return metrics.spearman(truth[valid], proxy[valid])


def _mean_std(values: Sequence[float]) -> str:
    summary = metrics.summarise(values)
    if not np.isfinite(summary["mean"]):
        return "undefined"
    spread = f" ± {summary['std']:.3f}" if len(values) > 1 else ""
    return f"{summary['mean']:.3f}{spread}"
