"""The command `hcdc`: parsing, exit codes and what is printed. All work is done elsewhere."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

import jax
import joblib

from hcdc_jax import config as configs
from hcdc_jax import data, pipeline, spaces, terminal
from hcdc_jax.cli.exporting import EXPORTS
from hcdc_jax.cli.interruption import interruptible, number_of
from hcdc_jax.cli.resolver import Job, bundled, configuration, resolve, run_folder
from hcdc_jax.cli.study_files import StudyFileError, is_study_file
from hcdc_jax.condensed import Condensed, load_condensed, read_card, read_condensed
from hcdc_jax.config import Config
from hcdc_jax.data.download import data_dir
from hcdc_jax.data.nas_bench_201_files import convert
from hcdc_jax.errors import NothingLeftError, UserError
from hcdc_jax.evaluation import protocols
from hcdc_jax.hypergradients import distances
from hcdc_jax.models import image_nets
from hcdc_jax.pipeline import ladder
from hcdc_jax.pipeline.folder import CONFIG, config_of
from hcdc_jax.pipeline.recipes import methods, settings
from hcdc_jax.pipeline.setup import Run, Setup
from hcdc_jax.report import claims, evaluations, ladders, searches, tables
from hcdc_jax.version import __version__

DONE, FAILED, USER_ERROR, SIGNALLED = 0, 1, 2, 128  # a bug raises, and Python leaves with 1
_UNSET = -1  # what JAX has where nobody chose a number of CPU devices

_EPILOG = """\
CONFIG is a .toml file, the name of one (see `hcdc configs`), or a Python file with a Study; DIR is a run folder.
Settings are overridden after it:
  hcdc run digits_graph --hcdc.steps 100 --seeds 0 1 2
`hcdc options` prints every setting with its default."""

# What a narrow terminal can do without, first of all; everything is in report.html.
_EXPENDABLE = (
    "Losses with accuracies",
    "95 % interval",
    "Spearman, accuracies",
    "Seconds",
    "Spearman inside",
    "Full trainings",
    "Overlap, top 10 %",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
      0 if it is done, 1 if nothing came of it, 2 for a mistake of the user, 128 + the number of the signal that
      interrupted it. A bug raises, and Python leaves with 1.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    use_all_cores()
    args = argparse.Namespace()
    try:
        with interruptible():
            args, overrides = _parser().parse_known_args(argv)
            if overrides and not args.overridable:
                raise UserError(f"unexpected argument {overrides[0]!r}; see hcdc {args.name} --help")
            args.command(args, overrides)
            return DONE
    except NothingLeftError as error:
        terminal.complain(str(error))
        return FAILED
    except UserError as error:
        terminal.complain(str(error))
        if isinstance(error, StudyFileError):
            traceback.print_exception(error.__cause__)  # it is the user's code that it is about
        return USER_ERROR
    except KeyboardInterrupt as interrupt:
        terminal.complain(f"interrupted; the same command {getattr(args, 'afterwards', 'begins anew')}")
        return SIGNALLED + number_of(interrupt)
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
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


class _Parser(argparse.ArgumentParser):
    """Mistakes are one line, as everywhere."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    style = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    about = "Condense a data set so that hyperparameter search on the condensed data ranks as the full data."
    parser = _Parser(prog="hcdc", description=about, epilog=_EPILOG, **style)
    parser.add_argument("--version", action="version", version=f"hcdc {__version__}")
    parser.set_defaults(command=lambda args, overrides: parser.print_help(), overridable=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def add(name: str, command: Callable, about: str, *, epilog: str | None = None) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=about, description=about, epilog=epilog, **style)
        sub.set_defaults(name=name, command=command, overridable=epilog is not None)
        return sub

    for name, command, about in (
        ("run", _run, "condense, rank, train the truth (if enabled) and report"),
        ("condense", _condense, "make the condensed data sets of a run"),
        ("rank", _rank, "rank the candidates on the condensed data"),
        ("truth", _truth, "train every candidate on the full data"),
    ):
        sub = add(name, command, about, epilog=_EPILOG)
        what = f"a .toml file{', also of a ladder' if name == 'run' else ''}, a study.py, or a run folder to go on with"
        sub.add_argument("target", metavar="CONFIG|DIR", help=what)
        sub.add_argument("--out", metavar="DIR", help="run folder (that of the run, or runs/<name of the config>)")
        sub.add_argument("--resume", action="store_true", help="go on with the run that is in the folder")
        sub.set_defaults(afterwards="with --resume goes on from here")
    sub = add("report", _report, "write report.json, report.html, ranking.csv and the figures of a run")
    sub.add_argument("target", metavar="CONFIG|DIR")
    _add_search(add)
    _add_evaluate(add)
    add("list", _list, "data sets, methods, spaces, distances and searches")
    sub = add("configs", _configs, "configurations that come with the library; with a name, print it to be edited")
    sub.add_argument("config", metavar="NAME", nargs="?")
    add("options", _options, "every setting with its type, meaning and default")
    sub = add("info", _info, "what a run folder or a condensed data set is, and whether it is intact")
    sub.add_argument("folder", metavar="DIR", type=Path)
    sub = add("export", _export, "copy a condensed data set out of a run folder")
    sub.add_argument("folder", metavar="DIR", type=Path)
    sub.add_argument("--format", choices=tuple(EXPORTS), default="npz")
    sub.add_argument("--method", help="whose (that of hcdc, else of the first method)")
    sub.add_argument("--seed", type=_seed, metavar="N", help="of the method (its first)")
    sub.add_argument("--out", type=Path, help="what to write (in DIR, named after method and seed)")
    sub = add("convert", _convert, "make the table of NAS-Bench-201's accuracies from the benchmark's own files")
    sub.add_argument("source", metavar="SOURCE", type=Path, help="folder NATS-tss-...-simple, its one file, or a .pth")
    sub.add_argument("--out", metavar="DIR", type=Path, help="folder of data (that which HCDC_DATA_DIR names)")
    return parser


def _add_search(add: Callable[..., argparse.ArgumentParser]) -> None:
    plan = pipeline.SearchPlan
    about = "search on condensed data, then train the best on the full data; condenses first where nothing is condensed"
    sub = add("search", _search, about, epilog=_EPILOG)
    sub.add_argument("target", metavar="CONFIG|DIR|DATA")
    sub.add_argument(
        "--method", default=plan.method, metavar="NAME", help=f"calibrated, or one that hcdc list names ({plan.method})"
    )
    sub.add_argument("--num", type=_positive, default=plan.num, metavar="N", help=f"candidates ({plan.num})")
    sub.add_argument(
        "--top", type=_seed, default=plan.top, metavar="K", help="train K on the full data (1; calibrated: up to 6)"
    )
    sub.add_argument("--seed", type=_seed, default=plan.seed, metavar="N", help=f"of the search ({plan.seed})")
    sub.add_argument("--artefact", metavar="NAME", help="whose condensed data, METHOD or METHOD_seedN (the primary's)")
    sub.add_argument(
        "--halving", action="store_true", help="also search by successive halving on the full data, the rival"
    )
    sub.add_argument("--storage", metavar="URL", help="keep Optuna's study, for instance in sqlite:///search.db")
    sub.add_argument("--study", default=plan.study, metavar="NAME", help=f"its name there ({plan.study})")


def _add_evaluate(add: Callable[..., argparse.ArgumentParser]) -> None:
    plan = pipeline.EvaluationPlan
    sub = add("evaluate", _evaluate, "train new networks on the condensed images of a run and test them")
    sub.add_argument("target", metavar="CONFIG|DIR")
    known = f"{', '.join(protocols.PROTOCOLS)}, or with other settings, edc:epochs=300,zeta=1 ({plan.protocol})"
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


def _run(args: argparse.Namespace, overrides: list[str]) -> None:
    file = Path(args.target) if Path(args.target).is_file() else bundled().get(args.target)
    if file is not None and file.suffix == ".toml" and ladder.is_ladder(file):
        return _climb(file, args, overrides)
    job = _job(args, overrides)
    resume = args.resume or job.folder == Path(args.target)
    with terminal.progress() as progress:
        report = pipeline.run(job.config, job.folder, source=job.source, resume=resume, progress=progress)
    _say_report(job.folder, report)
    _check_left(pipeline.nothing_ranked(job.config, job.folder), pipeline.nothing_true(job.config, job.folder))


def _climb(target: Path, args: argparse.Namespace, overrides: list[str]) -> None:
    folder = Path(args.out) if args.out else Path("runs") / target.stem
    rungs = ladder.load(target, overrides)
    with terminal.progress() as progress:
        steps = ladder.climb(rungs, folder, target.stem, resume=args.resume, progress=progress)
    terminal.say_table(ladders.table(steps))
    for sentence in ladders.reading(steps):
        terminal.say(sentence)
    terminal.say_path(f"Report: {folder / f'{target.stem}.html'}")


def _job(args: argparse.Namespace, overrides: list[str]) -> Job:
    job = resolve(args.target, overrides, args.out)
    if job.said:
        terminal.say(job.said)
    return job


def _condense(args: argparse.Namespace, overrides: list[str]) -> None:
    _do_stage(pipeline.condense, _job(args, overrides), pipeline.nothing_condensed)


def _rank(args: argparse.Namespace, overrides: list[str]) -> None:
    job = _job(args, overrides)
    config_of(job.folder)  # where no run is there is nothing to rank on, and no reason to begin one
    _do_stage(pipeline.rank, job, pipeline.nothing_ranked)


def _truth(args: argparse.Namespace, overrides: list[str]) -> None:
    _do_stage(pipeline.truth, _job(args, overrides), pipeline.nothing_true)


def _do_stage(stage: Callable[[Run], None], job: Job, nothing_left: Callable[[Config, Path], str | None]) -> None:
    """Runs one stage; stages go on with what the folder holds, so that they can be run one by one."""
    with (
        terminal.progress() as progress,
        pipeline.opened(job.config, job.folder, source=job.source, progress=progress) as run,
    ):
        stage(run)
    _check_left(nothing_left(job.config, job.folder))
    terminal.say_path(f"Done: {job.folder}")


def _check_left(*nothing_left: str | None) -> None:
    """Ends the command, as failed, with the first reason why nothing is left of it."""
    for why in nothing_left:
        if why is not None:
            raise NothingLeftError(why)


def _report(args: argparse.Namespace, overrides: list[str]) -> None:
    del overrides
    folder = run_folder(args.target)
    _say_report(folder, pipeline.write_report(folder))


def _say_report(folder: Path, report: tables.Report) -> None:
    terminal.say_table(tables.verdict(report), expendable=_EXPENDABLE)
    if tables.knows_sizes(report):
        terminal.say_table(tables.beyond_size(report))
    for sentence in (claims.marks(report), *claims.reading(report)):
        terminal.say(sentence)
    terminal.say_path(f"Report: {folder / 'report.html'}")


def _begun(target: str) -> tuple[Path, Setup]:
    """The run that a target names, as its folder was begun."""
    folder = run_folder(target)
    job = resolve(target if is_study_file(target) else str(folder))
    return folder, pipeline.prepare(config_of(folder), job.source)


def _search(args: argparse.Namespace, overrides: list[str]) -> None:
    pipeline.check_search(args.method)
    args.out = None
    job = _job(args, overrides)
    if (job.folder / CONFIG).is_file() and not overrides:
        folder, setup = _begun(args.target)
    else:  # what is not condensed yet is condensed first
        folder, setup = job.folder, pipeline.prepare(pipeline.resolved(job.config), job.source)
        with (
            terminal.progress() as progress,
            pipeline.opened(job.config, folder, source=job.source, progress=progress) as run,
        ):
            pipeline.condense(run)
    plan = pipeline.SearchPlan(**{field.name: getattr(args, field.name) for field in fields(pipeline.SearchPlan)})
    with terminal.progress() as progress:
        result = pipeline.search(setup, folder, plan, progress)
    terminal.say_table(searches.best(result), searches.title(result))
    for sentence in searches.reading(result):
        terminal.say(sentence)
    terminal.say_path(f"All of it: {folder / f'search_{plan.method}.json'}, {folder / 'search.csv'}")
    _check_left(pipeline.nothing_found(result))


def _evaluate(args: argparse.Namespace, overrides: list[str]) -> None:
    del overrides
    folder, setup = _begun(args.target)
    given: dict[str, Any] = {field.name: getattr(args, field.name) for field in fields(pipeline.EvaluationPlan)}
    given |= {"models": tuple(args.models), "methods": tuple(args.methods)}
    plan = pipeline.EvaluationPlan(**given)
    with terminal.progress() as progress:
        content = pipeline.evaluate_condensed(setup, folder, plan, progress)
    words, _ = protocols.described_protocol(plan.protocol)
    stored = content["protocols"][words]
    terminal.say_table(evaluations.table(stored), evaluations.title(words))
    for sentence in evaluations.reading(stored):
        terminal.say(sentence)
    if (folder / "report.html").exists():  # of a run that is not ranked yet there is none to renew
        pipeline.write_report(folder)
        terminal.say_path(f"Report: {folder / 'report.html'}")
    terminal.say_path(f"All of it: {folder / evaluations.FILE}")


def _list(args: argparse.Namespace, overrides: list[str]) -> None:
    del args, overrides
    for title, entries in (
        ("Data sets", data.datasets()),
        ("Methods", methods()),
        ("Models", {"spectral_gnn": "two layers under one graph filter; for graphs", **image_nets()}),
        ("Spaces", spaces.about()),
        ("Distances", distances.about()),
        ("Searches", pipeline.searches()),
        ("Evaluation protocols", {name: protocol.about for name, protocol in protocols.PROTOCOLS.items()}),
    ):
        terminal.say(title)
        for name, about in entries.items():
            terminal.say(f"  {name:<18} {about}".rstrip())


def _configs(args: argparse.Namespace, overrides: list[str]) -> None:
    del overrides
    if args.config is not None:
        sys.stdout.write(configuration(args.config).read_text(encoding="utf-8"))
        return
    for name, path in bundled().items():
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        terminal.say(f"{name:<32} {first.removeprefix('# ') if first.startswith('#') else ''}".rstrip())


def _options(args: argparse.Namespace, overrides: list[str]) -> None:
    del args, overrides
    sys.stdout.write(configs.help_text(plugins=settings()))


def _info(args: argparse.Namespace, overrides: list[str]) -> None:
    del overrides
    folder, lines = args.folder, []
    has_card = (folder / "card.json").is_file()
    if (folder / "config.toml").is_file() or not has_card:
        lines += [configs.dumps(config_of(folder))]
    lines += [_about(condensed) for condensed in _artefacts(folder)] if has_card else []
    for line in lines if has_card else [*lines, f"Nothing is condensed yet: hcdc condense {folder}"]:
        terminal.say_path(line)


def _about(condensed: Condensed) -> str:
    card, why = condensed.card, condensed.diverged
    state = "intact" if why is None else f"of no use: {why}"
    return f"{_name(card)}: {card['stored_scalars']:,} stored numbers, condensed from {card['source']['name']}; {state}"


def _artefacts(folder: Path) -> list[Condensed]:
    """All artefacts of a run folder, or the one that was passed on without the rest of it; each is checked."""
    if not (folder / "condensed").is_dir():
        return [read_condensed(folder)]
    entries = read_card(folder)["artefacts"].values()
    return [read_condensed(folder, entry["method"], entry["seed"]) for entry in entries]


def _export(args: argparse.Namespace, overrides: list[str]) -> None:
    del overrides
    condensed = load_condensed(args.folder, args.method, args.seed)
    write, suffix = EXPORTS[args.format]
    out = args.out or args.folder / f"{_name(condensed.card)}{suffix}"
    write(condensed, out)
    terminal.say_path(f"Exported: {out}")


def _convert(args: argparse.Namespace, overrides: list[str]) -> None:
    del overrides
    folder = args.out or data_dir()
    if folder is None:
        raise UserError("where to? name a folder of data with --out, or in HCDC_DATA_DIR")
    with terminal.progress() as progress:
        path, tables = convert(args.source, folder, track=lambda cells: progress.track(cells, f"{args.source.name}"))
    terminal.say(f"Tables: {', '.join(tables)}")
    terminal.say_path(f"Written: {path}")


def _name(card: Any) -> str:
    return f"{card['method']}_seed{card['seed']}"


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
