"""The benchmark's own files, made into the table that `nas_bench_201` reads: NATS-Bench, and NAS-Bench-201 before it.

All of them hold the same records: for each cell and length of training ("200" epochs, "full" in the oldest file) an
`all_results` by data set and seed, each with accuracies `eval_acc1es` by "<part>@<epoch>". They come as

- a folder `NATS-tss-v1_0-3ffb9-simple`: `meta.pickle.pbz2` with the strings of all cells, and `000000.pickle.pbz2` to
  `015624.pickle.pbz2` with their records; read one by one, which takes little memory and some minutes;
- one file `NATS-tss-v1_0-3ffb9.pickle.pbz2`, or unpacked without `.pbz2`, with all of that;
- one file `NAS-Bench-201-v1_0-e61699.pth` or `NAS-Bench-201-v1_1-096897.pth`, which PyTorch reads.

Single files take many gigabytes of memory. A pickle may run any code; here it may make numbers and containers alone.
"""

from __future__ import annotations

import bz2
import collections
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from hcdc_jax.data.cells import NUM_CELLS, OPERATIONS, all_cells, string_of
from hcdc_jax.data.nas_bench_201 import TABLES, table_path
from hcdc_jax.errors import UserError
from hcdc_jax.storage import files

_SOURCES = {
    ("cifar10", "val"): ("cifar10-valid", "x-valid"),
    ("cifar10", "test"): ("cifar10", "ori-test"),
    ("cifar100", "val"): ("cifar100", "x-valid"),
    ("cifar100", "test"): ("cifar100", "x-test"),
    ("imagenet16_120", "val"): ("ImageNet16-120", "x-valid"),
    ("imagenet16_120", "test"): ("ImageNet16-120", "x-test"),
}
"""The benchmark's names of data sets and of parts. On CIFAR-100 and ImageNet16-120 its "ori-test" is both parts."""
_LENGTHS = ("200", "full")
_META, _RECORD = "meta.pickle.pbz2", "{:06d}.pickle.pbz2"

Track = Callable[[Sequence[int]], Iterable[int]]


def convert(source: str | Path, data_dir: str | Path, *, track: Track = iter) -> tuple[Path, list[str]]:
    """Writes `nasbench201/nasbench201.npz` from a file or folder of the benchmark.

    Args:
      source: see the head of this file.
      data_dir: folder that `HCDC_DATA_DIR` names, or is to name.
      track: is given the numbers of the cells and yields them again; for progress.

    Returns:
      The file, and the names of its tables. Tables that no cell has an entry of are left out.

    Raises:
      UserError: nothing is written then: there is a file already; the source is missing, damaged, of another space or
        lists cells in another order; PyTorch is needed and not there; or some cells lack what others have.
    """
    source, target = Path(source), table_path(Path(data_dir))
    if target.exists():
        raise UserError(f"{target} is there already; move it away, or choose another --out folder")
    accuracies = _accuracies(source, track)
    arrays: dict[str, np.ndarray] = {"op_names": np.array(OPERATIONS, "S"), "ops": all_cells()}
    tables = {}
    for key, column in zip(_SOURCES, accuracies.T, strict=True):
        missing = np.flatnonzero(np.isnan(column))
        if len(missing) == NUM_CELLS:
            continue
        if len(missing):
            where = " ".join(_SOURCES[key])
            raise UserError(
                f"{source} lacks accuracies after 200 epochs ({where}) of {len(missing)} cells, first of number "
                f"{missing[0]}; get the whole benchmark"
            )
        tables[TABLES[key]] = column
    if not tables:
        raise UserError(f"{source} holds no accuracies after 200 epochs of any data set")
    files.write_npz(target, arrays | tables)
    return target, list(tables)


def _accuracies(source: Path, track: Track) -> np.ndarray:
    """[15625, 6] in per cent, columns as `_SOURCES`; NaN where the benchmark has none."""
    if not source.exists():
        raise UserError(f"{source}: no such file or folder")
    strings, records = _folder(source, track) if source.is_dir() else _one_file(source, track)
    expected = [string_of(cell) for cell in all_cells().tolist()]
    if list(strings) != expected:
        raise UserError(
            f"{source} does not list the {NUM_CELLS} cells of NAS-Bench-201 in the benchmark's order; of NATS-Bench it "
            "takes the topology search space, whose names begin with NATS-tss"
        )
    rows = []
    for number, lengths in records:
        try:
            record = next((lengths[name] for name in _LENGTHS if name in lengths), None)
            if record is None:
                raise UserError(f"{source}: cell {number} has no results after 200 epochs, only {', '.join(lengths)}")
            if record["arch_str"] != expected[number]:
                raise UserError(f"{source}: the record of cell {number} is of {record['arch_str']}; get the file anew")
            rows.append([_mean(record["all_results"], *where) for where in _SOURCES.values()])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{source}: the record of cell {number} is not as expected ({error!r})") from error
    return np.array(rows, np.float64)


def _mean(results: Mapping[tuple[str, int], Mapping[str, Any]], dataset: str, part: str) -> float:
    """The mean over seeds after the last epoch; NaN where there is none."""
    runs = [result for (name, _), result in results.items() if name == dataset]
    found = [run["eval_acc1es"].get(f"{part}@{run['epochs'] - 1}") for run in runs]
    kept = [float(accuracy) for accuracy in found if accuracy is not None]
    return sum(kept) / len(kept) if kept else float("nan")


def _folder(source: Path, track: Track) -> tuple[Sequence[str], Iterator[tuple[int, Any]]]:
    lost = [name for name in (_META, *map(_RECORD.format, range(NUM_CELLS))) if not (source / name).exists()]
    if lost:
        raise UserError(
            f"{source} lacks {len(lost)} of the files of NATS-Bench's simple folder, first {lost[0]}; unpack "
            "NATS-tss-v1_0-3ffb9-simple.tar and give the folder in it"
        )
    strings = _unpickled(source / _META)["meta_archs"]
    return strings, ((number, _unpickled(source / _RECORD.format(number))) for number in track(range(NUM_CELLS)))


def _one_file(source: Path, track: Track) -> tuple[Sequence[str], Iterator[tuple[int, Any]]]:
    content = _by_torch(source) if source.suffix == ".pth" else _unpickled(source)
    if not isinstance(content, Mapping) or not {"meta_archs", "arch2infos"} <= content.keys():
        raise UserError(f"{source} is no file of NATS-Bench or NAS-Bench-201: it lacks meta_archs or arch2infos")
    records = content["arch2infos"]
    lost = [number for number in range(NUM_CELLS) if number not in records]
    if lost:
        raise UserError(f"{source} lacks {len(lost)} of {NUM_CELLS} cells, first number {lost[0]}; get the whole file")
    return content["meta_archs"], ((number, records[number]) for number in track(range(NUM_CELLS)))


class _Numbers(pickle.Unpickler):
    """Makes what records are made of, and refuses to call anything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _ALLOWED[module, name]


def _scalar(dtype: np.dtype, raw: bytes) -> np.generic:
    return np.frombuffer(raw, dtype)[0]


_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("builtins", "set"): set,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,  # the same, as NumPy 2 names it
}


def _unpickled(path: Path) -> Any:
    try:
        with _opened(path) as file:
            return _Numbers(file).load()
    except (
        OSError,
        EOFError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        pickle.PickleError,
    ) as error:
        raise UserError(f"{path} is damaged or no file of NATS-Bench ({error}); get it anew") from error


def _opened(path: Path) -> BinaryIO:
    return bz2.open(path) if path.suffix == ".pbz2" else open(path, "rb")  # pyright: ignore[reportReturnType]


def _by_torch(path: Path) -> Any:
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            f"{path.name} needs PyTorch: pip install 'hcdc-jax[torch]', or give the folder NATS-tss-v1_0-3ffb9-simple, "
            "which does without"
        ) from error
    try:
        # Names under which NumPy's numbers stand in files that are older than it.
        known = [(np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"), np.dtype, type(np.dtype(np.float64))]
        with torch.serialization.safe_globals(known):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what PyTorch raises here differs between its versions and formats
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"PyTorch cannot read {path} ({text}); get it anew, or give the folder NATS-tss-v1_0-3ffb9-simple"
        ) from error
