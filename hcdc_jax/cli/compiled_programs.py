"""What XLA compiled for one command is kept for the next: on a CPU a run of small networks mostly waits for it."""

from __future__ import annotations

import hashlib
import os
import platform
from contextlib import suppress
from pathlib import Path

MOST_BYTES = 2_000_000_000
"""Of kept programs; beyond it the oldest half goes. A run of the demo leaves 2 MB."""
LEAST_SECONDS = 0.1
"""Programs that compile faster are not worth a file."""


def keep_compiled_programs() -> None:
    """Has JAX keep compiled programs in the user's cache folder.

    `JAX_COMPILATION_CACHE_DIR` names another folder, and, if empty or with `JAX_ENABLE_COMPILATION_CACHE=false`, none.
    A folder that cannot be written is done without.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            return
        drop_oldest(folder, MOST_BYTES)
    except (OSError, RuntimeError):  # the latter where no home is known
        return
    import jax  # only here: help and mistakes need not wait for it

    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)


def cache_folder() -> Path:
    """`~/.cache/hcdc_jax/<processor>`, or where `XDG_CACHE_HOME` says.

    JAX tells versions and options apart, but not the processors of a cluster that share a home: what was compiled for
    one may end the process on another.
    """
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "hcdc_jax" / hashlib.sha256(_processor().encode()).hexdigest()[:12]


def _processor() -> str:
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        told = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
        if told:
            return "\n".join(sorted(told))
    return f"{platform.machine()} {platform.processor()}"


def drop_oldest(folder: Path, most_bytes: int) -> None:
    """Deletes the oldest files until the others take half of `most_bytes`, once they take more than all of it."""
    found = []
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # another command may be at it
            stat = path.stat()
            found.append((stat.st_mtime, stat.st_size, path))
    left = sum(size for _, size, _ in found)
    if left <= most_bytes:
        return
    for _, size, path in sorted(found):
        if left <= most_bytes / 2:
            return
        path.unlink(missing_ok=True)
        left -= size
