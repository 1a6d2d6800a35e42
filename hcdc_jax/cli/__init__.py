"""The command `hcdc`: exit codes, and what is said of errors. All work is done elsewhere."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from hcdc_jax import terminal
from hcdc_jax.cli.bundled import check_early
from hcdc_jax.cli.compiled_programs import keep_compiled_programs
from hcdc_jax.cli.interruption import interruptible, number_of
from hcdc_jax.cli.parser import hcdc_parser
from hcdc_jax.errors import DivergedError, NothingLeftError, UserCodeError, UserError

DONE, FAILED, USER_ERROR, SIGNALLED = 0, 1, 2, 128  # a bug raises, and Python leaves with 1
_UNSET = -1  # what JAX has where nobody chose a number of CPU devices


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
      0 if it is done, 1 if nothing came of it, 2 for a mistake of the user, 128 + the number of the signal that
      interrupted it. A bug raises, and Python leaves with 1.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    args = argparse.Namespace()
    try:
        with interruptible():
            parser = hcdc_parser()
            args, overrides = parser.parse_known_args(argv)
            if overrides and not args.overridable:
                raise UserError(f"unexpected argument {overrides[0]!r}; see hcdc {args.name} --help")
            if args.command is None:
                parser.print_help()
                return DONE
            if args.overridable:
                check_early(args.target, overrides)
            if args.room == "commands":
                use_all_cores()
                keep_compiled_programs()
            # Only here: help and mistakes need not wait for what commands import.
            room = importlib.import_module(f"hcdc_jax.cli.{args.room}")
            getattr(room, args.command)(args, overrides)
            return DONE
    except (NothingLeftError, DivergedError) as error:
        terminal.complain(str(error))
        return FAILED
    except UserError as error:
        terminal.complain(str(error))
        if isinstance(error, UserCodeError):
            traceback.print_exception(error.__cause__)  # it is the user's code that it is about
        return USER_ERROR
    except KeyboardInterrupt as interrupt:
        terminal.complain(f"interrupted; the same command {getattr(args, 'afterwards', 'begins anew')}")
        return SIGNALLED + number_of(interrupt)
    except (RuntimeError, MemoryError) as error:  # JAX's own errors are of the first kind
        asked = _asked_in_vain(error)
        if asked is None:
            raise
        terminal.complain(
            f"out of memory{asked}: lower condense.classes_at_once, condense.synthetic_per_class or a batch_size, make "
            f"the condensed data or the network smaller; the same command {getattr(args, 'afterwards', 'begins anew')}"
        )
        return USER_ERROR
    except BrokenPipeError:  # the reader of a pipe has seen enough; without this Python complains when it flushes
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE


def use_all_cores() -> None:
    """On a CPU makes one device of each core, over which candidates are spread; JAX would make one of all.

    Users who set their number are right, and so is a process that has begun to compute.
    """
    import jax  # only here, where something will be computed
    import joblib

    chosen = jax.config.values["jax_num_cpu_devices"] != _UNSET
    if chosen or "host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    with suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", joblib.cpu_count(only_physical_cores=True))


def _asked_in_vain(error: Exception) -> str | None:
    """How much memory was not to be had, in words, or nothing where that is not said; None for another error."""
    text = str(error)
    if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in text:
        return None
    amount = re.search(r"([\d.]+) ?(bytes|[KMGT]i?B)", text)
    if amount is None:
        return ""
    number, unit = amount.groups()
    return f" ({float(number) / 1e9:.3g} GB at once)" if unit == "bytes" else f" ({number} {unit} at once)"


def program() -> NoReturn:
    """The command as a process."""
    terminal.warn_in_lines()
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    if code > SIGNALLED:
        # Python would wait for what JAX computes in its threads, minutes of it, before the process ends.
        os._exit(code)
    sys.exit(code)
