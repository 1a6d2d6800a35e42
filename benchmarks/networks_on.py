"""Test accuracies of new networks on condensed images, measured once."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.tables import spread
from hcdc_jax import files, metrics
from hcdc_jax.evaluation import Protocol, Teacher, evaluate_networks
from hcdc_jax.pipeline.recipes.image_relays import relay
from hcdc_jax.pipeline.setup import EVALUATE, Setup, key_for
from hcdc_jax.types import Batch


def accuracies(
    path: Path,
    setup: Setup,
    seed: int,
    batch: Batch,
    protocol: Protocol,
    networks: int,
    teacher: Teacher | None = None,
) -> list[float | None]:
    """Accuracies on the real test part of networks that a protocol trains on one S_train; None for those that failed.

    `path` is a file of that S_train. It keeps the accuracies under all protocols and counts of networks, and what it
    has is not measured again.
    """
    wanted = json.loads(json.dumps({"protocol": dataclasses.asdict(protocol), "networks": networks}))
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    for entry in kept:
        if all(entry[name] == value for name, value in wanted.items()):
            return entry["values"]
    network = relay(setup)
    scores = evaluate_networks(
        key_for(EVALUATE, seed), network.problem, protocol, batch, setup.test, networks=networks,
        hparams=network.hparams, teacher=teacher,
    )  # fmt: skip
    shares, trained = np.asarray(scores.accuracy, float), np.asarray(scores.status)
    values = [float(share) if there else None for share, there in zip(shares, trained, strict=True)]
    files.write_json(path, [*kept, wanted | {"values": values}])
    return values


def percent(values: Sequence[float | None]) -> str:
    """Mean and standard deviation of accuracies in percent, without those that failed."""
    return spread(metrics.summarise([100 * value for value in values if value is not None]), 1)
