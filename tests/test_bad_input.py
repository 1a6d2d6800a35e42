"""Every mistake of the user: one line that says what is wrong, exit code 2, and nothing half written."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys

import numpy as np
import pytest
from runs import SMALL, finished_run, graph_arrays, hcdc, write_config

from hcdc_jax import cli, pipeline
from hcdc_jax.storage import files


@pytest.fixture
def finished(tmp_path_factory):
    return finished_run(tmp_path_factory)


@pytest.fixture
def mistake(capsys):
    """Runs the command, which must fail as a mistake of the user; returns its one line."""

    def run(*args) -> str:
        assert cli.main([str(arg) for arg in args]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        *said, line = err.splitlines()
        assert not any(text.startswith(("hcdc: ", "Traceback")) for text in said)  # progress only
        assert line.startswith("hcdc: ")
        return line.removeprefix("hcdc: ")

    return run


def with_setting(line: str) -> str:
    """The small configuration with `section.key = value` set, or with a line of its own."""
    if line.startswith("["):
        return f"{SMALL}{line}\n"
    name, value = line.split(" = ")
    *section, key = name.split(".")
    lines = [text for text in SMALL.splitlines() if not text.startswith(f"{key} =")]
    place = lines.index(f"[{section[0]}]") + 1 if section else 0
    return "\n".join([*lines[:place], f"{key} = {value}", *lines[place:]]) + "\n"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("condense.ration = 0.1", "unknown key 'condense.ration'; did you mean 'ratio'?"),
        ("training.steps = 'many'", "'training.steps' must be an integer, got 'many'"),
        ("condense.ratio = 2", "'condense.ratio' must be above 0 and at most 1, got 2"),
        ("methods = ['hcdc', 'gcont']", "unknown method 'gcont' in 'methods'; did you mean 'gcond' or 'gcond_x'?"),
        (
            "hcdc.train_method = 'randm'",
            "unknown method 'randm' in 'hcdc.train_method'; did you mean 'random' or ",
        ),
        ("hcdc.train_method = 'hcdc'", "hcdc.train_method: 'hcdc' has no S_train of its own; choose one of random,"),
        ("hcdc.train_method = 'real_val'", "hcdc.train_method: 'real_val' has no S_train of its own; choose one of"),
        ("space.name = 'graph_filtre'", "unknown space 'graph_filtre' in 'space.name'; did you mean 'graph_filter'?"),
        ("model.name = 'gcn'", "unknown model 'gcn' in 'model.name'; known are spectral_gnn"),
        ("[truth]\ntable = 'nasbench201'", "truth.table: there is no published table for the space 'graph_filter'"),
        ("condense.ratio = 0.01", "condense.ratio leaves S_train 2 nodes for 3 classes; raise it to 0.015 or more"),
        ("condense.ratio = 0.001", "condense.ratio leaves S_train 0 nodes for 3 classes; raise it to 0.015 or more"),
        ("condense.val_factor = 0.1", "condense.val_factor leaves S_val 2 nodes for 3 classes; raise it to 0.15"),
        ("condense.ratio = 0.4", "condense.ratio asks for 80 labelled nodes in S_train, but graph has 60 train nodes"),
        ("condense.val_factor = 4", "condense.val_factor asks for 80 labelled nodes in S_val, but graph has 60"),
    ],
)
def test_impossible_settings(tmp_path, mistake, setting, message):
    config = write_config(tmp_path / "in", with_setting(setting))
    assert message in mistake("run", config, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_advice_on_sizes_holds(tmp_path, mistake):
    config = write_config(tmp_path / "in")
    too_many = mistake("run", config, "--out", tmp_path / "out", "--condense.ratio", "0.4")
    assert too_many.endswith("lower it to 0.3 or less")
    (tmp_path / "out").touch()  # so that the right size is refused too, for another reason and before any work
    assert "is a file" in mistake("run", config, "--out", tmp_path / "out", "--condense.ratio", "0.3")


def test_methods_that_do_not_suit_the_space_or_each_other(tmp_path, mistake):
    config = write_config(tmp_path / "in")
    line = mistake("run", config, "--out", tmp_path / "out", "--methods", "gcond", "--space.order", "0")
    assert line == "gcond and gcond_x match networks with the filter of GCN, which needs space.order at least 1"
    theta = ["--hcdc.theta", "shared", "--methods", "hcdc", "hcdc_shared"]
    line = mistake("run", config, "--out", tmp_path / "out", *theta)
    assert "makes the methods hcdc and hcdc_shared the same" in line
    assert not (tmp_path / "out").exists()


def without_class(graph, part, label):
    return graph[part][graph["labels"][graph[part]] != label]


GRAPH = graph_arrays()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": np.full_like(GRAPH["features"], np.nan)}, "the features of node 0 hold NaN or infinite numbers"),
        ({"edge_index": np.zeros((2, 0), int)}, "edge_index holds no edge between two nodes"),
        ({"edge_index": np.array([[0], [200]])}, "edge_index names node 200, but there are nodes 0 to 199 only"),
        ({"train_idx": without_class(GRAPH, "train_idx", 2)}, "class 2 has no training node"),
        ({"val_idx": GRAPH["test_idx"]}, "val_idx and test_idx share 80 nodes"),
        ({"labels": GRAPH["labels"].astype(object)}, "holds Python objects; save plain numeric arrays instead"),
    ],
)
def test_impossible_data(tmp_path, mistake, changes, message):
    config = write_config(tmp_path / "in", **changes)
    assert message in mistake("run", config, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_data_that_is_not_there(tmp_path, mistake):
    config = write_config(tmp_path / "in")
    assert "no.npz: no such file" in mistake("run", config, "--out", tmp_path / "out", "--data.path", "no.npz")
    (tmp_path / "in" / "graph.npz").write_bytes(b"no archive")
    assert "is not an .npz file" in mistake("run", config, "--out", tmp_path / "out")
    line = mistake("run", config, "--out", tmp_path / "out", "--data.path", "None", "--data.name", "core")
    assert line == "unknown data set 'core'; did you mean 'cora'?"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["rnu"], "argument COMMAND: invalid choice: 'rnu'"),
        (["run"], "the following arguments are required: CONFIG|DIR; see hcdc run --help"),
        (["run", "no.toml"], "no.toml: no such file"),
        (["report", "no"], "no is not a run folder: it has no config.toml"),
        (["report", "no.toml"], "no.toml was not run yet: there is no runs/no"),
        (["info", "no"], "no is not a run folder: it has no config.toml"),
        (["export", "no"], "no: no such run folder"),
        (["search", "no", "--num", "0"], "argument --num: must be a whole number of at least 1, got '0'"),
        (["search", "no", "--seed", "x"], "argument --seed: must be a whole number of at least 0, got 'x'"),
        (["export", "no", "--format", "gif"], "argument --format: invalid choice: 'gif'"),
        (["list", "--all"], "unexpected argument '--all'; see hcdc list --help"),
        (["report", "no", "--training.steps", "3"], "unexpected argument '--training.steps'; see hcdc report --help"),
    ],
)
def test_command_line(tmp_path, monkeypatch, mistake, args, message):
    monkeypatch.chdir(tmp_path)
    assert mistake(*args).startswith(message)
    assert not any(tmp_path.iterdir())


def test_overrides(tmp_path, mistake):
    config = write_config(tmp_path / "in")
    line = mistake("run", config, "--out", tmp_path / "out", "--hcdc.step", "3")
    assert line == "command line: unknown key 'hcdc.step'; did you mean 'steps'?"
    line = mistake("run", config, "--out", tmp_path / "out", "--training.weight_decay", "-1")
    assert line == "command line: 'training.weight_decay' must be at least 0, got -1.0"
    assert not (tmp_path / "out").exists()


class TestFolders:
    def test_of_this_run_without_resume(self, finished, mistake):
        line = mistake("run", finished.parent / "small.toml", "--out", finished)
        assert line == f"{finished} already holds this run; add --resume to continue it, or choose another --out"

    def test_of_another_configuration(self, finished, mistake):
        override = ["--hcdc.num_hvps", "6", "--resume"]
        line = mistake("run", finished.parent / "small.toml", "--out", finished, *override)
        message = f"{finished} holds a run of another configuration (hcdc.num_hvps is 5 there, 6 here); choose another"
        assert line.startswith(message)
        assert mistake("rank", finished, "--hcdc.num_hvps", "6") == line

    def test_of_something_else(self, tmp_path, mistake):
        config = write_config(tmp_path / "in")
        assert mistake("run", config, "--out", tmp_path / "in") == (
            f"{tmp_path / 'in'} is not empty and no run folder; choose another --out folder"
        )
        assert mistake("run", tmp_path / "in") == f"{tmp_path / 'in'} is not a run folder: it has no config.toml"
        assert "is a file; choose another" in mistake("run", config, "--out", config)
        assert "cannot make the folder" in mistake("run", config, "--out", config / "inner")

    def test_in_use(self, finished, tmp_path, mistake):
        copy = shutil.copytree(finished, tmp_path / "run")
        handle = os.open(copy, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            line = mistake("rank", copy)
        finally:
            os.close(handle)
        assert line == f"another process is working in {copy}; wait for it, or choose another --out folder"

    def test_whose_data_has_changed(self, finished, tmp_path, mistake):
        copy = shutil.copytree(finished, tmp_path / "run")
        np.savez(tmp_path / "graph.npz", **graph_arrays(seed=1))
        config = (copy / "config.toml").read_text()
        (copy / "config.toml").write_text(config.replace(str(finished.parent), str(tmp_path)))
        line = mistake("run", copy)
        assert line == f"the data set graph has changed since {copy} was begun; choose another --out folder"


class TestOrderOfStages:
    def test_rank_before_condense(self, tmp_path, mistake):
        config = write_config(tmp_path / "in")
        line = mistake("rank", config, "--out", tmp_path / "out")
        assert line == f"{tmp_path / 'out'} is not a run folder: it has no config.toml"
        assert not (tmp_path / "out").exists()

    def test_rank_of_a_run_that_was_not_condensed(self, finished, tmp_path, mistake):
        copy = shutil.copytree(finished, tmp_path / "run", ignore=lambda *_: ["checkpoints", "results", "condensed"])
        assert mistake("rank", copy) == (
            f"{copy} does not hold S_train of random, seed 0: run `hcdc condense` on it first"
        )
        assert not list(copy.glob("results/*.npz"))

    def test_report_and_search_before_rank(self, finished, tmp_path, mistake):
        copy = tmp_path / "run"
        shutil.copytree(finished, copy)
        for path in (copy / "results").glob("*.npz"):
            path.unlink()
        assert mistake("report", copy).endswith("holds no ranking of any method: run `hcdc rank` on the folder first")
        (copy / "card.json").unlink()
        assert mistake("search", copy) == f"{copy} holds no condensed data (card.json is missing); condense first"


class TestTamperedArtefacts:
    @pytest.fixture
    def copy(self, finished, tmp_path):
        return shutil.copytree(finished, tmp_path / "run")

    def test_condensed_data(self, copy, mistake):
        arrays = dict(np.load(copy / "condensed.npz"))
        arrays["val/labels"] = arrays["val/labels"][::-1]
        for path in (copy / "condensed.npz", copy / "condensed" / "hcdc_seed0.npz"):
            files.write_npz(path, arrays)
        for command in ("info", "search", "export"):
            line = mistake(command, copy)
            assert "is not the file that card.json describes (SHA-256 differs)" in line
        (copy / "results" / "hcdc_seed0.npz").unlink()
        assert "SHA-256 differs" in mistake("rank", copy)
        assert "SHA-256 differs" in mistake("run", copy)
        assert not (copy / "results" / "hcdc_seed0.npz").exists()

    @pytest.mark.parametrize("name", ["card.json", "checkpoints/random_train_seed0.npz", "results/info.json"])
    def test_damaged_files(self, copy, mistake, name):
        (copy / name).write_bytes((copy / name).read_bytes()[:50])
        line = mistake("condense", copy)
        assert f"{copy / name} is damaged" in line

    def test_damaged_result(self, copy, mistake):
        path = copy / "results" / "hcdc_seed0.npz"
        path.write_bytes(path.read_bytes()[:100])
        assert f"{path} is damaged" in mistake("report", copy)


def test_graphs_have_no_images_and_torch_may_be_missing(finished, tmp_path, monkeypatch, mistake):
    assert mistake("export", finished, "--format", "png") == "hcdc seed 0 is a condensed graph; it has no images"
    monkeypatch.setitem(sys.modules, "torch", None)
    line = mistake("export", finished, "--format", "torch", "--out", tmp_path / "x.pt")
    assert line.startswith("PyTorch is not installed")
    assert not (tmp_path / "x.pt").exists()


def test_a_full_disk(tmp_path):
    """A limit on the size of files stands for a full disk: the configuration fits, the first array does not."""
    config = write_config(tmp_path / "in")
    limited = ["sh", "-c", 'ulimit -f 6; exec "$@"', "sh"]  # blocks of 512 bytes
    process = hcdc("run", config, "--out", tmp_path / "out", prefix=limited)
    _, err = process.communicate()
    assert process.returncode == 2
    assert err.splitlines()[-1].startswith(f"hcdc: cannot write {tmp_path / 'out' / 'checkpoints'}")
    assert err.splitlines()[-1].endswith("File too large; check the disk and run the command again")
    left = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert left == {"config.toml", "results/info.json"}


def test_a_bug_is_not_taken_for_a_mistake(finished, monkeypatch):
    def broken(*args, **options):
        raise RuntimeError("a bug")

    monkeypatch.setattr(pipeline, "run", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["run", str(finished)])
