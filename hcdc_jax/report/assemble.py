"""From what a run left on disk to `report.json`, `ranking.csv`, `figures/` and `report.html`."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from hcdc_jax import metrics
from hcdc_jax.report import answer, evaluations, html, plates, style, tables
from hcdc_jax.report.results import Result, Run, Truth, full_steps, read
from hcdc_jax.search import halving
from hcdc_jax.storage import files


def assemble(folder: str | Path) -> dict[str, Any]:
    """Writes the report of a run folder; the same folder gives the same files, byte for byte.

    Args:
      folder: a run folder with `config.toml`, `results/` and, where they apply, `metrics.jsonl`.

    Returns:
      The content of `report.json`. Undefined numbers are None, accuracies are fractions, regret is in points
      (hundredths of accuracy).

    Raises:
      UserError: a file is missing, the results do not belong together, or the folder cannot be written.
    """
    folder = Path(folder)
    run = read(folder)
    files.write_json(folder / "report.json", summarise(run))
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    files.write_text(folder / "ranking.csv", files.csv_text(ranking(run)))
    drawn = plates.draw_all(
        report,
        run.truth.loss if tables.has_truth(report) else None,
        {method: _losses(results) for method, results in run.results.items()},
        run.curves,
        next(iter(run.condensed.get(tables.lead(report) or "", ())), None),
        _shifts(run),
        run.prunings,
    )
    pictures = [_save(folder / "figures", plate) for plate in drawn]
    chapters = [_chapter(folder, name, stored) for name, stored in run.evaluation.items()]
    opening = answer.opening(report, run, _best(report, run), _places(run.truth.loss))
    page = html.render(report, run.config, pictures, best_candidates(report, run), chapters, opening)
    files.write_text(folder / "report.html", page)
    return report


def summarise(run: Run) -> dict[str, Any]:
    """The content of `report.json`, with NaN where a number is undefined."""
    n, truth = len(run.hparams), run.truth
    full_seconds, steps = run.info.get("full_training_seconds"), full_steps(run)
    sizes = run.info.get("space", {}).get("num_parameters")
    methods = {method: _summarise_method(results, truth, sizes) for method, results in run.results.items()}
    agreement = _seed_agreement(truth)
    pays = {method: _break_even(method, entry, full_seconds, steps, n) for method, entry in methods.items()}
    return {
        **{key: run.info.get(key) for key in ("config_hash", "versions", "device")},
        "space": {**run.info.get("space", {}), "candidates": n},
        "data": run.info.get("data", {}),
        "full_training_seconds": full_seconds,
        "full_training_steps": steps,
        "truth": {
            "seconds": truth.seconds,
            "compile_seconds": truth.compile_seconds,
            "seeds": len(truth.losses),
            "failed": int((~np.isfinite(truth.loss)).sum()) if len(truth.losses) else 0,
            "seed_agreement_spearman": agreement,
            "bound_spearman": metrics.bound_of_agreement(agreement, len(truth.losses)),
            "accuracies": not np.isfinite(truth.losses).any() or bool(np.isfinite(truth.test_accuracy).any()),
            "spearman_of_loss_with_accuracy": _with_accuracies(truth, truth.loss),
            "regret_of_loss": 100 * _lost(truth, truth.loss),
        },
        "methods": methods,
        "break_even_candidates": {method: against_all for method, (against_all, _) in pays.items()},
        "break_even_halving": {method: against_halving for method, (_, against_halving) in pays.items()},
    }


def _seed_agreement(truth: Truth) -> float:
    """Mean Spearman correlation of the losses of two trainings that differ by their seeds; NaN of one seed."""
    known = truth.losses[:, np.isfinite(truth.loss)]
    pairs = [metrics.spearman(a, b) for a, b in itertools.combinations(known, 2)]
    return float(np.mean(pairs)) if pairs else math.nan


def _with_accuracies(truth: Truth, loss: np.ndarray) -> float:
    """How well losses [n] rank the truth's accuracies."""
    return -_spearman(truth.accuracy, loss)


def _lost(truth: Truth, loss: np.ndarray, k: int = 1) -> float:
    """Test accuracy below the best, of the k lowest losses [n] the candidate of lowest real validation loss."""
    return metrics.regret(truth.test_accuracy, -loss, k=k, decided_by=-truth.loss, higher_is_better=True)


def _shifts(run: Run) -> dict[str, np.ndarray]:
    """[seeds, h] by method; methods that move no candidate are not among them."""
    found = {method: [r.shift for r in results if r.shift is not None] for method, results in run.results.items()}
    return {method: np.stack(values) for method, values in found.items() if values}


def ranking(run: Run) -> dict[str, np.ndarray]:
    """Columns [n] of `ranking.csv`: candidate, hyperparameters, truth, loss by method (means over seeds).

    What is not finite is NaN; choices are words, and None where a hyperparameter does not act.
    """
    columns: dict[str, Any] = {"candidate": np.arange(len(run.hparams)), **_named_hparams(run)}
    if len(run.truth.losses):
        columns["truth_loss"] = run.truth.loss
        columns["truth_accuracy"] = run.truth.accuracy
        columns["truth_test_accuracy"] = run.truth.test_accuracy
    columns |= {method: _losses(results).mean(axis=0) for method, results in run.results.items()}
    return {
        name: values if values.dtype == object else np.where(np.isfinite(values), values, np.nan)
        for name, values in columns.items()
    }


def _best(report: tables.Report, run: Run, count: int = 10) -> np.ndarray:
    """The candidates of lowest mean loss by hcdc, or by the first method, if it was not run; none that failed."""
    loss = _losses(run.results[tables.lead(report) or next(iter(run.results))]).mean(axis=0)
    return np.argsort(loss, kind="stable")[: min(count, int(np.isfinite(loss).sum()))]  # NaN sorts last


def best_candidates(report: tables.Report, run: Run, count: int = 10) -> tables.Table:
    """The candidates of lowest mean loss by hcdc (by the first method, if it was not run), beside the truth's rank."""
    main = tables.lead(report) or next(iter(run.results))
    order = _best(report, run, count)
    columns = {f"Rank by {main}": [str(place + 1) for place in range(len(order))], "Candidate": [str(i) for i in order]}
    if tables.has_truth(report):
        columns["Rank on the full data"] = [_text(place, ".4g") for place in _places(run.truth.loss)[order]]
        if np.isfinite(run.truth.test_accuracy).any():
            columns["Test accuracy, %"] = [_text(100 * share, ".2f") for share in run.truth.test_accuracy[order]]
    columns |= {name: [_text(x, ".4g") for x in values[order]] for name, values in _named_hparams(run).items()}
    rows = [[tables.Cell(text) for text in row] for row in zip(*columns.values(), strict=True)]
    return tables.Table(list(columns), rows)


def _summarise_method(results: Sequence[Result], truth: Truth, sizes: Sequence[int] | None) -> dict[str, Any]:
    losses = _losses(results)
    loss = [metrics.rank_report(truth.loss, r.loss, bootstrap=0) for r in results]
    accuracy = [metrics.rank_report(truth.accuracy, r.accuracy, bootstrap=0, higher_is_better=True) for r in results]
    # Chosen by loss, paid in test accuracy: on small condensed sets accuracies tie.
    lost = {k: [_lost(truth, r.loss, k) for r in results] for k in tables.FINALISTS}
    tested = truth.test_accuracy[np.isfinite(truth.test_accuracy) & np.isfinite(truth.loss)]
    highest = float(tested.max()) if tested.size else math.nan
    return {
        "seeds": [r.seed for r in results],
        "spearman_loss": metrics.summarise(r["spearman"] for r in loss),
        "interval": metrics.spearman_interval(truth.loss, losses),
        "spearman_accuracy": metrics.summarise(r["spearman"] for r in accuracy),
        "spearman_loss_with_accuracy": metrics.summarise(_with_accuracies(truth, r.loss) for r in results),
        "kendall_loss": metrics.summarise(r["kendall"] for r in loss),
        "weighted_tau_loss": metrics.summarise(r["weighted_tau"] for r in loss),
        "overlap_top_10": metrics.summarise(r["overlap_top_10"] for r in loss),
        "spearman_top_10": metrics.summarise(r["spearman_top_10"] for r in loss),
        **{tables.regret_key(k): metrics.summarise(100 * one for one in of_seeds) for k, of_seeds in lost.items()},
        "selected_test_accuracy": metrics.summarise(highest - one for one in lost[1]),
        "full_trainings_used": _whole(max(r.full_trainings_used for r in results)),
        "full_trainings_timed": _whole(max(r.full_trainings_timed for r in results)),
        "seconds": {part: float(np.mean([r.seconds[part] for r in results])) for part in results[0].seconds},
        "stored_scalars": _whole(max(r.stored_scalars for r in results)),
        "failed": int((~np.isfinite(losses)).sum()),
        **_failures(results),
        "matched_among_ranked": max(r.matched_among_ranked for r in results),
        **({} if len(results) < 2 else {"spearman_of_mean_loss": _spearman(truth.loss, losses.mean(axis=0))}),
        **({} if sizes is None else {"beyond_size": _beyond_size(losses, truth, np.array(sizes, float))}),
    }


def _failures(results: Sequence[Result]) -> dict[str, Any]:
    """The seeds of which every candidate failed, with why where that is known; nothing where there are none."""
    failed = {str(r.seed): r.why for r in results if not np.isfinite(r.loss).any()}
    return {"failed_seeds": failed} if failed else {}


def _beyond_size(losses: np.ndarray, truth: Truth, sizes: np.ndarray) -> dict[str, Any]:
    """What a ranking [seeds, n] says besides that larger candidates [n] are better, and with it."""
    found = []
    for loss in losses:
        valid = np.isfinite(loss) & np.isfinite(truth.loss)
        true, ours, size = truth.loss[valid], loss[valid], sizes[valid]
        within, among = metrics.spearman_within(true, ours, size)
        found.append(
            {
                "partial_spearman": metrics.partial_spearman(true, ours, size),
                "spearman_within": within,
                "candidates_within": among,
                "spearman_of_rank_mean": metrics.spearman(true, metrics.rank_mean(ours, -size)),
            }
        )
    return {name: metrics.summarise(one[name] for one in found) for name in found[0]}


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    valid = np.isfinite(a) & np.isfinite(b)
    return metrics.spearman(a[valid], b[valid])


def _break_even(
    method: str, entry: Mapping[str, Any], full_seconds: float | None, steps: int | None, n: int
) -> tuple[int | None, int | None]:
    """From how many candidates on a method is cheaper than training all in full, and than successive halving."""
    if method == tables.HALVING:  # its cost is full trainings alone, and its winner needs no other
        costs = np.zeros(0) if steps is None else halving.costs(steps)
        return metrics.cheaper_from(costs, 1 + np.arange(costs.size)), None
    if full_seconds is None:
        return None, None
    trainings = entry["full_trainings_used"] - entry["full_trainings_timed"]
    before = trainings * full_seconds + entry["seconds"]["condense"]
    each = entry["seconds"]["rank"] / n
    against_halving = None if steps is None else halving.break_even(before, each, full_seconds, steps)
    return metrics.break_even(before, each, full_seconds), against_halving


def _losses(results: Sequence[Result]) -> np.ndarray:
    """[seeds, n]."""
    return np.stack([result.loss for result in results])


def _whole(value: float) -> float | int:
    return int(value) if float(value).is_integer() else value


def _named_hparams(run: Run) -> dict[str, np.ndarray]:
    """[n] values by hyperparameter, under numbered names where the space gives none; objects where choices have names.

    Names of choices are known of the candidates that the run described, and of no others.
    """
    space = run.info.get("space", {})
    told = space.get("columns") or {}
    if told and all(len(values) == len(run.hparams) for values in told.values()):
        return {name: np.array(values, object) for name, values in told.items()}
    names = space.get("hparam_names") or []
    if len(names) != run.hparams.shape[1]:
        names = [f"hparam_{i}" for i in range(run.hparams.shape[1])]
    return dict(zip(names, run.hparams.T, strict=True))


def _places(loss: np.ndarray) -> np.ndarray:
    """[n] ranks from 1, lowest loss first; NaN where the loss is."""
    valid = np.isfinite(loss)
    places = np.full(loss.shape, np.nan)
    places[valid] = metrics.ranks(loss[valid])
    return places


def _text(value: float | str | None, form: str) -> str:
    if isinstance(value, str):
        return value
    return tables.MISSING if value is None or not math.isfinite(value) else format(value, form)


def _chapter(folder: Path, name: str, stored: Mapping[str, Any]) -> html.Chapter:
    picture = _save(folder / "figures", plates.evaluation(name, stored))
    return html.Chapter(evaluations.title(name), evaluations.table(stored), evaluations.reading(stored), picture)


def _save(folder: Path, plate: plates.Plate) -> html.Picture:
    path = folder / f"{plate.name}.png"
    if not isinstance(plate.drawing, Figure):
        path.unlink(missing_ok=True)  # a figure of an earlier report that knew more
        return html.Picture(plate.title, plate.drawing, None)
    png = style.to_png(plate.drawing)
    files.write_bytes(path, png)
    return html.Picture(plate.title, plate.caption, png)
