"""What `benchmarks.toughness` puts before the command: mutated configurations and data, the folders of strangers."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import shutil
import traceback
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hcdc_jax import cli
from hcdc_jax.storage import files

SMALL = """\
methods = ["random", "hcdc", "real_val"]
[space]
candidates = 6
[model]
hidden = 4
[training]
steps = 10
proxy_inits = 1
[condense]
ratio = 0.1
[hcdc]
full_trainings = 3
steps = 12
num_hvps = 3
inits = 1
"""
NAMES = ("ö😀", "<img src=x onerror=alert(1)>", "a b & c", "'quoted\"", "%s{}", "x" * 120)
CELLS = ("", "NaN", "inf", "1e999", "\x00", '"', "a,b", "9" * 400, *NAMES)
OF_TABLES = ("--data.target", "label", "--methods", "random", "--labels.teachers", "0", "--condense.examples", "9")
WORDS = (
    "nan", "-inf", "1e308", "-1", "0", "true", "[]", "{}", "[1, 'a']", "9223372036854775807", "-9223372036854775808",
    "'<b>'", "''", "'../../x'", "'\\u202e'", "'Infinity'", "1979-05-27", "'random'", "['random', 'random']",
    "340282366920938463463374607431768211456",
)  # fmt: skip


def graph_arrays(seed: int = 0, num_nodes: int = 60) -> dict[str, np.ndarray]:
    """A random graph with three classes."""
    rng, labels = np.random.default_rng(seed), np.arange(num_nodes) % 3
    order = rng.permutation(num_nodes)
    return {
        "features": (rng.normal(size=(num_nodes, 4)) + np.eye(4)[labels]).astype(np.float32),
        "edge_index": rng.integers(0, num_nodes, (2, 200)),
        "labels": labels,
        "train_idx": order[:20],
        "val_idx": order[20:40],
        "test_idx": order[40:],
    }


def written(folder: Path, name: str = "graph") -> Path:
    """A folder with a configuration and its graph; the path of the former."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / f"{name}.npz", allow_pickle=True, **graph_arrays())
    path = json.dumps(str(folder / f"{name}.npz"), ensure_ascii=False)
    (folder / "run.toml").write_text(f"{SMALL}[data]\npath = {path}\n")
    return folder / "run.toml"


def command(*args: Any) -> dict[str, Any]:
    """What the command left with and said, inside this process; `bug` is the traceback of what it did not expect."""
    out, err, bug = io.StringIO(), io.StringIO(), None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code: Any = cli.main([str(arg) for arg in args])
        except SystemExit as error:
            code = error.code
        except BaseException:
            code, bug = -1, traceback.format_exc()
    told = [line for line in err.getvalue().splitlines() if line.startswith("hcdc: ")]
    return {"code": code, "told": told, "bug": bug}


def half_written(folder: Path) -> list[str]:
    """Files that are no whole ones: temporary, or unreadable by their ending."""
    found = []
    for path in folder.rglob("*") if folder.is_dir() else ():
        try:
            if path.name.endswith(".tmp"):
                found.append(path.name)
            elif path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".npz":
                with np.load(path) as archive:
                    _ = [archive[name] for name in archive.files]
        except (OSError, ValueError, zipfile.BadZipFile):
            found.append(path.name)
    return found


def verdict(said: dict[str, Any], folder: Path) -> str | None:
    """What is wrong with the end of a command; None where it is a right one: all done, or one line and exit code 2."""
    if said["bug"] is not None:
        return said["bug"].strip().splitlines()[-1]
    if half := half_written(folder):
        return f"half written: {half}"
    if said["code"] in (0, 1, 2) and len(said["told"]) == (said["code"] != 0):
        return None
    return f"exit code {said['code']} with {len(said['told'])} lines"


# (a) mutated configurations and files


def mutated_text(rng: np.random.Generator, text: str) -> bytes:
    """A configuration with a strange value, an unknown key, flipped bits, or its end cut off."""
    lines = text.splitlines()
    settings = [place for place, line in enumerate(lines) if "=" in line and not line.startswith("path")]
    kind, place = rng.integers(5), int(rng.choice(settings))
    if kind <= 1:
        lines[place] = f"{lines[place].split('=')[0]}= {rng.choice(WORDS)}"
    elif kind == 2:
        lines.insert(
            place, f"{rng.choice(['steps', 'zzz', '[training]', '[[a]]', '=', 'plugins.a.b'])} = {rng.choice(WORDS)}"
        )
    elif kind == 3:
        return flipped(rng, text.encode())
    else:
        return text.encode()[: rng.integers(len(text))]
    return "\n".join(lines).encode()


def flipped(rng: np.random.Generator, content: bytes) -> bytes:
    """The same with up to eight bits turned."""
    raw = np.frombuffer(content, np.uint8).copy()
    for place in rng.integers(len(raw), size=rng.integers(1, 9)):
        raw[place] ^= 1 << rng.integers(8)
    return raw.tobytes()


def mutated_arrays(rng: np.random.Generator) -> dict[str, Any]:
    """A graph of which one array is of another type or shape, empty, not finite, far too large, or gone."""
    arrays: dict[str, Any] = graph_arrays()
    name = str(rng.choice(list(arrays)))
    array = arrays[name]
    change: Callable[[], Any] = [
        lambda: array.astype(rng.choice(["U8", "c8", "f8", "i1", "?"])),
        lambda: array[:0],
        lambda: array.reshape(-1)[: rng.integers(1, 9)],
        lambda: np.where(rng.random(array.shape) < 0.1, np.nan, array.astype(float)),
        lambda: array.astype(np.int64) * int(rng.choice([-1, 10**12, 2**62])),
        lambda: np.array([{"a": 1}], object),
        lambda: np.array(3),
        lambda: np.zeros((0, *array.shape), array.dtype),
        lambda: np.full(array.shape, rng.choice([np.inf, -1e38, 1e300])),
    ][rng.integers(9)]
    arrays[name] = change()
    if rng.random() < 0.2:
        arrays[str(rng.choice(NAMES))] = arrays.pop(str(rng.choice(list(arrays))))
    return arrays


def mutated_table(rng: np.random.Generator, folder: Path) -> Path:
    """A table as text with strange cells and names, flipped bits, or its end cut off."""
    drawn = rng.normal(size=60).tolist()
    cells = [["size", "colour", "label"], *([f"{x:.2f}", "rb"[x > 0], "yn"[x > 0.3]] for x in drawn)]
    for _ in range(rng.integers(1, 6)):
        row = cells[rng.integers(0 if rng.random() < 0.3 else 1, len(cells))]
        row[rng.integers(len(row))] = str(
            rng.choice(["", "NaN", "inf", "1e999", "\x00", '"', "a,b", "9" * 400, *NAMES])
        )
    content = "\n".join(map(",".join, cells)).encode()
    content = [content, flipped(rng, content), content[: rng.integers(len(content))]][rng.integers(3)]
    path = folder / f"{rng.choice(['table', *NAMES])}.csv"
    path.write_bytes(content)
    return path


def fuzz_case(number: int, seed: int, out: Path) -> str | None:
    """Condenses by a mutated configuration, or with a mutated file of data."""
    rng, folder = np.random.default_rng([seed, number]), out / f"fuzz_{number}"
    shutil.rmtree(folder, ignore_errors=True)
    config = written(folder, str(rng.choice(NAMES)) if rng.random() < 0.3 else "graph")
    text = config.read_text().replace('"random", "hcdc", "real_val"', '"random"')
    data = next(folder.glob("*.npz"))
    config.write_text(text)
    kind, others = number % 5, ()
    if kind == 4:
        data, others = mutated_table(rng, folder), OF_TABLES
        config = data
    elif kind == 0:
        config.write_bytes(mutated_text(rng, text))
    elif kind == 1:
        np.savez(data, **mutated_arrays(rng))
    elif kind == 2:
        data.write_bytes(flipped(rng, data.read_bytes()))
    else:
        data.write_bytes(data.read_bytes()[: rng.integers(data.stat().st_size)])
    said = command("condense", config, *others, "--out", folder / "run")
    files.append_jsonl(out / "fuzz_said.jsonl", {"case": number, "code": said["code"], "told": said["told"]})
    wrong = verdict(said, folder / "run")
    if wrong is None:
        shutil.rmtree(folder)
    return wrong


# (d) strangers


def bomb(path: Path) -> None:
    """A file of a few kilobytes that says to unpack to terabytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**12,)})
        archive.writestr("train/labels.npy", header.getvalue() + bytes(10_000))
        archive.infolist()[0].file_size = 8 * 10**12


class _Trap:
    def __reduce__(self):
        return (os.mkdir, ("trapped",))


def strangers(out: Path) -> Iterator[tuple[str, str | None]]:
    """A finished run folder, changed as somebody might who means harm."""
    finished = out / "strangers" / "finished"
    if not finished.exists():
        config = written(out / "strangers")
        config.write_text(config.read_text().replace('"random", "hcdc", "real_val"', '"random"'))
        if command("run", config, "--out", finished)["code"]:
            raise RuntimeError("the run that was to be changed failed")

    def card_with(folder: Path, change: Callable[[dict], None]) -> None:
        card = json.loads((folder / "card.json").read_text())
        change(card)
        (folder / "card.json").write_text(json.dumps(card))

    def replaced(make: Callable[[Path], Any]) -> Callable[[Path], None]:
        def change(folder: Path) -> None:
            for path in (folder / "condensed.npz", folder / "condensed" / "random_seed0.npz"):
                path.unlink()
                make(path)
            digest = files.sha256(folder / "condensed.npz") if (folder / "condensed.npz").is_file() else "0"
            card_with(folder, lambda card: card["artefacts"]["random_seed0"].update(sha256=digest))

        return change

    def trapped(path: Path) -> None:
        np.savez(path, allow_pickle=True, **{"train/labels": np.array([_Trap()], object)})

    def outside(card: dict) -> None:
        entry = card["artefacts"].pop("random_seed0")
        card["artefacts"]["../../../outside"] = {**entry, "method": "../../../outside"}
        card["primary"] = "../../../outside"

    def markup(card: dict) -> None:
        entry = card["artefacts"]["random_seed0"]
        entry["source"]["name"] = entry["preprocessing"] = "<script>alert(1)</script>"

    def markup_everywhere(folder: Path) -> None:
        for path in (folder / "results").glob("*.json"):
            text = path.read_text().replace("graph", "<script>alert(1)</script>")
            path.write_text(text)
        card_with(folder, markup)

    changes: dict[str, Callable[[Path], Any]] = {
        "zip bomb": replaced(bomb),
        "pickle": replaced(trapped),
        "bare pickle": replaced(lambda path: path.write_bytes(pickle.dumps(_Trap()))),
        "link to a file outside": replaced(lambda path: path.symlink_to("/etc/hostname")),
        "link to a device": replaced(lambda path: path.symlink_to("/dev/zero")),
        "path outside": lambda folder: card_with(folder, outside),
        "markup": markup_everywhere,
        "card of another type": lambda folder: (folder / "card.json").write_text("[" * 10_000),
    }
    for name, change in changes.items():
        folder = out / "strangers" / "changed"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(finished, folder)
        change(folder)
        wrong = []
        for args in (("info", folder), ("export", folder), ("report", folder)):
            said = command(*args)
            if said["bug"] or said["code"] not in (0, 1, 2) or len(said["told"]) != (said["code"] != 0):
                wrong.append(f"{args[0]}: {said}"[:400])
        if "<script>alert" in "".join(path.read_text() for path in folder.glob("*.html")):
            wrong.append("markup in report.html")
        if Path("trapped").exists() or (out / "outside.npz").exists():
            wrong.append("something outside was touched")
        yield name, "; ".join(wrong) or None
