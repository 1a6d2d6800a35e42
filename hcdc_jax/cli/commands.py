"""The commands of `hcdc`: what each does with its arguments, and what it prints."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from hcdc_jax import config as configs
from hcdc_jax import data, pipeline, spaces, terminal
from hcdc_jax.cli.resolver import Job, begun, bundled, resolve, run_folder
from hcdc_jax.condensed import Condensed, load_condensed, read_card, read_condensed
from hcdc_jax.config import Config
from hcdc_jax.data.download import data_dir
from hcdc_jax.data.nas_bench_201_files import convert
from hcdc_jax.errors import NothingLeftError, UserError
from hcdc_jax.evaluation import protocols
from hcdc_jax.exports import EXPORTS
from hcdc_jax.exports.condensed_sets import subset
from hcdc_jax.hypergradients import distances
from hcdc_jax.models import graph_nets, image_nets
from hcdc_jax.pipeline import ladder
from hcdc_jax.pipeline.folder import CONFIG, config_of
from hcdc_jax.pipeline.kinds.named_containers import containers
from hcdc_jax.pipeline.recipes import methods
from hcdc_jax.pipeline.setup import Run, Setup
from hcdc_jax.report import answer, claims, evaluations, ladders, searches, tables
from hcdc_jax.storage import files

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


def run(args: argparse.Namespace, overrides: list[str]) -> None:
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


def condense(args: argparse.Namespace, overrides: list[str]) -> None:
    _do_stage(pipeline.condense, _job(args, overrides), pipeline.nothing_condensed)


def rank(args: argparse.Namespace, overrides: list[str]) -> None:
    job = _job(args, overrides)
    config_of(job.folder)  # where no run is there is nothing to rank on, and no reason to begin one
    _do_stage(pipeline.rank, job, pipeline.nothing_ranked)


def truth(args: argparse.Namespace, overrides: list[str]) -> None:
    _do_stage(pipeline.truth, _job(args, overrides), pipeline.nothing_true)


def _do_stage(stage: Callable[[Run], None], job: Job, nothing_left: Callable[[Config, Path], str | None]) -> None:
    """Runs one stage; stages go on with what the folder holds, so that they can be run one by one."""
    with _opened(job) as run:
        stage(run)
    _check_left(nothing_left(job.config, job.folder))
    terminal.say_path(f"Done: {job.folder}")


@contextmanager
def _opened(job: Job) -> Iterator[Run]:
    """The run of a job, whose progress is shown."""
    with (
        terminal.progress() as progress,
        pipeline.opened(job.config, job.folder, source=job.source, progress=progress) as run,
    ):
        yield run


def _check_left(*nothing_left: str | None) -> None:
    """Ends the command, as failed, with the first reason why nothing is left of it."""
    for why in nothing_left:
        if why is not None:
            raise NothingLeftError(why)


def report(args: argparse.Namespace, overrides: list[str]) -> None:
    del overrides
    folder = run_folder(args.target)
    _say_report(folder, pipeline.write_report(folder))


def _say_report(folder: Path, report: tables.Report) -> None:
    terminal.say_table(tables.verdict(report), expendable=_EXPENDABLE)
    if tables.knows_sizes(report):
        terminal.say_table(tables.beyond_size(report))
    for sentence in (claims.marks(report), answer.trust(report)[0], *claims.reading(report)):
        terminal.say(sentence)
    terminal.say_path(f"Report: {folder / 'report.html'}")


def _begun(target: str) -> tuple[Path, Setup]:
    """The run that a target names, as its folder was begun."""
    job = begun(target)
    return job.folder, pipeline.prepare(job.config, job.source)


def search(args: argparse.Namespace, overrides: list[str]) -> None:
    pipeline.check_search(args.method)
    if (Path(args.target) / CONFIG).is_file():
        if overrides:
            raise UserError(f"{args.target} has its settings: leave out {overrides[0]}, or begin a run with others")
        folder, setup = _begun(args.target)
    else:  # condensed first; what is there is not made again
        job = _job(args, overrides)
        with _opened(job) as run:
            pipeline.condense(run)
            folder, setup = run.folder, run.setup
    plan = pipeline.SearchPlan(**{field.name: getattr(args, field.name) for field in fields(pipeline.SearchPlan)})
    with terminal.progress() as progress:
        result = pipeline.search(setup, folder, plan, progress)
    terminal.say_table(searches.best(result), searches.title(result))
    for sentence in searches.reading(result):
        terminal.say(sentence)
    written = f"search_{result['method']}.json"
    terminal.say_path(f"All of it: {folder / written}, {folder / 'search.csv'}")
    _check_left(pipeline.nothing_found(result))


def evaluate(args: argparse.Namespace, overrides: list[str]) -> None:
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


def list_names(args: argparse.Namespace, overrides: list[str]) -> None:
    del args, overrides
    for title, entries in (
        ("Data sets", data.datasets()),
        ("Methods", methods()),
        ("Models", {**graph_nets(), **image_nets()}),
        ("Spaces", spaces.about()),
        ("Distances", distances.about()),
        ("Searches", pipeline.searches()),
        ("Containers", containers()),
        ("Evaluation protocols", {name: protocol.about for name, protocol in protocols.PROTOCOLS.items()}),
    ):
        terminal.say(title)
        for name, about in entries.items():
            terminal.say(f"  {name:<18} {about}".rstrip())


def info(args: argparse.Namespace, overrides: list[str]) -> None:
    del overrides
    folder, lines = args.folder, []
    has_card = (folder / "card.json").is_file()
    is_run = (folder / CONFIG).is_file() or not has_card
    if is_run:
        config = config_of(folder)
        lines += [configs.dumps(config) if args.all else configs.changes(config)]
    lines += [_about(condensed) for condensed in _artefacts(folder)] if has_card else []
    if is_run and not args.all:
        lines += [f"Settings that are not named have their defaults: hcdc info {folder} --all"]
    for line in [*lines, *_next(folder, has_card, is_run)]:
        terminal.say_path(line)


def _next(folder: Path, has_card: bool, is_run: bool) -> list[str]:
    """What a run has come to, and the command that goes on from there."""
    if not has_card:
        return [f"Nothing is condensed yet: hcdc condense {folder}"]
    if not is_run:
        return []
    if (folder / "report.html").is_file():
        return [f"Report: {folder / 'report.html'}"]
    return [f"Next: hcdc search {folder}, or hcdc run {folder}"]


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


def export(args: argparse.Namespace, overrides: list[str]) -> None:
    del overrides
    condensed = load_condensed(args.folder, args.method, args.seed)
    write, suffix = EXPORTS[args.format]
    if args.examples_per_class is None:
        out = args.out or args.folder / f"{_name(condensed.card)}{suffix}"
        write(condensed, out)
        terminal.say_path(f"Exported: {out}")
        return
    smaller = {count: subset(condensed, count) for count in args.examples_per_class}  # all, before any is written
    for count, one in smaller.items():
        out = (args.out or args.folder) / f"{_name(condensed.card)}_{count}_per_class{suffix}"
        write(one, out)
        files.write_json(out.parent / f"{_name(condensed.card)}_{count}_per_class.json", one.card)
        terminal.say_path(f"Exported: {out}")


def convert_table(args: argparse.Namespace, overrides: list[str]) -> None:
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
