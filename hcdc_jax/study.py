"""A study: what a run is, in Python. Any network, any space, any arrays or graph."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from hcdc_jax import config as configs
from hcdc_jax import pipeline, terminal
from hcdc_jax.condensed import Condensed, load_condensed
from hcdc_jax.config import Config
from hcdc_jax.config.values import merge
from hcdc_jax.data import ArrayData, GraphData, ImageData, array_data
from hcdc_jax.errors import UserError
from hcdc_jax.models.own_checks import check_problem
from hcdc_jax.pipeline import Progress, Ranking, Source
from hcdc_jax.pipeline.folder import CONFIG, check_owner, config_of
from hcdc_jax.pipeline.setup import OWN, Data, Run
from hcdc_jax.problem import Problem
from hcdc_jax.spaces import Space
from hcdc_jax.training.candidates import WHY_ALL_FAIL
from hcdc_jax.training.storable import as_dictionary, is_dictionary, storable
from hcdc_jax.training.train import Training
from hcdc_jax.types import Array, Batch, as_batch

Part: TypeAlias = Batch | tuple[Any, ...]
"""Examples: a `Batch`, or (X, y), or (X, y, weights)."""

METHODS = ("random", "hcdc", "real_val", "random_val", "surrogate_grad")
"""What a study compares where nobody says otherwise."""

USUAL: Mapping[str, Any] = {"hcdc": {"sensitivity": "unroll"}}
"""Settings of a study of examples that differ from those of a configuration: unrolled hypergradients are right for any
network and any hyperparameter, wherever its training stops."""

_OF_TRAINING = ("optimizer", "learning_rate", "schedule", "batch_size", "steps")


class StudyFile(NamedTuple):
    """A Python file that makes a study.

    Attributes:
      place: its whole path and the name of the study in it, as in `mine.py:study`.
      checksum: SHA-256 of what it holds.
    """

    place: str
    checksum: str


@dataclasses.dataclass(frozen=True)
class Study:
    """A network, a space and data of your own: all that `hcdc run` does with a configuration, as functions.

        space = hc.spaces.box("mine", {"weight_decay": (1e-5, 1e-1, "log"), "gain": (0.2, 2.0)})
        study = hc.Study(problem, space, train=(X, y), val=(X2, y2), test=(X3, y3), folder="runs/mine")
        condensed = study.condense(examples=100)
        ranking = study.rank(1000)
        found = study.search(10_000)
        study.report()

    Everything lies in the folder, and nothing in the object: a study that is made again goes on where it was. Another
    study in the same folder is refused.

    Attributes:
      problem: what is trained; see `make_problem`.
      space: what is searched.
      train: training examples, (X, y), (X, y, weights) or a `Batch`; X is an array or pytree of arrays of floats with
        leading axis [n], y are class numbers [n], or float: numbers [n] or [n, k]. Or a `GraphData` or `ImageData` that
        holds all parts.
      val: validation examples; a fifth of the training examples, drawn, where they are not given.
      test: test examples, likewise.
      training: of every candidate.
      seeds: each method is run once per seed.
      name: of the data.
      folder: of the run; `runs/<name>` by default.
      settings: by section, what a configuration has: `{"hcdc": {"steps": 100}, "condense": {"val_factor": 1.0}}`.
      progress: what shows how far it is; to standard error by default.
      overrides: settings as a command line has them, which win.
      file: that makes the study, if one does: its run folder knows it, and stages take it up from there.
    """

    problem: Problem
    space: Space
    train: Part | GraphData | ImageData
    val: Part | None = None
    test: Part | None = None
    training: Training = dataclasses.field(default_factory=Training)
    seeds: Sequence[int] = (0,)
    name: str = "study"
    folder: str | Path | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    progress: Callable[[], AbstractContextManager[Progress]] = terminal.progress
    overrides: tuple[str, ...] = ()
    file: StudyFile | None = None

    def run(self, methods: Sequence[str] = METHODS, *, resume: bool = True) -> dict[str, Any]:
        """Condenses by some methods, ranks, trains the truth and writes the report, as `hcdc run` does.

        Args:
          methods: what is compared; see `hc.methods()`.
          resume: go on with this run if the folder already holds it.

        Returns:
          The content of `report.json`.

        Raises:
          UserError: what is wrong with the study or the folder, in one line.
        """
        config = self._with(methods=tuple(methods))
        with self.progress() as progress:
            return pipeline.run(config, self.path, source=self.source, resume=resume, progress=progress)

    def condense(
        self,
        method: str | Sequence[str] = "hcdc",
        *,
        examples: int | None = None,
        full_trainings: int | None = None,
    ) -> Condensed:
        """Condenses the data, or reads what the folder holds of it.

        Args:
          method: one, or several to be compared; see `hc.methods()`.
          examples: of S_train in all; S_val has `condense.val_factor` times as many.
          full_trainings: candidates that are trained in full, whose losses and hypergradients S_val learns.

        Returns:
          The condensed data of the first method and seed.

        Raises:
          UserError: what is wrong with the study or the folder, in one line.
        """
        methods = (method,) if isinstance(method, str) else tuple(method)
        sizes = {"condense": {"examples": examples}, "hcdc": {"full_trainings": full_trainings}}
        given = {section: {k: v for k, v in values.items() if v is not None} for section, values in sizes.items()}
        with self._opened(self._with(methods=methods, **given)) as run:
            pipeline.condense(run)
        return self.condensed(methods[0])

    def condensed(self, method: str | None = None, seed: int | None = None) -> Condensed:
        """The condensed data that the folder holds: by default that of hcdc, or of the first method.

        Raises:
          UserError: there is none, or it was made by another study.
        """
        return load_condensed(self.path, method, seed, config_hash=configs.config_hash(self._held()))

    def rank(
        self, num: int = 1000, *, candidates: Array | None = None, method: str | None = None, seed: int = 0
    ) -> Ranking:
        """Scores candidates on the condensed data, in one compiled call.

        Args:
          num: candidates that are drawn from the space.
          candidates: [n, h], in place of draws.
          method: whose condensed data; that of hcdc by default.
          seed: of the draws.

        Raises:
          UserError: nothing is condensed yet, or candidates of another width.
        """
        held = self._held()
        condensed = load_condensed(self.path, method, config_hash=configs.config_hash(held))
        setup = pipeline.prepare(held, self.source)
        ranking = pipeline.rank_on(setup, condensed, pipeline.candidates_of(setup, num, seed, candidates))
        if not ranking.scores.status.any():
            self._tell(f"every candidate failed on {condensed!r}: {WHY_ALL_FAIL}")
        return ranking

    def truth(self) -> None:
        """Trains the candidates of the report in full, as `hcdc truth` does."""
        with self._opened(self._held()) as run:
            pipeline.truth(run)

    def search(
        self,
        num: int = 1000,
        *,
        method: str | None = None,
        top: int | None = None,
        seed: int = 0,
        halving: bool = False,
    ) -> dict[str, Any]:
        """Searches on the condensed data, and trains the best in full, as `hcdc search` does.

        Args:
          num: candidates on the condensed data.
          method: "calibrated" chooses each full training by what those before have told; others train the best at once.
            None: "calibrated", or "random" where nothing was matched that it could begin from; that is told.
          top: full trainings at most; 6 for "calibrated", else 1.
          seed: of the search.
          halving: also search by successive halving on the full data, the rival.

        Returns:
          The content of `search_<method>.json`: "selected" is the best that was trained in full.

        Raises:
          UserError: nothing is condensed yet.
        """
        setup = pipeline.prepare(self._held(), self.source)
        plan = pipeline.SearchPlan(method=method, num=num, top=top, seed=seed, halving=halving)
        with self.progress() as progress:
            result = pipeline.search(setup, self.path, plan, progress)
        self._tell(pipeline.nothing_found(result))
        return result

    def report(self) -> dict[str, Any]:
        """Ranks the candidates of the report where that was not done yet, and writes the page `report.html`.

        Returns:
          The content of `report.json`.
        """
        with self._opened(self._held()) as run:
            pipeline.rank(run)
            return pipeline.write_report(run.folder)

    @property
    def path(self) -> Path:
        """The folder of the run."""
        return Path("runs") / self.name if self.folder is None else Path(self.folder)

    @functools.cached_property
    def source(self) -> Source:
        """What the study brings in place of what a configuration names."""
        width = len(self.space.hparam_names)
        if isinstance(self.train, (GraphData, ImageData)):
            if self.val is not None or self.test is not None:
                raise UserError(f"{self.train.name} holds its own validation and test parts: leave out val and test")
            data: Data = self.train
            problem = storable(self.problem, width)
        else:
            named = {"train": self.train, "val": self.val, "test": self.test}
            train, val, test = (None if given is None else as_batch(given, part) for part, given in named.items())
            assert train is not None
            tree = None if is_dictionary(train.inputs) else jax.tree.structure(train.inputs)
            problem = storable(self.problem, width, tree)
            data = array_data(self.name, _stored(train), val and _stored(val), test and _stored(test))
            parts = (data.batch(index) for index in (data.train_idx, data.val_idx))
            found = check_problem(problem, self.space, *(jax.tree.map(jnp.asarray, part) for part in parts))
            data = data._replace(notes=(*data.notes, *found))
        facts = _fingerprints(problem, self.space, data) | ({} if self.file is None else {"file": self.file.checksum})
        return Source(data, problem, self.space, facts)

    @functools.cached_property
    def config(self) -> Config:
        """The settings, as a configuration has them.

        Raises:
          UserError: a setting that there is not, or a training that a configuration cannot describe.
        """
        odd = [
            field.name
            for field in dataclasses.fields(Training)
            if field.name not in _OF_TRAINING and getattr(self.training, field.name) != field.default
        ]
        if odd:
            raise UserError(f"a study trains by {', '.join(_OF_TRAINING)}: leave out {', '.join(odd)} of Training")
        training = {name: getattr(self.training, name) for name in _OF_TRAINING}
        base = {
            "methods": METHODS,
            "seeds": tuple(self.seeds),
            "data": {"name": self.name},
            "space": {"name": OWN},
            "model": {"name": OWN},
            "training": training | {"learning_rate": float(self.training.learning_rate)},
        }
        config = merge(Config(), base, where="study")
        usual = {} if isinstance(self.train, GraphData) else USUAL
        config = merge(merge(config, usual, where="study"), self.settings, where="settings of the study")
        if self.file is not None:
            config = merge(config, {"data": {"path": self.file.place}}, where="study")
        return configs.apply_overrides(config, self.overrides)

    def with_overrides(self, words: Sequence[str]) -> Study:
        """The study with settings from a command line, such as `--hcdc.steps 100`."""
        return dataclasses.replace(self, overrides=(*self.overrides, *words))

    def _with(self, **values: Any) -> Config:
        return merge(self.config, values, where="study")

    def _held(self) -> Config:
        """The configuration that the folder was begun with, as far as `condense` chooses it; the rest is the study's.

        Raises:
          UserError: the folder holds another study.
        """
        if not (self.path / CONFIG).is_file():
            raise UserError(f"{self.path} holds nothing yet: call study.condense() or study.run() first")
        theirs = config_of(self.path)
        ours = self._with(
            methods=theirs.methods,
            condense={"examples": theirs.condense.examples},
            hcdc={"full_trainings": theirs.hcdc.full_trainings},
        )
        ours = pipeline.resolved(ours)
        check_owner(self.path, ours, resume=True)
        return ours

    def _tell(self, text: str | None) -> None:
        """Says it, where there is anything to say."""
        if text is not None:
            with self.progress() as progress:
                progress.say(text)

    @contextmanager
    def _opened(self, config: Config) -> Iterator[Run]:
        with (
            self.progress() as progress,
            pipeline.opened(config, self.path, source=self.source, progress=progress) as run,
        ):
            yield run


def _stored(batch: Batch) -> Batch:
    """The batch as files know it; yes-or-no labels [n, k] are numbers."""
    labels = batch.labels if batch.labels.ndim == 1 else batch.labels.astype(float)
    return batch._replace(inputs=as_dictionary(batch.inputs), labels=labels)


def _middle(space: Space) -> Array:
    return space.from_unit(jnp.full(len(space.hparam_names), 0.5))


def _fingerprints(problem: Problem, space: Space, data: Data) -> dict[str, str]:
    """What the losses compute and where the space lies, as SHA-256: a study that is made again has the same."""
    hparams = _middle(space)
    corners = np.stack([np.zeros(len(space.hparam_names)), np.ones(len(space.hparam_names))])
    points = np.asarray(space.from_unit(jnp.asarray(corners, jnp.float32)), np.float64)
    where = hashlib.sha256(f"{space.hparam_names} {points.tolist()} {space.prior_std}".encode()).hexdigest()
    if not isinstance(data, ArrayData):
        return {"space": where}
    batch = jax.tree.map(lambda leaf: jnp.asarray(leaf[:2]), data.batch(data.train_idx[:2]))

    def losses(hparams: Array) -> tuple[Array, Array]:
        key = jax.random.key(0)
        params = problem.init(key, hparams)
        seen = batch if problem.perturb is None else problem.perturb(key, hparams, batch)
        return problem.train_loss(params, hparams, seen), problem.val_loss(params, hparams, batch)

    program = jax.make_jaxpr(losses)(hparams)
    digest = hashlib.sha256(re.sub(r"0x[0-9a-f]+", "", str(program.jaxpr)).encode())
    for constant in program.consts:
        digest.update(np.asarray(constant).tobytes() if jnp.issubdtype(constant.dtype, jnp.number) else b"")
    return {"losses": digest.hexdigest(), "space": where}
