"""The confirmatory table from the reports of its rows: paired differences, what is above what, and the claim."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.tables import spread, table
from hcdc_jax import metrics
from hcdc_jax.report.tables import count

COLUMNS = (
    "method", "Spearman, losses", "lead minus method", "95 % interval", "lead is", "regret of best 1 / 3 / 5, points",
    "full trainings", "pays from, candidates",
)  # fmt: skip


class Claim(NamedTuple):
    """What is claimed of the leads.

    Attributes:
      rows: on at least so many the lead is above every counted rival, by an interval that excludes zero.
      below: and nowhere further than this below a counted rival, on average over the seeds.
      learns_val: methods that learn an S_val, which stand beside and do not count as rivals.
    """

    rows: int
    below: float
    learns_val: frozenset[str]


class Plan(NamedTuple):
    """A row of the table.

    Attributes:
      name: of the row.
      lead: its method that was named beforehand.
      seeds: of the methods.
      report: the content of `report.json`; None while the run is not finished.
    """

    name: str
    lead: str
    seeds: tuple[int, ...]
    report: dict | None


class Difference(NamedTuple):
    """The lead's Spearman correlation minus a method's, paired by seed: mean, and 95 % interval."""

    mean: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """Where the lead is: above or below by an interval that excludes zero, level, or undefined."""
        if math.isnan(self.low):
            return "undefined"
        return "above" if self.low > 0 else "below" if self.high < 0 else "level"


def differences(plan: Plan) -> dict[str, Difference]:
    """By method, without the lead; of a finished row."""
    assert plan.report is not None
    values = {
        method: np.array([math.nan if v is None else v for v in entry["spearman_loss"]["values"]], float)
        for method, entry in plan.report["methods"].items()
    }
    lead = values.pop(plan.lead)
    return {method: Difference(*metrics.paired_interval(lead, theirs)) for method, theirs in values.items()}


def nearest(found: dict[str, Difference]) -> str:
    """The rival that the lead is least above; one that is undefined comes first, lest it be overlooked."""
    return min(found, key=lambda method: -math.inf if math.isnan(found[method].mean) else found[method].mean)


def counted(plan: Plan, claim: Claim) -> dict[str, Difference]:
    return {method: found for method, found in differences(plan).items() if method not in claim.learns_val}


def page(plans: Sequence[Plan], claim: Claim, *, rows: int, changed: Sequence[str]) -> str:
    """The table in Markdown: all rows in short, whether the claim holds, and each row with all its methods.

    Args:
      plans: the rows that are asked for.
      claim: what is claimed.
      rows: how many rows the whole table has.
      changed: overrides on the command line; with any it is another table.
    """
    finished = [plan for plan in plans if plan.report is not None]
    header = ("row", "lead", "Spearman, losses", "nearest rival", "its Spearman", "lead minus rival", "95 % interval",
              "above / level / below", "`value_only`", "lead minus `value_only`", "95 % interval")  # fmt: skip
    return "\n".join(
        [
            f"| {' | '.join(header)} |",
            "|---" * len(header) + "|",
            *(f"| {' | '.join(_short(plan, claim))} |" for plan in finished),
            "",
            *_reading(plans, finished, claim, rows, changed),
            "",
            *(line for plan in finished for line in _row(plan, claim)),
        ]
    )


def _short(plan: Plan, claim: Claim) -> list[str]:
    assert plan.report is not None
    methods, rivals = plan.report["methods"], counted(plan, claim)
    closest = nearest(rivals)
    verdicts = [rival.verdict for rival in rivals.values()]
    tally = " / ".join(str(verdicts.count(verdict)) for verdict in ("above", "level", "below"))
    undefined = verdicts.count("undefined")
    beside = differences(plan).get("value_only")
    return [
        f"{plan.name}, {len(plan.seeds)} seeds", f"`{plan.lead}`", spread(methods[plan.lead]["spearman_loss"], 3),
        f"`{closest}`", spread(methods[closest]["spearman_loss"], 3), *_numbers(rivals[closest]),
        tally + (f", {undefined} undefined" if undefined else ""),
        *(["", "", ""] if beside is None else [spread(methods["value_only"]["spearman_loss"], 3), *_numbers(beside)]),
    ]  # fmt: skip


def _numbers(found: Difference) -> list[str]:
    if math.isnan(found.mean):
        return ["undefined", ""]
    interval = "" if math.isnan(found.low) else f"{found.low:+.3f} to {found.high:+.3f}"
    return [f"{found.mean:+.3f}", interval]


def _reading(
    plans: Sequence[Plan], finished: Sequence[Plan], claim: Claim, rows: int, changed: Sequence[str]
) -> list[str]:
    """What the table says of the claim, in sentences."""
    said, missing = [], [plan.name for plan in plans if plan.report is None]
    if changed:
        said.append(f"Not the confirmatory table: changed by `{' '.join(changed)}`.")
    if missing:
        said.append(f"Not finished: {', '.join(missing)}.")
    if not finished:
        return said
    nearest_of = {plan.name: counted(plan, claim) for plan in finished}
    won = [name for name, rivals in nearest_of.items() if all(one.verdict == "above" for one in rivals.values())]
    said.append(
        f"Above every counted rival, by an interval that excludes zero, on {len(won)} of {len(finished)} rows"
        f"{f' ({chr(44).join(won)})' if won else ''}; claimed: {claim.rows} of {rows}."
    )
    worst = min(nearest_of, key=lambda name: _or_lowest(nearest_of[name][nearest(nearest_of[name])].mean))
    rival = nearest(nearest_of[worst])
    lowest = nearest_of[worst][rival].mean
    said.append(
        f"Lowest mean difference to a counted rival: {_numbers(nearest_of[worst][rival])[0]} "
        f"({worst}, `{rival}`); claimed: nowhere under {-claim.below:+.2f}."
    )
    if len(finished) == rows and not changed:
        holds = len(won) >= claim.rows and lowest >= -claim.below
        said.append(f"**The claim {'holds' if holds else 'does not hold'}.**")
    else:
        said.append("Nothing is confirmed by a part of the table, or another one.")
    return said


def _or_lowest(mean: float) -> float:
    return -math.inf if math.isnan(mean) else mean


def _row(plan: Plan, claim: Claim) -> list[str]:
    """All methods of a row."""
    assert plan.report is not None
    found, pays = differences(plan), plan.report["break_even_candidates"]

    def cells(method: str, entry: dict) -> list[str]:
        if method == plan.lead:
            name, where = f"**`{method}`**", ["", "", ""]
        else:
            beside = ", not counted" if method in claim.learns_val else ""
            name, where = f"`{method}`", [*_numbers(found[method]), found[method].verdict + beside]
        return [
            name, spread(entry["spearman_loss"], 3), *where, _regrets(entry), count(entry["full_trainings_used"]),
            "never" if pays[method] is None else count(pays[method]),
        ]  # fmt: skip

    return table(plan.name, plan.report, COLUMNS, cells)


def _regrets(entry: dict) -> str:
    """Regret of the best 1, 3 and 5; older reports know that of the best alone."""
    known = entry.get("regret_of_best") or {"1": entry["regret_test_accuracy"]}
    return " / ".join(spread(known[number], 2) for number in ("1", "3", "5") if number in known)
