"""Ladders: each rung is the one before it and a change, finished rungs stay, mistakes are told before anything runs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from hcdc_jax import cli, pipeline
from hcdc_jax import config as configs
from hcdc_jax.evaluation.protocols import PROTOCOLS, described_protocol
from hcdc_jax.pipeline import ladder
from hcdc_jax.pipeline.recipes.edc import observers_of
from hcdc_jax.report import ladders
from hcdc_jax.storage import files
from tests.errors import error_of
from tests.image_runs import config_with

pytestmark = pytest.mark.usefixtures("broadcasting")

HEAD = """
base = "base.toml"
protocol = "edc_soft:epochs=2,batch_size=10,networks=2"
methods = ["edc"]
seeds = [0, 1]
"""
RUNGS = """
[[rungs]]
name = "A: the code's statistics"
edc.statistics = "code"
protocol.zeta = 1.0

[[rungs]]
name = "B: + smoothing"
protocol.zeta = 2.0

[[rungs]]
name = "C: + the paper's"
edc.statistics = "paper"

[[rungs]]
name = "real images"
methods = ["random"]
"""


GRAPH = (Path(__file__).parents[1] / "configs" / "digits_graph.toml").as_posix()
ON_A_GRAPH = f"base = '{GRAPH}'\nprotocol = 'dsa'\nmethods = ['random']\n[[rungs]]\nname = 'A'"


@pytest.fixture
def write(tmp_path):
    """`write(text)`: the path of a ladder of this text, beside its base."""
    edc = {"observers": ("convnet:width=2,depth=1",), "observer_epochs": 1, "iterations": 2}
    base = config_with(("random", "edc"), condense={"val": "random"}, edc=edc, truth={"enabled": False})
    (tmp_path / "base.toml").write_text(configs.dumps(base), encoding="utf-8")

    def written(text: str):
        path = tmp_path / "ladder.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return written


def test_a_rung_is_the_one_before_it_and_its_change(write):
    path = write(HEAD + RUNGS)
    first, second, third, real = ladder.load(path, ["--edc.iterations", "3"])
    assert (first.config.seeds, first.config.methods, first.config.edc.iterations) == ((0, 1), ("edc",), 3)
    assert first.config.edc.statistics == "code"
    assert second.config == first.config
    assert third.config == dataclasses.replace(
        first.config, edc=dataclasses.replace(first.config.edc, statistics="paper")
    )
    assert real.config == dataclasses.replace(third.config, methods=("random",))
    zetas = [described_protocol(rung.protocol)[1].zeta for rung in (first, second, third, real)]
    assert zetas == [1, 2, 2, 2]
    assert described_protocol(third.protocol) == (
        "edc_soft:epochs=2,batch_size=10,networks=2",
        dataclasses.replace(PROTOCOLS["edc_soft"], epochs=2, batch_size=10, networks=2),
    )


def test_one_command_climbs_it_and_goes_on(write, tmp_path, capsys):
    path, out = write(HEAD + RUNGS), tmp_path / "out"
    command = ["run", str(path), "--out", str(out)]
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("A: the code's statistics", "real images", "ladder.html"))

    steps = json.loads((out / "ladder.json").read_text())
    assert [len(step["test_accuracy"]) for step in steps] == [4] * 4, "two networks for each of two seeds"
    assert [step["folder"] for step in steps] == [
        "A_the_code_s_statistics", "A_the_code_s_statistics", "C_the_paper_s", "real_images",
    ]  # fmt: skip
    entries = json.loads((out / steps[0]["folder"] / "evaluation.json").read_text())["protocols"]
    for step in steps[:2]:
        values = [value for entry in entries[step["protocol"]]["entries"] for value in entry["test_accuracy"]["values"]]
        assert step["test_accuracy"] == values
    folders = [observers_of(out / step["folder"], "train") for step in steps]
    made = [json.loads((folder / "observers.json").read_text())["0"] for folder in folders]
    assert made[0] == made[1]
    assert made[2] == made[3], "trained once, with the seconds that took, and taken over"
    shown = [one["made_by"]["augmentation"].get("acting", "one") for one in made]
    assert shown == ["all", "all", "one", "one"], "in mode code they learn from other views, so they are trained anew"
    page = (out / "ladder.html").read_text(encoding="utf-8")
    assert page.count("data:image/png") == 2
    means = [f"{100 * np.mean(step['test_accuracy']):.1f} ± " for step in steps]
    text = (out / "ladder.md").read_text(encoding="utf-8")
    assert [mean for mean in means if mean in page and mean in text] == means

    assert cli.main(command) == 2
    assert "is not empty; add --resume to continue a ladder in it" in capsys.readouterr().err
    kept = {file: file.stat().st_mtime_ns for file in out.rglob("*.npz")}
    assert cli.main([*command, "--resume"]) == 0
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*.npz")} == kept
    assert json.loads((out / "ladder.json").read_text()) == steps

    setup, folder = pipeline.prepare(configs.load(out / steps[0]["folder"] / "config.toml")), out / steps[0]["folder"]
    plan = pipeline.EvaluationPlan(steps[0]["protocol"], models=("mlp:width=3",))
    assert len(pipeline.evaluate_condensed(setup, folder, plan)["protocols"][plan.protocol]["entries"]) == 4
    renamed = write(HEAD + RUNGS.replace("A: the", "the"))
    assert cli.main(["run", str(renamed), "--out", str(out), "--resume"]) == 0
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*.npz")} == kept, "found by their settings"
    found = json.loads((out / "ladder.json").read_text())
    assert [step | {"name": ""} for step in found] == [step | {"name": ""} for step in steps], (
        "of its own network alone"
    )

    other = write(HEAD + RUNGS.replace('edc.statistics = "code"', "edc.alpha = 1.0", 1))
    assert cli.main(["run", str(other), "--out", str(out), "--resume"]) == 2
    assert "holds a run of another configuration" in capsys.readouterr().err


def test_networks_that_diverged_are_left_out(tmp_path):
    """Also those of a whole rung, whatever its name."""
    names, values = ("all $x^$", "one", "none"), ([None, None], [0.5, None], [0.7, 0.8])
    steps = [
        ladders.Step(name, folder=name, protocol="dc", test_accuracy=value, seconds=1.0)
        for name, value in zip(names, values, strict=True)
    ]
    rows = ladders.table(steps).rows
    assert [row[1].text for row in rows] == ["–", "50.0", "75.0 ± 7.1"]
    assert [row[1].best for row in rows] == [False, False, True]
    assert [row[3].text for row in rows] == ["2", "1", "0"]
    images = (np.zeros((2, 4, 4, 1)), np.arange(2))
    ladders.write(tmp_path, "ladder", steps, dict.fromkeys(names, images))
    assert "nan" not in (tmp_path / "ladder.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + "rungs = []", "a ladder has at least one [[rungs]], each with a name and what it changes"),
        (HEAD, "a ladder has at least one [[rungs]], each with a name and what it changes"),
        ("base = 'base.toml'\n[[rungs]]\nname = 'A'", "before its rungs a ladder has base, the configuration"),
        (HEAD.replace("base.toml", "other.toml") + RUNGS, "other.toml: no such file"),
        (HEAD.replace("base.toml", "ladder.toml") + RUNGS, "base = 'ladder.toml' is a ladder itself"),
        (HEAD + "[[rungs]]\nedc.alpha = 1.0", "rung 1: give it a name of one line, with one of the letters"),
        (HEAD + "[[rungs]]\nname = '..'", "rung 1: give it a name of one line, with one of the letters"),
        (HEAD + "[[rungs]]\nname = 'A'\nedc.alpa = 1.0", "rung 1: unknown key 'edc.alpa'; did you mean 'alpha'?"),
        (HEAD + "[[rungs]]\nname = 'A'\nedc.alpha = 2.0", "rung 1: 'edc.alpha' must be at least 0 and at most 1"),
        (HEAD + RUNGS + "[[rungs]]\nname = 'D'\nmethods = ['edcc']", "rung 5: unknown method 'edcc'"),
        (HEAD + "[[rungs]]\nname = 'A'\nprotocol = 'dsa'", "rung 1: protocol.SETTING = VALUE changes the protocol"),
        (HEAD + "[[rungs]]\nname = 'A'\nprotocol.zata = 1.0", "rung 1: unknown setting of protocol edc_soft 'zata'"),
        (HEAD + "[[rungs]]\nname = 'A'\nprotocol.epochs = 0", "rung 1: protocol: 'epochs' must be at least 1, got 0"),
        (HEAD + "[[rungs]]\nname = 'A'\nprotocol.epochs = '1'", "rung 1: protocol: 'epochs' must be an integer"),
        (HEAD + "[[rungs]]\nname = 'A'\nprotocol.optimizer = 'adam,epochs=1'", "'optimizer' must be one of 'adam'"),
        (HEAD.replace('"edc_soft', '"edc_sof') + RUNGS, "unknown protocol 'edc_sof'; did you mean 'edc_soft'"),
        (HEAD + "[[rungs]]\nname = 'A b'\n[[rungs]]\nname = 'a+B'", "rungs 'A b' and 'a+B' would have one folder"),
        (HEAD + "[[rungs]]\nname = 'ladder.png'", "rung 'ladder.png' has the name of a file of the report"),
        (HEAD + "[[rungs]]\nname = 'A'\nmethods = ['edc', 'random']", "rung 1 has the methods edc, random; set one"),
        (ON_A_GRAPH, "rung 'A' is a run on nodes; a ladder tests condensed images"),
    ],
)  # fmt: skip
def test_mistakes(write, tmp_path, capsys, text, message):
    out = tmp_path / "out"
    assert cli.main(["run", str(write(text)), "--out", str(out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not out.exists()


def test_folders_of_others_are_left_alone(write, tmp_path):
    loaded = ladder.load(write(HEAD + RUNGS))
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.toml").write_text("", encoding="utf-8")
    assert "holds a run, no ladder" in error_of(lambda: ladder.climb(loaded, run, "ladder", resume=True))
    assert "is a file" in error_of(lambda: ladder.climb(loaded, run / "config.toml", "ladder"))


def test_only_run_takes_a_ladder(write, tmp_path, capsys):
    path = write(HEAD + RUNGS)
    assert cli.main(["condense", str(path), "--out", str(tmp_path / "out")]) == 2
    assert "is a ladder of runs; only hcdc run takes it" in capsys.readouterr().err


def test_protocols_in_words():
    assert described_protocol("dsa") == ("dsa", PROTOCOLS["dsa"])
    words, shorter = described_protocol("dsa:learning_rate=0.1,epochs=100,cutmix=0")
    assert words == "dsa:epochs=100,learning_rate=0.1", "one name for all who mean the same"
    assert (shorter.epochs, shorter.drops, shorter.learning_rate) == (100, (50,), 0.1)
    assert described_protocol(words) == (words, shorter)
    words, dropping = described_protocol("edc:zeta=None")
    assert dropping.zeta is None
    assert described_protocol(words) == (words, dropping)
    for text, message in (
        ("dsaa", "unknown protocol 'dsaa'; did you mean 'dsa'?"),
        ("dsa:epoch=3", "unknown setting of protocol dsa 'epoch'; did you mean 'epochs'?"),
        ("dsa:augmentation=none", "unknown setting of protocol dsa 'augmentation'; "),
        ("dsa:epochs=many", "protocol 'dsa:epochs=many': 'epochs' must be an integer, got 'many'"),
        ("dsa:cutmix=2", "'cutmix' must be at least 0 and at most 1, got 2"),
        ("edc:zeta=0.5", "'zeta' must be at least 1, got 0.5"),
        ("dsa:optimizer=lion", "'optimizer' must be one of 'adam', 'adamw', 'momentum', 'sgd', got 'lion'"),
        ("dsa:epochs=3,epochs=4", "write each setting once"),
        ("dsa:epochs", "write each setting once"),
        ("dsa:epochs=3,", "write each setting once"),
    ):
        assert message in error_of(lambda text=text: described_protocol(text))


def test_names_of_files():
    assert files.as_name("B: + real images, 0.5") == "B_real_images_0.5"
    assert [files.as_name(text) for text in ("..", "+", "ä")] == ["", "", ""]
    long = [files.as_name(letter * 300) for letter in "ab"]
    assert {len(name) for name in long} == {120}
    assert len({files.as_name("a" * 300 + end) for end in "xy"}) == 2
