"""A run that is killed at any point and taken up again ends as the run that was left alone."""

from __future__ import annotations

import json
import shutil
import signal
import time

import numpy as np
import pytest
from runs import arrays_of, assert_same_arrays, finished_run, hcdc, process_settings, small_config, write_config

from hcdc_jax import pipeline
from hcdc_jax.condensed import load_condensed
from hcdc_jax.config import Config
from hcdc_jax.errors import UserError
from hcdc_jax.pipeline import condensed_parts, keeping
from hcdc_jax.pipeline.clock import Elapsed
from hcdc_jax.pipeline.folder import check_owner
from hcdc_jax.pipeline.hcdc import targets
from hcdc_jax.storage import files


@pytest.fixture
def finished(tmp_path_factory):
    return finished_run(tmp_path_factory)


@pytest.fixture
def in_process(finished):
    with process_settings(finished.parent / "cache"):
        yield


def test_a_kill_before_the_configuration_was_whole_leaves_a_folder_that_is_free(tmp_path):
    temporary = files.temporary_of(tmp_path / "config.toml")
    temporary.write_text("methods = [")
    check_owner(tmp_path, Config(), resume=False)
    temporary.rename(tmp_path / "notes.txt")
    with pytest.raises(UserError, match="is not empty and no run folder"):
        check_owner(tmp_path, Config(), resume=False)


def stop_when(process, folder, pattern, count, number):
    """Sends the signal as soon as `count` files of the pattern are there; the run must be at work then."""
    deadline = time.monotonic() + 120
    while len(list(folder.glob(pattern))) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(number)
    _, err = process.communicate()
    return process.returncode, err


def test_killed_and_interrupted_processes(finished, tmp_path):
    config, cache, out = finished.parent / "small.toml", finished.parent / "cache", tmp_path / "run"

    def start(*args):
        return hcdc("run", config, "--out", out, *args, cache=cache)

    code, _ = stop_when(start(), out, "checkpoints/targets_seed0/*.npz", 1, signal.SIGKILL)
    assert code == -signal.SIGKILL
    code, err = stop_when(start("--resume"), out, "checkpoints/snapshots/hcdc_val_seed0/*.npz", 3, signal.SIGINT)
    assert code == 130, err
    assert err.splitlines()[-1] == "hcdc: interrupted; the same command with --resume goes on from here"
    code, err = stop_when(start("--resume"), out, "checkpoints/truth_seed0/*.npz", 2, signal.SIGTERM)
    assert code == 143, err
    assert "Traceback" not in err
    assert not (out / "report.json").exists()
    process = start("--resume")
    _, err = process.communicate()
    assert process.returncode == 0
    assert "full trainings" not in err, "what was done is not done again"
    assert_same_arrays(out, finished)
    assert (out / "card.json").read_text() == (finished / "card.json").read_text()
    assert (out / "config.toml").read_text() == (finished / "config.toml").read_text()


def test_two_devices_go_on_where_one_was_killed(finished, tmp_path):
    """The truth is cut as it was, the numbers are those of one device, and what was half written is swept up."""
    config, cache, out = finished.parent / "small.toml", finished.parent / "cache", tmp_path / "run"
    process = hcdc("run", config, "--out", out, cache=cache)
    stop_when(process, out, "checkpoints/truth_seed0/*.npz", 2, signal.SIGKILL)
    shutil.rmtree(out / "results")
    files.temporary_of(out / "checkpoints" / "truth_seed0" / "000004_2.npz").write_bytes(b"PK")
    files.temporary_of(out / "checkpoints" / "truth_seed0" / "copied").mkdir()
    process = hcdc("run", config, "--out", out, "--resume", cache=cache, devices=2)
    _, err = process.communicate()
    assert process.returncode == 0, err
    parts = {path.name for path in (finished / "checkpoints" / "truth_seed0").iterdir()}
    assert {path.name for path in (out / "checkpoints" / "truth_seed0").iterdir()} == parts
    ours, theirs = (arrays_of(folder / "results") for folder in (out, finished))
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        if array.dtype.kind == "f":
            np.testing.assert_allclose(ours[name], array, rtol=1e-4, err_msg=name)


class Killed(BaseException):
    pass


class Clock(Elapsed):
    """Every measured block takes 1 s and compiles for 1 s more, so that seconds are as reproducible as arrays."""

    run = compile = 1.0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def kill_after(monkeypatch, num_writes):
    """Stands for a kill just before a write, when `num_writes` have been made."""
    left = [num_writes]

    def limited(write):
        def wrapper(*args, **options):
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return write(*args, **options)

        return wrapper

    for name in ("_write_atomically", "append_jsonl"):
        monkeypatch.setattr(files, name, limited(getattr(files, name)))


def test_killed_before_any_write(in_process, tmp_path, monkeypatch):
    """Seconds are compared too: each piece of work is paid for once, however often it was interrupted."""
    for module in (condensed_parts, keeping, targets, pipeline.scoring):
        monkeypatch.setattr(module, "measured", Clock)
    config = small_config(tmp_path, methods=("hcdc",), hcdc={"steps": 4})
    expected = pipeline.run(config, tmp_path / "whole")
    found, num_kills = None, 0
    for num_writes in range(4, 20):  # each attempt gets a little further than the one before
        with monkeypatch.context() as patch:
            kill_after(patch, num_writes)
            try:
                found = pipeline.run(config, tmp_path / "killed", resume=True)
                break
            except Killed:
                num_kills += 1
    assert num_kills > 4
    assert found == expected
    assert_same_arrays(tmp_path / "killed", tmp_path / "whole")
    assert not list((tmp_path / "killed").rglob("*.tmp"))


def test_seconds_are_those_of_every_piece_of_work(in_process, tmp_path, monkeypatch):
    for module in (condensed_parts, keeping, targets):
        monkeypatch.setattr(module, "measured", Clock)
    config = small_config(tmp_path, methods=("hcdc",), hcdc={"steps": 6})
    with pipeline.opened(config, tmp_path / "run") as run:
        pipeline.condense(run)
    condensed_part = condensed_parts.read_part(condensed_parts.Place(tmp_path / "run", "hcdc", "val", 0))
    # Choosing the candidates; 3 trainings; 3 hypergradients, the networks on S_train, and 6 pauses of one step.
    assert condensed_part.cost == (1 + 3 + 1 + 6, 1 + 3 + 3 + 1 + 6, 3, 3, 0)


class TestBetweenArtefactAndCard:
    @pytest.fixture
    def copy(self, finished, tmp_path):
        return shutil.copytree(finished, tmp_path / "run")

    def test_before_the_first_card(self, in_process, finished, copy):
        (copy / "card.json").unlink()
        self.condense(copy)
        assert json.loads((copy / "card.json").read_text()) == json.loads((finished / "card.json").read_text())

    def test_before_the_entry_of_hcdc(self, in_process, finished, copy):
        card = json.loads((copy / "card.json").read_text())
        del card["artefacts"]["hcdc_seed0"]
        card["primary"] = "random_seed0"
        files.write_json(copy / "card.json", card)  # condensed.npz is already that of hcdc
        self.condense(copy)
        assert json.loads((copy / "card.json").read_text()) == json.loads((finished / "card.json").read_text())
        assert load_condensed(copy).card["method"] == "hcdc"

    def test_of_files_that_were_deleted(self, in_process, finished, copy):
        for name in ("condensed.npz", "condensed/random_seed0.npz"):
            (copy / name).unlink()
        self.condense(copy)
        assert_same_arrays(copy, finished)

    @staticmethod
    def condense(folder):
        with pipeline.opened(pipeline.folder.config_of(folder), folder) as run:
            pipeline.condense(run)


def test_checkpoints_do_not_stay(finished):
    folders = [path for path in (finished / "checkpoints").iterdir() if path.is_dir()]
    assert not [path for path in folders if path.with_suffix(".npz").exists()], "what is finished needs none"


@pytest.mark.parametrize(
    ("steps", "length"), [(1, 1), (12, 1), (60, 5), (100, 10), (150, 10), (300, 25), (1200, 100), (97, 8)]
)
def test_pauses_are_about_a_dozen_and_of_one_length(steps, length):
    assert condensed_parts.pause_length(steps) == length
    assert steps % length == 0 or steps == 97


@pytest.mark.parametrize(("length", "in_one_call"), [(1, 1), (25, 25), (100, 100), (250, 50), (417, 3), (2000, 100)])
def test_long_pauses_are_several_calls_of_one_length(length, in_one_call):
    assert condensed_parts.call_length(length) == in_one_call


def test_run_from_python(in_process, finished, tmp_path):
    """The same run without the command, told step by step."""
    events = []
    progress = pipeline.Progress(
        lambda what, total, done: events.append((what, total, done)), events.append, lambda text: events.append(text)
    )
    write_config(tmp_path)
    report = pipeline.run(small_config(tmp_path), tmp_path / "run", progress=progress)
    assert report == json.loads((tmp_path / "run" / "report.json").read_text())
    assert [event for event in events if isinstance(event, tuple)] == [
        ("full trainings, seed 0", 3, 0),
        ("networks on S_train, seed 0", 1, 0),
        ("S_val of hcdc, seed 0", 12, 0),
        ("ranking 12 candidates, 3 rankings", 3, 0),
        ("truth: 12 candidates trained 1 x on the full data", 6, 0),
    ]
    assert_same_arrays(tmp_path / "run", finished)
    assert events[-1] == 6
