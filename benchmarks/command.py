"""What the commands of studies and tables share: names to choose from, a folder of runs, the configurations."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection
from pathlib import Path

CONFIGS = Path(__file__).parents[1] / "configs"


def parser_of(doc: str | None, out: str) -> argparse.ArgumentParser:
    """A parser with the folder of the runs, `runs/<out>` by default."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs") / out, help="folder of the runs")
    return parser


def parsed(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, list[str]]:
    """What the command line says, and the overrides of the configuration in it.

    An override may take several words, `--seeds 0 1 2`: all up to the next option are its own, none is a name.
    """
    own = {name for action in parser._actions for name in action.option_strings}
    arguments, overrides, of_override = [], [], False
    for word in sys.argv[1:]:
        if word.startswith("-"):
            of_override = word.startswith("--") and word.split("=")[0] not in own
        (overrides if of_override else arguments).append(word)
    return parser.parse_args(arguments), overrides


def chosen(
    parser: argparse.ArgumentParser, noun: str, known: Collection[str], usual: Collection[str], by_default: str
) -> tuple[argparse.Namespace, list[str]]:
    """What the command line asks for, and the overrides of the configuration in it.

    Args:
      parser: of all other arguments.
      noun: what a name stands for, "study" for example.
      known: names that exist.
      usual: those that are taken where the command line has none.
      by_default: `usual` in words.

    Returns:
      The arguments, with the chosen ones as `names`, and what the parser does not know.
    """
    parser.add_argument("names", nargs="*", metavar=noun, help=f"of {', '.join(known)}; {by_default} by default")
    args, overrides = parsed(parser)
    unknown = sorted(set(args.names) - set(known))
    if unknown:
        parser.error(f"no such {noun}: {', '.join(unknown)}; known are {', '.join(known)}")
    args.names = args.names or list(usual)
    return args, overrides
