"""Tables of HCDC's paper (arXiv 2405.17535): one run per row, its methods from the best down, in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from benchmarks.command import CONFIGS, chosen, parser_of
from hcdc_jax import config as configs
from hcdc_jax import files, pipeline
from hcdc_jax.report.style import Drawing, to_png
from hcdc_jax.terminal import progress


def spread(summary: dict, digits: int) -> str:
    return "" if summary["mean"] is None else f"{summary['mean']:.{digits}f} ± {summary['std']:.{digits}f}"


def table(name: str, report: dict, columns: Collection[str], cells: Callable[[str, dict], list[str]]) -> list[str]:
    """The table of one row of the paper: a line per method, of the `cells` of its name and its entry in the report."""
    ceiling = report["truth"]["seed_ceiling_spearman"]
    agreement = f", two full trainings agree at {ceiling:.3f}" if ceiling is not None else ""
    ranked = sorted(report["methods"].items(), key=lambda item: -(item[1]["spearman_loss"]["mean"] or 0))
    return [
        f"**{name}**{agreement}",
        "",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
        *(f"| {' | '.join(cells(method, entry))} |" for method, entry in ranked),
        "",
    ]


def seconds(entry: dict) -> str:
    """What a method took to condense and to rank."""
    return f"{sum(entry['seconds'][part] for part in ('condense', 'rank')):.1f}"


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
