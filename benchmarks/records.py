"""What a benchmark leaves behind: its results with device and versions, as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.timing import device
from hcdc_jax.condensed import versions

RESULTS = Path(__file__).parent / "results"


def kept(name: str, results: Any, folder: Path = RESULTS) -> str:
    """Writes the record of a benchmark as `<name>.json` and returns its text."""
    record = {"benchmark": name, "device": device(), "versions": versions(), "results": results}
    text = json.dumps(record, indent=2)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name.replace(':', '-')}.json").write_text(text + "\n")
    return text
