"""The command `hcdc`: parsing, progress on the terminal, exit codes. All work is done elsewhere."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hcdc_jax import __version__
from hcdc_jax.errors import UserError

if TYPE_CHECKING:
    from hcdc_jax.config import Config
    from hcdc_jax.pipeline.progress import Progress
    from hcdc_jax.pipeline.setup import Setup

DONE, FAILED, USER_ERROR, INTERRUPTED = 0, 1, 2, 130

_OUT = Console(highlight=False)
_ERR = Console(stderr=True, highlight=False)

_EPILOG = """\
CONFIG is a .toml file (see configs/), DIR a run folder. Any setting can be overridden:
  hcdc run configs/digits_graph.toml --hcdc.steps 100 --seeds 0 1 2
`hcdc options` prints every setting with its default."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. Returns 0 (done), 2 (the user's mistake), 130 (interrupted) or raises (a bug: exit code 1)."""
    parser = _parser()
    args, overrides = parser.parse_known_args(argv)
    if not hasattr(args, "command"):
        parser.print_help()
        return DONE
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    try:
        return args.command(args, overrides)
    except UserError as error:
        _ERR.print(f"[red]hcdc:[/red] {escape(str(error))}", soft_wrap=True)
        return USER_ERROR
    except KeyboardInterrupt:
        _ERR.print("\nhcdc: interrupted; the same command with --resume goes on from here")
        return INTERRUPTED
    except BrokenPipeError:
        return DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hcdc", allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, epilog=_EPILOG,
        description="Condense a data set so that hyperparameter search on the condensed data ranks as the full data.",
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"hcdc {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def add(name: str, command: Callable, about: str, *, overridable: bool = False) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name, help=about, description=about, allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter, epilog=_EPILOG if overridable else None,
        )  # fmt: skip
        sub.set_defaults(command=command if overridable else _without_overrides(command))
        return sub

    run = add("run", _run, "condense, rank, train the truth (if enabled) and report", overridable=True)
    for name, stages, about in (
        ("condense", ("condense",), "make the condensed data sets of a run"),
        ("rank", ("rank",), "rank the candidates on the condensed data"),
        ("truth", ("truth",), "train every candidate on the full data"),
    ):
        sub = add(name, _stage_command(stages), about, overridable=True)
        _add_target(sub)
    _add_target(run)
    sub = add("report", _report, "write report.json, report.html and the figures of a run folder")
    sub.add_argument("folder", metavar="DIR")
    sub = add("search", _search, "random search over fresh candidates on the condensed data of a run folder")
    sub.add_argument("folder", metavar="DIR")
    sub.add_argument("--num", type=_positive, default=1000, help="candidates to draw (1000)")
    sub.add_argument("--top", type=_positive, default=10, help="candidates to show (10)")
    sub.add_argument("--seed", type=int, default=0, help="of the draw (0)")
    add("list", _list, "data sets, methods, spaces and distances")
    add("options", _options, "every setting with its type, meaning and default")
    sub = add("info", _info, "what a run folder or a condensed data set is")
    sub.add_argument("folder", metavar="DIR")
    sub = add("export", _export, "copy a condensed data set out of a run folder")
    sub.add_argument("folder", metavar="DIR")
    sub.add_argument("--format", choices=("npz", "png", "torch"), default="npz")
    sub.add_argument("--method", help="whose (the primary one)")
    sub.add_argument("--seed", type=int, help="of the method (the first)")
    sub.add_argument("--out", help="file or folder to write (beside DIR)")
    return parser


def _add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="CONFIG_OR_DIR", help="a .toml file, or a run folder to continue")
    parser.add_argument("--out", metavar="DIR", help="run folder (runs/<name of the config>)")
    parser.add_argument("--resume", action="store_true", help="continue the run that is in the folder")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def _without_overrides(command: Callable) -> Callable:
    def checked(args: argparse.Namespace, overrides: list[str]) -> int:
        if overrides:
            raise UserError(f"unexpected argument {overrides[0]!r}; see --help")
        return command(args)

    return checked


def _run(args: argparse.Namespace, overrides: list[str]) -> int:
    return _stages(args, overrides, ("condense", "rank", "truth"), ends_with_report=True)


def _stage_command(stages: tuple[str, ...]) -> Callable[[argparse.Namespace, list[str]], int]:
    return lambda args, overrides: _stages(args, overrides, stages, ends_with_report=False)


def _stages(args: argparse.Namespace, overrides: list[str], stages: tuple[str, ...], *, ends_with_report: bool) -> int:
    config, folder = _open(args, overrides)
    from hcdc_jax.pipeline import condensing, stages as later
    from hcdc_jax.pipeline.folder import write_info

    setup = _build(config)
    _say_data(setup)
    write_info(folder, setup)
    with _progress() as progress:
        if "condense" in stages:
            condensing.condense(setup, folder, progress)
        if "rank" in stages:
            later.rank(setup, folder, progress)
        if "truth" in stages and (config.truth.enabled or not ends_with_report):
            later.truth(setup, folder, progress)
    if ends_with_report:
        return _write_report(folder)
    _OUT.print(f"Done: {folder}")
    return DONE


def _open(args: argparse.Namespace, overrides: list[str]) -> tuple[Config, Path]:
    from hcdc_jax import config as configs
    from hcdc_jax.pipeline.folder import config_of, open_folder
    from hcdc_jax.pipeline.recipes import METHODS

    target = Path(args.target)
    continues = target.is_dir()
    config = config_of(target) if continues else configs.load(target)
    config = configs.apply_overrides(config, overrides)
    configs.check_methods(config, METHODS)
    folder = Path(args.out) if args.out else (target if continues else Path("runs") / target.stem)
    return config, open_folder(folder, config, resume=args.resume or continues)


def _build(config: Config) -> Setup:
    from hcdc_jax.pipeline.setup import build

    return build(config)


def _say_data(setup: Setup) -> None:
    from hcdc_jax.pipeline.recipes import num_nodes

    data = setup.data
    _OUT.print(
        f"[bold]{escape(data.name)}[/bold]: {data.num_nodes:,} nodes, {data.edges.shape[1]:,} edges, "
        f"{data.num_features:,} features, {data.num_classes} classes; condensed to "
        f"{num_nodes(setup, 'train')} + {num_nodes(setup, 'val')} nodes"
    )


def _report(args: argparse.Namespace) -> int:
    from hcdc_jax.pipeline.folder import config_of

    config_of(args.folder)
    return _write_report(Path(args.folder))


def _write_report(folder: Path) -> int:
    from hcdc_jax.pipeline.stages import write_report
    from hcdc_jax.report import tables

    content = write_report(folder)
    _OUT.print()
    _OUT.print(tables.to_rich(tables.verdict(content)))
    for sentence in tables.reading(content):
        _OUT.print(sentence)
    _OUT.print(f"\nReport: {folder / 'report.html'}", soft_wrap=True)
    return DONE


def _search(args: argparse.Namespace) -> int:
    from hcdc_jax import files
    from hcdc_jax.pipeline.folder import config_of
    from hcdc_jax.pipeline.stages import search

    folder = Path(args.folder)
    setup = _build(config_of(folder))
    candidates, scores, elapsed = search(setup, folder, args.num, args.seed)
    names = list(setup.space.hparam_names)
    table = Table(*["rank", *names, "loss", "accuracy"], title=f"Best of {args.num} candidates on the condensed data")
    lines = [",".join([*names, "loss", "accuracy"])]
    for place, (hparams, loss, accuracy) in enumerate(
        zip(candidates, scores.loss, scores.accuracy, strict=True), start=1
    ):
        lines.append(",".join(f"{x:.8g}" for x in (*hparams, loss, accuracy)))
        if place <= args.top:
            table.add_row(str(place), *(f"{x:.3f}" for x in hparams), f"{loss:.4f}", f"{accuracy:.3f}")
    files.write_text(folder / "search.csv", "\n".join(lines) + "\n")
    _OUT.print(table)
    failed = int((~scores.status).sum())
    _OUT.print(
        f"{args.num} candidates in {elapsed.run:.1f} s, after {elapsed.compile:.1f} s of compilation"
        + (f"; {failed} failed" if failed else "")
        + f". All of them: {folder / 'search.csv'}",
        soft_wrap=True,
    )
    return DONE


def _list(args: argparse.Namespace) -> int:
    del args
    from hcdc_jax import distances, spaces
    from hcdc_jax.data import datasets
    from hcdc_jax.pipeline.recipes import methods

    for title, rows in (
        ("Data sets", datasets()),
        ("Methods", methods()),
        ("Spaces", {name: "" for name in spaces.names()}),
        ("Distances", {name: "" for name in distances.names()}),
    ):
        _OUT.print(f"[bold]{title}[/bold]")
        for name, about in rows.items():
            _OUT.print(f"  {name:<18} {escape(about)}", soft_wrap=True)
    return DONE


def _options(args: argparse.Namespace) -> int:
    del args
    from hcdc_jax.config import help_text

    sys.stdout.write(help_text())
    return DONE


def _info(args: argparse.Namespace) -> int:
    from hcdc_jax import config as configs
    from hcdc_jax.artefact import load_condensed, read_card
    from hcdc_jax.pipeline.folder import config_of

    folder = Path(args.folder)
    config = config_of(folder)
    _OUT.print(configs.dumps(config), markup=False)
    if not (folder / "card.json").exists():
        _OUT.print("No condensed data yet: hcdc condense", folder, markup=False)
        return DONE
    card = read_card(folder)
    for name, entry in card["artefacts"].items():
        load_condensed(folder, entry["method"], entry["seed"])
        _OUT.print(f"{name}: {entry['stored_scalars']:,} stored scalars, intact", markup=False)
    return DONE


def _export(args: argparse.Namespace) -> int:
    from hcdc_jax import files
    from hcdc_jax.artefact import load_condensed

    folder = Path(args.folder)
    condensed = load_condensed(folder, args.method, args.seed)
    name = f"{condensed.card['method']}_seed{condensed.card['seed']}"
    if args.format == "png":
        condensed.save_images(args.out or folder / "images")
        return DONE
    out = Path(args.out) if args.out else folder / f"{name}.{'npz' if args.format == 'npz' else 'pt'}"
    if args.format == "npz":
        source = folder / "condensed" / f"{name}.npz"
        files.write_bytes(out, source.read_bytes())
    else:
        datasets = condensed.as_torch()
        import torch  # pyright: ignore[reportMissingImports]

        torch.save({"train": datasets[0].tensors, "val": datasets[1].tensors}, out)
    _OUT.print(f"Exported: {out}", soft_wrap=True)
    return DONE


class _progress:  # noqa: N801
    """Progress bars with remaining time on a terminal, one line per stage elsewhere."""

    def __enter__(self) -> Progress:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        from hcdc_jax.pipeline.progress import Progress

        self._bars = Bars(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("left"), TimeRemainingColumn(), console=_ERR,
        )  # fmt: skip
        self._bars.start()
        current: list = []

        def start(what: str, total: int) -> None:
            current[:] = [self._bars.add_task(escape(what), total=total)]

        def update(done: int) -> None:
            self._bars.update(current[0], completed=done)

        return Progress(start, update, lambda text: self._bars.console.print(escape(text)))

    def __exit__(self, *_: object) -> None:
        self._bars.stop()


if __name__ == "__main__":
    sys.exit(main())
