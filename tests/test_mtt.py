"""MTT: students that stay, follow and diverge, the same slopes with and without remat, buffers of experts on disk."""

from __future__ import annotations

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from hcdc_jax.batches.augment import Augmentation
from hcdc_jax.condense.base import ImageRates
from hcdc_jax.condense.epoch_training import EpochTraining
from hcdc_jax.condense.experts import (
    buffer_bytes,
    expert_trajectory,
    load_experts,
    missing_experts,
    open_buffer,
    save_expert,
)
from hcdc_jax.condense.mtt import MTTData, mtt, trajectory_distance
from hcdc_jax.containers import ImageStart, image_container
from hcdc_jax.errors import UserError
from hcdc_jax.training.train import Training, train
from hcdc_jax.types import Batch
from tests.small_images import blobs, conv_net

NET = conv_net(1, 3, width=2)
OTHER = conv_net(1, 3, width=3)
CONTAINER = image_container()
IMAGES, LABELS = blobs(12)
KEY = jax.random.key(2)
NONE = np.zeros(0, np.float32)
ROUGH = Augmentation(("crop", "rotate"))


def variables_of(count=6):
    return CONTAINER.init(KEY, ImageStart(IMAGES[:count], LABELS[:count]))


def real_batch():
    return Batch(jnp.asarray(IMAGES, float), jnp.asarray(LABELS), jnp.ones(len(LABELS), float))


def data_of(experts=None, *, step_size=0.3, rate=0.0, step_size_rate=0.0, momentum=0.5, max_change=0.1):
    if experts is None:
        training = EpochTraining(jnp.asarray(0.3, float), epochs=4, batch_size=4)
        keys = jax.random.split(KEY, 2)
        experts = jnp.stack([expert_trajectory(key, NET.problem, NONE, real_batch(), training) for key in keys])
    rates = ImageRates(*(jnp.asarray(x, experts.dtype) for x in (rate, momentum)))
    numbers = (jnp.asarray(x, experts.dtype) for x in (step_size, step_size_rate, max_change, momentum))
    return MTTData(experts, NONE, rates, *numbers)


@functools.partial(jax.jit, static_argnames="condenser")
def step_of(key, state, data, *, condenser):
    return condenser.step(key, state, data)


def small(**options):
    return mtt(NET.problem, CONTAINER, **({"student_steps": 3, "expert_epochs": 2, "max_start": 2} | options))


def test_experts_are_ordinary_trainings():
    training = EpochTraining(jnp.float32(0.3), epochs=2, batch_size=5)  # three batches of four
    snapshots = expert_trajectory(KEY, NET.problem, NONE, real_batch(), training)
    for epoch in range(3):
        steps = Training(jnp.float32(0.3), "sgd", 3 * epoch, batch_size=4)
        params, _ = train(KEY, NET.problem, NONE, real_batch(), steps)
        np.testing.assert_allclose(snapshots[epoch], ravel_pytree(params)[0], atol=1e-6)
    rough = EpochTraining(jnp.float32(0.3), epochs=2, batch_size=5, augmentation=ROUGH)
    other = expert_trajectory(KEY, NET.problem, NONE, real_batch(), rough)
    np.testing.assert_array_equal(other[0], snapshots[0])
    assert np.any(other[1] != snapshots[1])


def test_a_student_that_stays_is_at_1_and_one_that_follows_at_0(x64):
    """The golden numbers."""
    data = data_of()
    condenser = small()
    state = condenser.init(KEY, variables_of(), data_of(data.experts, step_size=1e-300))
    _, info = step_of(KEY, state, data, condenser=condenser)
    assert info.distance == 1.0

    own = CONTAINER.decode(variables_of())
    training = EpochTraining(jnp.asarray(0.3), epochs=3, batch_size=100)
    followed = data_of(expert_trajectory(KEY, NET.problem, NONE, own, training)[None])
    condenser = small(student_steps=2)
    _, info = step_of(KEY, condenser.init(KEY, variables_of(), followed), followed, condenser=condenser)
    assert info.distance < 1e-20


def test_the_distance_is_relative_to_the_way_of_the_expert():
    rng = np.random.default_rng(0)
    end, start, target = ({"a": rng.normal(size=(3, 2)), "b": rng.normal(size=4)} for _ in range(3))
    flat = [np.concatenate([tree["a"].ravel(), tree["b"]]) for tree in (end, start, target)]
    expected = np.sum((flat[0] - flat[2]) ** 2) / np.sum((flat[1] - flat[2]) ** 2)
    np.testing.assert_allclose(trajectory_distance(end, start, target), expected, rtol=1e-5)


@pytest.mark.parametrize("augmentation", [None, ROUGH])
def test_a_step_goes_down_the_slope_in_pixels_and_in_the_step_size(augmentation, x64):
    condenser = small(augmentation=augmentation, batch_size=3)
    data = data_of(rate=1.0, step_size_rate=1.0, max_change=100.0)
    state = condenser.init(KEY, variables_of(), data)
    after, _ = step_of(KEY, state, data, condenser=condenser)
    slope_pixels = state.variables.pixels - after.variables.pixels
    slope_log = state.log_step_size - after.log_step_size
    direction, h = jax.random.normal(KEY, slope_pixels.shape), 1e-5

    def distance(pixels, log):
        variables = state.variables._replace(pixels=state.variables.pixels + pixels * direction)
        moved = state._replace(variables=variables, log_step_size=state.log_step_size + log)
        return step_of(KEY, moved, data, condenser=condenser)[1].distance

    difference = (distance(h, 0) - distance(-h, 0)) / (2 * h)
    np.testing.assert_allclose(jnp.vdot(slope_pixels, direction), difference, rtol=1e-6)
    np.testing.assert_allclose(slope_log, (distance(0, h) - distance(0, -h)) / (2 * h), rtol=1e-6)


def test_remat_changes_memory_and_nothing_else():
    data = data_of(rate=1.0, step_size_rate=1.0)
    state = small().init(KEY, variables_of(), data)
    results = [step_of(KEY, state, data, condenser=small(remat=remat)) for remat in (True, False)]
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), *results)

    def stored(remat, steps):
        condenser = small(remat=remat, student_steps=steps)
        compiled = jax.jit(condenser.step).lower(KEY, state, data).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    growth = {remat: stored(remat, 24) - stored(remat, 8) for remat in (True, False)}
    num_params = data.experts.shape[2]
    assert growth[True] <= 2 * 16 * 4 * (num_params + 20)  # parameters and keys of 16 more steps
    assert growth[False] > 2 * growth[True]


def test_the_step_size_stays_positive_and_changes_by_little_at_once():
    condenser = small()
    data = data_of(step_size_rate=1e9, momentum=0.9)
    state = condenser.init(KEY, variables_of(), data)
    for t in range(5):
        before, (state, info) = state, step_of(jax.random.fold_in(KEY, t), state, data, condenser=condenser)
        assert info.step_size > 0
        np.testing.assert_allclose(abs(state.log_step_size - before.log_step_size), 0.1, rtol=1e-5)
        np.testing.assert_array_equal(state.variables.pixels, before.variables.pixels)


def test_a_diverging_student_leaves_everything_as_it_was():
    condenser = small()
    data = data_of(step_size=1e30, rate=1.0, step_size_rate=1.0)
    state = condenser.init(KEY, variables_of(), data)
    after, info = step_of(KEY, state, data, condenser=condenser)
    assert info.skipped == 1
    jax.tree.map(np.testing.assert_array_equal, after, state)


def test_steps_bring_the_student_closer():
    condenser = small(max_start=1)
    data = data_of(rate=2.0, step_size_rate=0.05)
    state = condenser.init(KEY, variables_of(), data)
    distances = []
    for t in range(40):
        state, info = step_of(jax.random.fold_in(KEY, t), state, data, condenser=condenser)
        distances.append(float(info.distance))
    assert np.mean(distances[-10:]) < 0.7 * np.mean(distances[:10])
    np.testing.assert_array_equal(state.variables.labels, LABELS[:6])


TRAINING = EpochTraining(0.3, epochs=3, batch_size=4)


def train_experts(key, problem, hparams, batch, training, folder, *, num_experts, dtype="float32"):
    """The missing ones, one after the other, as a run makes them."""
    manifest = open_buffer(key, problem, hparams, batch, training, folder, num_experts=num_experts, dtype=dtype)
    for number in missing_experts(folder, num_experts):
        snapshots = expert_trajectory(jax.random.fold_in(key, number), problem, hparams, batch, training)
        save_expert(folder, number, snapshots, dtype)
    return manifest


def test_a_buffer_has_the_size_it_says_and_is_not_made_twice(tmp_path):
    folder = tmp_path / "experts"
    make = functools.partial(train_experts, KEY, NET.problem, NONE, real_batch(), TRAINING, folder)
    manifest = make(num_experts=1)
    first = (folder / "expert_0000.npy").stat()
    manifest = make(num_experts=2)
    assert (folder / "expert_0000.npy").stat() == first
    num_params = 3 * 3 * 2 + 2 + 18 * 3 + 3
    assert manifest["bytes"] == buffer_bytes(NET.problem, NONE, TRAINING, 2, "float32") == 2 * 4 * num_params * 4
    on_disk = sum(path.stat().st_size for path in folder.glob("*.npy"))
    assert on_disk == manifest["bytes"] + 2 * 128  # headers
    experts = load_experts(folder, NET.problem, NONE, [1, 0])
    assert experts.shape == (2, 4, num_params)
    alone = expert_trajectory(jax.random.fold_in(KEY, 1), NET.problem, NONE, real_batch(), TRAINING)
    np.testing.assert_array_equal(experts[0], alone)
    np.testing.assert_array_equal(load_experts(folder, NET.problem, NONE, [1], epochs=1)[0], alone[:2])


def test_half_precision_halves_the_buffer_and_the_student_reads_it(tmp_path):
    train_experts(
        KEY, NET.problem, NONE, real_batch(), TRAINING, tmp_path, num_experts=1, dtype="float16"
    )  # fmt: skip
    experts = load_experts(tmp_path, NET.problem, NONE, [0])
    assert experts.dtype == jnp.float16
    assert buffer_bytes(NET.problem, NONE, TRAINING, 1, "float16") == experts.nbytes
    condenser = small(max_start=1)
    data = data_of()._replace(experts=experts)
    state, info = step_of(KEY, condenser.init(KEY, variables_of(), data), data, condenser=condenser)
    assert np.isfinite(info.distance)
    assert state.log_step_size.dtype == jnp.float32


def test_buffers_of_something_else_are_refused(tmp_path):
    make = functools.partial(train_experts, num_experts=1)
    make(KEY, NET.problem, NONE, real_batch(), TRAINING, tmp_path)
    other_data = real_batch()._replace(inputs=real_batch().inputs + 1)
    other_training = EpochTraining(0.1, epochs=3, batch_size=4)
    for arguments, message in [
        ((KEY, OTHER.problem, NONE, real_batch(), TRAINING), "another network"),
        ((KEY, NET.problem, NONE, other_data, TRAINING), "another data"),
        ((KEY, NET.problem, NONE, real_batch(), other_training), "another learning rate"),
    ]:
        with pytest.raises(UserError, match=message):
            make(*arguments, tmp_path)
    with pytest.raises(UserError, match="another network"):
        load_experts(tmp_path, OTHER.problem, NONE, [0])
    with pytest.raises(UserError, match="lacks expert 3"):
        load_experts(tmp_path, NET.problem, NONE, [3])
    with pytest.raises(UserError, match="no expert buffer"):
        load_experts(tmp_path / "nowhere", NET.problem, NONE, [0])
    with pytest.raises(UserError, match="float32, float16"):
        make(KEY, NET.problem, NONE, real_batch(), TRAINING, tmp_path, dtype="int8")
    assert json.loads((tmp_path / "buffer.json").read_text())["experts"] == 1


def test_students_of_another_network_or_beyond_the_last_epoch_are_refused():
    data = data_of()
    with pytest.raises(UserError, match=r"of 77 parameters, the student has 114"):
        mtt(OTHER.problem, CONTAINER).init(KEY, variables_of(), data)
    with pytest.raises(UserError, match=r"ends after 4 epochs; max_start - 1 \+ expert_epochs = 21"):
        mtt(NET.problem, CONTAINER).init(KEY, variables_of(), data)
