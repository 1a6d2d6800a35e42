"""The arguments of `hcdc`. What they need to know is light, so that help and mistakes are told at once."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from hcdc_jax.config.plans import EvaluationPlan, SearchPlan
from hcdc_jax.errors import UserError
from hcdc_jax.version import __version__

EXPORTS = ("npz", "png", "torch", "graphslim", "ddranking", "datasets")
SHELLS = ("bash", "zsh", "fish")
_EPILOG = """\
CONFIG is a .toml file, the name of one (see `hcdc configs`), or a Python file with a Study; DIR is a run folder.
Settings are overridden after it:
  hcdc run digits_graph --hcdc.steps 100 --seeds 0 1 2
`hcdc options` prints every setting with its default, `hcdc options training` those of a section."""


class _Parser(argparse.ArgumentParser):
    """Mistakes are one line, as everywhere."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def hcdc_parser() -> argparse.ArgumentParser:
    style = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    about = "Condense a data set so that hyperparameter search on the condensed data ranks as the full data."
    parser = _Parser(prog="hcdc", description=about, epilog=_EPILOG, **style)
    parser.add_argument("--version", action="version", version=f"hcdc {__version__}")
    parser.set_defaults(command=None, overridable=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def add(
        name: str, command: str, about: str, *, epilog: str | None = None, room: str = "commands"
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=about, description=about, epilog=epilog, **style)
        sub.set_defaults(name=name, command=command, overridable=epilog is not None, room=room)
        return sub

    for name, command, about in (
        ("run", "run", "condense, rank, train the truth (if enabled) and report"),
        ("condense", "condense", "make the condensed data sets of a run"),
        ("rank", "rank", "rank the candidates on the condensed data"),
        ("truth", "truth", "train every candidate on the full data"),
    ):
        sub = add(name, command, about, epilog=_EPILOG)
        what = f"a .toml file{', also of a ladder' if name == 'run' else ''}, a study.py, or a run folder to go on with"
        sub.add_argument("target", metavar="CONFIG|DIR", help=what)
        sub.add_argument("--out", metavar="DIR", help="run folder (that of the run, or runs/<name of the config>)")
        sub.add_argument("--resume", action="store_true", help="go on with the run that is in the folder")
        sub.set_defaults(afterwards="with --resume goes on from here")
    sub = add("report", "report", "write report.json, report.html, ranking.csv and the figures of a run")
    sub.add_argument("target", metavar="CONFIG|DIR")
    _add_search(add)
    _add_evaluate(add)
    add("list", "list_names", "data sets, methods, spaces, distances and searches")
    _add_listings(add)
    sub = add("info", "info", "what a run folder or a condensed data set is, and whether it is intact")
    sub.add_argument("folder", metavar="DIR", type=Path)
    sub.add_argument("--all", action="store_true", help="also the settings that have their defaults")
    sub = add("export", "export", "copy a condensed data set out of a run folder")
    sub.add_argument("folder", metavar="DIR", type=Path)
    sub.add_argument("--format", choices=EXPORTS, default="npz", help="for NumPy, as pictures, or for other packages")
    sub.add_argument("--method", help="whose (that of hcdc, else of the first method)")
    sub.add_argument("--seed", type=_seed, metavar="N", help="of the method (its first)")
    sub.add_argument(
        "--examples-per-class", type=_positive, nargs="+", metavar="N", help="smaller sets, one for each N"
    )
    sub.add_argument("--out", type=Path, help="what to write (in DIR, named after method and seed)")
    sub = add("convert", "convert_table", "make the table of NAS-Bench-201's accuracies from the benchmark's own files")
    sub.add_argument("source", metavar="SOURCE", type=Path, help="folder NATS-tss-...-simple, its one file, or a .pth")
    sub.add_argument("--out", metavar="DIR", type=Path, help="folder of data (that which HCDC_DATA_DIR names)")
    return parser


def subcommands() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command."""
    groups = (action for action in hcdc_parser()._actions if isinstance(action, argparse._SubParsersAction))
    return dict(next(groups).choices)


def _add_listings(add: Callable[..., argparse.ArgumentParser]) -> None:
    """The commands of `cli.listings`, which import nothing heavy."""
    about = "configurations that come with the library; with a name, print it to be edited"
    sub = add("configs", "list_configs", about, room="listings")
    sub.add_argument("config", metavar="NAME", nargs="?")
    sub = add("options", "options", "every setting with its type, meaning and default", room="listings")
    sub.add_argument("section", metavar="SECTION", nargs="?", help="such as training; all by default")
    sub = add("completion", "completion", "print completion of words for a shell", room="listings")
    sub.description = 'print completion of words for a shell; for bash: eval "$(hcdc completion bash)"'
    sub.add_argument("shell", choices=SHELLS)


def _add_search(add: Callable[..., argparse.ArgumentParser]) -> None:
    plan = SearchPlan
    about = "search on condensed data, then train the best on the full data; condenses first where nothing is condensed"
    sub = add("search", "search", about, epilog=_EPILOG)
    sub.add_argument("target", metavar="CONFIG|DIR|DATA")
    sub.add_argument("--out", metavar="DIR", help="run folder, where it is not the target (runs/<name of the target>)")
    usual = "calibrated; where the run cannot, random, and it says why"
    sub.add_argument("--method", default=plan.method, metavar="NAME", help=f"one that hcdc list names ({usual})")
    sub.add_argument("--num", type=_positive, default=plan.num, metavar="N", help=f"candidates ({plan.num})")
    often = "calibrated: up to 6, else 1"
    sub.add_argument("--top", type=_seed, default=plan.top, metavar="K", help=f"train K on the full data ({often})")
    sub.add_argument("--seed", type=_seed, default=plan.seed, metavar="N", help=f"of the search ({plan.seed})")
    sub.add_argument("--artefact", metavar="NAME", help="whose condensed data, METHOD or METHOD_seedN (the primary's)")
    sub.add_argument(
        "--halving", action="store_true", help="also search by successive halving on the full data, the rival"
    )
    sub.add_argument("--storage", metavar="URL", help="keep Optuna's study, for instance in sqlite:///search.db")
    sub.add_argument("--study", default=plan.study, metavar="NAME", help=f"its name there ({plan.study})")


def _add_evaluate(add: Callable[..., argparse.ArgumentParser]) -> None:
    plan = EvaluationPlan
    sub = add("evaluate", "evaluate", "train new networks on the condensed images of a run and test them")
    sub.add_argument("target", metavar="CONFIG|DIR")
    known = f"one that hcdc list names, or with other settings, edc:epochs=300,zeta=1 ({plan.protocol})"
    sub.add_argument("--protocol", default=plan.protocol, metavar="NAME", help=known)
    named = "networks, such as resnet18 or convnet:width=32 (that of the run)"
    sub.add_argument("--models", nargs="+", default=plan.models, metavar="NAME", help=named)
    sub.add_argument("--methods", nargs="+", default=plan.methods, metavar="NAME", help="of the run (all)")
    sub.add_argument("--networks", type=_positive, metavar="N", help="per S_train and model (as the protocol says)")
    sub.add_argument("--augment", metavar="OPERATIONS", help="in place of the protocol's: crop_scale_rotate, ..., none")
    sub.add_argument("--whole", action="store_true", help="also train on the whole training part, for reference")
    sub.add_argument("--whole-epochs", type=_positive, metavar="N", help="how long there (as the protocol says)")
    sub.set_defaults(afterwards="goes on from here")


def _positive(text: str) -> int:
    return _whole(text, low=1)


def _seed(text: str) -> int:
    return _whole(text, low=0)


def _whole(text: str, low: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = None
    if value is None or not low <= value < 2**32:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least {low}, got {text!r}")
    return value
