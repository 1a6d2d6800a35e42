"""How much a run stands: mutated inputs, kills, a full disk, the folders of strangers, two processes in one folder.

    python -m benchmarks.toughness fuzz --num 200
    python -m benchmarks.toughness kills --num 20
    python -m benchmarks.toughness disk
    python -m benchmarks.toughness strangers
    python -m benchmarks.toughness two

Every case is drawn from its number and `--seed`, and written to `<out>/<part>.jsonl` when it is done; fuzzing goes on
after what lies there. The last line counts the failures; the command leaves with 1 where there are any.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.command import parser_of
from benchmarks.toughness_inputs import command, fuzz_case, half_written, strangers, verdict, written
from hcdc_jax import cli
from hcdc_jax.storage import files

# (b) kills


def same_arrays(found: Path, expected: Path) -> str | None:
    """The first array, times aside, in which two runs differ."""
    for path in sorted(expected.rglob("*.npz")):
        if not (found / path.relative_to(expected)).exists():
            return f"{path.name} is missing"
        with np.load(path) as theirs, np.load(found / path.relative_to(expected)) as ours:
            for name in theirs.files:
                both = theirs[name], ours[name]
                if "seconds" not in name and not np.array_equal(*both, equal_nan=both[0].dtype.kind == "f"):
                    return f"{path.name}: {name} differs"
    return None


class Forked:
    """The command in a process of its own, forked before JAX has started anything, so that nothing is imported anew."""

    def __init__(self, log: Path, *args: Any):
        self.log, self.code = log, None
        self.pid = os.fork()
        if self.pid == 0:
            written_to = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(written_to, 1)
            os.dup2(written_to, 2)
            os._exit(command_of(args))

    def wait(self, seconds: float = float("inf")) -> bool:
        """Whether the process has ended, within so many seconds."""
        deadline = time.monotonic() + seconds
        while self.code is None and time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
            time.sleep(0.01)
        return self.code is not None

    def kill(self) -> None:
        """`kill -9`."""
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()

    def told(self) -> str:
        """The end of what it said, once it has ended."""
        self.wait()
        return self.log.read_text(errors="replace")[-400:]


def command_of(args: tuple[Any, ...]) -> int:
    """The exit code of the command; 70 with a traceback where it raised."""
    try:
        return cli.main([str(arg) for arg in args])
    except BaseException:
        traceback.print_exc()
        return 70
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def keeping_compiled(cache: Path) -> None:
    """Has processes share what they compile."""
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def kill_cases(num: int, seed: int, out: Path, methods: list[str]) -> Iterator[tuple[int, str | None]]:
    """Kills a run at a random moment, takes it up again, and compares it with one that was left alone."""
    config, alone, log = written(out / "kills"), out / "kills" / "alone", out / "kills" / "log.txt"
    words = ("--methods", *methods)
    keeping_compiled(out / "cache")
    importlib.import_module("hcdc_jax.cli.commands")  # what every process would import
    length = 0.0
    for _ in range(2):  # the second run pays for no compilation, as those to be killed
        shutil.rmtree(alone, ignore_errors=True)
        began = time.monotonic()
        left = Forked(log, "run", config, *words, "--out", alone)
        left.wait()
        if left.code:
            raise RuntimeError(f"the run that was left alone failed: {left.told()}")
        length = time.monotonic() - began
    sys.stdout.write(f"a run takes {length:.1f} s\n")
    for number in range(num):
        folder, rng = out / "kills" / f"run_{number}", np.random.default_rng([seed, number])
        shutil.rmtree(folder, ignore_errors=True)
        killed = Forked(log, "run", config, *words, "--out", folder)
        killed.wait(rng.uniform(0, 0.9 * length))
        killed.kill()
        left_over = len(list(folder.rglob("*")))
        resumed = Forked(log, "run", config, *words, "--out", folder, "--resume")
        said = resumed.told()
        differing = [*filter(None, [same_arrays(folder, alone)]), *half_written(folder)]
        sys.stdout.write(f"killed {number}: {killed.code}, {left_over} files\n")
        sys.stdout.flush()
        yield number, said if resumed.code else "; ".join(differing) or None
        shutil.rmtree(folder)


# (c) a full disk


@contextlib.contextmanager
def full_disk_at(write: int) -> Iterator[list[int]]:
    """From the given write on the disk is full: what is to be synced cannot be. The list counts the writes."""
    real, done = os.fsync, [0]

    def fsync(number: int) -> None:
        done[0] += 1
        if done[0] >= write:
            raise OSError(28, "No space left on device")
        real(number)

    files.os.fsync = fsync  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield done
    finally:
        files.os.fsync = real


def disk_cases(out: Path, methods: list[str]) -> Iterator[tuple[int, str | None]]:
    """One run whose disk is full after a write, then after two more, ...; each time it goes on where it stopped."""
    config, folder, alone = written(out / "disk"), out / "disk" / "run", out / "disk" / "alone"
    shutil.rmtree(folder, ignore_errors=True)
    words = ("--methods", *methods)
    resume = ("--resume",) if alone.exists() else ()
    said = command("run", config, *words, "--out", alone, *resume)
    if said["code"]:
        raise RuntimeError(f"the run that was left alone failed: {said}")
    for number in range(1000):
        before = {path: files.sha256(path) for path in folder.rglob("*.npz")}
        resume = ("--resume",) if (folder / "config.toml").exists() else ()
        if not resume:
            shutil.rmtree(folder, ignore_errors=True)
        with full_disk_at(2 + number):  # a write later each time, since the report is made as a whole
            said = command("run", config, *words, "--out", folder, *resume)
        lost = [path.name for path, content in before.items() if not path.exists() or files.sha256(path) != content]
        lost = [name for name in lost if not name.startswith("networks")]
        if said["code"] == 0:
            yield number, same_arrays(folder, alone)
            return
        mend = "free space" in "".join(said["told"])
        yield number, verdict(said, folder) or (f"lost: {lost}" if lost else None if mend else str(said["told"]))


# (e) two processes


def two_processes(out: Path) -> Iterator[tuple[int, str | None]]:
    """Two runs started at once in one folder: one works, the other says so; nothing is spoilt."""
    config, folder, alone = written(out / "two"), out / "two" / "run", out / "two" / "alone"
    for one in (folder, alone):
        shutil.rmtree(one, ignore_errors=True)
    keeping_compiled(out / "cache")
    Forked(out / "two" / "log.txt", "run", config, "--out", alone).wait()
    both = [Forked(out / "two" / f"log{number}.txt", "run", config, "--out", folder, "--resume") for number in range(2)]
    told = [one.told() for one in both]
    codes = sorted(one.code if one.code is not None else -1 for one in both)
    traced = any("Traceback" in text for text in told)
    yield 0, f"{codes}: {told}"[:400] if codes not in ([0, 2], [0, 0]) or traced else same_arrays(folder, alone)


def main() -> int:
    parser = parser_of(__doc__, "toughness")
    parser.add_argument("part", choices=("fuzz", "kills", "disk", "strangers", "two"))
    parser.add_argument("--num", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", nargs="+", default=["random", "hcdc", "real_val"], help="of the runs to be killed")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    record, out = args.out / f"{args.part}.jsonl", args.out.absolute()
    done = {json.loads(line)["case"] for line in record.read_text().splitlines()} if record.exists() else set()
    if args.part == "fuzz":
        cases: Any = ((number, fuzz_case(number, args.seed, out)) for number in range(args.num) if number not in done)
    elif args.part == "kills":
        cases = kill_cases(args.num, args.seed, out, args.methods)
    elif args.part == "disk":
        cases = disk_cases(out, args.methods)
    else:
        cases = {"strangers": strangers, "two": two_processes}[args.part](out)
    failed = counted = 0
    for case, wrong in cases:
        files.append_jsonl(record, {"case": case, "wrong": wrong})
        counted, failed = counted + 1, failed + (wrong is not None)
        if wrong is not None:
            sys.stdout.write(f"{args.part} {case}: {wrong}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{args.part}: {counted} cases, {failed} failures\n")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
