"""`hcdc evaluate`: new networks on the condensed images of a run, what is kept, printed and reported."""

from __future__ import annotations

import dataclasses
import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from hcdc_jax import cli, pipeline
from hcdc_jax import config as configs
from hcdc_jax.batches.rand_augment import RandAugment
from hcdc_jax.data.npz import read_arrays
from hcdc_jax.evaluation import evaluate_networks
from hcdc_jax.evaluation.protocols import PROTOCOLS, settings_of
from hcdc_jax.models import image_problem
from hcdc_jax.pipeline import evaluating
from hcdc_jax.pipeline.condensed_parts import Place
from hcdc_jax.pipeline.recipes import edc
from hcdc_jax.pipeline.setup import EVALUATE, key_for
from hcdc_jax.report import evaluations
from hcdc_jax.storage import files
from hcdc_jax.storage.codec import to_tree
from hcdc_jax.types import Batch
from tests.errors import error_of
from tests.runs import hcdc, process_settings, small_config
from tests.test_image_run import config_with

METHODS = ("random", "herding", "real_val")
TINY = {
    "model": {"name": "convnet", "width": 2, "depth": 1, "norm": "none"},
    "space": {"candidates": 3}, "training": {"steps": 3, "proxy_steps": 3}, "truth": {"enabled": False},
    "edc": {"observers": ("convnet:width=2,depth=1", "convnet:width=3,depth=1,norm=batch"), "observer_epochs": 1},
}  # fmt: skip


NARROW = "mlp:width=16"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module", autouse=True)
def shared_compilation(cache):
    with process_settings(cache):
        yield


@pytest.fixture(scope="module")
def ranked(tmp_path_factory):
    """A run of three methods, two of which share their S_train, and two seeds."""
    folder = tmp_path_factory.mktemp("evaluate") / "run"
    config = config_with(METHODS, **TINY)
    pipeline.run(dataclasses.replace(config, seeds=(0, 1)), folder)
    return folder


@pytest.fixture(scope="module")
def evaluated(ranked, cache, tmp_path_factory):
    """A copy of it after the command, and what that printed."""
    folder = shutil.copytree(ranked, tmp_path_factory.mktemp("evaluated") / "run")
    process = hcdc(
        "evaluate", folder, "--protocol", "dc", "--networks", "2", "--models", NARROW, "convnet", cache=cache
    )
    out, err = process.communicate()
    assert process.returncode == 0, err
    return folder, out, err


@pytest.fixture
def copy(ranked, tmp_path):
    return shutil.copytree(ranked, tmp_path / "run")


def content_of(folder):
    return json.loads((folder / "evaluation.json").read_text())


def without_times(content):
    entries = [
        {k: v for k, v in entry.items() if "seconds" not in k} for entry in content["protocols"]["dc"]["entries"]
    ]
    return sorted(entries, key=lambda entry: (entry["model"], entry["s_train"], entry["seed"]))


def test_scores_are_those_of_networks_trained_on_each_s_train(evaluated):
    folder, _, _ = evaluated
    entries = content_of(folder)["protocols"]["dc"]["entries"]
    assert {(e["model"], e["s_train"], e["seed"]) for e in entries} == {
        (model, s_train, seed) for model in (NARROW, "convnet") for s_train in ("random", "herding") for seed in (0, 1)
    }
    setup = pipeline.prepare(pipeline.folder.config_of(folder))
    options = {"width": 2, "depth": 1, "norm": "none", "activation": "relu"}  # the run's own network is as in the run
    for entry in (e for e in entries if e["model"] == "convnet"):
        problem = image_problem("convnet", (4, 4, 1), 10, **options)
        stored = read_arrays(folder / "checkpoints" / f"{entry['s_train']}_train_seed{entry['seed']}.npz")
        train = Batch(*(jnp.asarray(stored[f"batch/{name}"]) for name in Batch._fields))
        scores = evaluate_networks(
            key_for(EVALUATE, entry["seed"]), problem, PROTOCOLS["dc"], train, setup.test, networks=2
        )
        np.testing.assert_allclose(entry["test_accuracy"]["values"], scores.accuracy, atol=1e-6)
        np.testing.assert_allclose(entry["test_loss"], scores.loss, rtol=1e-4)
        assert entry["images"] == 20


def test_what_was_printed(evaluated):
    _, out, err = evaluated
    out = " ".join(out.split())  # a narrow table breaks its title
    for text in ("Test accuracy in % of new networks, protocol dc", NARROW, "convnet", "herding", "evaluation.json"):
        assert text in out
    assert "real_val trains on the S_train of random." in out
    assert "2 networks for each of 2 seeds, at the last step; 301 epochs" in out
    assert "convnet is as in the run: width 2, depth 1, norm none, activation relu." in out
    assert "models x S_train: 8/8" in err


def test_the_report_holds_table_and_figure_and_the_run_is_what_it_was(evaluated, ranked):
    folder, _, _ = evaluated
    page = (folder / "report.html").read_text()
    assert "Test accuracy in % of new networks, protocol dc" in page
    grid = evaluations.pooled(content_of(folder)["protocols"]["dc"])
    assert f"{100 * grid['herding']['convnet'].mean:.1f} ± " in page
    assert (folder / "figures" / "evaluation_dc.png").stat().st_size > 1000
    for name in ("config.toml", "card.json", "report.json", "ranking.csv", "results/info.json"):
        assert (folder / name).read_bytes() == (ranked / name).read_bytes()


def test_an_interrupted_evaluation_goes_on_where_it_was(evaluated, copy, monkeypatch, capsys):
    folder, _, _ = evaluated
    calls = []

    def counted(*args, **options):
        calls.append(None)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return evaluate_networks(*args, **options)

    monkeypatch.setattr(evaluating, "evaluate_networks", counted)
    command = ["evaluate", str(copy), "--protocol", "dc", "--networks", "2", "--models", NARROW, "convnet"]
    assert cli.main(command) == 130
    assert "the same command goes on from here" in capsys.readouterr().err
    assert len(without_times(content_of(copy))) == 2
    assert cli.main(command) == 0
    assert len(calls) == 3 + 6
    assert without_times(content_of(copy)) == without_times(content_of(folder))
    assert cli.main(command) == 0
    assert len(calls) == 3 + 6


def test_a_set_that_was_condensed_anew_is_evaluated_anew(evaluated, tmp_path):
    folder = shutil.copytree(evaluated[0], tmp_path / "run")
    path = folder / "checkpoints" / "random_train_seed1.npz"
    arrays = read_arrays(path)
    files.write_npz(path, arrays | {"batch/inputs": -arrays["batch/inputs"]})
    plan = pipeline.EvaluationPlan("dc", networks=2, models=(NARROW,))
    before = without_times(content_of(folder))
    pipeline.evaluate_condensed(pipeline.prepare(pipeline.folder.config_of(folder)), folder, plan)
    after = without_times(content_of(folder))
    changed = [(a["s_train"], a["seed"], a["model"]) for a, b in zip(after, before, strict=True) if a != b]
    assert changed == [("random", 1, NARROW)]


def test_the_whole_training_part_is_a_reference(copy):
    plan = pipeline.EvaluationPlan("dc", methods=("herding",), networks=1, whole=True, whole_epochs=2)
    content = pipeline.evaluate_condensed(pipeline.prepare(pipeline.folder.config_of(copy)), copy, plan)
    stored = content["protocols"]["dc"]
    assert [(e["s_train"], e["images"], e["epochs"]) for e in stored["entries"]] == [
        ("herding", 20, 301), ("herding", 20, 301), ("whole", 120, 2)
    ]  # fmt: skip
    assert [row[0].text for row in evaluations.table(stored).rows] == ["herding", "whole training part"]
    assert "The whole training part was trained on for 2 epochs." in evaluations.reading(stored)


def test_a_learning_rate_that_was_condensed_is_used(copy):
    """As a condenser that learns one leaves it; no card is needed."""
    finished = Place(copy, "herding", "train", 1).finished
    files.write_npz(finished, read_arrays(finished) | {"facts/learned_learning_rate": np.float64(0.5)})
    (copy / "card.json").unlink()
    setup = pipeline.prepare(pipeline.folder.config_of(copy))
    for protocol, expected in (("mtt", [0.01, 0.5]), ("dc", [0.01, 0.01])):
        plan = pipeline.EvaluationPlan(protocol, methods=("herding",), networks=1, augment="none")
        stored = pipeline.evaluate_condensed(setup, copy, plan)["protocols"][protocol]
        assert [entry["learning_rate"] for entry in stored["entries"]] == expected
        learned = "Learning rate 0.5 on herding, learned with its images."
        assert (learned in evaluations.reading(stored)) == (protocol == "mtt")


@pytest.fixture
def asked(copy, monkeypatch):
    """`asked(plan)`: the protocol and the teacher of the first networks that an evaluation would train."""

    def of_plan(plan):
        seen = []
        monkeypatch.setattr(
            evaluating, "evaluate_networks",
            lambda key, problem, protocol, *args, teacher, **options: seen.append((protocol, teacher)) or 1 / 0,
        )  # fmt: skip
        with pytest.raises(ZeroDivisionError):
            pipeline.evaluate_condensed(pipeline.prepare(pipeline.folder.config_of(copy)), copy, plan)
        return seen[0]

    return of_plan


def test_digits_are_not_mirrored(asked):
    seen = [asked(pipeline.EvaluationPlan("dsa", augment=augment))[0] for augment in (None, "flip_crop")]
    assert [protocol.augmentation.operations for protocol in seen] == [
        ("color", "crop", "cutout", "scale", "rotate"), ("flip", "crop")
    ]  # fmt: skip


def test_observers_of_the_real_data_teach_whatever_was_condensed(copy, asked):
    teacher, nobody = (asked(pipeline.EvaluationPlan(protocol))[1] for protocol in ("edc_soft", "edc"))
    assert nobody is None
    setup = pipeline.prepare(pipeline.folder.config_of(copy))
    said = teacher.problem.apply(teacher.params, (), setup.test.inputs)
    kept = [read_arrays(path) for path in sorted((copy / "checkpoints" / "observers_train").glob("*.npz"))]
    nets = edc.observers(setup)
    alone = [net.problem.apply(to_tree(one), (), setup.test.inputs) for net, one in zip(nets, kept, strict=True)]
    np.testing.assert_allclose(said, np.mean(alone, 0), rtol=1e-4, atol=1e-5)


def test_logits_are_stored_once_counted_and_refused_for_others(copy):
    """With the whole of EDC's protocol but its length and RandAugment; one of the observers has batch norm."""
    plan = pipeline.EvaluationPlan("edc_stored:epochs=2,networks=1", methods=("herding",), augment="none")
    setup = pipeline.prepare(pipeline.folder.config_of(copy))
    path = copy / "labels" / "edc_stored_epochs_2_networks_1_herding_seed1.npz"

    def evaluated(**changes):
        asked = dataclasses.replace(plan, **changes)
        return pipeline.evaluate_condensed(setup, copy, asked)["protocols"][plan.protocol]

    (_, entry), kept = evaluated()["entries"], path.read_bytes()
    assert read_arrays(path)["logits"].shape == (2, 20, 10)
    images = 20 * (16 + 1 + 1)
    assert entry["stored_numbers"] == {"S_train": images, "teachers": 0, "logits": 400}
    (copy / "evaluation.json").unlink()
    stored = evaluated()
    assert path.read_bytes() == kept, "further networks learn from what is there"
    assert stored["entries"][1]["label_seconds"] == entry["label_seconds"]
    assert stored["entries"][1]["test_loss"] == entry["test_loss"], "from disk or not, logits are the same"
    told = evaluations.reading(stored)
    assert (
        f"Stored numbers that a network is trained from: herding {images + 400} (S_train {images}, logits "
        in " ".join(told)
    )
    assert "on logits stored for views that all share" in told[0]
    assert "leave --whole out" in error_of(lambda: evaluated(whole=True))

    (copy / "evaluation.json").unlink()
    arrays = read_arrays(path)
    made_by = json.loads(str(arrays["made_by"]))
    for name, what in (("observers", "observers"), ("images", "images"), ("protocol", "settings of the protocol")):
        files.write_npz(path, arrays | {"made_by": np.array(json.dumps(made_by | {name: "other"}))})
        message = error_of(evaluated)
        assert f"{path} holds logits for other {what}" in message
        assert "delete it" in message
    path.write_bytes(kept[:100])
    assert "damaged" in error_of(evaluated)


def test_operations_of_ones_own_stand_in_for_rand_augment(asked):
    seen = [asked(pipeline.EvaluationPlan("edc", augment=augment))[0] for augment in (None, "none")]
    assert [protocol.rand_augment for protocol in seen] == [RandAugment(), None]
    settings = [settings_of(protocol) for protocol in seen]
    assert [found["rand_augment"] and found["rand_augment"]["num_ops"] for found in settings] == [2, None]
    texts = [evaluations._protocol(found) for found in settings]
    assert "at most 25, RandAugment (2 operations at magnitude 9), crops of at least 8 %" in texts[0]
    assert "without augmentation, crops of at least 8 %" in texts[1]


def test_rows_are_pooled_over_seeds_and_failures_left_out():
    def entry(s_train, seed, values, methods=()):
        numbers = {"images": 10, "epochs": 5, "learning_rate": 0.01, "seconds": 1.0, "compile_seconds": 0.5}
        names = {"s_train": s_train, "seed": seed, "model": "mlp", "methods": list(methods or [s_train])}
        return names | numbers | {"options": {}, "test_accuracy": {"values": values}}

    settings = {"augmentation": None, "cutmix": 0.0, "epochs": 5, "batch_size": 256, "learning_rate": 0.01}
    stored = {
        "networks": 2,
        "settings": settings,
        "entries": [
            entry("a", 0, [0.5, None]), entry("a", 1, [0.6, 0.7]), entry("whole", 0, [0.9, 0.9]),
            entry("b", 0, [0.8, 0.8], ["c"]), entry("d", 0, [None, None]),
        ],
    }  # fmt: skip
    rows = [[cell.text for cell in row] for row in evaluations.table(stored).rows]
    assert rows == [
        ["c", "10", "80.0 ± 0.0"],
        ["a", "10", f"60.0 ± {100 * np.std([0.5, 0.6, 0.7], ddof=1):.1f}"],
        ["d", "10", "–"],
        ["whole training part", "10", "90.0 ± 0.0"],
    ]
    assert [row[2].best for row in evaluations.table(stored).rows] == [True, False, False, False]
    sentences = evaluations.reading(stored)
    assert "Left out because they diverged: 1 of 4 mlp on a." in sentences
    assert "Left out because they diverged: 2 of 2 mlp on d." in sentences
    assert "Not all seeds yet: mlp on c." in sentences
    taught = {"label_seconds": 30.0, "model": "resnet18:norm=batch"}
    stored["entries"] = [stored["entries"][0] | {"label_seconds": 30.0}, stored["entries"][0] | taught]
    sentences = evaluations.reading(stored)
    assert "All of it took 32 s, and 1.0 s of compilation." in sentences, "networks share what was asked for once"
    assert any(
        sentence.startswith("resnet18:norm=batch normalises by batches of test images") for sentence in sentences
    )


class TestMistakes:
    @pytest.fixture
    def mistake(self, evaluated, capsys):
        """The one line of an evaluation that must fail and leave the folder as it was."""
        folder = evaluated[0]

        def run(*args) -> str:
            before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
            assert cli.main(["evaluate", str(folder), *args]) == 2
            assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
            out, err = capsys.readouterr()
            assert out == ""
            (line,) = err.splitlines()
            return line.removeprefix("hcdc: ")

        return run

    def test_names(self, mistake):
        assert mistake("--models", "convnt") == "unknown model 'convnt'; did you mean 'convnet' or 'convnext_tiny'?"
        assert mistake("--methods", "hcdc") == (
            "unknown method of this run 'hcdc'; known are random, herding, real_val"
        )
        assert "unknown protocol 'dcc'; did you mean 'dc'" in mistake("--protocol", "dcc")
        assert "'epochs' must be at least 1, got 0" in mistake("--protocol", "dc:epochs=0")
        assert "unknown operation 'spin'" in mistake("--augment", "crop_spin")

    def test_small_images(self, mistake):
        line = mistake("--models", "mlp", "vgg11")
        assert line.startswith(
            "model 'vgg11' does not go with the 4 x 4 pixels of digits_images (the images are too sm"
        )
        assert line.endswith("leave it out of --models")

    def test_options_of_networks(self, mistake):
        assert "(unknown option of convnet 'widht'; did you mean 'width'?)" in mistake("--models", "convnet:widht=8")
        assert "(width must be a whole number, not 'wide')" in mistake("--models", "convnet:width=wide")

    def test_other_settings(self, mistake, evaluated):
        path = evaluated[0] / "evaluation.json"
        assert mistake("--protocol", "dc", "--networks", "3") == (
            f"{path} holds protocol dc with networks = 2, not 3; ask for the same, or move the file away to evaluate "
            "anew"
        )
        assert "protocol dc with augmentation = None, not {" in mistake(
            "--protocol", "dc", "--networks", "2", "--augment", "crop"
        )

    def test_missing_sets_and_damaged_files(self, copy, capsys):
        (copy / "evaluation.json").write_text("{")
        assert cli.main(["evaluate", str(copy)]) == 2
        assert "evaluation.json is damaged; delete it and evaluate again" in capsys.readouterr().err
        (copy / "checkpoints" / "herding_train_seed1.npz").unlink()
        assert cli.main(["evaluate", str(copy)]) == 2
        assert "does not hold S_train of herding, seed 1: run `hcdc condense` on it first" in capsys.readouterr().err

    def test_graphs(self, tmp_path, capsys):
        config = small_config(tmp_path)
        folder = tmp_path / "run"
        folder.mkdir()
        files.write_text(folder / "config.toml", configs.dumps(config))
        assert cli.main(["evaluate", str(folder)]) == 2
        assert (
            capsys.readouterr()
            .err.strip()
            .endswith(f"{folder} is a run on nodes; only condensed images are evaluated by new networks")
        )
