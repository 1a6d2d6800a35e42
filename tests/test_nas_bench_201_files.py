"""The benchmark's own files, here small ones of the same layout with made-up accuracies."""

from __future__ import annotations

import bz2
import contextlib
import pickle
import sys
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hcdc_jax import cli
from hcdc_jax.data import nas_bench_201_files as its_files
from hcdc_jax.data import published_accuracies
from hcdc_jax.data.cells import all_cells, string_of
from hcdc_jax.data.nas_bench_201_files import convert
from tests.errors import error_of

LOOKED_AT = (0, 10, 15623)
STRINGS = [string_of(cell) for cell in all_cells().tolist()]
PARTS = {
    "cifar10-valid": ("x-valid", "ori-test"),
    "cifar10": ("ori-test",),
    "cifar100": ("ori-test", "x-valid", "x-test"),
    "ImageNet16-120": ("ori-test", "x-valid", "x-test"),
}


def accuracy(number: int, dataset: str, part: str, seed: int) -> float:
    place = 3 * list(PARTS).index(dataset) + ("ori-test", "x-valid", "x-test").index(part)
    return 10 + 4 * place + number / 15625 + (seed - 777) / 1110


def record(number: int, epochs: int, seeds: tuple[int, ...], datasets=tuple(PARTS)) -> dict:
    """What the benchmark keeps of one cell and length; accuracies before the last epoch are not asked for."""
    results = {}
    for dataset in datasets:
        for seed in seeds:
            last = {f"{p}@{epochs - 1}": accuracy(number, dataset, p, seed) + (epochs < 200) for p in PARTS[dataset]}
            results[dataset, seed] = {
                "epochs": epochs,
                "seed": seed,
                "params": np.float64(1.5),
                "eval_names": list(PARTS[dataset]),
                "eval_acc1es": {f"{PARTS[dataset][0]}@0": 5.0} | last,
            }
    return {"arch_index": number, "arch_str": STRINGS[number], "all_results": results}


def lengths(number: int, **options) -> OrderedDict:
    seeds = (777, 888, 999) if number % 2 else (777,)
    return OrderedDict({"12": record(number, 12, (777,), **options), "200": record(number, 200, seeds, **options)})


def whole(**options) -> dict:
    """All cells; those that no test looks at share their numbers, so that the file stays small."""
    other = lengths(0, **options)
    records = {n: {length: kept | {"arch_str": STRINGS[n]} for length, kept in other.items()} for n in range(15625)}
    return {"meta_archs": STRINGS, "arch2infos": records | {n: lengths(n, **options) for n in LOOKED_AT}}


@pytest.fixture(name="content", scope="module")
def _content():
    return whole()


def write(path: Path, content: object) -> Path:
    path.write_bytes(bz2.compress(pickle.dumps(content), 1) if path.suffix == ".pbz2" else pickle.dumps(content))
    return path


def assert_right(data_dir: Path) -> None:
    for (dataset, part), (theirs, name) in its_files._SOURCES.items():
        found = published_accuracies(dataset, part, data_dir=data_dir)
        assert found[10] == pytest.approx(accuracy(10, theirs, name, 777))
        assert found[15623] == pytest.approx(accuracy(15623, theirs, name, 888))  # the middle one of three seeds


def test_one_file_becomes_a_table(tmp_path, content, capsys):
    source = write(tmp_path / "NATS-tss.pickle", content)
    assert cli.main(["convert", str(source), "--out", str(tmp_path / "data")]) == 0
    assert "Tables: cifar10_valid_val_acc, cifar10_test_acc, cifar100_val_acc" in capsys.readouterr().out
    assert_right(tmp_path / "data")
    assert "is there already; move it away" in error_of(lambda: convert(source, tmp_path / "data"))


def test_a_folder_becomes_the_same_table(tmp_path, content, monkeypatch):
    folder, kept = tmp_path / "simple", iter(content["arch2infos"].values())
    folder.mkdir()
    write(folder / "meta.pickle.pbz2", {"meta_archs": STRINGS, "arch2infos": None, "evaluated_indexes": set()})
    text = error_of(lambda: convert(folder, tmp_path / "data"))
    assert "lacks 15625 of the files of NATS-Bench's simple folder, first 000000.pickle.pbz2; unpack" in text
    real = its_files._unpickled
    for number in range(15625):  # empty but for some: thousands of packed files would take long
        (folder / f"{number:06d}.pickle.pbz2").touch()
    for number in LOOKED_AT:
        write(folder / f"{number:06d}.pickle.pbz2", content["arch2infos"][number])

    def unpickled(path):
        given = next(kept) if path.name[0].isdecimal() else None
        return real(path) if given is None or int(path.name[:6]) in LOOKED_AT else given

    monkeypatch.setattr(its_files, "_unpickled", unpickled)
    convert(folder, tmp_path / "data")
    assert_right(tmp_path / "data")


def test_the_oldest_file_is_read_by_pytorch(tmp_path, content, monkeypatch):
    source = tmp_path / "NAS-Bench-201-v1_0-e61699.pth"
    source.touch()
    renamed = {n: {"full": kept["200"], "less": kept["12"]} for n, kept in content["arch2infos"].items()}
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "needs PyTorch: pip install 'hcdc-jax[torch]'" in error_of(lambda: convert(source, tmp_path / "data"))
    fake = SimpleNamespace(
        serialization=SimpleNamespace(safe_globals=contextlib.nullcontext),
        load=lambda path, map_location, weights_only: weights_only and content | {"arch2infos": renamed},
    )
    monkeypatch.setitem(sys.modules, "torch", fake)
    convert(source, tmp_path / "data")
    assert_right(tmp_path / "data")
    fake.load = None
    assert "PyTorch cannot read" in error_of(lambda: convert(source, tmp_path / "other"))


def test_tables_that_the_file_does_not_have_are_left_out(tmp_path):
    source = write(tmp_path / "cifar10.pickle", whole(datasets=("cifar10", "cifar10-valid")))
    _, tables = convert(source, tmp_path / "data")
    assert tables == ["cifar10_valid_val_acc", "cifar10_test_acc"]
    with_text = "array 'cifar100_test_acc' is missing"
    assert with_text in error_of(lambda: published_accuracies("cifar100", "test", data_dir=tmp_path / "data"))


class Dangerous:
    def __reduce__(self):
        return (Path.touch, (Path("/nowhere/at/all"),))


def damaged(content, number, change):
    return content | {"arch2infos": content["arch2infos"] | {number: change(content["arch2infos"][number])}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: Dangerous(), "is damaged or no file of NATS-Bench (it asks for "),
        (lambda c: [1], "it lacks meta_archs or arch2infos"),
        (lambda c: c | {"meta_archs": ["8:8:8:8:8"] * 15625}, "does not list the 15625 cells of NAS-Bench-201"),
        (lambda c: c | {"arch2infos": {0: c["arch2infos"][0]}}, "lacks 15624 of 15625 cells, first number 1"),
        (lambda c: damaged(c, 7, lambda r: {"12": r["12"]}), "cell 7 has no results after 200 epochs, only 12"),
        (lambda c: damaged(c, 7, lambda r: {"200": record(8, 200, (777,))}), "the record of cell 7 is of |"),
        (lambda c: damaged(c, 7, lambda r: {"200": {"arch_str": STRINGS[7]}}), "cell 7 is not as expected (KeyError("),
        (
            lambda c: damaged(c, 7, lambda r: {"200": record(7, 200, (777,), ("cifar10",))}),
            "lacks accuracies after 200 epochs (cifar10-valid x-valid) of 1 cells, first of number 7",
        ),
    ],
)
def test_what_is_no_benchmark(tmp_path, content, change, message):
    source = write(tmp_path / "file.pickle", change(content))
    assert message in error_of(lambda: convert(source, tmp_path / "data"))
    assert not (tmp_path / "data").exists()


def test_files_that_are_not_there_or_cut_off(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("HCDC_DATA_DIR", raising=False)
    assert "no such file or folder" in error_of(lambda: convert(tmp_path / "x.pickle", tmp_path))
    (tmp_path / "cut.pickle.pbz2").write_bytes(bz2.compress(pickle.dumps([1] * 1000))[:20])
    assert "is damaged or no file" in error_of(lambda: convert(tmp_path / "cut.pickle.pbz2", tmp_path))
    assert cli.main(["convert", str(tmp_path)]) == 2
    assert "where to? name a folder of data with --out" in capsys.readouterr().err
