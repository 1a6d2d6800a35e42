"""Own data without a configuration: settings are chosen by kind and size, told, and taken through all stages."""

from __future__ import annotations

import csv
import shlex

import numpy as np
import pytest
from PIL import Image

import hcdc_jax as hc
from hcdc_jax import cli
from hcdc_jax.cli.own_data import settings_for
from hcdc_jax.cli.resolver import bundled, resolve

FAST = shlex.split(
    "--training.steps 8 --training.proxy_steps 8 --training.proxy_inits 1 --space.candidates 4 --condense.examples 12 "
    "--model.width 8 --hcdc.steps 4 --hcdc.design strata --hcdc.full_trainings 3 --hcdc.oversampling 1"
)
FAST_GRAPH = shlex.split(
    "--training.steps 20 --training.proxy_inits 1 --hcdc.full_trainings 2 --hcdc.oversampling 1 --hcdc.steps 2 "
    "--hcdc.damping 1"
)


def table(path, *, amounts=False, rows=80):
    rng = np.random.default_rng(0)
    age, city = rng.normal(40, 9, rows), rng.choice(["Basel", "Bern"], rows)
    target = age + 5 * (city == "Bern") if amounts else np.where(age > 40, "high", "low")
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["age", "city", "income"])
        writer.writerows(zip(age.round(2), city, target, strict=True))
    return path


def pictures(folder):
    rng = np.random.default_rng(0)
    for label in ("cats", "dogs"):
        (folder / label).mkdir(parents=True)
        for i in range(12):
            Image.fromarray(rng.integers(0, 255, (6, 6, 3), np.uint8)).save(folder / label / f"{i}.png")
    return folder


def graph(path):
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    ends = rng.integers(0, 60, (2, 150))
    parts = {
        f"{part}_idx": index
        for part, index in zip(("train", "val", "test"), np.split(rng.permutation(60), 3), strict=True)
    }
    np.savez(path, features=rng.normal(size=(60, 5)), edge_index=ends[:, ends[0] != ends[1]], labels=labels, **parts)
    return path


@pytest.mark.parametrize(
    ("make", "words", "name", "settings"),
    [
        (lambda folder: table(folder / "a.csv"), ["--data.target", "income"], "own/table", {"teachers": 1}),
        (
            lambda folder: table(folder / "a.csv", amounts=True), ["--data.target", "income"], "own/table_regression",
            {"teachers": 0},
        ),
        (lambda folder: pictures(folder / "p"), [], "own/images", {"teachers": 1}),
        (lambda folder: graph(folder / "g.npz"), [], "own/graph", {"teachers": 0}),
    ],
)  # fmt: skip
def test_settings_are_those_of_the_kind_and_fit_its_size(make, words, name, settings, tmp_path):
    path = make(tmp_path)
    config, said = settings_for(path, words, bundled())
    assert f"settings of {name}" in said
    assert f"hcdc configs {name}" in said
    assert config.labels.teachers == settings["teachers"]
    assert config.methods == ("hcdc",)
    hc.pipeline.prepare(config)  # sizes fit: nothing is refused


def test_the_command_line_wins(tmp_path):
    job = resolve(str(table(tmp_path / "a.csv")), ["--data.target", "income", "--condense.examples", "20"])
    assert job.config.condense.examples == 20
    assert job.config.data.path == str(tmp_path / "a.csv")


def test_a_table_is_condensed_and_searched_by_one_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    table(tmp_path / "people.csv")
    words = ["search", "people.csv", "--num", "4", "--data.target", "income", *FAST]
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert "settings of own/table" in said
    assert "Its settings: " in said
    assert "weight_decay_first = " in said
    condensed = hc.load_condensed("runs/people")
    rows = condensed.prepare({"age": np.array([40.0, 55.0]), "city": np.array(["Bern", "Chur"])})
    assert rows.shape == (2, 3)
    assert rows[1, 1:].tolist() == [0, 0]  # a city that no training row has
    with pytest.raises(hc.UserError, match="age"):
        condensed.prepare({"city": np.array(["Bern"])})


def test_other_artefacts_have_nothing_to_prepare(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    graph(tmp_path / "g.npz")
    assert cli.main(["condense", "g.npz", *FAST_GRAPH]) == 0
    with pytest.raises(hc.UserError, match="no table"):
        hc.load_condensed("runs/g").prepare({})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.csv"], "target"),
        (["a.csv", "--data.target", "incme"], "did you mean 'income'?"),
        (["a.csv", "--data.target", "income", "--space.name", "graph_filter"], "graph"),
        (["nothing.csv", "--data.target", "income"], "no such file"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    table(tmp_path / "a.csv")
    assert cli.main(["run", *words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()
