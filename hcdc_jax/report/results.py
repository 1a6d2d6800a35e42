"""What a run leaves in its folder, read and checked: the material of a report."""

from __future__ import annotations

import json
import math
import re
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hcdc_jax.errors import UserError

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
      stored_scalars: numbers that the condensed data holds.
      matched_among_ranked: how many of the ranked candidates condensation was matched on.
    """

    seed: int
    loss: np.ndarray
    accuracy: np.ndarray
    seconds: dict[str, float]
    full_trainings_used: float
    stored_scalars: float
    matched_among_ranked: int


class Curve(NamedTuple):
    """What one condensation logged.

    Attributes:
      seed: the seed of the run.
      steps: [t] step numbers.
      distance: [t] matching loss.
      held_out_steps: [u] steps at which ranks were checked.
      held_out: [u] Spearman correlation on candidates that are not matched.
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


class Run(NamedTuple):
    """Everything a report is made of.

    Attributes:
      config: text of the resolved `config.toml`.
      info: content of `results/info.json`.
      hparams: [n, h] the ranked candidates.
      truth: their scores on the full data.
      results: rankings by method, in the order of the config, each by seed.
      curves: logs of condensation by method.
      graphs: learned graphs by method, each by seed.
    """

    config: str
    info: dict[str, Any]
    hparams: np.ndarray
    truth: Truth
    results: dict[str, list[Result]]
    curves: dict[str, list[Curve]]
    graphs: dict[str, list[Adjacency]]


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
    return Run(
        config=config,
        info=json.loads(info_path.read_text(encoding="utf-8")),
        hparams=hparams,
        truth=_read_truth(truth_path, hparams) if truth_path.is_file() else _no_truth(len(hparams)),
        results={
            method: [_read_result(files[key], key[1], hparams) for key in sorted(files) if key[0] == method]
            for method in methods
        },
        curves=_read_curves(folder / "metrics.jsonl"),
        graphs=_read_graphs(folder / "results"),
    )


def _results_of(folder: Path) -> list[Path]:
    return sorted((folder / "results").glob("*.npz"))


def _parse(path: Path) -> re.Match[str] | None:
    return _RESULT_FILE.fullmatch(path.name)


def _in_config_order(methods: set[str], config: str) -> list[str]:
    wanted = list(tomllib.loads(config).get("methods", []))
    return sorted(methods, key=lambda m: (wanted.index(m) if m in wanted else len(wanted), m))


def _arrays(path: Path, *required: str) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        arrays = dict(archive)
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
        stored_scalars=_number(arrays, "stored_scalars"),
        matched_among_ranked=_count_shared(arrays.get("matched_hparams"), hparams),
    )


def _count_shared(matched: np.ndarray | None, ranked: np.ndarray) -> int:
    """How many rows of ranked [n, h] are among the rows of matched [m, h]."""
    if matched is None or matched.shape[1:] != ranked.shape[1:]:
        return 0
    same = np.isclose(ranked[:, None], matched[None], rtol=1e-6, atol=1e-8).all(axis=-1)  # [n, m]
    return int((same.sum(axis=-1) > 0).sum())


def _read_curves(path: Path) -> dict[str, list[Curve]]:
    """Curves by method from a log of JSON lines; where a resumed run logged a step twice, the later line counts."""
    records: dict[tuple[str, int], dict[int, dict[str, Any]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue  # the last line of a killed run may be torn
        if record.get("stage") == "condense" and record.get("distance") is not None:
            steps = records.setdefault((record["method"], int(record["seed"])), {})
            steps[int(record["step"])] = record
    curves: dict[str, list[Curve]] = {}
    for (method, seed), by_step in sorted(records.items()):
        steps = np.array(sorted(by_step))
        distance = np.array([by_step[s]["distance"] for s in steps], np.float64)
        checked = np.array([s for s in steps if by_step[s].get("held_out_spearman") is not None], int)
        held_out = np.array([by_step[s]["held_out_spearman"] for s in checked], np.float64)
        curves.setdefault(method, []).append(Curve(seed, steps, distance, checked, held_out))
    return curves


def _read_graphs(folder: Path) -> dict[str, list[Adjacency]]:
    graphs: dict[str, list[Adjacency]] = {}
    for path in sorted(folder.glob("*_adjacency.npz")):
        match = _parse(path.with_name(path.name.replace("_adjacency.npz", ".npz")))
        if match:
            arrays = _arrays(path, "train", "val", "train_labels", "val_labels")
            parts = (arrays[name] for name in ("train", "val", "train_labels", "val_labels"))
            graphs.setdefault(match["method"], []).append(Adjacency(match["method"], int(match["seed"]), *parts))
    return graphs
