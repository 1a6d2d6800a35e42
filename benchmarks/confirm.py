"""The confirmatory table: ten rows on candidates and seeds that nothing was tuned on, looked at once.

    python -m benchmarks.confirm [row ...] [--minutes M] [--with METHOD] [--out DIR] [--section.field value ...]
    python -m benchmarks.confirm [row ...] --table

The first makes the runs and prints no number of them; all ten rows by default. What is finished is not made again and
what was interrupted goes on, so that the table can be made in pieces: with `--minutes` a run stops at the first piece
of work that is kept after so long, and the same command goes on. It ends with 0 when all rows are finished, with 3 when
time was up, with 2 when a row cannot be made. `--with gcond` ranks by one more method, in a folder beside the row's.

The second prints the table in Markdown, writes it to `confirm.md` in the folder of the runs, and says whether the claim
holds. docs/protocol.md says what is claimed, and what the intervals assume.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.command import CONFIGS, chosen, parser_of
from benchmarks.confirm_table import Claim, Finished, page
from hcdc_jax import config as configs
from hcdc_jax import pipeline
from hcdc_jax.cli import use_all_cores
from hcdc_jax.config import Config
from hcdc_jax.errors import UserError
from hcdc_jax.pipeline.folder import check_owner
from hcdc_jax.pipeline.recipes import METHODS
from hcdc_jax.pipeline.recipes.base import Recipe
from hcdc_jax.storage import files
from hcdc_jax.terminal import duration, progress

DONE, USER_ERROR, TIME_IS_UP = 0, 2, 3

SPACE_SEED = "10"
SEEDS = ("10", "11", "12", "13", "14")
GRAPHS = (
    "random", "herding", "kcenter", "hcdc", "hcdc_surrogate", "value_only", "real_val", "random_val", "train_loss",
    "real_val_residual", "lambda_shift", "surrogate", "surrogate_grad", "successive_halving", "random_choice",
)  # fmt: skip
IMAGES = (*GRAPHS, "real_val_hard", "train_loss_hard")
"""Images have labels of a teacher; two rivals do without."""


def learns_val(name: str) -> bool:
    """Whether a method learns an S_val, or reads the one that hcdc learned."""
    val = METHODS[name].val
    return name == "hcdc_surrogate" or (isinstance(val, Recipe) and val.learner is not None)


class Row(NamedTuple):
    """What a row runs.

    Attributes:
      config: name of the configuration.
      lead: the method that was named beforehand to lead the row.
      methods: all that stand in it.
      minutes: on two idle cores, within a factor of two: from the seconds of stages in benchmarks/RESULTS.md, prices in
        docs/results.md, and the processor time of one seed with few candidates.
      seeds: of the methods.
      overrides: of the configuration.
    """

    config: str
    lead: str
    methods: tuple[str, ...]
    minutes: float
    seeds: tuple[str, ...] = SEEDS
    overrides: tuple[str, ...] = ()


ROWS = {
    "cora_0.9": Row("cora_0.9", "hcdc", GRAPHS, 7),
    "cora_1.8": Row("cora_1.8", "hcdc", GRAPHS, 8),
    "cora_3.6": Row("cora_3.6", "hcdc", GRAPHS, 9),
    "citeseer_1.3": Row("citeseer_1.3", "hcdc", GRAPHS, 12),
    "citeseer_2.6": Row("citeseer_2.6", "hcdc", GRAPHS, 14),
    "citeseer_5.2": Row("citeseer_5.2", "hcdc", GRAPHS, 18),
    "digits_graph": Row("digits_graph", "hcdc", GRAPHS, 6),
    "fashion_mlp": Row("fashion_regularisation", "hcdc_surrogate", IMAGES, 12),
    "cifar10_mlp": Row(
        "fashion_regularisation", "hcdc_surrogate", IMAGES, 20, overrides=("--data.name", "cifar10")
    ),
    "cifar10_convnet": Row("cifar10_regularisation_narrow", "hcdc_surrogate", IMAGES, 120, seeds=SEEDS[:3]),
}  # fmt: skip


CLAIM = Claim(rows=6, of=len(ROWS), below=0.01, beside=frozenset(filter(learns_val, METHODS)))
"""Fixed before any of these runs was made: rivals are those that learn no S_val."""


class Piece(NamedTuple):
    """One run folder of the table.

    Attributes:
      row: whose it is.
      method: that is ranked by there; None where it is those of the row.
      config: what is run there.
      folder: where.
    """

    row: str
    method: str | None
    config: Config
    folder: Path


class TimeIsUp(Exception):
    """The minutes that were given are over, between two pieces of work."""


def config_of(row: Row, overrides: Sequence[str]) -> Config:
    """The configuration of a row; `overrides` come last, and win."""
    base = configs.load(CONFIGS / f"{row.config}.toml")
    planned = ["--methods", *row.methods, "--seeds", *row.seeds, "--space.seed", SPACE_SEED, *row.overrides]
    config = pipeline.resolved(configs.apply_overrides(base, [*planned, *overrides]))
    if row.lead not in config.methods or CLAIM.beside.issuperset(config.methods):
        raise UserError(f"--methods of {row.config} must name {row.lead}, which leads the row, and a rival")
    return config


def pieces_of(names: Iterable[str], extra: Sequence[str], overrides: Sequence[str], out: Path) -> list[Piece]:
    """The run folders of some rows: one of the row, one of each extra method.

    Raises:
      UserError: what is wrong with the overrides.
    """
    found = []
    for name in names:
        config = config_of(ROWS[name], overrides)
        found.append(Piece(name, None, config, out / name))
        for method in extra:
            alone = dataclasses.replace(config, methods=(method,))
            found.append(Piece(name, method, alone, out / f"{name}+{method}"))
    return found


def report_of(piece: Piece) -> dict | None:
    """The report of a finished run; None where it is not finished.

    Raises:
      UserError: the folder holds a run of another configuration.
    """
    path, config = piece.folder / "report.json", piece.config
    if not path.is_file():
        return None
    check_owner(piece.folder, config, resume=True)
    report = json.loads(path.read_text(encoding="utf-8"))
    ranked = {method: tuple(entry["seeds"]) for method, entry in report["methods"].items()}
    whole = all(ranked.get(method) == tuple(config.seeds) for method in config.methods)
    return report if whole and report["truth"]["seeds"] == config.truth.seeds else None


def make(pieces: Sequence[Piece], deadline: float) -> int:
    """Makes or continues the runs of some rows, until `deadline` in the seconds of `time.monotonic`.

    Returns:
      The exit code: a row that cannot be made is told, and the others are made.
    """

    def stop_in_time() -> None:
        if time.monotonic() >= deadline:
            raise TimeIsUp

    code = DONE
    for piece in pieces:
        try:
            if report_of(piece) is None:
                print(f"{piece.folder}: {estimate(piece)}", flush=True)
                with progress() as shown:
                    pipeline.run(piece.config, piece.folder, resume=True, progress=shown._replace(between=stop_in_time))
            print(f"{piece.folder}: finished", flush=True)
        except UserError as error:
            print(f"confirm: {piece.row}: {error}", file=sys.stderr)
            code = USER_ERROR
        except TimeIsUp:
            print(f"{piece.folder}: time is up; the same command goes on from here")
            return TIME_IS_UP
    return code


def estimate(piece: Piece) -> str:
    """How long a run takes, in words."""
    if piece.method is not None:
        return f"{piece.method} alone, nobody timed it beforehand"
    return f"about {duration(60 * ROWS[piece.row].minutes)} from its beginning, on two idle cores"


def finished_of(pieces: Sequence[Piece]) -> tuple[list[Finished], list[str]]:
    """The finished rows, in each the extra methods that are, and the names of the folders that are not."""
    rows: dict[str, Finished] = {}
    missing = []
    for piece in pieces:
        report = report_of(piece)
        if report is None:
            missing.append(piece.folder.name)
        elif piece.method is None:
            rows[piece.row] = Finished(piece.row, ROWS[piece.row].lead, report)
        elif piece.row in rows:
            rows[piece.row] = _with(rows[piece.row], report)
    return list(rows.values()), missing


def _with(row: Finished, other: dict[str, Any]) -> Finished:
    """The row with the methods of another run on the same candidates and seeds."""
    by_method = [key for key in row.report if key == "methods" or key.startswith("break_even")]
    return row._replace(report=row.report | {key: row.report[key] | other[key] for key in by_method})


def main() -> int:
    parser = parser_of(__doc__, "confirm")
    parser.add_argument("--with", dest="extra", action="append", default=[], metavar="METHOD", help="rank by it, too")
    parser.add_argument("--minutes", type=float, default=math.inf, metavar="M", help="stop after about so long")
    parser.add_argument("--table", action="store_true", help="print the table of what is finished, and run nothing")
    args, overrides = chosen(parser, "row", ROWS, usual=ROWS, by_default="all")
    use_all_cores()
    try:
        pieces = pieces_of(args.names, args.extra, overrides, args.out)
        if not args.table:
            return make(pieces, time.monotonic() + 60 * args.minutes)
        rows, missing = finished_of(pieces)
        text = page(rows, CLAIM, missing=missing, changed=overrides)
        print(text)
        files.write_text(args.out / "confirm.md", text + "\n")
    except UserError as error:
        print(f"confirm: {error}", file=sys.stderr)
        return USER_ERROR
    return DONE


if __name__ == "__main__":
    sys.exit(main())
