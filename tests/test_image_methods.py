"""DC, DSA, DM, KIP and MTT as methods of a run: what each leaves, taken up again, diverged, refused."""

from __future__ import annotations

import json
import shutil

import jax
import numpy as np
import pytest
from runs import small_config

from hcdc_jax import config, pipeline
from hcdc_jax.condense import experts
from hcdc_jax.condense.coresets import uniform
from hcdc_jax.condense.dc import published_loops
from hcdc_jax.condensed import load_condensed
from hcdc_jax.errors import UserError
from hcdc_jax.pipeline import condensed_parts, recipes
from hcdc_jax.pipeline.kinds import images
from hcdc_jax.pipeline.recipes import image_relays, mtt
from hcdc_jax.storage import checkpoint
from tests.test_image_run import config_with

pytestmark = pytest.mark.usefixtures("broadcasting")

METHODS = images.KIND.methods
SMALL: dict[str, dict] = {
    "data": {"train": 60, "val": 60, "test": 40, "shrink": 1},
    "space": {"candidates": 3},
    "model": {"name": "convnet", "width": 4, "depth": 1},
    "training": {"steps": 3, "proxy_steps": 3},
    "condense": {"images_per_class": 1, "val_factor": 1.0, "val": "random"},
    "dc": {"networks": 2, "outer_steps": 2, "inner_epochs": 2, "batch_size": 4},
    "idc": {"networks": 2, "outer_steps": 2, "relay_images": 8, "batch_size": 4},
    "dm": {"steps": 4, "batch_size": 4},
    "kip": {"steps": 4, "batch_size": 40},
    "mtt": {
        "steps": 4, "student_steps": 2, "max_start": 2, "experts": 2, "expert_batch_size": 30, "step_size": 0.1,
        "step_size_rate": 0.01, "image_rate": 1.0,
    },
    "edc": {
        "observers": ("convnet:width=2,depth=1", "convnet:width=3,depth=1,norm=batch"), "observer_epochs": 1,
        "iterations": 4,
    },
    "truth": {"enabled": False},
}  # fmt: skip


def small(methods, **changes):
    return config_with(methods, **{name: SMALL.get(name, {}) | changes.get(name, {}) for name in {*SMALL, *changes}})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("methods") / "run"
    with jax.numpy_rank_promotion("allow"):
        return folder, pipeline.run(small(("random", *METHODS)), folder)


def test_all_are_reported_and_have_learned_their_images(finished):
    folder, report = finished
    start = load_condensed(folder, "random")
    learned = {name: load_condensed(folder, name) for name in METHODS}
    for name, condensed in learned.items():
        assert report["methods"][name]["failed"] == 0
        np.testing.assert_array_equal(condensed.train.labels, np.arange(10))
        assert condensed.train.inputs.dtype == np.float32, "whatever precision a method computes in"
        assert np.isfinite(condensed.train.inputs).all()
        assert np.any(condensed.train.inputs != start.train.inputs)
        np.testing.assert_array_equal(condensed.val.inputs, start.val.inputs)
    images = [condensed.train.inputs for condensed in learned.values()]
    assert not any(np.array_equal(a, b) for i, a in enumerate(images) for b in images[:i])


def test_mtt_leaves_its_step_size_and_its_experts(finished):
    folder, report = finished
    rate = load_condensed(folder, "mtt").card["learned_learning_rate"]
    assert rate > 0
    assert rate != pytest.approx(0.1, rel=1e-6)
    assert "learned_learning_rate" not in load_condensed(folder, "dm").card
    buffer = mtt.buffer_of(folder, "train")
    manifest = json.loads((buffer / experts.MANIFEST).read_text())
    assert (manifest["epochs"], manifest["experts"]) == (3, 2), "as far as a student is measured, and no further"
    # 2 experts, 3 epochs of 60 images, in trainings of 3 steps of 30 images.
    assert report["methods"]["mtt"]["full_trainings_used"] == 4
    assert report["methods"]["dm"]["full_trainings_used"] == 0


@pytest.mark.parametrize("name", METHODS)
def test_an_interrupted_run_goes_on_to_the_same_result(name, finished, tmp_path, monkeypatch):
    folder, _ = finished
    whole = condensed_parts.Place(folder, name, "train", 0).finished
    saved, writes = checkpoint.save, []

    def save_and_stop(*args):
        saved(*args)
        writes.append(args)
        if len(writes) in (1, 3):
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", save_and_stop)
    options = small(("random", *METHODS))
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), pipeline.opened(options, tmp_path / "run") as run:
            condensed_parts.make_part(run, recipes.train_recipe(options, name), "train", 0, method=name)
    with pipeline.opened(options, tmp_path / "run") as run:
        condensed_parts.make_part(run, recipes.train_recipe(options, name), "train", 0, method=name)
    assert len(writes) == 4, "one step each"
    with (
        np.load(whole) as expected,
        np.load(condensed_parts.Place(tmp_path / "run", name, "train", 0).finished) as found,
    ):
        assert expected.files == found.files
        for array in expected.files:
            if "seconds" not in array:
                np.testing.assert_array_equal(found[array], expected[array], err_msg=array)


def test_experts_are_trained_and_paid_for_once(tmp_path, monkeypatch):
    said, trained, options = [], [], small(("mtt",))
    progress = pipeline.Progress(lambda *event: None, lambda done: None, said.append)
    trajectory = mtt.expert_trajectory

    def once_more(*args):
        if len(trained) == 1:
            trained.append("interrupted")
            raise KeyboardInterrupt
        trained.append("expert")
        return trajectory(*args)

    monkeypatch.setattr(mtt, "expert_trajectory", once_more)
    with pytest.raises(KeyboardInterrupt):
        condense(options, tmp_path / "run", progress)
    condense(options, tmp_path / "run", progress)
    assert trained == ["expert", "interrupted", "expert"]
    assert "2 experts with 4 snapshots each take 0.022 MB" in said[1]
    spent = [json.loads(path.read_text()) for path in sorted(mtt.buffer_of(tmp_path / "run", "train").glob("sec*"))]
    condensed_part = condensed_parts.read_part(condensed_parts.Place(tmp_path / "run", "mtt", "train", 0))
    assert condensed_part.cost.training_seconds == pytest.approx(sum(record["seconds"] for record in spent))
    assert condensed_part.cost.full_trainings == 4


def test_experts_that_do_not_fit_on_the_disk_are_not_begun(tmp_path, monkeypatch):
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(UserError, match=r"take 0\.022 MB, and 0\.001 MB are free; free some, lower mtt\.experts"):
        condense(small(("mtt",)), tmp_path / "run")
    assert not list(mtt.buffer_of(tmp_path / "run", "train").glob("*.npy"))


def condense(options, folder, progress=None):
    with pipeline.opened(options, folder, progress=progress) as run:
        pipeline.condense(run)


def test_both_halves_are_learned_and_any_method_makes_s_train_of_another(tmp_path):
    options = small(("dm", "real_val"), condense={"val": "learned"}, hcdc={"train_method": "dm"})
    report = pipeline.run(options, tmp_path / "run")
    dm = load_condensed(tmp_path / "run", "dm")
    start = pipeline.prepare(options).kind.sampled(pipeline.prepare(options), "val", 0, uniform)
    assert np.any(dm.val.inputs != start.images)
    assert report["methods"]["real_val"]["failed"] == 0
    made = {path.name for path in (tmp_path / "run" / "checkpoints").glob("*.npz")}
    assert made == {"dm_train_seed0.npz", "dm_val_seed0.npz"}


def test_a_diverged_condensation_is_told_and_ranks_nothing(tmp_path):
    said = []
    progress = pipeline.Progress(lambda *event: None, lambda done: None, said.append)
    report = pipeline.run(small(("random", "dm"), dm={"image_rate": 1e38}), tmp_path / "run", progress=progress)
    (told,) = [text for text in said if "diverged" in text]
    assert told.startswith("S_train of dm, seed 0, diverged by step ")
    assert told.endswith("lower dm.image_rate (of other arrays dm.feature_step) and run in a new folder")
    assert report["methods"]["dm"]["failed"] == 3
    assert report["methods"]["random"]["failed"] == 0
    with pytest.raises(UserError, match=r"run: S_train of dm, seed 0, diverged by step .*; lower dm\.image_rate .*and"):
        load_condensed(tmp_path / "run", "dm")


def test_what_builds_on_a_diverged_s_train_pays_nothing_and_ranks_nothing(tmp_path):
    said = []
    progress = pipeline.silent()._replace(say=said.append)
    options = small(("hcdc", "surrogate", "random"), dm={"image_rate": 1e38}, hcdc={"train_method": "dm"})
    report = pipeline.run(options, tmp_path / "run", progress=progress)
    (told,) = [text for text in said if text.startswith("S_train of dm, seed 0, diverged by step ")]
    for method in ("hcdc", "surrogate"):
        assert f"{method}, seed 0, builds on what diverged and ranks nothing: {told}" in said
        assert report["methods"][method]["failed_seeds"] == {"0": told}
    assert report["methods"]["random"]["failed"] == 0
    assert not list((tmp_path / "run" / "checkpoints").glob("targets*"))
    with pytest.raises(UserError, match="S_train of dm"):
        load_condensed(tmp_path / "run", "hcdc")


def test_experts_that_diverge_are_told_with_their_rate(tmp_path):
    said = []
    progress = pipeline.silent()._replace(say=said.append)
    condense(small(("mtt",), mtt={"expert_rate": 1e30}), tmp_path / "run", progress)
    why = "learns nothing: all 2 experts diverged; lower mtt.expert_rate and run in a new folder"
    assert f"S_train of mtt, seed 0, {why}" in said
    with pytest.raises(UserError, match=f"{why}$"):
        load_condensed(tmp_path / "run", "mtt")


def test_students_that_diverge_are_counted(tmp_path):
    said = []
    progress = pipeline.Progress(lambda *event: None, lambda done: None, said.append)
    condense(small(("mtt",), mtt={"step_size": 1e30}), tmp_path / "run", progress)
    left_out = (
        "S_train of mtt, seed 0: 4 of 4 steps diverged and were left out; if they are many, lower mtt.image_rate or"
    )
    assert any(text.startswith(left_out) for text in said)
    assert any("is still what it started as" in text for text in said)


@pytest.mark.parametrize("name", ["plain", "centre"])
def test_the_relay_is_the_plain_network_or_the_centre_of_the_space(name):
    setup = pipeline.prepare(small(("dc",), condense={"relay": name}))
    problem, embed, hparams = image_relays.relay(setup)

    @jax.jit
    def looked_through(batch):
        at = np.asarray(hparams, np.float32)
        params = problem.init(jax.random.key(0), at)
        penalty = problem.train_loss(params, at, batch) - problem.val_loss(params, at, batch)
        return embed(params, at, batch.inputs), penalty

    features, penalty = looked_through(setup.train)
    assert features.shape == (60, 64)
    if name == "plain":
        assert hparams == ()
        assert penalty == 0
    else:
        assert penalty > 0
        np.testing.assert_allclose(np.exp(hparams[0]), np.sqrt(5e-5 * 5e-2), rtol=1e-5)  # of a log scale


def test_loops_follow_the_images_per_class_as_published():
    assert [published_loops(n) for n in (1, 10, 50)] == [(1, 1), (10, 50), (50, 10)]
    assert [published_loops(n) for n in (2, 5, 100)] == [(1, 1), (10, 50), (50, 10)]
    steps = recipes.METHODS["dc"].train.learner.steps
    setup = pipeline.prepare(small(("dc",), dc={"outer_steps": None, "networks": 7}))
    assert steps(setup) == 7


@pytest.mark.parametrize(
    ("methods", "changes", "message"),
    [
        (("dsa",), {"augmentation": "none"}, "condense.augmentation = 'none' makes the method dsa the same as dc"),
        (("dm",), {"augmentation": "flip_spin"}, "unknown operation 'spin' in the augmentation 'flip_spin'"),
    ],
)
def test_augmentations_that_make_no_sense_are_refused(methods, changes, message):
    with pytest.raises(UserError, match=message):
        pipeline.prepare(small(methods, condense=changes))


@pytest.mark.parametrize("name", METHODS)
def test_graphs_refuse_them(name, tmp_path):
    with pytest.raises(UserError, match=f"graph holds nodes, and the method '{name}' is for other data; leave it out"):
        pipeline.prepare(small_config(tmp_path, methods=(name,)))


def test_idc_refuses_networks_without_convolutions():
    with pytest.raises(UserError, match=r"the network 'mlp' has none; set idc\.distance = 'cosine'"):
        pipeline.prepare(small(("idc",), model={"name": "mlp"}))
    pipeline.prepare(small(("idc",), model={"name": "mlp"}, idc={"distance": "cosine"}))


def test_settings_are_checked_and_listed():
    with pytest.raises(UserError, match=r"'mtt\.experts' must be at least 1, got 0"):
        config.apply_overrides(config.Config(), ["--mtt.experts", "0"])
    assert config.apply_overrides(config.Config(), ["--dc.outer_steps", "None"]) == config.Config()
