"""Timings of the hot paths, with their peers or floors measured in the same process.

Run with `make bench` or `python -m benchmarks.run [name ...]`. Prints a table and writes
`benchmarks/results/<name>.json`. Every time is the median of several calls after one warm-up call, waited for with
`block_until_ready`; compilation is timed apart. The graph is Cora where `HCDC_DATA_DIR` has it, else the digits graph.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from statistics import median

import jax
import jax.numpy as jnp

import hcdc_jax as hc
from hcdc_jax.artefact import versions
from hcdc_jax.candidates import evaluate
from hcdc_jax.models.graph import spectral_gnn
from hcdc_jax.spaces import graph_filter

RESULTS = Path(__file__).parent / "results"


def seconds(function, *args, repeats: int = 7) -> tuple[float, float]:
    """(median seconds of a call, seconds of the first call beyond it)."""

    def once() -> float:
        begin = time.perf_counter()
        jax.block_until_ready(function(*args))
        return time.perf_counter() - begin

    first = once()
    later = median(once() for _ in range(repeats))
    return later, max(first - later, 0.0)


def problem():
    name = "cora" if os.environ.get("HCDC_DATA_DIR") else "digits_graph"
    data = hc.load_dataset(name)
    space = graph_filter(2)
    train, val = (hc.real_batch(data, index, order=2, basis="laplacian") for index in (data.train_idx, data.val_idx))
    return name, space, spectral_gnn(data.num_features, data.num_classes, hidden=32), train, val


def hypergradients() -> dict:
    """Cost of a Hessian-vector product and of hypergradients, in gradients of the training loss."""
    name, space, model, train, val = problem()
    hparams = space.sample(jax.random.key(0), 1)[0]
    params, _ = jax.jit(lambda key: hc.train(key, model, hparams, train, hc.Training(steps=100)))(jax.random.key(1))
    gradient = jax.jit(lambda p: jax.grad(model.train_loss)(p, hparams, train))
    # Ten chained products: what a solver does, without the cost of one call per product.
    chain = jax.jit(
        lambda p, v: jax.lax.fori_loop(
            0, 10, lambda _, u: jax.jvp(lambda q: jax.grad(model.train_loss)(q, hparams, train), (p,), (u,))[1], v
        )
    )
    rows: dict = {"graph": name, "gradient_seconds": seconds(gradient, params)[0]}
    rows["hvp_in_gradients"] = seconds(chain, params, params)[0] / 10 / rows["gradient_seconds"]
    for num_hvps in (5, 20, 80):
        function = jax.jit(
            lambda p, n=num_hvps: hc.hypergradient(
                model.train_loss, model.val_loss, p, hparams, train, val, solver=hc.neumann(n)
            )[0]
        )
        run, compilation = seconds(function, params, repeats=3)
        memory = function.lower(params).compile().memory_analysis()
        rows[f"neumann_{num_hvps}"] = {
            "in_gradients": run / rows["gradient_seconds"],
            "compile_seconds": compilation,
            "temporary_megabytes": memory.temp_size_in_bytes / 1e6,
        }
    return rows


def candidates() -> dict:
    """Candidates per second of `evaluate` on a condensed-size graph, against a loop over one jitted training."""
    data = hc.load_dataset("digits_graph")
    space, model = graph_filter(2), spectral_gnn(data.num_features, data.num_classes, hidden=32)
    train = hc.real_batch(data, data.train_idx[:40], order=2, basis="laplacian")
    val = hc.real_batch(data, data.val_idx[:80], order=2, basis="laplacian")
    count = 256
    draws = space.sample(jax.random.key(0), count)
    training = hc.Training(steps=200)

    @jax.jit
    def one(hparams):
        params, _ = hc.train(jax.random.key(1), model, hparams, train, training)
        return model.val_loss(params, hparams, val)

    def loop():
        return jnp.stack([one(hparams) for hparams in draws])

    def batched():
        return evaluate(jax.random.key(1), model, draws, train, val, training=training).loss

    (loop_time, loop_compile), (batch_time, batch_compile) = seconds(loop, repeats=3), seconds(batched, repeats=3)
    return {
        "candidates": count,
        "evaluate_per_second": count / batch_time,
        "evaluate_compile_seconds": batch_compile,
        "loop_per_second": count / loop_time,
        "loop_compile_seconds": loop_compile,
        "speed_up": loop_time / batch_time,
    }


BENCHMARKS = {"hypergradients": hypergradients, "candidates": candidates}


def main(names: list[str]) -> None:
    RESULTS.mkdir(exist_ok=True)
    for name in names or BENCHMARKS:
        rows = BENCHMARKS[name]()
        device = f"{jax.device_count()} x {jax.devices()[0].device_kind}, {os.cpu_count()} CPU cores"
        record = {"benchmark": name, "device": device, "versions": versions(), "results": rows}
        (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")
        print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
