"""The confirmatory table from the reports of its rows: paired differences, what is above what, and the claim."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.tables import spread, table
from hcdc_jax import metrics
from hcdc_jax.report.tables import count

SUMMARY = (
    "row", "lead", "Spearman, losses", "nearest rival", "its Spearman", "lead minus rival", "95 % interval",
    "rivals that the lead is above / level with / below", "`value_only`", "lead minus it", "95 % interval",
)  # fmt: skip
COLUMNS = (
    "method", "Spearman, losses", "lead minus method", "95 % interval", "the lead is", "inside the best tenth",
    "regret of the best 1 / 3 / 5, points", "full trainings", "pays from, candidates", "than successive halving",
)  # fmt: skip
REGRETS = ("regret_test_accuracy", "regret_test_accuracy_best_3", "regret_test_accuracy_best_5")


class Claim(NamedTuple):
    """What is claimed of the leads.

    Attributes:
      rows: on at least so many of `of`, the lead is above every counted rival by an interval that excludes zero.
      of: rows of the table.
      below: on none it is further than this below a counted rival, on average over the seeds.
      beside: methods that do not count as rivals.
    """

    rows: int
    of: int
    below: float
    beside: frozenset[str]


class Finished(NamedTuple):
    """A row whose run is finished.

    Attributes:
      name: of the row.
      lead: its method that was named beforehand.
      report: the content of `report.json`.
    """

    name: str
    lead: str
    report: dict[str, Any]


class Difference(NamedTuple):
    """The lead's Spearman correlation minus a method's, paired by seed: mean and 95 % interval; NaN where undefined."""

    mean: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """Where the lead is: "above" or "below" by an interval that excludes zero, "level", or "undefined"."""
        if math.isnan(self.low):
            return "undefined"
        return "above" if self.low > 0 else "below" if self.high < 0 else "level"

    @property
    def at_least(self) -> float:
        """The mean; below all others where it is undefined, lest that be overlooked."""
        return -math.inf if math.isnan(self.mean) else self.mean


def differences(row: Finished) -> dict[str, Difference]:
    """By method, without the lead."""
    values = {
        method: np.array([math.nan if value is None else value for value in entry["spearman_loss"]["values"]])
        for method, entry in row.report["methods"].items()
    }
    lead = values.pop(row.lead)
    return {method: Difference(*metrics.paired_interval(lead, theirs)) for method, theirs in values.items()}


def counted(row: Finished, claim: Claim) -> dict[str, Difference]:
    """By rival that counts, the one that the lead is least above first."""
    found = {method: one for method, one in differences(row).items() if method not in claim.beside}
    return dict(sorted(found.items(), key=lambda item: item[1].at_least))


def page(rows: Sequence[Finished], claim: Claim, *, missing: Sequence[str], changed: Sequence[str]) -> str:
    """The table in Markdown: all rows in short, whether the claim holds, and each row with all its methods.

    Args:
      rows: those that are finished.
      claim: what is claimed.
      missing: names of what was asked for and is not finished.
      changed: overrides on the command line; with any it is another table.
    """
    said = []
    if changed:
        said.append(f"This is not the confirmatory table: it was made with `{' '.join(changed)}`.")
    if missing:
        said.append(f"Not finished: {', '.join(missing)}.")
    whole = len(rows) == claim.of and not missing and not changed
    return "\n".join(
        [
            f"| {' | '.join(SUMMARY)} |",
            "|---" * len(SUMMARY) + "|",
            *(f"| {' | '.join(_in_short(row, claim))} |" for row in rows),
            "",
            *said,
            *(_reading({row.name: counted(row, claim) for row in rows}, claim, whole=whole) if rows else ()),
            "",
            *(line for row in rows for line in _in_full(row, claim)),
        ]
    )


def _in_short(row: Finished, claim: Claim) -> list[str]:
    methods, found, rivals = row.report["methods"], differences(row), counted(row, claim)
    nearest = next(iter(rivals))
    verdicts = [rival.verdict for rival in rivals.values()]
    tally = " / ".join(str(verdicts.count(verdict)) for verdict in ("above", "level", "below"))
    undefined = verdicts.count("undefined")
    beside = ["", "", ""]
    if "value_only" in found:
        beside = [spread(methods["value_only"]["spearman_loss"], 3), *_numbers(found["value_only"])]
    return [
        f"{row.name}, {len(methods[row.lead]['seeds'])} seeds", f"`{row.lead}`",
        spread(methods[row.lead]["spearman_loss"], 3), f"`{nearest}`", spread(methods[nearest]["spearman_loss"], 3),
        *_numbers(rivals[nearest]), tally + (f", {undefined} undefined" if undefined else ""), *beside,
    ]  # fmt: skip


def _reading(rows: dict[str, dict[str, Difference]], claim: Claim, *, whole: bool) -> list[str]:
    """What the rivals of all rows say of the claim, in sentences."""
    won = [name for name, rivals in rows.items() if all(rival.verdict == "above" for rival in rivals.values())]
    all_rivals = [(name, *item) for name, rivals in rows.items() for item in rivals.items()]
    name, rival, lowest = min(all_rivals, key=lambda one: one[2].at_least)
    verdict = "Nothing is confirmed by a part of the table, or by another one."
    if whole:
        holds = len(won) >= claim.rows and lowest.at_least >= -claim.below
        verdict = "**The claim holds.**" if holds else "**The claim does not hold.**"
    return [
        f"The lead is above every counted rival, by an interval that excludes zero, on {len(won)} of {len(rows)} rows"
        f"{': ' if won else ''}{', '.join(won)}; claimed are {claim.rows} of {claim.of}.",
        f"The lowest mean difference to a counted rival is {_numbers(lowest)[0]} (`{rival}` on {name}); claimed is "
        f"that none is under {-claim.below:.2f}.",
        verdict,
    ]


def _in_full(row: Finished, claim: Claim) -> list[str]:
    """All methods of a row."""
    found, all_of_them = differences(row), row.report["break_even_candidates"]
    halving = row.report.get("break_even_halving", {})

    def cells(method: str, entry: dict) -> list[str]:
        name, where = f"**`{method}`**", ["", "", ""]
        if method != row.lead:
            beside = ", not counted" if method in claim.beside else ""
            name, where = f"`{method}`", [*_numbers(found[method]), found[method].verdict + beside]
        # Reports of earlier versions know less.
        inside = spread(entry["spearman_top_10"], 3) if "spearman_top_10" in entry else ""
        regrets = " / ".join(spread(entry[key], 2) for key in REGRETS if key in entry)
        pays = [("never" if by[method] is None else count(by[method])) if by else "" for by in (all_of_them, halving)]
        return [name, spread(entry["spearman_loss"], 3), *where, inside, regrets, count(entry["full_trainings_used"]),
                *pays]  # fmt: skip

    return table(row.name, row.report, COLUMNS, cells)


def _numbers(found: Difference) -> list[str]:
    """Mean and interval."""
    if math.isnan(found.mean):
        return ["undefined", ""]
    return [f"{found.mean:+.3f}", "" if math.isnan(found.low) else f"{found.low:+.3f} to {found.high:+.3f}"]
