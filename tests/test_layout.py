"""The layout of the package: imports only go down, files and functions stay short, each dependency has its place."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import hcdc_jax

ROOT = Path(hcdc_jax.__file__).parent

# From the top down. A file may import files further down, and files of its own layer.
LAYERS = [
    ["__main__"],
    ["cli"],
    ["study", "extend", "testing"],
    ["terminal"],
    ["pipeline"],
    ["exports", "report"],
    ["search"],
    ["evaluation"],
    ["condense"],
    ["hypergradients"],
    ["metrics"],
    ["containers", "spaces"],
    ["models"],
    ["condensed"],
    ["training"],
    ["problem"],
    ["batches"],
    ["data"],
    ["config"],
    ["storage"],
    ["arguments"],
    ["registry"],
    ["progress", "errors", "types", "version"],
]
# Within rooms, too.
PIPELINE = [
    ["ladder"],
    ["driver"],
    ["checks"],
    ["building"],
    ["condensing", "ranking", "ranked", "true_scores", "searching", "evaluating"],
    ["calibrating"],
    ["search_result"],
    ["copies"],
    ["reporting"],
    ["taught.taught_parts"],
    ["condensed_parts"],
    ["pruning"],
    ["recipes"],
    ["taught.observers_logits"],
    ["hcdc.selection", "hcdc.refinement", "hcdc.beginnings"],
    ["hcdc.shifts"],
    ["taught.teachers"],
    ["hcdc.targets", "hcdc.matched_networks"],
    ["hcdc.matched_candidates", "hcdc.rungs"],
    ["keeping"],
    ["recipes.base"],
    ["kinds"],
    ["scoring"],
    ["folder"],
    ["setup"],
    ["clock", "outcomes"],
]

FILES = sorted(ROOT.rglob("*.py"))
OWN_PLACES = {
    "jaxopt": {"hypergradients/implicit.py"},
    "jraph": {"batches/graphs.py", "storage/codec.py", "models/graph.py"},
    "flax": {
        "models/convnext.py",
        "models/deep_nets.py",
        "models/graph.py",
        "models/image.py",
        "models/image_layers.py",
        "models/image_nets.py",
        "models/layer_inputs.py",
        "models/mobile_nets.py",
        "models/nas_bench_201.py",
        "models/own_networks.py",
        "models/swin.py",
        "models/vit.py",
        "models/wide_resnet.py",
        "containers/graph.py",
        "containers/hmn.py",
    },
    "PIL": {"condensed.py", "data/pictures.py"},
    "tensorflow_datasets": {"data/prepared.py"},
    "matplotlib": {
        "report/assemble.py",
        "report/condensed.py",
        "report/figures.py",
        "report/ladders.py",
        "report/pruning.py",
        "report/style.py",
    },
    "argparse": {"cli/__init__.py", "cli/commands.py", "cli/listings.py", "cli/parser.py"},
    "optuna": {"search/optuna_search.py", "pipeline/ranked.py"},
    "equinox": {"models/own_networks.py"},
}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> set[str]:
    """Dotted names of all that a file imports; of `from a import b` both a and a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def place(name: str, layers: list[list[str]]) -> int:
    """The layer of a dotted name; the longest prefix that is listed counts."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        for i, layer in enumerate(layers):
            if ".".join(parts[:end]) in layer:
                return i
    raise AssertionError(f"{name} stands in no layer; add it to the list")


def is_module(name: str) -> bool:
    path = ROOT.parent / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").exists()


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


def imported_modules(path: Path) -> set[str]:
    """Modules that a file imports, dotted; a package is one of them where the file wants its own names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if is_module(name) else node.module for name in names}
    return found


def goes_up(module: str, other: str, package: str, layers: list[list[str]]) -> bool:
    """Whether `other` lies above `module` in `package`, which lies above all that it gathers names from."""
    if other == package:
        return True
    inner, other_inner = (name.removeprefix(f"{package}.") for name in (module, other))
    return place(inner, layers) > place(other_inner, layers)


def test_imports_only_go_down():
    upward = []
    for path in FILES:
        module = module_of(path)
        for package, layers in (("hcdc_jax", LAYERS), ("hcdc_jax.pipeline", PIPELINE)):
            if not module.startswith(f"{package}."):  # the public names of a package are gathered from everywhere
                continue
            others = {name for name in imported_modules(path) if f"{name}.".startswith(f"{package}.")}
            upward += [(module, other) for other in others if goes_up(module, other, package, layers)]
    assert upward == []


def test_every_layer_exists():
    assert not [name for layer in LAYERS for name in layer if not is_module(f"hcdc_jax.{name}")]
    assert not [name for layer in PIPELINE for name in layer if not is_module(f"hcdc_jax.pipeline.{name}")]


@pytest.mark.parametrize("package", OWN_PLACES)
def test_dependencies_have_their_place_and_keep_it(package):
    found = {name_of(path) for path in FILES if package in {name.split(".")[0] for name in imports(path)}}
    assert found == OWN_PLACES[package]


def test_files_and_functions_stay_short():
    functions = {
        f"{name_of(path)}: {node.name}": node.end_lineno - node.lineno + 1
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    assert {name: lines for name, lines in functions.items() if lines > 80} == {}
    files = {name_of(path): len(path.read_text().splitlines()) for path in FILES}
    assert {name: lines for name, lines in files.items() if lines > 450} == {}


def test_the_library_does_not_print():
    calls = {
        name_of(path)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Name) and node.id in ("print", "breakpoint")
    }
    assert calls == set()


def test_every_file_says_what_it_is():
    assert [name_of(path) for path in FILES if not ast.get_docstring(ast.parse(path.read_text()))] == []
