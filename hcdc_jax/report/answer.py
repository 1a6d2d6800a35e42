"""The first thing a page says: which candidates, whether to believe it, what to type next."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hcdc_jax.report.results import Run
from hcdc_jax.report.tables import BREAK_EVEN_LIMIT, Report, count, has_truth, lead, regret_key, seconds

SHOWN = 3
"""Candidates whose settings are written out; the verdict has the regret of so many."""

GOOD, FAIR = 0.9, 0.7
"""Lower ends of the 95 % interval of Spearman's correlation from which on a ranking is trusted, or trusted in part.

At 0.9 chance orders a pair of candidates wrongly in about one case of seven, at 0.7 in one of four (Kendall's tau of
normal scores, 2 / pi arcsin of their correlation).
"""


def trust(report: Report) -> list[str]:
    """Whether the ranking can be relied on and why, the answer first; for a page and a terminal alike."""
    main = lead(report) or next(iter(report["methods"]))
    if not has_truth(report):
        return [
            "How far this ranking can be trusted is not known: no candidate was trained on the full data. A search "
            "trains the few best there and says what came of them; hcdc truth trains them all.",
            *_price(report, main),
        ]
    entry = report["methods"][main]
    rho, (low, high) = entry["spearman_loss"]["mean"], entry["interval"]
    if rho is None or low is None or high is None:
        return [f"Do not trust this ranking: of {main} there is no correlation with full trainings."]
    word = (
        "This ranking can be trusted"
        if low >= GOOD
        else "This ranking can be trusted in part"
        if low >= FAIR
        else "Do not trust this ranking"
    )
    said = [
        f"{word}: {main} orders {count(report['space']['candidates'])} candidates as full trainings do at Spearman "
        f"{rho:.3f} (95 % interval {low:.3f} to {high:.3f})."
    ]
    return [*said, *_of_losses(report), *_choice(report, main), *_cheaper(report, main), *_price(report, main)]


def _of_losses(report: Report) -> list[str]:
    """A warning where even the truth's own losses are a poor order of its accuracies."""
    rho = report["truth"]["spearman_of_loss_with_accuracy"]
    if rho is None or rho >= FAIR:
        return []
    return [
        f"It is an order of losses, not of accuracies: the truth's own losses rank its accuracies at {rho:.3f} here."
    ]


def _choice(report: Report, main: str) -> list[str]:
    first, best = (report["methods"][main][regret_key(k)]["mean"] for k in (1, SHOWN))
    if first is None or best is None:
        return []
    return [
        f"Its first candidate is {first:.2f} points of test accuracy below the best of all; the best of its first "
        f"{SHOWN}, trained in full, {best:.2f}."
    ]


def _price(report: Report, main: str) -> list[str]:
    """Whether the way here pays beside successive halving, where that is known."""
    found, each = report["break_even_halving"].get(main), report["full_training_seconds"]
    if found is not None:
        return [f"It is cheaper than successive halving on the full data from {count(found)} candidates on."]
    if each is None or report["full_training_steps"] is None:
        return []
    return [
        f"A full training takes {seconds(each)} s here, so successive halving on the full data is cheaper, for up to "
        f"{BREAK_EVEN_LIMIT:,} candidates at least."
    ]


def _cheaper(report: Report, main: str) -> list[str]:
    """Rivals that paid no more full trainings and rank as well, as the verdict shows it."""
    mine, paid = report["methods"][main]["spearman_loss"]["mean"], report["methods"][main]["full_trainings_used"]
    as_well = [
        f"{method} ({entry['spearman_loss']['mean']:.3f})"
        for method, entry in report["methods"].items()
        if method != main
        and entry["spearman_loss"]["mean"] is not None
        and round(entry["spearman_loss"]["mean"], 3) >= round(mine, 3)
        and (entry["full_trainings_used"] or 0) < (paid or 0)
    ]
    return [f"For fewer full trainings this does as well here: {', '.join(as_well)}."] if as_well else []


class Opening(NamedTuple):
    """What can be copied from the top of a page.

    Attributes:
      settings: of the best candidates.
      commands: what to type next.
    """

    settings: str
    commands: str


def opening(report: Report, run: Run, order: np.ndarray, places: np.ndarray) -> Opening:
    """The settings of the best candidates and the commands that go on from the run.

    Args:
      report: the content of `report.json`.
      run: the run, whose `info` has the settings as the losses read them, unless an older version made it.
      order: numbers of the best candidates, the best first.
      places: [n] ranks on the full data, NaN where unknown; empty without a truth.
    """
    return Opening(_best_settings(report, run, order, places), _commands(report, is_study="study" in run.info))


def _best_settings(report: Report, run: Run, order: np.ndarray, places: np.ndarray) -> str:
    main = lead(report) or next(iter(run.results))
    values, blocks = _settings(run), []
    for place, candidate in enumerate(order[:SHOWN]):
        known = []
        if has_truth(report) and math.isfinite(places[candidate]):
            known.append(f"rank {places[candidate]:.4g} of {count(report['space']['candidates'])} on the full data")
        accuracy = run.truth.test_accuracy[candidate] if has_truth(report) else math.nan
        if math.isfinite(accuracy):
            known.append(f"test accuracy {100 * accuracy:.2f} %")
        head = "; ".join([f"# {place + 1}. by {main}: candidate {candidate}", *known])
        lines = (f"{name} = {_written(column[candidate])}" for name, column in values.items())
        blocks.append("\n".join([head, *(line for line in lines if not line.endswith(" = "))]))
    return "\n\n".join(blocks)


def _written(value: float | str | None) -> str:
    """A number, the option of a choice, or nothing where a hyperparameter does not act."""
    return "" if value is None else f'"{value}"' if isinstance(value, str) else f"{value:.4g}"


def _settings(run: Run) -> Mapping[str, Sequence[Any]]:
    """[n] by name: what the losses read of the candidates, or their vectors where that is not known."""
    told = run.info.get("settings", {})
    if told and all(len(column) == len(run.hparams) for column in told.values()):
        return told
    names = run.info.get("space", {}).get("hparam_names") or []
    if len(names) != run.hparams.shape[1]:
        names = [f"hparam_{i}" for i in range(run.hparams.shape[1])]
    return dict(zip(names, run.hparams.T, strict=True))


def _commands(report: Report, *, is_study: bool) -> str:
    """What to type in the folder of the page, or in Python, where only that knows the network."""
    each = report["full_training_seconds"]
    price = "" if each is None else f", {seconds(each)} s each"
    search, truth = "hcdc search . --method calibrated", "hcdc truth . && hcdc report ."
    if is_study:
        search, truth = "study.search(1000)", "study.truth(); study.report()"
    lines = [
        (search, f"find the best of 1,000: at most six full trainings more{price}"),
        ("hcdc export . --format npz", "the condensed data as plain arrays"),
    ]
    if not has_truth(report):
        lines.append((truth, "train every candidate in full: how good is this ranking?"))
    width = max(len(command) for command, _ in lines)
    return "\n".join(f"{command:<{width}}  # {why}" for command, why in lines)
