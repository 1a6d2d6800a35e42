"""Seconds of every stage of a run, compilation apart."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.command import CONFIGS
from benchmarks.timing import graph
from hcdc_jax import config as configs
from hcdc_jax import pipeline

METHODS = ("random", "gcond", "gcond_x", "hcdc", "value_only", "hcdc_shared", "successive_halving")


def stages() -> dict:
    """One seed of a run: condensing and ranking by method, a full training, the truth."""
    path = CONFIGS / ("cora_1.8.toml" if graph().name == "cora" else "digits_graph.toml")
    config = configs.apply_overrides(
        configs.load(path), ["--methods", *METHODS, "--seeds", "0", "--truth.seeds", "1", "--space.candidates", "80"]
    )
    with tempfile.TemporaryDirectory() as folder:
        report = pipeline.run(config, Path(folder) / "run")
    return {
        "config": path.name,
        "full_training": report["full_training_seconds"],
        "truth": {key: report["truth"][key] for key in ("seconds", "compile_seconds")},
        "methods": {name: entry["seconds"] for name, entry in report["methods"].items()},
        "break_even_candidates": report["break_even_candidates"],
    }
