"""A run from Python: the whole of it in one call, or stage by stage in a folder that is held open."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hcdc_jax.config import Config, DataConfig
from hcdc_jax.data import read_dataset, read_image_stream
from hcdc_jax.data.pictures import Cut
from hcdc_jax.errors import UserError
from hcdc_jax.pipeline.building import build
from hcdc_jax.pipeline.checks import check_config, check_sizes
from hcdc_jax.pipeline.condensing import condense
from hcdc_jax.pipeline.folder import check_owner, claimed
from hcdc_jax.pipeline.outcomes import nothing_ranked
from hcdc_jax.pipeline.ranking import rank
from hcdc_jax.pipeline.reporting import write_report
from hcdc_jax.pipeline.setup import Data, Run, Setup, Source
from hcdc_jax.pipeline.true_scores import check_truth, truth
from hcdc_jax.progress import Progress, saying_once, silent


def run(
    config: Config,
    folder: str | Path,
    *,
    source: Source | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Condenses, ranks, trains the truth if it is enabled, and writes the report.

    Args:
      config: what is run.
      folder: where everything is written; made if it does not exist.
      source: what a study brings in place of the data, the space and the network that the configuration names.
      resume: go on with this run if the folder already holds it. However often it was interrupted, the result is that
        of an uninterrupted run.
      progress: told what is going on; nobody by default.

    Returns:
      The content of `report.json`; where every method failed there is no truth in it, since none is trained then.

    Raises:
      UserError: what is wrong with the configuration, the data or the folder, in one line. What is wrong with the
        first two is found before anything is written.
    """
    with opened(config, folder, source=source, resume=resume, progress=progress) as opened_run:
        condense(opened_run)
        rank(opened_run)
        nothing = nothing_ranked(opened_run.setup.config, opened_run.folder)
        if nothing is not None and config.truth.enabled:
            opened_run.progress.say(f"no truth is trained, since {nothing}")
        elif config.truth.enabled:
            truth(opened_run)
        return write_report(opened_run.folder)


@contextmanager
def opened(
    config: Config,
    folder: str | Path,
    *,
    source: Source | None = None,
    resume: bool = True,
    progress: Progress | None = None,
) -> Iterator[Run]:
    """A run whose folder belongs to this process, for the stages `condense`, `rank` and `truth`.

    Arguments and errors are those of `run`.
    """
    config, folder = check_config(config, source), Path(folder)
    check_owner(folder, config, resume=resume)
    progress = saying_once(progress or silent())
    setup = _prepared(config, source)
    with claimed(folder, setup):
        check_truth(setup, folder)
        for note in setup.data.notes:
            progress.say(note)
        progress.say(_about(setup))
        yield Run(setup, folder, progress)


def prepare(config: Config, source: Source | None = None) -> Setup:
    """Reads the data of a configuration, or takes that of a study, and builds what stages need; writes nothing.

    Raises:
      UserError: what is wrong with the configuration or the data.
    """
    return _prepared(check_config(config, source), source)


def _prepared(config: Config, source: Source | None) -> Setup:
    setup = build(config, _read(config.data) if source is None else source.data, source)
    check_sizes(setup)
    return setup


def _read(options: DataConfig) -> Data:
    if not options.stream:
        return read_dataset(
            options.name, path=options.path, target=options.target, split=options.split, seed=options.seed
        )
    if options.path is None:
        raise UserError("data.stream reads pictures from a folder with a folder for each class: set data.path to it")
    cut = None
    if options.side is not None:
        cut = Cut(options.side, options.resize or options.side, options.crop_area or 1.0)
    return read_image_stream(options.path, cut=cut, split=options.split, seed=options.seed)


def _about(setup: Setup) -> str:
    counts = [setup.kind.count(setup.config, setup.data, part) for part in ("train", "val")]
    whole = {name: value for name, value in setup.kind.summary(setup.data).items() if name in _TOLD}
    told = ", ".join(f"{value:,} {name}" for name, value in whole.items())
    condensed = f"condensed to {counts[0]} + {counts[1]} {setup.kind.unit}{setup.kind.storage(setup)}"
    return f"{setup.data.name}: {told}; {condensed}"


_TOLD = ("nodes", "edges", "features", "images", "height", "width", "channels", "examples", "numbers", "classes")
