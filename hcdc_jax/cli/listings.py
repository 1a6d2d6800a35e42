"""Commands that only tell what there is: configurations, settings, completion of words. They import nothing heavy."""

from __future__ import annotations

import argparse
import sys

from hcdc_jax.cli import completing
from hcdc_jax.cli.bundled import bundled, configuration
from hcdc_jax.config.options import help_text


def list_configs(args: argparse.Namespace, overrides: list[str]) -> None:
    del overrides
    if args.config is not None:
        sys.stdout.write(configuration(args.config).read_text(encoding="utf-8"))
        return
    for name, path in bundled().items():
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        about = first.removeprefix("# ") if first.startswith("#") else ""
        sys.stdout.write(f"{name:<32} {about}".rstrip() + "\n")


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
