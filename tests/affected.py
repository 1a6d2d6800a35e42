"""Which test files a change touches: `python tests/affected.py` prints those that `make check` runs.

They are the files of tests that changed since the last commit (or in it, if nothing did), and those that import a
changed module by its name. What reaches a changed module by a longer way is left to `make test`.
"""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent
PACKAGE = "hcdc_jax"


def imported(path: Path) -> set[str]:
    """Modules of the package that a file imports by name, the packages around them included."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        found |= {name for name in names if name.split(".")[0] == PACKAGE}
    return found


def rooms_of(path: Path) -> set[str]:
    """Rooms of the package, such as "search", that a file of tests imports from."""
    return {name.split(".")[1] for name in imported(path) if "." in name} & set(rooms())


def rooms() -> list[str]:
    """Names of the packages inside the package."""
    return sorted(path.parent.name for path in (ROOT / PACKAGE).glob("*/__init__.py"))


def changed() -> Iterator[str]:
    """Paths of files that changed since the last commit; where none did, in it."""
    since = _git("diff", "--name-only", "HEAD") + _git("ls-files", "--others", "--exclude-standard")
    yield from since or _git("diff", "--name-only", "HEAD~1", "HEAD")


def _git(*words: str) -> list[str]:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()


def affected(paths: set[str]) -> list[Path]:
    """Test files among `paths`, and those that import a module among them."""
    modules = {path.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in paths}
    tests = sorted(TESTS.glob("test_*.py"))
    return [path for path in tests if str(path.relative_to(ROOT)) in paths or imported(path) & modules]


if __name__ == "__main__":
    # Layout and options are looked at whatever changed, and take a second.
    always = {TESTS / "test_layout.py", TESTS / "test_config.py"}
    paths = sorted(always | set(affected(set(changed()))))
    print(*(path.relative_to(ROOT) for path in paths))  # noqa: T201
