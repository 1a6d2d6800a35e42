"""Timings of the hot paths, with their peers or floors measured in the same process.

    python -m benchmarks.run [name ...]          (all of them: make bench)
    python -m benchmarks.run condensers:dm,hcdc  (of that benchmark these alone)

Prints each result and writes `benchmarks/results/<name>.json`. Every time is the median of several calls after one
warm-up call, waited for with `block_until_ready`; compilation is timed apart. The graph is Cora where `HCDC_DATA_DIR`
has it, else the digits graph. Peers that are not installed (PyTorch, lineax) are left out.
"""

from __future__ import annotations

import sys

from benchmarks.cells import cells
from benchmarks.condensers import condensers, networks
from benchmarks.halving import halving
from benchmarks.hypergradients import hypergradients, solvers
from benchmarks.kernel_regression import kip
from benchmarks.ranking import devices, ranking
from benchmarks.records import kept
from benchmarks.stages import stages

BENCHMARKS = {
    function.__name__: function
    for function in (hypergradients, solvers, ranking, devices, stages, condensers, networks, kip, cells, halving)
}


def main(names: list[str]) -> None:
    unknown = [name for name in names if name.partition(":")[0] not in BENCHMARKS]
    if unknown:
        sys.exit(f"no such benchmark: {', '.join(unknown)}; known are {', '.join(BENCHMARKS)}")
    for name in names or BENCHMARKS:
        benchmark, _, parts = name.partition(":")
        results = BENCHMARKS[benchmark](*filter(None, parts.split(",")))
        print(kept(name, results), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
