"""Tables and plain sentences from `report.json`, for the terminal, Markdown and HTML alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

from rich.table import Table as RichTable
from rich.text import Text

MISSING = "–"
BEATS = "▲"
LOW_CEILING = 0.8
"""Two trainings that agree less than this leave a quarter of the truth's ranks to chance."""

Report: TypeAlias = dict[str, Any]


class Cell(NamedTuple):
    """One entry: its text, whether it is the best of its column, and whether it is another method's that beats hcdc."""

    text: str
    best: bool = False
    beats: bool = False

    def marked(self) -> str:
        """The text, with a mark if it beats hcdc."""
        return f"{self.text} {BEATS}" if self.beats else self.text


class Table(NamedTuple):
    """Headers and rows; the first cell of a row is its name."""

    headers: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def lead(report: Report) -> str | None:
    """The method that the others are held against: `hcdc`, else the first of its variants, else None."""
    variants = [method for method in report["methods"] if method.startswith("hcdc")]
    return "hcdc" if "hcdc" in variants else variants[0] if variants else None


def has_truth(report: Report) -> bool:
    """Whether the candidates were also trained on the full data."""
    return bool(report["truth"]["seeds"])


def best_first(report: Report) -> list[str]:
    """Methods by mean Spearman correlation of losses, undefined ones last; in their own order if there is no truth."""
    rho = {method: entry["spearman_loss"]["mean"] for method, entry in report["methods"].items()}
    return sorted(rho, key=lambda method: (rho[method] is None, -(rho[method] or 0.0)))


def verdict(report: Report) -> Table:
    """How well each method ranks and what that took, the best Spearman correlation of losses first."""
    methods = best_first(report)
    entries = [report["methods"][method] for method in methods]
    main = lead(report)
    reference = methods.index(main) if main else None

    def score(key: str, digits: int, better: Callable) -> list[Cell]:
        means = [entry[key]["mean"] for entry in entries]
        texts = [spread(entry[key], digits) for entry in entries]
        return _cells(texts, means, digits=digits, better=better, reference=reference)

    columns = {}
    if has_truth(report):
        columns["Spearman, losses"] = score("spearman_loss", 3, max)
        columns["95 % interval"] = _cells([_interval(entry["interval"]) for entry in entries])
        columns["Spearman, accuracies"] = score("spearman_accuracy", 3, max)
        columns["Losses with accuracies"] = score("spearman_loss_with_accuracy", 3, max)
        columns["Regret, points"] = score("regret_test_accuracy", 2, min)
        columns["Precision@10"] = score("precision_at_10", 2, max)
    spent = [total_seconds(report, method) for method in methods]
    pays = [report["break_even_candidates"].get(method) for method in methods]
    columns["Full trainings"] = _cells([count(entry["full_trainings_used"]) for entry in entries])
    took = [seconds(s) for s in spent]
    columns["Seconds"] = _cells(took, [_number(text) for text in took], digits=2, better=min)
    comparable = [report["full_training_seconds"] is not None and s is not None for s in spent]
    when = [_pays_from(p) if c else MISSING for p, c in zip(pays, comparable, strict=True)]
    columns["Pays from, candidates"] = _cells(when, pays, better=min)
    return _assemble(methods, columns)


def knows_sizes(report: Report) -> bool:
    """Whether candidates differ in how many numbers they learn, and a truth says what that explains."""
    return has_truth(report) and any("beyond_size" in entry for entry in report["methods"].values())


def beyond_size(report: Report) -> Table:
    """How well each method ranks candidates besides knowing their sizes, and together with those."""
    methods = best_first(report)
    entries = [report["methods"][method]["beyond_size"] for method in methods]

    def score(key: str) -> list[Cell]:
        return _cells([spread(e[key], 3) for e in entries], [e[key]["mean"] for e in entries], digits=3, better=max)

    losses = [report["methods"][method]["spearman_loss"] for method in methods]
    columns = {
        "Spearman, losses": _cells([spread(e, 3) for e in losses], [e["mean"] for e in losses], digits=3, better=max),
        "Given log #parameters": score("partial_spearman"),
        "Among equals in size": score("spearman_within"),
        "Rank mean with log #parameters": score("spearman_of_rank_mean"),
    }
    if any("spearman_of_mean_loss" in report["methods"][method] for method in methods):
        means = [report["methods"][method].get("spearman_of_mean_loss") for method in methods]
        texts = [MISSING if value is None else f"{value:.3f}" for value in means]
        columns["Mean of seeds first"] = _cells(texts, means, digits=3, better=max)
    return _assemble(methods, columns)


def costs(report: Report) -> Table:
    """Where the seconds of each method went, and how large its data is."""
    methods = best_first(report)
    entries = [report["methods"][method] for method in methods]
    columns = {
        "Stored numbers": [count(entry["stored_scalars"]) for entry in entries],
        "Full trainings, s": [seconds(full_training_seconds(report, method)) for method in methods],
        "Condense, s": [seconds(entry["seconds"]["condense"]) for entry in entries],
        "Rank, s": [seconds(entry["seconds"]["rank"]) for entry in entries],
        "Compile, s": [seconds(entry["seconds"]["compile"]) for entry in entries],
    }
    return _assemble(methods, {header: _cells(texts) for header, texts in columns.items()})


def reading(report: Report) -> list[str]:
    """What the verdict says and where it is weak, in sentences that claim nothing beyond its numbers."""
    if not has_truth(report):
        return []
    claims = [_ceiling(report), _reach_of_losses(report), _ranking(report), _regret(report)]
    return [claim for claim in claims if claim] + _caveats(report)


def to_rich(table: Table, title: str | None = None) -> RichTable:
    """The table for a terminal; print it with `rich.console.Console`."""
    out = RichTable(title=title)
    for place, header in enumerate(table.headers):
        out.add_column(header, justify="left" if place == 0 else "right", overflow="fold")
    for row in table.rows:
        out.add_row(*(Text(cell.marked(), style="bold" if cell.best else "") for cell in row))
    return out


def to_markdown(table: Table) -> str:
    """The table in GitHub's Markdown, best values in bold."""

    def escape(text: str) -> str:
        return text.replace("\\", "\\\\").replace("|", "\\|")

    lines = [
        [escape(header) for header in table.headers],
        ["---", *["---:"] * (len(table.headers) - 1)],
        *([f"**{escape(c.marked())}**" if c.best else escape(c.marked()) for c in row] for row in table.rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def full_training_seconds(report: Report, method: str) -> float | None:
    """Seconds of the full trainings that a method used, or None if unknown."""
    each, used = report["full_training_seconds"], report["methods"][method]["full_trainings_used"]
    if used == 0:
        return 0.0
    return None if each is None or used is None else each * used


def total_seconds(report: Report, method: str) -> float | None:
    """Seconds from nothing to a ranking, full trainings included and compilation not; None if a part is unknown."""
    spent = report["methods"][method]["seconds"]
    parts = [full_training_seconds(report, method), spent["condense"], spent["rank"]]
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def count(value: float | None) -> str:
    """A count with thousands separators; a fraction keeps one digit."""
    if value is None:
        return MISSING
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


def seconds(value: float | None) -> str:
    """Seconds: two significant digits below 10, whole numbers from there."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value:,.0f}" if value >= 9.95 else f"{value:.1f}" if value >= 0.995 else f"{value:.2g}"


def spread(summary: dict[str, Any], digits: int) -> str:
    """Mean ± standard deviation over seeds; the mean alone for one seed."""
    if summary["mean"] is None:
        return MISSING
    deviation = f" ± {summary['std']:.{digits}f}" if len(summary["values"]) > 1 else ""
    return f"{summary['mean']:.{digits}f}{deviation}"


def _cells(
    texts: Sequence[str],
    values: Iterable[float | None] = (),
    *,
    digits: int = 0,
    better: Callable | None = None,
    reference: int | None = None,
) -> list[Cell]:
    """One column; values are rounded before they are compared, so that what reads as a tie is a tie."""
    if better is None:
        return [Cell(text) for text in texts]
    shown = [None if value is None else round(value, digits) for value in values]
    known = [value for value in shown if value is not None]
    best = better(known) if len(known) > 1 else None
    bar = None if reference is None else shown[reference]
    return [
        Cell(text, x is not None and x == best, None not in (x, bar) and x != bar and better(x, bar) == x)
        for text, x in zip(texts, shown, strict=True)
    ]


def _assemble(methods: Sequence[str], columns: dict[str, list[Cell]]) -> Table:
    names = [Cell(method) for method in methods]
    return Table(["Method", *columns], list(zip(names, *columns.values(), strict=True)))


def _interval(interval: Sequence[float | None]) -> str:
    low, high = interval
    return MISSING if low is None or high is None else f"{low:.3f} to {high:.3f}"


def _pays_from(candidates: int | None) -> str:
    return "never" if candidates is None else count(candidates)


def _number(text: str) -> float | None:
    """The number that a formatted one shows."""
    return None if text == MISSING else float(text.replace(",", ""))


def _ranking(report: Report) -> str:
    main, mine, rivals = _against_rivals(report, "spearman_loss", 3)
    if mine is None or not rivals:
        return ""
    first = max(rivals, key=lambda method: rivals[method])
    better = [f"{method} {rho:.3f}" for method, rho in rivals.items() if rho > mine]
    if better:
        text = f"Rivals that rank better than {main} ({mine:.3f}): {', '.join(better)}."
    elif rivals[first] == mine:
        text = f"{main} and {first} share the highest Spearman correlation of losses, {mine:.3f}."
    else:
        text = (
            f"{main} has the highest Spearman correlation of losses, {mine:.3f}; "
            f"next is {first} with {rivals[first]:.3f}."
        )
    if _overlap(report["methods"][main]["interval"], report["methods"][first]["interval"]):
        text += f" The intervals of {main} and {first} overlap: this run does not settle which of the two ranks better."
    return text


def _regret(report: Report) -> str:
    main, mine, rivals = _against_rivals(report, "regret_test_accuracy", 2)
    if mine is None or not rivals:
        return ""
    better = [f"{method} {points:.2f}" for method, points in rivals.items() if points < mine]
    if better:
        return f"Rivals with lower regret than {main} ({mine:.2f} points): {', '.join(better)}."
    return f"No rival has lower regret than {main} ({mine:.2f} points of test accuracy)."


def _ceiling(report: Report) -> str:
    ceiling = report["truth"]["seed_ceiling_spearman"]
    if ceiling is None:
        return "The truth has one seed, so how far it agrees with itself is not known."
    text = f"Ceiling: two full trainings of every candidate, with different seeds, agree at Spearman {ceiling:.3f}."
    if ceiling < LOW_CEILING:
        text += (
            f" Below {LOW_CEILING} the truth is mostly noise and methods cannot be told apart: train longer, or "
            "choose candidates that differ more."
        )
    return text


def _reach_of_losses(report: Report) -> str:
    truth = report["truth"]
    rho, lost = truth["spearman_of_loss_with_accuracy"], truth["regret_of_loss"]
    if rho is None or lost is None:
        return ""
    return (
        f"Losses are not accuracies: the truth's own losses rank its accuracies at {rho:.3f}, and its candidate of the "
        f"lowest loss is {lost:.2f} points of test accuracy below the best."
    )


def _caveats(report: Report) -> list[str]:
    entries = report["methods"].items()
    seeds = {seed for _, entry in entries for seed in entry["seeds"]}
    ran = {method: len(entry["seeds"]) for method, entry in entries}
    out = [f"Only {n} of {len(seeds)} seeds: {method}." for method, n in ran.items() if n < len(seeds)]
    flaws = report["space"].get("dcbench_compat")
    if flaws:
        out.append(f"Networks on condensed data are trained with flaws of DC-BENCH's harness: {', '.join(flaws)}.")
    if len(seeds) == 1:
        out.append("One seed: the intervals know nothing of the spread between seeds.")
    if report["truth"]["failed"]:
        out.append(f"Candidates left out because a full training failed: {count(report['truth']['failed'])}.")
    for method, entry in entries:
        if entry["failed"]:
            out.append(f"Failed scores left out of the row of {method}: {count(entry['failed'])}.")
        if entry["matched_among_ranked"]:
            shared = count(entry["matched_among_ranked"])
            out.append(f"Ranked candidates that {method} was also matched on, so not unseen: {shared}.")
    return out


def _against_rivals(report: Report, key: str, digits: int) -> tuple[str, float | None, dict[str, float]]:
    """hcdc, its rounded mean and those of the rivals, where defined; variants of hcdc are not rivals."""
    main = lead(report) or ""
    means = {method: report["methods"][method][key]["mean"] for method in best_first(report)}
    rounded = {method: round(mean, digits) for method, mean in means.items() if mean is not None}
    return main, rounded.get(main), {m: mean for m, mean in rounded.items() if not m.startswith("hcdc")}


def _overlap(a: Sequence[float | None], b: Sequence[float | None]) -> bool:
    if a[0] is None or a[1] is None or b[0] is None or b[1] is None:
        return False
    return a[0] <= b[1] and b[0] <= a[1]
