"""What a search found, as a table and plain sentences, from the content of `search_<method>.json`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hcdc_jax.report.tables import MISSING, Cell, Table, count, seconds
from hcdc_jax.search.halving import BREAK_EVEN_LIMIT


def best(result: dict[str, Any]) -> Table:
    """The best candidates on the condensed data, and what became of them on the full data."""
    places, finalists = result["best"], result["finalists"]
    history = {name: np.asarray(result["history"][name])[places] for name in ("loss", "accuracy")}
    columns = {
        name: [_shown(value) for value in values] for name, values in (result["space"]["best"] | history).items()
    }
    if finalists:
        gap = [MISSING] * (len(places) - len(finalists))
        columns["full: val. loss"] = [f"{row['val_loss']:.4f}" for row in finalists] + gap
        columns["full: test accuracy, %"] = [f"{100 * row['test_accuracy']:.2f}" for row in finalists] + gap
    cells = [[Cell(text) for text in column] for column in columns.values()]
    ranks = [Cell(str(rank)) for rank in range(1, len(places) + 1)]
    return Table(["rank", *columns], list(zip(ranks, *cells, strict=True)))


def title(result: dict[str, Any]) -> str:
    """Over the table of `best`."""
    artefact = result["artefact"]
    return f"Best of {count(result['candidates'])} candidates on {artefact['method']}_seed{artefact['seed']}"


def reading(result: dict[str, Any]) -> list[str]:
    """What was searched, found and spent, in sentences."""
    spent, compiled = result["seconds"], result["compile_seconds"]
    sentences = [
        f"{count(result['candidates'])} candidates in {seconds(spent['search'])} s, after "
        f"{seconds(compiled['search'])} s of compilation; {count(result['failed'])} failed."
    ]
    if "calibration" in result:
        sentences += _calibration(result["calibration"])
    if result["selected"] is not None:
        number = len(result["finalists"])
        what = f"Selected from the best {number} after" if number > 1 else "The best one after"
        sentences.append(f"{what} {_trainings(number)}, {seconds(spent['retrain'])} s: {_outcome(result['selected'])}.")
        own = ", ".join(f"{name} = {_setting(value)}" for name, value in result["selected"]["settings"].items())
        sentences.append(f"Its settings: {own}.")
    rival = result["successive_halving"]
    if rival is not None:
        sentences.append(
            f"Successive halving of {count(result['num'])} candidates on the full data, "
            f"{_trainings(result['full_trainings']['successive_halving'])}, {seconds(spent['successive_halving'])} s: "
            f"{_outcome(rival)}."
        )
    pays = result["break_even_candidates"]
    if pays is not None:
        never = "for no number of them"
        against_halving = _from(pays["successive_halving"], f"{never} up to {count(BREAK_EVEN_LIMIT)}")
        sentences.append(
            "Condensing included, such a search is faster than training all candidates in full "
            f"{_from(pays['all_in_full'], never)}, and faster than successive halving on the full data "
            f"{against_halving}."
        )
    return sentences


def _shown(value: float | str | None) -> str:
    if value is None:
        return MISSING
    return value if isinstance(value, str) else f"{value:.4f}"


def _calibration(story: dict[str, Any]) -> list[str]:
    """From how many full trainings a calibrated search began, why it stopped, and whether condensed data was of use."""
    asked, gone = _trainings(len(story["asked_for"])), len(story["given_up"])
    asked += f" more and {gone} that it gave up midway" if gone else " more"
    sentences = [f"The search began from {_trainings(story['matched'])} and took {asked}: {story['stopped']}."]
    if not story["condensed_losses_foretell"]:
        ranks = {name: rank for name, rank in story["ranks"].items() if name.endswith(" line")}
        known = [rank for rank in ranks.values() if rank is not None]
        best, lines = f"{max(known):.2f}" if known else "none", sum(story["weights"][name] for name in ranks)
        sentences.append(
            f"Condensed losses do not predict full trainings here (leave-one-out rank {best} at best): the search "
            f"relied on the surrogate, Gaussian processes on the full trainings ({100 * (1 - lines):.0f} % of the say)."
        )
    return sentences


def _outcome(chosen: dict[str, Any]) -> str:
    if not math.isfinite(chosen["test_accuracy"] or 0.0):
        return f"test loss {chosen['test_loss']:.4g}"
    text = f"test accuracy {100 * chosen['test_accuracy']:.2f} %"
    lost = chosen["regret_test_accuracy"]
    if lost is None:
        return text
    return f"{text}, {abs(lost):.2f} points {'below' if lost >= 0 else 'above'} the best of the truth's candidates"


def _setting(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _trainings(number: float) -> str:
    return f"{count(number)} full training{'' if number == 1 else 's'}"


def _from(candidates: int | None, never: str) -> str:
    return never if candidates is None else f"from {count(candidates)} candidates on"
