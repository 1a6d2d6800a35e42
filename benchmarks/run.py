"""Timings of the hot paths, with their peers or floors measured in the same process.

    python -m benchmarks.run [name ...]          (all of them: make bench)
    python -m benchmarks.run condensers:dm,hcdc  (of that benchmark these alone)

Prints each result and writes `benchmarks/results/<name>.json`. Every time is the median of several calls after one
warm-up call, waited for with `block_until_ready`; compilation is timed apart. The graph is Cora where `HCDC_DATA_DIR`
has it, else the digits graph. Peers that are not installed (PyTorch, lineax) are left out.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks.cells import cells
from benchmarks.condensers import condensers, networks
from benchmarks.halving import halving
from benchmarks.hypergradients import hypergradients, solvers
from benchmarks.kernel_regression import kip
from benchmarks.ranking import devices, ranking
from benchmarks.stages import stages
from benchmarks.timing import device
from hcdc_jax.artefact import versions

RESULTS = Path(__file__).parent / "results"
BENCHMARKS = {
    function.__name__: function
    for function in (hypergradients, solvers, ranking, devices, stages, condensers, networks, kip, cells, halving)
}


def main(names: list[str]) -> None:
    unknown = [name for name in names if name.partition(":")[0] not in BENCHMARKS]
    if unknown:
        sys.exit(f"no such benchmark: {', '.join(unknown)}; known are {', '.join(BENCHMARKS)}")
    RESULTS.mkdir(exist_ok=True)
    for name in names or BENCHMARKS:
        benchmark, _, parts = name.partition(":")
        results = BENCHMARKS[benchmark](*filter(None, parts.split(",")))
        record = {"benchmark": name, "device": device(), "versions": versions(), "results": results}
        (RESULTS / f"{name.replace(':', '-')}.json").write_text(json.dumps(record, indent=2) + "\n")
        print(json.dumps(record, indent=2), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
