"""The example of a plugin, installed as packages are: its method, space and data set in a run of the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

import hcdc_jax
from hcdc_jax.condensed import load_condensed
from hcdc_jax.pipeline.folder import config_of

ROOT = Path(hcdc_jax.__file__).parents[1]
EXAMPLE = ROOT / "examples" / "hcdc_plugin_example"


def install(folder: Path) -> list[str]:
    """Writes what an installer writes beside the code of the example, and a plugin that is broken; gives PYTHONPATH."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    groups = project["entry-points"] | {}
    groups["hcdc_jax.methods"] = groups["hcdc_jax.methods"] | dict.fromkeys(("lost", "broken"), "no_such_module:METHOD")
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = []
    for group, points in groups.items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return [str(folder), str(EXAMPLE), str(ROOT)]


@pytest.fixture(name="run", scope="module")
def _run(tmp_path_factory):
    """Runs the command several times in one process, with the example installed."""
    folder = tmp_path_factory.mktemp("plugin")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(install(folder / "site")), "JAX_NUM_CPU_DEVICES": "1"}
    environment |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "True"}
    example, quick = str(EXAMPLE / "example.toml"), ["--truth.enabled", "false"]
    commands = [
        ["run", example, "--out", str(folder / "run"), "--plugins.class_means.image_rate", "0.5", *quick],
        ["run", example, "--out", str(folder / "no"), "--plugins.class_means.stepz", "3"],
        ["run", example, "--out", str(folder / "no"), "--plugins.random.steps", "3"],
        ["run", example, "--out", str(folder / "no"), "--methods", "lost"],
        ["list"],
        ["list"],
        ["search", str(folder / "run"), "--method", "even", "--num", "4", "--top", "0"],
        ["search", str(folder / "run"), "--method", "evne"],
    ]
    code = (
        "import sys; import numpy as np; import hcdc_jax as hc; from hcdc_jax import terminal; "
        "from hcdc_jax.cli import main; terminal.warn_in_lines()\n"
        "def even(key, space, evaluate_fn, num, *, report=None):\n"
        "    'Fills the prior evenly.'\n"
        "    candidates = space.spread(0, num); scores = evaluate_fn(candidates); report(num)\n"
        "    return hc.search.History(*map(np.asarray, (candidates, *scores)))\n"
        "hc.register('searcher', 'even', even)\n"
        f"for command in {commands!r}:\n"
        "    print(f'$ {command[0]}', file=sys.stderr); print(f'$ {command[0]}', flush=True)\n"
        "    print(main(command), file=sys.stderr, flush=True); sys.stdout.flush()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    out, err = ([part.split("\n", 1)[1] for part in text.split("$ ")[1:]] for text in (done.stdout, done.stderr))
    return folder, out, err


def test_a_run_that_names_its_things_imports_them_and_no_others(run):
    folder, _, err = run
    assert err[0].endswith("\n0\n"), err[0]
    assert "left out" not in err[0]
    condensed = load_condensed(folder / "run", "class_means")
    assert condensed.train.inputs.shape == (12, 6, 6, 1)  # by the container, twice as many as are stored
    np.testing.assert_array_equal(condensed.train.inputs, condensed.train.inputs[:, :, ::-1])
    # Descent has no end but the mean: all images of a class are nearly it.
    images = condensed.train.inputs.reshape(3, 4, -1)
    assert abs(images[:, 0] - images[:, 1]).max() < 0.2 * abs(images[0, 0] - images[1, 0]).max()
    assert (folder / "run" / "report.html").exists()


def test_a_search_runs_by_its_name(run):
    folder, out, err = run
    assert err[6].endswith("\n0\n"), err[6]
    assert len(json.loads((folder / "run" / "search_even.json").read_text())["history"]["loss"]) == 4
    assert "  even               Fills the prior evenly" in out[4]


def test_the_folder_keeps_all_settings(run):
    config = config_of(run[0] / "run")
    assert config.plugins == {"class_means": {"steps": 8, "image_rate": 0.5}}


def test_the_list_names_them_and_who_failed(run):
    _, out, err = run
    for line in (
        "class_means        images moved to the mean of their class; an example of a plugin",
        "two_decays         Two weight decays, of the first layer and of the others",
        "bars               Bars in noise; 240 images 6 x 6 x 1, 3 classes",
        "symmetric          images that are the same left and right",
        "short              thirty epochs, three networks; a quick look",
        "wide_gnn           The two layers of spectral_gnn with 64 hidden units and ELU",
    ):
        assert line in out[4]
    assert err[4] == (
        "hcdc: method 'broken': left out of hcdc-plugin-example 0.1.0, no_such_module:METHOD: ModuleNotFoundError: No "
        "module named 'no_such_module'\n0\n"
    )
    assert err[5] == "0\n"


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (1, "config: unknown key 'plugins.class_means.stepz'; did you mean 'steps'?"),
        (2, "the method 'random' has no settings of its own; leave out [plugins.random]"),
        (7, "unknown search 'evne'; did you mean 'even'?"),
        (3, "method 'lost' in 'methods': left out of hcdc-plugin-example 0.1.0, no_such_module:METHOD: "),
    ],
)
def test_mistakes_are_one_line(run, place, message):
    folder, _, err = run
    assert f"hcdc: {message}" in err[place]
    assert err[place].endswith("\n2\n")
    assert not (folder / "no").exists()
