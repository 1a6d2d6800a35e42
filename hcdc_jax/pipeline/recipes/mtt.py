"""MTT: images on which a student follows networks that were trained on the real data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp

from hcdc_jax.condense.base import Condenser
from hcdc_jax.condense.epoch_training import EpochTraining
from hcdc_jax.condense.experts import (
    expert_trajectory,
    load_experts,
    missing_experts,
    open_buffer,
    save_expert,
)
from hcdc_jax.condense.mtt import MTTData, MTTState, mtt
from hcdc_jax.containers import Container
from hcdc_jax.errors import DivergedError, UserError
from hcdc_jax.pipeline.clock import measured
from hcdc_jax.pipeline.kinds.image_containers import image_rates
from hcdc_jax.pipeline.kinds.starts import learned, stored, to_learn
from hcdc_jax.pipeline.recipes.base import Cost, Learner, Method, Recipe, Request, Work
from hcdc_jax.pipeline.recipes.image_relays import full_trainings, real_images, relay, strategy
from hcdc_jax.pipeline.setup import EXPERTS, Run, Setup, key_for
from hcdc_jax.problem import Problem
from hcdc_jax.storage import files
from hcdc_jax.types import Array, HParams


def buffer_of(folder: Path, part: str) -> Path:
    """Where the experts of one part lie in a run folder; all seeds share them, as they share the real data."""
    return folder / "checkpoints" / f"experts_{part}"


def _condenser(setup: Setup, container: Container) -> Condenser:
    options = setup.config.mtt
    return mtt(
        relay(setup).problem, container, student_steps=options.student_steps, expert_epochs=options.expert_epochs,
        max_start=options.max_start, batch_size=options.batch_size, augmentation=strategy(setup),
    )  # fmt: skip


def _last_epoch(setup: Setup) -> int:
    """The last epoch of an expert that a student may be measured at; training on would be for nothing."""
    options = setup.config.mtt
    return options.max_start - 1 + options.expert_epochs


def _work(request: Request) -> Work:
    setup, options = request.run.setup, request.run.setup.config.mtt
    problem, _, hparams = relay(setup)
    hparams, folder = jnp.asarray(hparams, jnp.float32), buffer_of(request.run.folder, request.part)
    cost = _trained_experts(request, problem, hparams, folder)
    experts = load_experts(folder, problem, hparams, range(options.experts))
    _check_finite(request, experts)
    data = MTTData(
        experts=experts,
        hparams=hparams,
        rates=image_rates(setup, options.image_rate),
        step_size=jnp.float32(options.step_size),
        step_size_rate=jnp.float32(options.step_size_rate / options.step_size**2),  # of its logarithm
    )
    return Work(data, cost)


def _check_finite(request: Request, experts: Array) -> None:
    """Says how many of the experts [e, epochs + 1, n] diverged, if any.

    Raises:
      DivergedError: all did.
    """
    options = request.run.setup.config.mtt
    lost = int((~jnp.isfinite(experts).all(axis=(1, 2))).sum())
    mend = "lower mtt.expert_rate and run in a new folder"
    if lost == options.experts:
        raise DivergedError(f"all {lost} experts diverged; {mend}")
    if lost:
        request.run.progress.say(
            f"S_{request.part} of mtt: {lost} of {options.experts} experts diverged, and steps that follow them are "
            f"left out; {mend}"
        )


def _trained_experts(request: Request, problem: Problem, hparams: HParams, folder: Path) -> Cost:
    """Trains the experts that the buffer lacks; what all of them cost, now or earlier."""
    run, setup, options = request.run, request.run.setup, request.run.setup.config.mtt
    real = real_images(request)
    training = EpochTraining(options.expert_rate, _last_epoch(setup), options.expert_batch_size, strategy(setup))
    key = jax.random.fold_in(key_for(EXPERTS, 0), 0 if request.part == "train" else 1)
    manifest = open_buffer(
        key, problem, hparams, real, training, folder, num_experts=options.experts, dtype=options.expert_precision
    )
    missing = missing_experts(folder, options.experts)
    if missing:
        _check_space(run, folder, manifest["bytes"], len(missing))
    done = options.experts - len(missing)
    for number in run.progress.track(missing, f"experts for S_{request.part} of mtt", done):
        with measured() as elapsed:
            snapshots = jax.block_until_ready(
                expert_trajectory(jax.random.fold_in(key, number), problem, hparams, real, training)
            )
        # First what it took: once the expert is there it is not trained again, and is paid for once.
        files.write_json(_spent(folder, number), {"seconds": elapsed.run, "compile_seconds": elapsed.compile})
        save_expert(folder, number, snapshots, options.expert_precision)
    spent = [json.loads(_spent(folder, number).read_text(encoding="utf-8")) for number in range(options.experts)]
    return Cost(
        compile_seconds=sum(record["compile_seconds"] for record in spent),
        training_seconds=sum(record["seconds"] for record in spent),
        full_trainings=options.experts * full_trainings(setup, training.epochs * real.labels.shape[0]),
    )


def _spent(folder: Path, number: int) -> Path:
    return folder / f"seconds_{number:04d}.json"


def _check_space(run: Run, folder: Path, size: int, missing: int) -> None:
    """Tells how large the buffer is, or that there is no room for it."""
    options = run.setup.config.mtt
    needed, free = size * missing // options.experts, shutil.disk_usage(folder).free
    told = f"{options.experts} experts with {_last_epoch(run.setup) + 1} snapshots each take {_gigabytes(size)}"
    if needed > free:
        raise UserError(
            f"{folder}: {told}, and {_gigabytes(free)} are free; free some, lower mtt.experts or mtt.max_start, or set "
            "mtt.expert_precision = 'float16'"
        )
    run.progress.say(f"{folder}: {told}")


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2g} GB" if size >= 1e9 else f"{size / 1e6:.2g} MB"


def _facts(state: MTTState) -> dict[str, float]:
    return {"learned_learning_rate": float(jnp.exp(state.log_step_size))}


def _steps(setup: Setup) -> int:
    return setup.config.mtt.steps


_RECIPE = Recipe(
    "mtt",
    to_learn(stored),
    learned,
    Learner(_condenser, _work, _steps, rate="mtt.image_rate or mtt.step_size", facts=_facts),
)

METHOD = Method("MTT: images on which students follow trained networks (arXiv 2203.11932)", _RECIPE, _RECIPE)
