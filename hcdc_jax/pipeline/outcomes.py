"""Whether anything came of a stage: what is there of it, and if that is nothing, why, in one line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hcdc_jax.condensed import read_card
from hcdc_jax.config import Config
from hcdc_jax.data.npz import read_arrays
from hcdc_jax.training.candidates import WHY_ALL_FAIL


def nothing_condensed(config: Config, folder: Path) -> str | None:
    """Why no artefact of a run can be used; None where one can, or none was to be made."""
    del config
    if not (folder / "card.json").exists():
        return None
    told = [entry.get("diverged") for entry in read_card(folder)["artefacts"].values()]
    return None if None in told else f"{folder} holds no condensed data that can be used: {told[0]}"


def nothing_ranked(config: Config, folder: Path) -> str | None:
    """Why no method ranked any candidate; None where one did, or nothing was ranked yet."""
    rankings = [read_arrays(path) for path in _rankings(config, folder)]
    if not rankings or any(np.any(arrays["status"]) for arrays in rankings):
        return None
    told = next((str(arrays["why"]) for arrays in rankings if "why" in arrays), WHY_ALL_FAIL)
    return f"every candidate failed by every method of {folder}: {told}"


def nothing_true(config: Config, folder: Path) -> str | None:
    """Why no full training of the truth came to an end; None where one did, or none was begun."""
    del config
    path = folder / "results" / "truth.npz"
    if not path.exists() or np.any(read_arrays(path)["status"]):
        return None
    return f"every full training of the truth in {folder} failed: {WHY_ALL_FAIL}"


def nothing_found(result: Mapping[str, Any]) -> str | None:
    """Why a search has no candidate to name, from the content of `search_<method>.json`; None where it has one."""
    if result["top"] and result["selected"] is not None:
        return None
    artefact = f"{result['artefact']['method']}_seed{result['artefact']['seed']}"
    if result["failed"] == result["candidates"]:
        return f"every one of {result['candidates']} candidates failed on {artefact}: {WHY_ALL_FAIL}"
    if result["finalists"]:
        return f"each of the {len(result['finalists'])} best failed when trained on the full data: {WHY_ALL_FAIL}"
    return None


def _rankings(config: Config, folder: Path) -> Iterator[Path]:
    for seed in config.seeds:
        for method in config.methods:
            path = folder / "results" / f"{method}_seed{seed}.npz"
            if path.exists():
                yield path
