"""What is left where condensing diverges or every candidate fails: what is told, what is refused, exit codes."""

from __future__ import annotations

import dataclasses
import json
import shutil
from contextlib import nullcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import finished_run, process_settings, small_config

import hcdc_jax as hc
from hcdc_jax import cli, config, pipeline
from hcdc_jax.condensed import read_condensed
from hcdc_jax.errors import UserError
from hcdc_jax.problem import Problem
from hcdc_jax.training.candidates import WHY_ALL_FAIL

DIVERGED = "S_val of hcdc, seed 0, diverged by step 1 of 12; lower hcdc.feature_step and run in a new folder"
SHORT = {"truth": {"enabled": False}, "space": {"candidates": 4}, "hcdc": {"feature_step": 1e30}}


@pytest.fixture(autouse=True)
def in_process(tmp_path_factory):
    with process_settings(finished_run(tmp_path_factory).parent / "cache"):
        yield


@pytest.fixture
def hcdc(capsys):
    """Runs the command; its exit code, and what it printed to standard output and error."""

    def run(*args) -> tuple[int, str, str]:
        code = cli.main([str(arg) for arg in args])
        return code, *capsys.readouterr()

    return run


def written(options, path):
    path.write_text(config.dumps(options))
    return path


@pytest.fixture(scope="module")
def one_of_three(tmp_path_factory):
    """A run in which hcdc diverges, hcdc_surrogate reads it, and random is as good as ever."""
    folder = tmp_path_factory.mktemp("diverged")
    options = small_config(folder, methods=("random", "hcdc", "hcdc_surrogate"), **SHORT)
    with process_settings(finished_run(tmp_path_factory).parent / "cache"):
        said = []
        progress = pipeline.silent()._replace(say=said.append)
        report = pipeline.run(options, folder / "run", progress=progress)
    return folder / "run", report, said


@pytest.fixture(scope="module")
def all_failed(tmp_path_factory):
    """The configuration of a run whose every training diverges, and its folder, condensed."""
    folder = tmp_path_factory.mktemp("failed")
    training = {"optimizer": "sgd", "learning_rate": 1e30}
    options = small_config(folder, methods=("random", "real_val"), training=training, space={"candidates": 4})
    cache = finished_run(tmp_path_factory).parent / "cache"
    with process_settings(cache), pipeline.opened(options, folder / "run") as run:
        pipeline.condense(run)
    return written(options, folder / "failed.toml"), folder / "run"


class TestOneMethod:
    def test_is_told_once_and_the_others_rank(self, one_of_three):
        folder, report, said = one_of_three
        assert [text for text in said if "diverged by" in text] == [DIVERGED]
        assert {method: entry["failed"] for method, entry in report["methods"].items()} == {
            "random": 0, "hcdc": 4, "hcdc_surrogate": 4
        }  # fmt: skip
        assert report["methods"]["hcdc"]["failed_seeds"] == {"0": DIVERGED}
        page = (folder / "report.html").read_text()
        assert f"<li>No ranking by hcdc (seed 0): {DIVERGED}.</li>" in page

    def test_is_said_again_on_the_way_back(self, one_of_three, hcdc):
        folder, _, _ = one_of_three
        code, out, err = hcdc("run", folder)
        assert code == 0
        assert DIVERGED in err
        assert f"No ranking by hcdc (seed 0): {DIVERGED}." in out

    def test_info(self, one_of_three, hcdc):
        code, out, _ = hcdc("info", one_of_three[0])
        assert code == 0
        lines = {line.split(":")[0]: line for line in out.splitlines() if "stored numbers" in line}
        assert lines["random_seed0"].endswith("condensed from graph; intact")
        assert lines["hcdc_seed0"].endswith(f"condensed from graph; of no use: {DIVERGED}")

    def test_nan_is_not_handed_out(self, one_of_three, hcdc, tmp_path):
        folder, _, _ = one_of_three
        for method in (None, "hcdc"):
            with pytest.raises(UserError) as refused:
                hc.load_condensed(folder, method)
            assert str(refused.value) == f"{folder}: {DIVERGED}"
        assert np.isnan(read_condensed(folder).val.inputs.nodes).all()
        assert np.isfinite(hc.load_condensed(folder, "random").val.inputs.nodes).all()
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
        for args in (["export", folder, "--out", tmp_path / "x.npz"], ["search", folder]):
            code, out, err = hcdc(*args)
            assert (code, out) == (2, "")
            assert err.splitlines()[-1] == f"hcdc: {folder}: {DIVERGED}"
        assert not (tmp_path / "x.npz").exists()
        assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
        assert hcdc("export", folder, "--method", "random", "--out", tmp_path / "x.npz")[0] == 0

    def test_also_of_folders_whose_card_says_nothing(self, one_of_three, tmp_path):
        for name in ("card.json", "condensed.npz"):
            shutil.copy(one_of_three[0] / name, tmp_path)
        card = json.loads((tmp_path / "card.json").read_text())
        del card["artefacts"]["hcdc_seed0"]["diverged"]
        (tmp_path / "card.json").write_text(json.dumps(card))
        with pytest.raises(UserError, match=r"hcdc, seed 0, has diverged; lower the rate of its method and run in a"):
            hc.load_condensed(tmp_path)


def test_where_every_artefact_diverged_nothing_is_left(tmp_path, hcdc):
    options = small_config(tmp_path, methods=("hcdc",), **SHORT)
    path, folder = written(options, tmp_path / "one.toml"), tmp_path / "run"
    code, out, err = hcdc("condense", path, "--out", folder)
    assert (code, out) == (1, "")
    assert err.splitlines()[-1] == f"hcdc: {folder} holds no condensed data that can be used: {DIVERGED}"
    code, _, err = hcdc("rank", folder)
    assert code == 1
    assert err.splitlines()[-1] == f"hcdc: every candidate failed by every method of {folder}: {DIVERGED}"


class TestEveryCandidateFailed:
    def test_a_run(self, all_failed, hcdc):
        path, folder = all_failed
        code, out, err = hcdc("run", path, "--out", folder, "--resume")
        assert code == 1
        for method in ("random", "real_val"):
            assert f"{method}, seed 0: every candidate failed: {WHY_ALL_FAIL}" in err
        assert err.splitlines()[-1] == f"hcdc: every candidate failed by every method of {folder}: {WHY_ALL_FAIL}"
        assert not (folder / "results" / "truth.npz").exists(), "nothing could be held against it"
        sentence = f"No ranking by random (seed 0), real_val (seed 0): every candidate failed: {WHY_ALL_FAIL}."
        assert sentence in out
        assert "No rival" not in out

    def test_ranking_and_truth(self, all_failed, tmp_path, hcdc):
        folder = shutil.copytree(all_failed[1], tmp_path / "run")
        code, _, err = hcdc("rank", folder)
        assert code == 1
        assert err.splitlines()[-1].startswith("hcdc: every candidate failed by every method of ")
        code, _, err = hcdc("truth", folder)
        assert code == 1
        assert err.splitlines()[-1] == f"hcdc: every full training of the truth in {folder} failed: {WHY_ALL_FAIL}"
        _, out, _ = hcdc("report", folder)
        assert f"Every full training of the truth failed: {WHY_ALL_FAIL}." in out
        assert "No rival" not in out

    def test_a_search(self, all_failed, hcdc):
        folder = all_failed[1]
        for top in (0, 2):
            code, _, err = hcdc("search", folder, "--num", "5", "--top", top)
            assert code == 1
            assert err.splitlines()[-1] == f"hcdc: every one of 5 candidates failed on random_seed0: {WHY_ALL_FAIL}"
            result = json.loads((folder / "search_random.json").read_text())
            assert (result["selected"], result["failed"], result["finalists"]) == (None, 5, [])


def test_finalists_that_all_fail(one_of_three, tmp_path, monkeypatch, hcdc):
    """Candidates that end well on condensed data, and not on the full one."""
    trained = pipeline.searching.evaluate_on

    def failing(key, problem, candidates, *args, training):
        return trained(key, problem, candidates, *args, training=dataclasses.replace(training, learning_rate=np.nan))

    monkeypatch.setattr(pipeline.searching, "evaluate_on", failing)
    folder = shutil.copytree(one_of_three[0], tmp_path / "run")
    code, _, err = hcdc("search", folder, "--num", "5", "--top", "2", "--artefact", "random", "--method", "random")
    assert code == 1
    assert err.splitlines()[-1] == f"hcdc: each of the 2 best failed when trained on the full data: {WHY_ALL_FAIL}"
    assert json.loads((folder / "search_random.json").read_text())["selected"] is None


def test_more_are_not_trained_than_are_searched(one_of_three, hcdc):
    code, out, err = hcdc("search", one_of_three[0], "--artefact", "random", "--top", "9", "--num", "3")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == "hcdc: --top 9 of --num 3 candidates: lower the one, or raise the other"


def test_a_network_of_fewer_outputs_than_classes_is_told(tmp_path):
    """Losses of one's own, of which the first examples show nothing wrong."""
    labels = np.repeat(np.arange(3), 80)
    examples = np.eye(3, dtype=np.float32)[labels], labels
    said = []

    def loss(params, hparams, batch):
        log_probs = jax.nn.log_softmax(batch.inputs @ params)
        chosen = jnp.take_along_axis(log_probs, batch.labels[:, None], axis=1)  # NaN beyond the last output
        return -chosen.mean() + hparams[0] * jnp.square(params).sum()

    problem = Problem(lambda key, hparams: jnp.zeros((3, 2)), lambda params, hparams, x: x @ params, loss, loss)
    study = hc.Study(
        problem, hc.spaces.box("mine", {"decay": (1e-3, 1.0, "log")}), examples, examples, examples,
        training=hc.Training(steps=2), folder=tmp_path / "run", settings={"space": {"candidates": 3}},
        progress=lambda: nullcontext(pipeline.silent()._replace(say=said.append)),
    )  # fmt: skip
    study.condense("random", examples=6)
    assert not study.rank(4).scores.status.any()
    assert study.search(4, method="random")["selected"] is None
    report = study.report()
    assert report["methods"]["random"]["failed_seeds"] == {"0": None}
    for where in ("every candidate failed on Condensed(random, seed 0", "every one of 4 candidates failed on random_s"):
        assert [text for text in said if text.startswith(where) and text.endswith(WHY_ALL_FAIL)]
    assert f"random, seed 0: every candidate failed: {WHY_ALL_FAIL}" in said
