"""What a command is given: a run folder, a configuration, its name, or a study in a Python file; one rule for all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hcdc_jax import config as configs
from hcdc_jax.cli.bundled import bundled, configuration
from hcdc_jax.cli.own_data import is_data, settings_for
from hcdc_jax.cli.study_files import is_study_file, load_study
from hcdc_jax.config import Config
from hcdc_jax.errors import UserError
from hcdc_jax.pipeline import Source
from hcdc_jax.pipeline.folder import CONFIG, config_of
from hcdc_jax.pipeline.setup import OWN


class Job(NamedTuple):
    """What is run, and where.

    Attributes:
      config: of the run.
      source: of a study; None where the configuration names all.
      folder: of the run.
      said: a line about how it was settled, if there is something to tell.
    """

    config: Config
    source: Source | None
    folder: Path
    said: str = ""


def resolve(target: str, overrides: Sequence[str] = (), out: str | None = None) -> Job:
    """What a command is to work on.

    Args:
      target: a run folder; a .toml file, or the name of one that comes with the library; a study, `mine.py[:name]`; own
        data: a table, an .npz, a folder of pictures.
      overrides: settings from the command line.
      out: run folder; that of the target by default: itself, that of the study, or `runs/<name>`.

    Raises:
      UserError: there is no such target, or something is wrong with it; one line.
    """
    if is_study_file(target):
        study = load_study(target).with_overrides(overrides)
        return Job(study.config, study.source, Path(out) if out else study.path)
    path = Path(target)
    if not (path / CONFIG).is_file() and path.exists() and is_data(path):
        config, said = settings_for(path, overrides, bundled())
        return Job(config, None, Path(out) if out else Path("runs") / path.stem, said)
    if not path.is_dir():
        file = configuration(target)
        folder = Path(out) if out else Path("runs") / file.stem
        return Job(configs.apply_overrides(configs.load(file), overrides), None, folder)
    config = configs.apply_overrides(config_of(path), overrides)
    folder = Path(out) if out else path
    if config.space.name != OWN:
        return Job(config, None, folder)
    if config.data.path is None:
        raise UserError(
            f"{target} was made by a study in Python: go on with its functions, such as study.rank(), or make it "
            "in a file and give that, as in: hcdc search mine.py"
        )
    return Job(config, load_study(config.data.path).source, folder)


def begun(target: str) -> Job:
    """The run that a target names, as its folder was begun; the file of a study is run once.

    Raises:
      UserError: there is no such target, or it was not run yet.
    """
    if not is_study_file(target):
        return resolve(str(run_folder(target)))
    study = load_study(target)
    folder = _held(study.path, target)
    return Job(config_of(folder), study.source, folder)


def run_folder(target: str) -> Path:
    """The run folder that a target names, for who reads what lies there.

    Raises:
      UserError: it holds no run.
    """
    path = Path(target)
    if (path / CONFIG).is_file():
        return _held(path, target)
    if is_study_file(target):
        return _held(load_study(target).path, target)
    if path.is_file() or path.suffix == ".toml" or target in bundled() or (path.is_dir() and is_data(path)):
        return _held(Path("runs") / path.stem, target)
    return _held(path, target)


def _held(folder: Path, target: str) -> Path:
    """The folder of a target, once it is known to hold a run."""
    if folder != Path(target) and not (folder / CONFIG).is_file():
        raise UserError(f"{target} was not run yet: there is no {folder}; begin with: hcdc run {target}")
    config_of(folder)
    return folder
