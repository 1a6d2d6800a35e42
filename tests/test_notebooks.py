"""The notebooks in `docs/` run as they stand; their own assertions say what must come out."""

from __future__ import annotations

import runpy
import tempfile
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "notebooks").glob("*.py"))
MINUTES = {"tour.py"}
NEEDS = {"optuna_search.py": "optuna"}


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.name in MINUTES else []) for path in NOTEBOOKS],
)
def test_notebook_runs(path, tmp_path, monkeypatch, capsys):
    if path.name in NEEDS:
        pytest.importorskip(NEEDS[path.name])
    monkeypatch.chdir(tmp_path)  # studies leave runs/, and would go on from what an earlier run of the suite left
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    runpy.run_path(str(path))
    assert capsys.readouterr().out.strip()
