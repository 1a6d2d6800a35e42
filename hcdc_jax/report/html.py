"""One self-contained page: no network, no scripts, light and dark, on screen, phone and paper."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from hcdc_jax.report import answer, claims, tables
from hcdc_jax.report.tables import BETWEEN, Cell, Report, Table

_CSS = """
:root { color-scheme: light dark; --text: #1a1f29; --soft: #5b6472; --line: #dde1e7; --page: #ffffff; --tint: #f3f6fa;
  --accent: #0072b2; --beats: #fdf0dc; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e9ee; --soft: #9aa4b2; --line: #343b47; --page: #14181f; --tint: #1c222c; --accent: #6db8ea;
    --beats: #453417; }
  figure img { filter: brightness(0.88); }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 70rem; background: var(--page); color: var(--text);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 0.75rem; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 0.6rem; padding-bottom: 0.25rem; border-bottom: 1px solid var(--line);
  break-after: avoid; }
p, ul { margin: 0.6rem 0; max-width: 46rem; }
ul { padding-left: 1.2rem; }
.note, figcaption { color: var(--soft); font-size: 0.875rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; margin: 0.6rem 0; }
th, td { padding: 0.35rem 0.5rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--page); }
thead th { color: var(--soft); font-weight: 600; vertical-align: bottom; white-space: normal; }
tbody th { font-weight: 400; }
tr.main, tr.main th { background: var(--tint); }
tr.main th { box-shadow: inset 3px 0 0 var(--accent); }
table.facts th, table.facts td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
summary { cursor: pointer; color: var(--soft); font-size: 0.875rem; }
td.beats { background: var(--beats); }
figure { margin: 1.5rem 0; break-inside: avoid; }
figure img { display: block; width: 100%; max-width: 800px; height: auto; background: #fff; border-radius: 6px; }
figure h3 { font-size: 1rem; margin: 0 0 0.4rem; }
figcaption { margin-top: 0.4rem; max-width: 46rem; }
.answer { background: var(--tint); border-left: 3px solid var(--accent); border-radius: 6px; padding: 0.6rem 1rem;
  margin: 1rem 0; }
.headline { font-weight: 600; }
pre { background: var(--tint); padding: 0.8rem 1rem; border-radius: 6px; overflow-x: auto; font-size: 0.8125rem;
  line-height: 1.45; }
code { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
@media (max-width: 40rem) { pre { white-space: pre-wrap; overflow-wrap: anywhere; } }
@media print { body { max-width: none; padding: 0; font-size: 10pt; } pre { white-space: pre-wrap; }
  .scroll { overflow: visible; } th, td { padding: 0.2rem 0.4rem; } }
"""


class Picture(NamedTuple):
    """A figure of the page: title, caption, and the PNG; without a PNG the caption says why there is none."""

    title: str
    caption: str
    png: bytes | None


class Chapter(NamedTuple):
    """A part of the page that some runs have: a table, sentences about it, and a figure."""

    title: str
    table: Table
    sentences: Sequence[str]
    picture: Picture


def render(
    report: Report,
    config: str,
    pictures: Sequence[Picture],
    best: Table,
    chapters: Sequence[Chapter] = (),
    opening: answer.Opening | None = None,
) -> str:
    """The page as text.

    Args:
      report: the content of `report.json`.
      config: text of the resolved `config.toml`.
      pictures: the figures in reading order.
      best: the best candidates by the main method.
      chapters: what follows the figures.
      opening: what can be copied from the top.
    """
    title = f"Ranking candidates of {report['space'].get('name', 'the space')} on {_data_name(report)}"
    main = tables.lead(report)
    body = [
        _element("h1", title),
        *_answer(report, opening),
        _element("h2", "What was run"),
        _element("p", " ".join(what_was_run(report))),
        _element("h2", "Verdict" if tables.has_truth(report) else "Cost"),
        _table(tables.verdict(report), main),
        _list(claims.reading(report)),
        f"<details><summary>What the columns mean</summary>{_element('p', claims.legend(report), 'note')}</details>",
        *(_beyond_size(report, main) if tables.knows_sizes(report) else ()),
        _element("h2", "Best candidates"),
        _table(best, None),
        _element("h2", "Figures"),
        *map(_figure, pictures),
        *map(_chapter, chapters),
        _element("h2", "Seconds and size"),
        _table(tables.costs(report), main),
        _element("p", _cost_note(report), "note"),
        _element("h2", "Data, device and versions"),
        _pairs(_facts(report)),
        _element("h2", "Settings of the run"),
        _code(config.strip()),
        _element("h2", "How to reproduce"),
        _element("p", "With the settings above saved as config.toml, and the versions above installed:"),
        _code("hcdc run config.toml"),
        _element("p", "From the stored results of this folder, this page alone is made again by:"),
        _code("hcdc report ."),
    ]
    return _page(title, body)


def short_page(title: str, table: Table, sentences: Sequence[str], pictures: Sequence[Picture]) -> str:
    """A page of one table, sentences about it, and figures."""
    return _page(title, [_element("h1", title), _table(table, None), _list(sentences), *map(_figure, pictures)])


def _page(title: str, body: Sequence[str]) -> str:
    head = (
        '<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_CSS}</style>"
    )
    content = "\n".join(part for part in body if part)
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{content}\n</body>\n</html>\n'


def _answer(report: Report, opening: answer.Opening | None) -> list[str]:
    """Before all else: whether to believe it, which candidates, what to type next."""
    headline, *reasons = answer.trust(report)
    said = [f'<div class="answer">{_element("p", headline, "headline")}{_list(reasons)}</div>']
    if opening is None:
        return said
    best = [_element("h2", "Best settings"), _code(opening.settings)] if opening.settings else []
    return [*said, *best, _element("h2", "Next"), _element("p", "In the folder of this page:"), _code(opening.commands)]


def _code(text: str) -> str:
    return f"<pre><code>{escape(text)}</code></pre>"


def _beyond_size(report: Report, main: str | None) -> list[str]:
    within = max(entry["beyond_size"]["candidates_within"]["mean"] or 0 for entry in report["methods"].values())
    note = (
        "Larger networks are mostly better, so a ranking by size is a rival. Given log #parameters: Spearman's partial "
        f"correlation. Among equals: inside groups of candidates of one size, which hold {within:.0f} candidates."
    )
    return [
        _element("h2", "Beyond size"),
        _table(tables.beyond_size(report), main),
        _element("p", note, "note"),
    ]


def what_was_run(report: Report) -> list[str]:
    """Two sentences: what was compared, and against what."""
    seeds = sorted({seed for entry in report["methods"].values() for seed in entry["seeds"]})
    methods, n = list(report["methods"]), report["space"]["candidates"]
    compared = (
        f"{_count(len(methods), 'method')} ranked {_count(n, 'candidate')} of the space "
        f"{report['space'].get('name', '(unnamed)')} for {_data_name(report)}, with {_count(len(seeds), 'seed')} "
        f"({', '.join(map(str, seeds))}): {', '.join(methods)}."
    )
    truth = report["truth"]
    took = "" if truth["seconds"] is None else f", which took {tables.seconds(truth['seconds'])} seconds"
    held_against = (
        "The truth they are held against is the loss of every candidate after training on the full data with "
        f"{_count(truth['seeds'], 'seed')}{took}."
    )
    untested = "No candidate was trained on the full data: this page shows rankings and costs, not how good they are."
    return [compared, held_against if tables.has_truth(report) else untested]


def _cost_note(report: Report) -> str:
    each = report["full_training_seconds"]
    one = "" if each is None else f"One training on the full data took {tables.seconds(each)} seconds. "
    return f"{one}Means over seeds; compilation happens once and is counted in no other column."


def _facts(report: Report) -> dict[str, str]:
    facts = {f"Data: {key}": _plain(value) for key, value in report["data"].items()}
    facts["Device"] = _plain(report["device"])
    facts |= {f"Version: {name}": _plain(value) for name, value in (report["versions"] or {}).items()}
    facts["Config hash"] = _plain(report["config_hash"])
    return facts


def _data_name(report: Report) -> str:
    return str(report["data"].get("name", "the data"))


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _plain(value: Any) -> str:
    if value is None:
        return tables.MISSING
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _element(tag: str, text: str, style: str = "") -> str:
    return f"<{tag}{f' class={style!r}' if style else ''}>{escape(text)}</{tag}>" if text else ""


def _list(sentences: Iterable[str]) -> str:
    items = "".join(_element("li", sentence) for sentence in sentences)
    return f"<ul>{items}</ul>" if items else ""


def _table(table: Table, main: str | None) -> str:
    head = "".join(f'<th scope="col">{escape(header)}</th>' for header in table.headers)
    rows = []
    for name, *cells in table.rows:
        mark = ' class="main"' if name.text == main else ""
        rows.append(f'<tr{mark}><th scope="row">{escape(name.text)}</th>{"".join(map(_cell, cells))}</tr>')
    thead, tbody = f"<thead><tr>{head}</tr></thead>", "\n".join(rows)
    return f'<div class="scroll"><table>{thead}\n<tbody>{tbody}</tbody></table></div>'


def _cell(cell: Cell) -> str:
    texts = [
        f"<strong>{escape(part.marked())}</strong>" if part.best else escape(part.marked()) for part in cell.parts()
    ]
    mark = ' class="beats"' if any(part.beats for part in cell.parts()) else ""
    return f"<td{mark}>{BETWEEN.join(texts)}</td>"


def _pairs(pairs: Mapping[str, str]) -> str:
    rows = "\n".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in pairs.items()
    )
    return f'<div class="scroll"><table class="facts"><tbody>{rows}</tbody></table></div>'


def _chapter(chapter: Chapter) -> str:
    heading, table = _element("h2", chapter.title), _table(chapter.table, None)
    return "\n".join([heading, table, _list(chapter.sentences), _figure(chapter.picture)])


def _figure(picture: Picture) -> str:
    heading, caption = _element("h3", picture.title), _element("figcaption", picture.caption)
    if picture.png is None:
        return f"<figure>{heading}{caption}</figure>"
    data = base64.b64encode(picture.png).decode()
    image = f'<img src="data:image/png;base64,{data}" alt="{escape(picture.title)}: {escape(picture.caption)}">'
    return f"<figure>{heading}{image}{caption}</figure>"
