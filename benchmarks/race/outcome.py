"""What a race comes to: regret against cost, in numbers, in a table and in a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.race.methods import METHODS, Method, Table, Trail
from hcdc_jax.report.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, WIDTH, Drawing, house_style

AFTER = (1, 2, 3, 4, 6, 8, 16)
"""Full trainings after the first m at which tables look."""
CLOSE = 0.3
"""Points of test accuracy within which the best is as good as found."""
DRAWN = {
    "calibrated": BLUE, "surrogate_grad": GREEN, "hcdc_best": SKY, "tpe": ORANGE, "hyperband": PURPLE,
    "successive_halving": VERMILION, "random": GREY,
}  # fmt: skip
"""Methods in the figure, and their colours."""


def outcome(table: Table, method: Method, trail: Trail) -> dict[str, Any]:
    """A replay in numbers, after each of its t full trainings.

    Args:
      table: what was replayed.
      method: that replayed.
      trail: of the replay.

    Returns:
      `places`, `cost` in full trainings, `seconds` and `seconds_with_compilation` of all that was spent, `regret` in
      points of test accuracy below that of the candidate of lowest validation loss, `log_regret` in log validation
      loss, each of the best so far by validation loss; `weights` of experts.
    """
    pool, cheap, best = table.pool, table.cheap, int(table.loss.argmin())
    losses = table.loss[trail.places]
    leading = trail.places[[int(losses[: t + 1].argmin()) for t in range(len(losses))]]
    paid = np.arange(1, len(losses) + 1) * method.gradients
    condensed = sum(cheap.seconds[name] for name in (*method.proxies, "networks")) if method.proxies else 0.0
    seconds = trail.cost * pool.training_seconds + paid * pool.gradient_seconds + condensed + trail.thinking
    compilation = pool.training_compile_seconds + pool.gradient_compile_seconds * method.gradients
    compilation += cheap.compile_seconds * bool(method.proxies)
    test = 100 * pool.test_accuracy[:, -1]
    return {
        "places": trail.places,
        "cost": trail.cost,
        "seconds": seconds,
        "seconds_with_compilation": seconds + compilation,
        "regret": test[best] - test[leading],
        "log_regret": np.log(table.loss[leading]) - np.log(table.loss[best]),
        "weights": trail.weights,
    }


def at_costs(found: Mapping[str, Any], name: str, costs: Sequence[float] | np.ndarray) -> np.ndarray:
    """What `found[name]` was when no more than `costs` was spent; NaN before the first full training."""
    steps = np.searchsorted(np.asarray(found["cost"]) - 1e-6, costs, side="right")
    return np.concatenate([[np.nan], found[name]])[steps]


def held_from(found: Mapping[str, Any]) -> float:
    """Cost from which on the regret is no more than `CLOSE`, to the end; infinite where it never is."""
    wrong = np.flatnonzero(np.asarray(found["regret"]) > CLOSE)
    first = wrong[-1] + 1 if len(wrong) else 0
    return float(found["cost"][first]) if first < len(found["cost"]) else np.inf


def page(races: Mapping[str, Any], footnote: str) -> str:
    """Tables of all tasks in Markdown.

    Args:
      races: by task; what `race.json` holds.
      footnote: says which seeds these are.
    """
    return "\n".join([*(line for name, race in races.items() for line in _table(name, race)), footnote])


def _table(name: str, race: Mapping[str, Any]) -> list[str]:
    m = race["first"]
    columns = ["method", *(f"{m} + {k}" for k in AFTER), f"≤ {CLOSE} from", f"log loss, {m} + 4", "seconds", "compiled"]
    lines = [f"**{name}**, {race['candidates']} candidates, best {race['best_test_accuracy']:.1f} %", ""]
    lines += [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    costs = np.array([m + k for k in AFTER])
    for method, seeds in race["methods"].items():
        found = list(seeds.values())
        regrets = np.array([at_costs(one, "regret", costs) for one in found])
        logs = np.array([at_costs(one, "log_regret", [m + 4]) for one in found])
        last = [np.array([at_costs(one, key, [m + 4])[0] for one in found]) for key in _SECONDS]
        cells = [_quartiles(column) for column in regrets.T]
        reached = np.array([held_from(one) for one in found])
        cells += [_quartiles(reached, 0), _quartiles(logs[:, 0], 3), *(f"{np.median(one):.0f}" for one in last)]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return [*lines, ""]


_SECONDS = ("seconds", "seconds_with_compilation")


def _quartiles(values: np.ndarray, digits: int = 1) -> str:
    """Median, and quartiles in brackets; a dash where not all seeds have got so far."""
    if np.isnan(values).any():
        return "–"
    # Of order statistics, not between them: some may be infinite.
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75], method="nearest")
    shown = [("never" if np.isinf(value) else f"{value:.{digits}f}") for value in (middle, low, high)]
    return f"{shown[0]} ({shown[1]}–{shown[2]})"


@house_style
def figure(races: Mapping[str, Any]) -> Drawing:
    """Regret against full trainings, a panel a task: medians and quartiles over seeds."""
    if not races:
        return "no race is finished"
    columns = min(len(races), 2)
    rows = -(-len(races) // columns)
    drawing = Figure(figsize=(WIDTH, 0.5 + 2.9 * rows), layout="constrained")
    panels = drawing.subplots(rows, columns, squeeze=False).ravel()
    for panel, (name, race) in zip(panels, races.items(), strict=False):
        costs = np.geomspace(1, 64, 400)
        for method, colour in DRAWN.items():
            if method not in race["methods"]:
                continue
            found = np.array([at_costs(one, "regret", costs) for one in race["methods"][method].values()])
            there = ~np.isnan(found).any(0)
            low, middle, high = np.quantile(found[:, there], [0.25, 0.5, 0.75], axis=0)
            label = f"{method}: {METHODS[method].about}"
            panel.step(costs[there], middle, where="post", color=colour, label=label)
            panel.fill_between(costs[there], low, high, step="post", color=colour, alpha=0.15, linewidth=0)
        panel.axvline(race["first"], color=GREY, linewidth=0.8, linestyle=":")
        panel.set(xscale="log", xticks=(1, 2, 4, 8, 16, 32, 64), xlim=(4, 64), title=name)
        panel.xaxis.set_major_formatter("{x:.0f}")
        panel.minorticks_off()
        panel.set_yscale("symlog", linthresh=1)
        panel.yaxis.set_major_formatter("{x:g}")
    for panel in panels[len(races) :]:
        panel.set_axis_off()
    drawing.supxlabel("full trainings", fontsize=10)
    drawing.supylabel("regret, points of test accuracy", fontsize=10)
    handles, labels = panels[0].get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8)
    return drawing
