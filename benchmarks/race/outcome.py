"""What a race comes to: regret against cost, in numbers, in a table and in a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.race.methods import METHODS, Method, Table, Trail
from hcdc_jax.report.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, WIDTH, Drawing, house_style

AFTER = (1, 2, 3, 4, 6, 8)
"""Full trainings after the first m at which tables look."""
CLOSE = 0.3
"""Points of test accuracy within which the best is as good as found."""
DRAWN = {
    "random": GREY, "successive_halving": VERMILION, "hyperband": PURPLE, "tpe": ORANGE, "hcdc_best": SKY,
    "surrogate_grad": GREEN, "calibrated": BLUE,
}  # fmt: skip
"""Methods in the figure, the last one on top, and their colours."""


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
    costs, after = np.array([m + k for k in AFTER]), [f"{m} + {k}" for k in AFTER]
    points, logs = [], []
    for method, seeds in race["methods"].items():
        found = list(seeds.values())

        def at(key: str, found: Sequence[Any] = found) -> np.ndarray:
            return np.array([at_costs(one, key, costs) for one in found]).T  # [costs, seeds]

        reached = np.array([held_from(one) for one in found])
        seconds = (np.median(at(key)[-1]) for key in ("seconds", "seconds_with_compilation"))
        points.append([method, *map(_quartiles, at("regret")), _quartiles(reached, 0)])
        logs.append([method, *(_quartiles(row, 3) for row in at("log_regret")), *(f"{time:.0f}" for time in seconds)])
    return [
        f"**{name}**, {race['candidates']} candidates, the best of which has {race['best_test_accuracy']:.1f} % of "
        f"test accuracy: regret in points after {m} full trainings and more",
        "",
        *_rows(["method", *after, f"≤ {CLOSE} from"], points),
        f"**{name}**: regret in log validation loss, and seconds until {after[-1]} without and with compilation",
        "",
        *_rows(["method", *after, "seconds", "with compilation"], logs),
    ]


def _rows(columns: list[str], rows: list[list[str]]) -> list[str]:
    lines = [f"| {' | '.join(cells)} |" for cells in (columns, *rows)]
    return [lines[0], "|---" * len(columns) + "|", *lines[1:], ""]


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
    """Regret against full trainings, a row of panels a task: medians and quartiles over seeds."""
    if not races:
        return "no race is finished"
    drawing = Figure(figsize=(WIDTH, 0.9 + 2.3 * len(races)), layout="constrained")
    panels = drawing.subplots(len(races), len(_SHOWN), squeeze=False, sharex=True)
    for row, (name, race) in zip(panels, races.items(), strict=True):
        for panel, (key, (words, linear)) in zip(row, _SHOWN.items(), strict=True):
            _draw(panel, race, key)
            panel.set_title(f"{name}: {words}")
            panel.set_yscale("symlog", linthresh=linear)
            panel.yaxis.set_major_formatter("{x:g}")
    for panel in panels[-1]:
        panel.set(xscale="log", xlabel="full trainings", xticks=(4, 8, 16, 32, 64), xlim=(4, 64))
        panel.xaxis.set_major_formatter("{x:.0f}")
        panel.minorticks_off()
    handles, labels = panels[0, 0].get_legend_handles_labels()
    words = [f"{label}: {METHODS[label].about}" for label in labels]
    drawing.legend(handles, words, loc="outside lower center", ncols=2, fontsize=8)
    return drawing


_SHOWN = {"regret": ("regret, points of test accuracy", 1.0), "log_regret": ("regret in log validation loss", 0.01)}
"""What panels show: in words, and up to where their axis is linear."""


def _draw(panel: Any, race: Mapping[str, Any], key: str) -> None:
    for method, colour in DRAWN.items():
        if method not in race["methods"]:
            continue
        found = list(race["methods"][method].values())
        # From where all seeds have trained one in full to where one has trained its last.
        first, last = max(one["cost"][0] for one in found), min(one["cost"][-1] for one in found)
        costs = np.geomspace(first, last, 400)
        low, middle, high = np.quantile([at_costs(one, key, costs) for one in found], [0.25, 0.5, 0.75], axis=0)
        width = 2.5 if method == "calibrated" else 1.2
        panel.step(costs, middle, where="post", color=colour, label=method, linewidth=width)
        panel.fill_between(costs, low, high, step="post", color=colour, alpha=0.12, linewidth=0)
    panel.axvline(race["first"], color=GREY, linewidth=0.8, linestyle=":")
