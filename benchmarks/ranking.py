"""Candidates per second on a condensed graph: `evaluate`, a loop over one jitted training, and PyTorch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

import hcdc_jax as hc
from benchmarks.timing import graph, seconds
from hcdc_jax.condense import coresets
from hcdc_jax.containers import graph_container
from hcdc_jax.containers.graph import fixed
from hcdc_jax.models import spectral_gnn
from hcdc_jax.spaces import graph_filter

TRAINING = hc.Training(steps=200)


def condensed():
    """A 1.8 % + 3.6 % ego sample as a condensed data set, and the problem."""
    data, container = graph(), graph_container(fixed(), 2, "laplacian")
    parts = []
    for pool, nodes in ((data.train_idx, 49), (data.val_idx, 98)):
        start = coresets.induced_subgraph(data, *coresets.ego_sample(np.random.default_rng(0), data, pool, nodes))
        parts.append(container.decode(container.init(jax.random.key(0), start)))
    return data.name, spectral_gnn(data.num_features, data.num_classes, hidden=32), *parts


def ranking(count: int = 512) -> dict:
    """Throughput of `count` candidates in one call, against the two loops."""
    name, problem, train, val = condensed()
    draws = graph_filter(2).sample(jax.random.key(0), count)

    @jax.jit
    def one(hparams):
        params, _ = hc.train(jax.random.key(1), problem, hparams, train, TRAINING)
        return problem.val_loss(params, hparams, val)

    def batched():
        return hc.evaluate(jax.random.key(1), problem, draws, train, val, training=TRAINING).loss

    looped = min(count, 64)
    loop_time, loop_compile = seconds(lambda: jnp.stack([one(h) for h in draws[:looped]]), repeats=3)
    batch_time, batch_compile = seconds(batched, repeats=3)
    rows = {
        "graph": name,
        "candidates": count,
        "evaluate_per_second": count / batch_time,
        "evaluate_compile_seconds": batch_compile,
        "jitted_loop_per_second": looped / loop_time,
        "jitted_loop_compile_seconds": loop_compile,
    }
    try:
        per_second = torch_per_second(problem, draws[:16], train, val)
    except ImportError:
        return rows | {"pytorch": "not installed"}
    return rows | {"pytorch_loop_per_second": per_second, "speed_up": count / batch_time / per_second}


def torch_per_second(problem, draws, train, val) -> float:
    """The same network, training and validation in PyTorch, one candidate after the other, from the same weights."""
    import torch

    def tensors(batch):
        as_tensor = [
            torch.from_numpy(np.array(leaf)) for leaf in (batch.inputs.edges, batch.inputs.nodes, batch.labels)
        ]
        return (*as_tensor[:2], as_tensor[2].long(), torch.from_numpy(np.array(batch.weights)))

    def loss_of(weights, hparams, edges, nodes, labels, label_weights):
        mix = edges @ hparams
        hidden = torch.relu(mix @ (nodes @ weights[0]) + weights[1])
        logits = mix @ (hidden @ weights[2]) + weights[3]
        losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        return (losses * label_weights).sum() / label_weights.sum()

    def run(hparams, start):
        weights = [w.clone().requires_grad_() for w in start]
        optimizer = torch.optim.Adam(weights, lr=0.01)
        for _ in range(TRAINING.steps):
            optimizer.zero_grad()
            loss = loss_of(weights, hparams, *train) + 2.5e-4 * sum((w**2).sum() for w in weights)
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            return float(loss_of(weights, hparams, *val))

    params = problem.init(jax.random.key(1), draws[0])
    leaves = (params["Dense_0"]["kernel"], params["bias_0"], params["Dense_1"]["kernel"], params["bias_1"])
    start = [torch.from_numpy(np.array(leaf)) for leaf in leaves]
    reference = hc.evaluate(jax.random.key(1), problem, draws, train, val, training=TRAINING).loss
    train, val = tensors(train), tensors(val)
    run(torch.from_numpy(np.array(draws[0])), start)  # warm-up
    begin = time.perf_counter()
    losses = [run(torch.from_numpy(np.array(hparams)), start) for hparams in draws]
    elapsed = time.perf_counter() - begin
    agreement = hc.rank_report(np.asarray(reference), np.array(losses), bootstrap=0)["spearman"]
    if agreement < 0.99:
        raise RuntimeError(f"PyTorch ranks otherwise (Spearman {agreement:.3f}); the comparison is void")
    return len(draws) / elapsed


def devices() -> dict:
    """`evaluate` over 1, 2, 4 and 8 simulated devices of this machine: the same scores, and what the split costs."""
    script = (
        "import json, sys, numpy as np; from benchmarks.ranking import ranking_on_all;"
        "print(json.dumps(ranking_on_all()), file=sys.stdout)"
    )
    rows = {}
    for count in (1, 2, 4, 8):
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
        out = subprocess.run(
            [sys.executable, "-c", script], env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        rows[f"{count}_devices"] = json.loads(out.stdout.splitlines()[-1])
    scores = [row.pop("losses") for row in rows.values()]
    return rows | {"largest_difference": float(max(np.abs(np.array(other) - scores[0]).max() for other in scores))}


def ranking_on_all(count: int = 128) -> dict:
    _, problem, train, val = condensed()
    draws = graph_filter(2).sample(jax.random.key(0), count)

    def batched():
        return hc.evaluate(jax.random.key(1), problem, draws, train, val, training=TRAINING).loss

    run, compilation = seconds(batched, repeats=3)
    return {"per_second": count / run, "compile_seconds": compilation, "losses": np.asarray(batched()).tolist()}
