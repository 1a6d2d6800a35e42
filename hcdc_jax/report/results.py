"""What a run leaves in its folder, read and checked: the material of a report."""

from __future__ import annotations

import json
import math
import re
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hcdc_jax import metrics
from hcdc_jax.data.npz import read_arrays
from hcdc_jax.errors import UserError
from hcdc_jax.report import evaluations

_RESULT_FILE = re.compile(r"(?P<method>.+)_seed(?P<seed>\d+)\.npz")


class Truth(NamedTuple):
    """Scores of n candidates after training on the full data with s seeds; NaN where a training failed.

    Attributes:
      losses: [s, n] on the real validation part; s = 0 if no truth was computed.
      loss: [n] mean over seeds.
      accuracy: [n] on the real validation part, mean over seeds.
      test_accuracy: [n] on the real test part, mean over seeds.
      seconds: wall time of all trainings, without compilation.
      compile_seconds: wall time of compilation.
    """

    losses: np.ndarray
    loss: np.ndarray
    accuracy: np.ndarray
    test_accuracy: np.ndarray
    seconds: float
    compile_seconds: float


class Result(NamedTuple):
    """One method's ranking of n candidates with one seed; scores are NaN where a candidate failed.

    Attributes:
      seed: the method's seed.
      loss: [n].
      accuracy: [n].
      seconds: of `condense` (full trainings excluded), `rank` and `compile`.
      full_trainings_used: trainings on the full data before the ranking.
      full_trainings_timed: those of them whose time is part of `seconds`.
      stored_scalars: numbers that the condensed data holds.
      matched: [n] whether condensation was matched on the candidate.
      trace_steps: [u] condensation steps of the snapshots of S_val.
      trace_loss: [u, n] losses of the candidates on them.
      shift: [h] by which candidates were moved before they were trained on S_train, in prior standard deviations; None
        where they were not.
      why: every candidate failed, in words, where the condensed data is at fault; else None.
    """

    seed: int
    loss: np.ndarray
    accuracy: np.ndarray
    seconds: dict[str, float]
    full_trainings_used: float
    full_trainings_timed: float
    stored_scalars: float
    matched: np.ndarray
    trace_steps: np.ndarray
    trace_loss: np.ndarray
    shift: np.ndarray | None
    why: str | None = None

    @property
    def matched_among_ranked(self) -> int:
        """How many of the ranked candidates condensation was matched on."""
        return int(self.matched.sum())


class Curve(NamedTuple):
    """How S_val came about: what its condensation logged, and how well its snapshots rank.

    Attributes:
      seed: the seed of the run.
      steps: [t] step numbers.
      distance: [t] matching loss.
      held_out_steps: [u] steps of the snapshots; u = 0 if none were ranked on or no truth is known.
      held_out: [u] Spearman correlation of losses with the truth, over the ranked candidates that were not matched.
    """

    seed: int
    steps: np.ndarray
    distance: np.ndarray
    held_out_steps: np.ndarray
    held_out: np.ndarray


class Adjacency(NamedTuple):
    """A learned graph: edge weights `train` [n1, n1] and `val` [n2, n2] with the classes of their nodes, -1 = none."""

    method: str
    seed: int
    train: np.ndarray
    val: np.ndarray
    train_labels: np.ndarray
    val_labels: np.ndarray


class Images(NamedTuple):
    """Condensed images `train` [n1, h, w, c] and `val` [n2, h, w, c] as one sees them, with their labels."""

    method: str
    seed: int
    train: np.ndarray
    val: np.ndarray
    train_labels: np.ndarray
    val_labels: np.ndarray


class Pruning(NamedTuple):
    """How a learned S_train was pruned to its budget; arrays that a strategy did not need are empty.

    Attributes:
      method: that learned it.
      seed: of the method.
      margins: [n] area under the margin of each image.
      kept: [m] places of those that stayed.
      betas: [b] shares of the hard end that were tried.
      accuracies: [b] on the real validation part.
    """

    method: str
    seed: int
    margins: np.ndarray
    kept: np.ndarray
    betas: np.ndarray
    accuracies: np.ndarray


class Run(NamedTuple):
    """Everything a report is made of.

    Attributes:
      config: text of the resolved `config.toml`.
      info: content of `results/info.json`.
      hparams: [n, h] the ranked candidates.
      truth: their scores on the full data.
      results: rankings by method, in the order of the config, each by seed.
      curves: logs of condensation by method.
      condensed: what the condensed data looks like, by method, each by seed.
      prunings: of S_train by method, each by seed; empty where nothing was pruned.
      evaluation: how new networks do that were trained on condensed images, by protocol; empty if none were.
    """

    config: str
    info: dict[str, Any]
    hparams: np.ndarray
    truth: Truth
    results: dict[str, list[Result]]
    curves: dict[str, list[Curve]]
    condensed: dict[str, list[Adjacency | Images]]
    prunings: dict[str, list[Pruning]]
    evaluation: dict[str, Any]


def read(folder: Path) -> Run:
    """Reads a run folder.

    Raises:
      UserError: a file or array is missing, or the results rank different candidates.
    """
    info_path, config_path = folder / "results" / "info.json", folder / "config.toml"
    for path in (info_path, config_path):
        if not path.is_file():
            raise UserError(f"{folder} is not a finished run, it lacks {path.name}: run `hcdc run` on its config first")
    config = config_path.read_text(encoding="utf-8")
    files = {(m["method"], int(m["seed"])): path for path in _results_of(folder) if (m := _parse(path))}
    methods = _in_config_order({method for method, _ in files}, config)
    if not methods:
        raise UserError(f"{folder / 'results'} holds no ranking of any method: run `hcdc rank` on the folder first")
    hparams = _arrays(files[min(files)], "hparams")["hparams"]
    truth_path = folder / "results" / "truth.npz"
    truth = _read_truth(truth_path, hparams) if truth_path.is_file() else _no_truth(len(hparams))
    results = {
        method: [_read_result(files[key], key[1], hparams) for key in sorted(files) if key[0] == method]
        for method in methods
    }
    return Run(
        config=config,
        info=_info(info_path),
        hparams=hparams,
        truth=truth,
        results=results,
        curves=_curves(_read_log(folder / "metrics.jsonl"), results, truth),
        condensed=_read_condensed(folder / "results"),
        prunings=_read_prunings(folder / "results"),
        evaluation=evaluations.read(folder)["protocols"],
    )


def full_steps(run: Run) -> int | None:
    """Steps of a training on the full data, or None if the configuration does not say."""
    return tomllib.loads(run.config).get("training", {}).get("steps")


def _info(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged; delete it and continue the run with --resume to write it anew") from error


def _results_of(folder: Path) -> list[Path]:
    return sorted((folder / "results").glob("*.npz"))


def _parse(path: Path) -> re.Match[str] | None:
    return _RESULT_FILE.fullmatch(path.name)


def _in_config_order(methods: set[str], config: str) -> list[str]:
    wanted = list(tomllib.loads(config).get("methods", []))
    return sorted(methods, key=lambda m: (wanted.index(m) if m in wanted else len(wanted), m))


def _arrays(path: Path, *required: str) -> dict[str, np.ndarray]:
    arrays = read_arrays(path)
    missing = [name for name in required if name not in arrays]
    if missing:
        raise UserError(f"{path} lacks the array {missing[0]!r}: rank again to rewrite it")
    return arrays


def _check_candidates(path: Path, hparams: np.ndarray, expected: np.ndarray) -> None:
    if hparams.shape != expected.shape or not np.allclose(hparams, expected, rtol=1e-5, atol=1e-7, equal_nan=True):
        raise UserError(f"{path} ranks other candidates than the rest of the run: use a new folder for a changed space")


def _scores(arrays: dict[str, np.ndarray], name: str) -> np.ndarray:
    """Float64 scores, shaped as the losses; NaN where absent, failed by status or not finite."""
    loss = arrays["loss"]
    values = np.asarray(arrays.get(name, np.full(loss.shape, np.nan)), np.float64)
    status = np.asarray(arrays.get("status", np.ones(loss.shape)), bool)
    return np.where(status & np.isfinite(values), values, np.nan)


def _number(arrays: dict[str, np.ndarray], name: str) -> float:
    return float(arrays[name]) if name in arrays else math.nan


def _read_truth(path: Path, hparams: np.ndarray) -> Truth:
    arrays = _arrays(path, "hparams", "loss")
    _check_candidates(path, arrays["hparams"], hparams)
    losses = _scores(arrays, "loss")
    return Truth(
        losses=losses,
        # One failed seed leaves the candidate without a truth: a mean over the others would favour unstable candidates.
        loss=losses.mean(axis=0),
        accuracy=_scores(arrays, "accuracy").mean(axis=0),
        test_accuracy=_scores(arrays, "test_accuracy").mean(axis=0),
        seconds=_number(arrays, "seconds"),
        compile_seconds=_number(arrays, "compile_seconds"),
    )


def _no_truth(n: int) -> Truth:
    unknown = np.full(n, np.nan)
    return Truth(np.empty((0, n)), unknown, unknown, unknown, math.nan, math.nan)


def _read_result(path: Path, seed: int, hparams: np.ndarray) -> Result:
    arrays = _arrays(path, "hparams", "loss")
    _check_candidates(path, arrays["hparams"], hparams)
    return Result(
        seed=seed,
        loss=_scores(arrays, "loss"),
        accuracy=_scores(arrays, "accuracy"),
        seconds={part: _number(arrays, f"seconds_{part}") for part in ("condense", "rank", "compile")},
        full_trainings_used=_number(arrays, "full_trainings_used"),
        full_trainings_timed=float(arrays.get("full_trainings_timed", 0.0)),
        stored_scalars=_number(arrays, "stored_scalars"),
        matched=_shared(arrays.get("matched_hparams"), hparams),
        trace_steps=arrays.get("trace_steps", np.zeros(0, int)),
        trace_loss=np.asarray(arrays.get("trace_loss", np.zeros((0, len(hparams)))), np.float64),
        shift=arrays.get("shift"),
        why=str(arrays["why"]) if "why" in arrays else None,
    )


def _shared(matched: np.ndarray | None, ranked: np.ndarray) -> np.ndarray:
    """[n] whether a row of ranked [n, h] is among the rows of matched [m, h]."""
    if matched is None or matched.shape[1:] != ranked.shape[1:]:
        return np.zeros(len(ranked), bool)
    same = np.all(np.isclose(ranked[:, None], matched[None], rtol=1e-6, atol=1e-8), axis=-1)  # [n, m]
    return np.asarray(np.any(same, axis=-1))


def _read_log(path: Path) -> dict[tuple[str, int], dict[int, float]]:
    """Matching loss of S_val by method and seed, by step; of a step that was logged twice, the later line counts.

    A run that is killed between a log line and its checkpoint takes the same steps again.
    """
    logged: dict[tuple[str, int], dict[int, float]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue  # the last line of a killed run may be torn
        is_val = record.get("stage") == "condense" and record.get("part") == "val"
        if is_val and record.get("distance") is not None:
            logged.setdefault((record["method"], int(record["seed"])), {})[int(record["step"])] = record["distance"]
    return logged


def _curves(
    logged: dict[tuple[str, int], dict[int, float]], results: dict[str, list[Result]], truth: Truth
) -> dict[str, list[Curve]]:
    ranked = {(method, result.seed): result for method, of_seeds in results.items() for result in of_seeds}
    curves: dict[str, list[Curve]] = {}
    for key in sorted(logged.keys() | {key for key, result in ranked.items() if result.trace_steps.size}):
        steps = np.array(sorted(logged.get(key, {})), int)
        distance = np.array([logged[key][step] for step in steps], np.float64)
        snapshots, held_out = _held_out(ranked.get(key), truth)
        curves.setdefault(key[0], []).append(Curve(key[1], steps, distance, snapshots, held_out))
    return curves


def _held_out(result: Result | None, truth: Truth) -> tuple[np.ndarray, np.ndarray]:
    """Steps [u] of the snapshots of S_val, and how well each ranks the candidates that were not matched."""
    if result is None or not len(truth.losses):
        return np.zeros(0, int), np.zeros(0)
    unseen = np.isfinite(truth.loss) & ~result.matched
    correlations = []
    for loss in result.trace_loss:
        valid = unseen & np.isfinite(loss)
        correlations.append(metrics.spearman(truth.loss[valid], loss[valid]))
    return result.trace_steps, np.array(correlations)


def _read_condensed(folder: Path) -> dict[str, list[Adjacency | Images]]:
    found: dict[str, list[Adjacency | Images]] = {}
    for ending, kind in (("_adjacency.npz", Adjacency), ("_images.npz", Images)):
        for path in sorted(folder.glob(f"*{ending}")):
            match = _parse(path.with_name(path.name.replace(ending, ".npz")))
            if match:
                parts = _arrays(path, "train", "val", "train_labels", "val_labels")
                found.setdefault(match["method"], []).append(kind(match["method"], int(match["seed"]), **parts))
    return found


def _read_prunings(folder: Path) -> dict[str, list[Pruning]]:
    found: dict[str, list[Pruning]] = {}
    for path in sorted(folder.glob("*_pruning.npz")):
        match = _parse(path.with_name(path.name.replace("_pruning.npz", ".npz")))
        if match:
            arrays = _arrays(path, "kept")
            parts = {name: arrays.get(name, np.zeros(0)) for name in ("margins", "kept", "betas", "accuracies")}
            found.setdefault(match["method"], []).append(Pruning(match["method"], int(match["seed"]), **parts))
    return found
