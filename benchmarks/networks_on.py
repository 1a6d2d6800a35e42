"""Test accuracies of new networks on condensed images, measured once."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.tables import spread
from hcdc_jax import metrics
from hcdc_jax.config.values import with_defaults
from hcdc_jax.evaluation import evaluate_networks
from hcdc_jax.evaluation.protocols import Protocol
from hcdc_jax.models import described_net, image_problem
from hcdc_jax.pipeline.recipes.image_relays import relay
from hcdc_jax.pipeline.setup import EVALUATE, Setup, key_for
from hcdc_jax.problem import Problem
from hcdc_jax.storage import files
from hcdc_jax.types import Batch


def accuracies(
    path: Path,
    setup: Setup,
    seed: int,
    batch: Batch,
    protocol: Protocol,
    networks: int,
    model: str | None = None,
) -> list[float | None]:
    """Accuracies on the real test part of networks that a protocol trains on one S_train; None for those that failed.

    `path` is a file of that S_train. It keeps the accuracies under all protocols, models and counts of networks, and
    what it has is not measured again. `model` is a network in words, as `models.described_net` reads them; by default
    the one that condensation goes through.
    """
    asked = {"protocol": dataclasses.asdict(protocol), "networks": networks, "model": model}
    wanted = json.loads(json.dumps(asked))
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    for entry in kept:
        known = {"model": None, **entry, "protocol": with_defaults(Protocol, entry["protocol"])}
        if all(known[name] == value for name, value in wanted.items()):
            return entry["values"]
    problem, hparams = _network(setup, model)
    scores = evaluate_networks(
        key_for(EVALUATE, seed), problem, protocol, batch, setup.test, networks=networks, hparams=hparams
    )
    shares, trained = np.asarray(scores.accuracy, float), np.asarray(scores.status)
    values = [float(share) if there else None for share, there in zip(shares, trained, strict=True)]
    files.write_json(path, [*kept, wanted | {"values": values}])
    return values


def _network(setup: Setup, model: str | None) -> tuple[Problem, tuple[float, ...]]:
    if model is None:
        network = relay(setup)
        return network.problem, network.hparams
    name, options = described_net(model)
    shape, num_classes = setup.data.image_shape, setup.data.num_classes
    return image_problem(name, shape, num_classes, weight_decay=0.0, **options), ()


def percent(values: Sequence[float | None]) -> str:
    """Mean and standard deviation of accuracies in percent, without those that failed."""
    return spread(metrics.summarise([100 * value for value in values if value is not None]), 1)
