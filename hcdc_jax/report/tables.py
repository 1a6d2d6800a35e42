"""Tables and plain sentences from `report.json`, for the terminal, Markdown and HTML alike."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

from rich.table import Table as RichTable
from rich.text import Text

from hcdc_jax.search.halving import BREAK_EVEN_LIMIT

MISSING = "–"
BEATS = "▲"
BETWEEN = " / "
HALVING = "successive_halving"
"""The method whose cost is full trainings alone, more of them the more candidates there are."""
RIVAL_SEARCHES = {"break_even_candidates": "all in full", "break_even_halving": "halving"}
"""Searches on the full data that a method may be cheaper than: where `report.json` says from when on, and a name."""
FINALISTS = (1, 3, 5)
"""Of how many best candidates, trained in full, regret is told."""

_HEADER = 9
"""Characters of a header in a terminal that are not broken."""

Report: TypeAlias = dict[str, Any]


class Cell(NamedTuple):
    """One entry of a table.

    Attributes:
      text: what it reads.
      best: whether it is the best of its column.
      beats: whether it is another method's and beats hcdc's.
      beside: more entries of other columns that share its place; each is marked for itself.
    """

    text: str
    best: bool = False
    beats: bool = False
    beside: tuple[Cell, ...] = ()

    def parts(self) -> tuple[Cell, ...]:
        """The entry and those beside it, each alone."""
        return (self._replace(beside=()), *self.beside)

    def marked(self) -> str:
        """The text of all parts, each with a mark if it beats hcdc."""
        return BETWEEN.join(f"{part.text} {BEATS}" if part.beats else part.text for part in self.parts())


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

    def score(key: str, digits: int, better: Callable, text: Callable[[dict[str, Any], int], str]) -> list[Cell]:
        means = [entry[key]["mean"] for entry in entries]
        texts = [text(entry[key], digits) for entry in entries]
        return _cells(texts, means, digits=digits, better=better, reference=reference)

    columns = {}
    if has_truth(report):
        columns["Spearman, losses"] = score("spearman_loss", 3, max, spread)
        columns["95 % interval"] = _cells([_interval(entry["interval"]) for entry in entries])
        if knows_accuracies(report):
            columns["Spearman, accuracies"] = score("spearman_accuracy", 3, max, spread)
            columns["Losses with accuracies"] = score("spearman_loss_with_accuracy", 3, max, spread)
        columns["Overlap, top 10 %"] = score("overlap_top_10", 2, max, spread)
        if knows_inside(report):
            columns["Spearman inside"] = score("spearman_top_10", 2, max, spread)
        lost = zip(*(score(regret_key(k), 1, min, _mean) for k in FINALISTS), strict=True)
        if knows_accuracies(report):
            columns["Regret, best 1 / 3 / 5"] = [first._replace(beside=tuple(others)) for first, *others in lost]
    spent = [total_seconds(report, method) for method in methods]
    used = [entry["full_trainings_used"] for entry in entries]
    columns["Full trainings"] = _cells([count(number) for number in used], used, digits=1, better=min)
    took = [seconds(s) for s in spent]
    columns["Seconds"] = _cells(took, [_number(text) for text in took], digits=2, better=min)
    for rival, name in RIVAL_SEARCHES.items():
        texts = [pays_from(report, method, rival) for method in methods]
        columns[f"Pays from ({name})"] = _cells(texts, [report[rival].get(method) for method in methods], better=min)
    return _assemble(methods, columns)


def knows_accuracies(report: Report) -> bool:
    """Whether there is anything right or wrong: of amounts that are predicted losses alone are known."""
    return report["truth"].get("accuracies", True)


def knows_inside(report: Report) -> bool:
    """Whether the best tenth of the truth holds candidates enough for a correlation inside it."""
    return any(entry["spearman_top_10"]["mean"] is not None for entry in report["methods"].values())


def regret_key(k: int) -> str:
    """Where the entry of a method in `report.json` has the regret of its best k candidates."""
    return "regret_test_accuracy" if k == 1 else f"regret_test_accuracy_best_{k}"


def regrets(entry: dict[str, Any]) -> str:
    """Mean regrets of the best 1, 3 and 5 candidates of a method, in points of test accuracy."""
    return BETWEEN.join(_mean(entry[regret_key(k)], 1) for k in FINALISTS)


def pays(report: Report, method: str) -> str:
    """From how many candidates on a method is cheaper than training all in full, and than successive halving."""
    return BETWEEN.join(pays_from(report, method, rival) for rival in RIVAL_SEARCHES)


def pays_from(report: Report, method: str, rival: str) -> str:
    """From how many candidates on a method is cheaper than a rival, in words.

    Args:
      report: the content of `report.json`.
      method: the method.
      rival: one of `RIVAL_SEARCHES`.
    """
    found, steps = report[rival].get(method), report["full_training_steps"]
    if found is not None:
        return count(found)
    against_halving = rival == "break_even_halving"
    if method == HALVING:
        return MISSING if against_halving or steps is None else "never"
    if report["full_training_seconds"] is None or total_seconds(report, method) is None:
        return MISSING
    if not against_halving:
        return "never"
    return MISSING if steps is None else f"> {BREAK_EVEN_LIMIT:,}"


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


def to_rich(table: Table, title: str | None = None) -> RichTable:
    """The table for a terminal; print it with `rich.console.Console`."""
    out = RichTable(title=title)
    for place, lines in enumerate(header_lines(table)):
        out.add_column("\n".join(lines), justify="left" if place == 0 else "right", overflow="fold")
    for row in table.rows:
        out.add_row(*(Text(BETWEEN).join(map(_rich, cell.parts())) for cell in row))
    return out


def header_lines(table: Table) -> list[list[str]]:
    """Headers broken between words, so that no column is wider than its cells, its longest word or `_HEADER`."""
    widest = [max((len(row[place].marked()) for row in table.rows), default=0) for place in range(len(table.headers))]
    return [
        textwrap.wrap(header, max(_HEADER, width, *map(len, header.split())), break_on_hyphens=False)
        for header, width in zip(table.headers, widest, strict=True)
    ]


def to_markdown(table: Table) -> str:
    """The table in GitHub's Markdown, best values in bold."""

    def escape(text: str) -> str:
        return text.replace("\\", "\\\\").replace("|", "\\|")

    def entry(cell: Cell) -> str:
        return f"**{escape(cell.marked())}**" if cell.best else escape(cell.marked())

    lines = [
        [escape(header) for header in table.headers],
        ["---", *["---:"] * (len(table.headers) - 1)],
        *([BETWEEN.join(map(entry, cell.parts())) for cell in row] for row in table.rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def full_training_seconds(report: Report, method: str) -> float | None:
    """Seconds of the full trainings that a method used and that its own seconds do not hold, or None if unknown."""
    each, entry = report["full_training_seconds"], report["methods"][method]
    if entry["full_trainings_used"] is None:
        return None
    untimed = entry["full_trainings_used"] - entry.get("full_trainings_timed", 0)
    if untimed == 0:
        return 0.0
    return None if each is None else each * untimed


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


def _mean(summary: dict[str, Any], digits: int) -> str:
    return MISSING if summary["mean"] is None else f"{summary['mean']:.{digits}f}"


def _rich(cell: Cell) -> Text:
    return Text(cell.marked(), style="bold" if cell.best else "")


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


def _number(text: str) -> float | None:
    """The number that a formatted one shows."""
    return None if text == MISSING else float(text.replace(",", ""))
