"""Tables of HCDC's paper (arXiv 2405.17535): one run per row, its methods from the best down, in Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from pathlib import Path

from benchmarks.command import CONFIGS, chosen, parser_of
from hcdc_jax import config as configs
from hcdc_jax import pipeline
from hcdc_jax.report import tables
from hcdc_jax.report.style import Drawing, to_png
from hcdc_jax.storage import files
from hcdc_jax.terminal import progress

BEST = ("overlap, top 10 %", "Spearman inside", "regret, best 1 / 3 / 5")
"""Columns of `best`, in points of test accuracy the last one."""
PRICE = ("full trainings", "seconds", *(f"pays from ({name})" for name in tables.RIVAL_SEARCHES.values()))
"""Columns of `price`."""


def spread(summary: dict, digits: int) -> str:
    unknown = summary["mean"] is None or math.isnan(summary["mean"])
    return "" if unknown else f"{summary['mean']:.{digits}f} ± {summary['std']:.{digits}f}"


def table(name: str, report: dict, columns: Collection[str], cells: Callable[[str, dict], list[str]]) -> list[str]:
    """The table of one row of the paper: a line per method, of the `cells` of its name and its entry in the report."""
    agreement, bound = (report["truth"][key] for key in ("seed_agreement_spearman", "bound_spearman"))
    noise = (
        "" if bound is None else f", two full trainings agree at {agreement:.3f}, which bounds rankings at {bound:.3f}"
    )
    ranked = [(method, report["methods"][method]) for method in tables.best_first(report)]
    return [
        f"**{name}**{noise}",
        "",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
        *(f"| {' | '.join(cells(method, entry))} |" for method, entry in ranked),
        "",
    ]


def best(entry: dict) -> list[str]:
    """What a method makes of the best candidates."""
    return [spread(entry["overlap_top_10"], 2), spread(entry["spearman_top_10"], 2), tables.regrets(entry)]


def price(report: dict, method: str) -> list[str]:
    """What a method took to condense and to rank, and from how many candidates on that is cheap."""
    entry = report["methods"][method]
    seconds = sum(entry["seconds"][part] for part in ("condense", "rank"))
    pays = [tables.pays_from(report, method, rival) for rival in tables.RIVAL_SEARCHES]
    return [tables.count(entry["full_trainings_used"]), f"{seconds:.1f}", *pays]


def write(
    doc: str | None,
    out: str,
    rows: Collection[str],
    lines: Callable[[str, dict], list[str]],
    *,
    usual: Collection[str],
    by_default: str,
    prefix: str = "",
    drawing: Callable[[str, Path], Drawing] | None = None,
) -> None:
    """The command of a table: runs that are made, continued or read, printed and written into their folder.

    Args:
      doc: what `--help` says.
      out: name of the table and of the folder of its runs.
      rows: names of all rows.
      lines: `lines(row, report)` of one row.
      usual: the rows that are made where none is asked for.
      by_default: `usual` in words.
      prefix: of the names of configurations, which is not in the names of the rows.
      drawing: `drawing(row, folder)` of the finished run of a row, kept beside the table as `<out>_<row>.png`.
    """
    args, overrides = chosen(parser_of(doc, out), "row", rows, usual, by_default)
    text = "\n".join(
        line for name in args.names for line in lines(name, _report(f"{prefix}{name}", args.out / name, overrides))
    )
    print(text)
    files.write_text(args.out / f"{out}.md", text + "\n")
    if drawing is None:
        return
    for name in args.names:
        save(drawing(name, args.out / name), args.out / f"{out}_{name}.png")


def save(drawing: Drawing, path: Path) -> None:
    """Writes a figure; where there was nothing to draw, says why."""
    if isinstance(drawing, str):
        print(f"{path.name}: {drawing}")
    else:
        files.write_bytes(path, to_png(drawing))


def _report(config: str, folder: Path, overrides: list[str]) -> dict:
    with progress() as shown:
        return pipeline.run(
            configs.apply_overrides(configs.load(CONFIGS / f"{config}.toml"), overrides),
            folder, resume=True, progress=shown,
        )  # fmt: skip
