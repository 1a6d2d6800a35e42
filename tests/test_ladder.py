"""Ladders: each rung is the one before it and a change, finished rungs stay, mistakes are told before anything runs."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest

from hcdc_jax import cli
from hcdc_jax import config as configs
from hcdc_jax.evaluation import PROTOCOLS, described_protocol
from hcdc_jax.pipeline import ladder
from hcdc_jax.pipeline.recipes.edc import observers_of
from tests.errors import error_of
from tests.image_runs import config_with

pytestmark = pytest.mark.usefixtures("quick_compilation")

HEAD = """
base = "base.toml"
protocol = "edc_soft:epochs=2,batch_size=10"
networks = 2
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


@pytest.fixture(autouse=True)
def broadcasting():
    with jax.numpy_rank_promotion("allow"):
        yield


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
    first, second, third, real = ladder.load(path, ["--edc.iterations", "3"]).rungs
    assert (first.config.seeds, first.config.methods, first.config.edc.iterations) == ((0, 1), ("edc",), 3)
    assert first.config.edc.statistics == "code"
    assert second.config == first.config
    assert third.config == dataclasses.replace(
        first.config, edc=dataclasses.replace(first.config.edc, statistics="paper")
    )
    assert real.config == dataclasses.replace(third.config, methods=("random",))
    zetas = [described_protocol(rung.protocol).zeta for rung in (first, second, third, real)]
    assert zetas == [1, 2, 2, 2]
    assert described_protocol(third.protocol) == dataclasses.replace(
        PROTOCOLS["edc_soft"], epochs=2, batch_size=10, zeta=2.0
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
    observers = [(observers_of(out / step["folder"], "train") / "observer_00.npz").read_bytes() for step in steps]
    assert len(set(observers)) == 1, "trained once, and taken over"
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

    other = write(HEAD + RUNGS.replace('edc.statistics = "code"', "edc.alpha = 1.0", 1))
    assert cli.main(["run", str(other), "--out", str(out), "--resume"]) == 2
    assert "holds a run of another configuration" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + "rungs = []", "a ladder has at least one [[rungs]], each with a name and what it changes"),
        ("[[rungs]]\nname = 'A'", "base is missing: the configuration that the rungs change"),
        ("base = 'other.toml'\n[[rungs]]\nname = 'A'", "other.toml: no such file"),
        (HEAD + "[[rungs]]\nedc.alpha = 1.0", "rung 1: it needs a name of letters or digits"),
        (HEAD + "[[rungs]]\nname = 'A'\nedc.alpa = 1.0", "rung 1: unknown key 'edc.alpa'; did you mean 'alpha'?"),
        (HEAD + "[[rungs]]\nname = 'A'\nedc.alpha = 2.0", "rung 1: 'edc.alpha' must be at least 0 and at most 1"),
        (HEAD + "[[rungs]]\nname = 'A'\nprotocol = 'dsa'", "rung 1: protocol.SETTING = VALUE changes the protocol"),
        (HEAD + "[[rungs]]\nname = 'A'\nprotocol.zata = 1.0", "unknown setting of protocol edc_soft 'zata'; did"),
        (HEAD + "[[rungs]]\nname = 'A'\nprotocol.epochs = 0", "'epochs' must be at least 1, got 0"),
        (HEAD.replace("networks = 2", "networks = 0") + RUNGS, "'networks' must be at least 1"),
        (HEAD.replace('"edc_soft', '"edc_sof') + RUNGS, "unknown protocol 'edc_sof'; did you mean 'edc_soft'?"),
        (HEAD + "[[rungs]]\nname = 'A'\n[[rungs]]\nname = 'A'", "two rungs are called 'A'; give them different names"),
        (HEAD + "[[rungs]]\nname = 'A'\nmethods = ['edc', 'random']", "rung 'A' has the methods edc, random"),
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
    assert described_protocol("dsa") == PROTOCOLS["dsa"]
    shorter = described_protocol("dsa:epochs=100,learning_rate=0.1")
    assert (shorter.epochs, shorter.drops, shorter.learning_rate) == (100, (50,), 0.1)
    assert described_protocol("edc:zeta=None").zeta is None
    for text, message in (
        ("dsaa", "unknown protocol 'dsaa'; did you mean 'dsa'?"),
        ("dsa:epoch=3", "unknown setting of protocol dsa 'epoch'; did you mean 'epochs'?"),
        ("dsa:augmentation=none", "unknown setting of protocol dsa 'augmentation'; "),
        ("dsa:epochs=many", "protocol 'dsa:epochs=many': 'epochs' must be an integer, got 'many'"),
        ("dsa:cutmix=2", "'cutmix' must be at least 0 and at most 1, got 2"),
        ("edc:zeta=0.5", "'zeta' must be at least 1, got 0.5"),
        ("dsa:optimizer=lion", "'optimizer' must be one of 'adam', 'adamw', 'momentum', 'sgd', got 'lion'"),
    ):
        assert message in error_of(lambda text=text: described_protocol(text))
