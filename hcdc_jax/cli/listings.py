"""Commands that only tell what there is: configurations, settings, completion of words. They import nothing heavy."""

from __future__ import annotations

import argparse
import itertools
import re
import sys
import textwrap
from pathlib import Path

from hcdc_jax.cli import completing
from hcdc_jax.cli.bundled import bundled, configuration
from hcdc_jax.config.options import help_text

_ABOUT = 120
"""Characters that the listing of configurations says of one."""


def list_configs(args: argparse.Namespace, overrides: list[str]) -> None:
    del overrides
    if args.config is not None:
        sys.stdout.write(configuration(args.config).read_text(encoding="utf-8"))
        return
    for name, path in bundled().items():
        sys.stdout.write(f"{name:<32} {_about(path)}".rstrip() + "\n")


def _about(path: Path) -> str:
    """The first sentence of the comment that a configuration begins with."""
    lines = itertools.takewhile(lambda line: line.startswith("# "), path.read_text(encoding="utf-8").splitlines())
    words = " ".join(line.removeprefix("# ") for line in lines)
    return textwrap.shorten(re.split(r"\.(?= |$)", words, maxsplit=1)[0], _ABOUT, placeholder=" ...")


def options(args: argparse.Namespace, overrides: list[str]) -> None:
    del overrides
    if args.section not in (None, "plugins"):
        sys.stdout.write(help_text(section=args.section))
        return
    from hcdc_jax.pipeline.recipes import settings  # only here: it imports every method

    sys.stdout.write(help_text(plugins=settings(), section=args.section))


def completion(args: argparse.Namespace, overrides: list[str]) -> None:
    del overrides
    sys.stdout.write(completing.script(args.shell))
