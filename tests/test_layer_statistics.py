"""Statistics of what layers read, against direct computation in float64; observers that make them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcdc_jax.batches.augment import Augmentation
from hcdc_jax.condense.epoch_training import EpochTraining, checksum
from hcdc_jax.condense.observers import (
    MANIFEST,
    ensemble,
    identity_of,
    load_observer,
    observer,
    save_observer,
    train_observer,
)
from hcdc_jax.condense.statistics import (
    Shown,
    emphasis,
    joined,
    order_of,
    statistics,
    statistics_of,
    statistics_of_batches,
    view_of,
    views,
)
from hcdc_jax.models import image_problem
from hcdc_jax.models.layer_inputs import LayerInputs, layer_inputs
from hcdc_jax.types import Batch
from tests.errors import error_of
from tests.small_images import blobs

pytestmark = pytest.mark.usefixtures("broadcasting")

KEY = jax.random.key(5)
SHAPE, CLASSES = (6, 6, 2), 3
IMAGES, LABELS = blobs(23, channels=2)
NET = observer("convnet:width=3,depth=1", SHAPE, CLASSES)
PARAMS = NET.problem.init(KEY, ())


def batch_of(places=slice(None)):
    labels = jnp.asarray(LABELS[places])
    return Batch(jnp.asarray(IMAGES[places] + 30, jnp.float32), labels, jnp.ones(len(labels)))


def by_hand(view, labels):
    """Mean and variance of [n, k, f], of all and of each class, with two passes in float64."""
    view = np.asarray(view, np.float64)
    groups = [view, *(view[labels == c] for c in range(CLASSES))]
    return [(group.mean((0, 1)), group.var((0, 1))) for group in groups]


def test_a_network_tells_what_its_layers_read():
    batch = batch_of()
    seen = NET.look(PARAMS, batch.inputs)
    np.testing.assert_allclose(seen.logits, NET.problem.apply(PARAMS, (), batch.inputs), rtol=1e-5)
    np.testing.assert_array_equal(seen.convolved[0], batch.inputs)
    kernel = PARAMS["Conv_0"]
    expected = jax.lax.conv_general_dilated(
        batch.inputs, kernel["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(seen.normed[0], expected + kernel["bias"], rtol=1e-3, atol=1e-3)
    resnet = layer_inputs("resnet18", 3, width=2)
    shape = (16, 16, 1)
    params = jax.eval_shape(image_problem("resnet18", shape, 3, width=2).init, KEY, ())
    shapes = jax.eval_shape(resnet, params, jnp.zeros((1, *shape)))
    assert (len(shapes.convolved), len(shapes.normed)) == (20, 20), "17 of the blocks and the stem, 3 shortcuts"


def test_statistics_are_those_of_all_numbers_at_once():
    found = statistics(NET.look, PARAMS, batch_of(), CLASSES, batch_size=5)
    for view, moments in zip(views(NET.look(PARAMS, batch_of().inputs)), found, strict=True):
        (mean, variance), *classes = by_hand(view, LABELS)
        np.testing.assert_allclose(moments.whole.mean, mean, rtol=1e-5)
        np.testing.assert_allclose(moments.whole.variance, variance, rtol=1e-4)  # 30 is 60 standard deviations
        for c, (mean, variance) in enumerate(classes):
            np.testing.assert_allclose(moments.classes.mean[c], mean, rtol=1e-5)
            np.testing.assert_allclose(moments.classes.variance[c], variance, rtol=1e-4)
        np.testing.assert_array_equal(moments.classes.weight, np.bincount(LABELS))
        assert moments.whole.weight == len(LABELS)


def test_neither_the_order_nor_the_size_of_batches_matters():
    found = statistics(NET.look, PARAMS, batch_of(), CLASSES, batch_size=5)
    order = np.random.default_rng(0).permutation(len(LABELS))
    total = None
    of_batch = jax.jit(statistics_of, static_argnums=3)
    for places in np.split(order, [1, 12]):
        batch = batch_of(places)
        part = of_batch(NET.look(PARAMS, batch.inputs), batch.labels, batch.weights, CLASSES)
        total = part if total is None else joined(total, part)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4), total, found)


def test_the_codes_variances_leave_out_what_lies_between_images_and_batches():
    found = statistics(NET.look, PARAMS, batch_of(), CLASSES, mode="code", batch_size=5)
    seen = views(NET.look(PARAMS, batch_of().inputs))
    for view, moments in zip(seen, found, strict=True):
        view = np.asarray(view, np.float64)
        parts = [view[i : i + 5] for i in range(0, 23, 5)]
        within = np.average([part.var((0, 1)) for part in parts], axis=0, weights=[len(part) for part in parts])
        np.testing.assert_allclose(moments.whole.variance, within, rtol=1e-4)
        np.testing.assert_allclose(moments.whole.mean, view.mean((0, 1)), rtol=1e-5)
        np.testing.assert_allclose(moments.classes.variance[1], view[LABELS == 1].var(1).mean(0), rtol=1e-4)
    paper = statistics(NET.look, PARAMS, batch_of(), CLASSES, batch_size=5)
    assert (found[0].classes.variance < paper[0].classes.variance).all()


def test_patches_are_counted_row_by_row():
    levels = np.arange(4.0).reshape(1, 2, 2, 1)
    images = np.kron(levels, np.ones((1, 4, 4, 3)))
    _, patches = views(LayerInputs(jnp.zeros((1, 2)), (jnp.asarray(images),), ()))
    np.testing.assert_array_equal(patches.mean(1)[0], [0, 1, 2, 3])
    np.testing.assert_allclose(patches.var(1)[0], 0, atol=1e-6)
    odd = views(LayerInputs(jnp.zeros((1, 2)), (jnp.ones((2, 7, 3, 5)),), ()))
    assert odd[1].shape == (2, 4 * 4 * 5, 2 * 1)


def test_the_first_layer_counts_more():
    seen = NET.look(PARAMS, batch_of().inputs)
    np.testing.assert_array_equal(emphasis(seen, 10.0), [10, 10, 10])
    two = LayerInputs(seen.logits, seen.convolved * 2, seen.normed * 2)
    np.testing.assert_array_equal(emphasis(two, 10.0), [10, 1, 10, 10, 1, 1])


def test_in_mode_code_the_first_convolution_alone_counts_more():
    seen = NET.look(PARAMS, batch_of().inputs)
    np.testing.assert_array_equal(emphasis(seen, 10.0, "code"), [1, 10, 10])
    two = LayerInputs(seen.logits, seen.convolved * 2, seen.normed * 2)
    np.testing.assert_array_equal(emphasis(two, 10.0, "code"), [1, 1, 10, 10, 1, 1])


SHIFTED = Augmentation(("crop", "flip"), crop=1 / 3, acting="all")


def test_images_are_measured_as_they_are_shown():
    """Each is one of the 2 x 5 x 5 mirrored and shifted copies of itself; statistics are those of these copies."""
    batch = batch_of()
    shown, places = Shown(KEY, SHIFTED), jnp.arange(23)
    copies = []
    for image, seen in zip(batch.inputs, view_of(shown, batch.inputs, places), strict=True):
        padded = np.pad(np.asarray(image), ((2, 2), (2, 2), (0, 0)))
        windows = [(padded[i : i + 6, j : j + 6], (i, j)) for i in range(5) for j in range(5)]
        ways = [(window[:, ::step], (step, *place)) for window, place in windows for step in (1, -1)]
        distance, way = min((np.abs(candidate - seen).max(), way) for candidate, way in ways)
        assert distance < 1e-4
        copies.append((next(candidate for candidate, other in ways if other == way), way))
    ways = [way for _, way in copies]
    assert {step for step, _, _ in ways} == {1, -1}
    assert any(step == -1 and (i, j) != (2, 2) for step, i, j in ways), "shifted and mirrored at once"

    images = jnp.asarray(np.stack([copy for copy, _ in copies]), jnp.float32)
    found = statistics(NET.look, PARAMS, batch, CLASSES, mode="code", batch_size=5, shown=shown)
    order = np.asarray(order_of(shown, 23))
    assert sorted(order) == list(range(23))
    assert (order != np.arange(23)).any()
    plain = statistics(NET.look, PARAMS, batch, CLASSES, mode="code", batch_size=5)
    for view, moments, other in zip(views(NET.look(PARAMS, images)), found, plain, strict=True):
        view = np.asarray(view, np.float64)
        parts = [view[order[i : i + 5]] for i in range(0, 23, 5)]
        within = np.average([part.var((0, 1)) for part in parts], axis=0, weights=[len(part) for part in parts])
        np.testing.assert_allclose(moments.whole.variance, within, rtol=1e-3)
        np.testing.assert_allclose(moments.whole.mean, view.mean((0, 1)), rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(moments.classes.variance[1], view[LABELS == 1].var(1).mean(0), rtol=1e-3)
        assert (np.abs(moments.whole.mean / other.whole.mean - 1) > 0.05).all(), "borders are dark"
    batches = [batch_of(order[i : i + 5]) for i in range(0, 23, 5)]
    seen = [
        one._replace(inputs=view_of(shown, one.inputs, jnp.asarray(order[i : i + 5])))
        for i, one in zip(range(0, 23, 5), batches, strict=True)
    ]
    streamed = statistics_of_batches(NET.look, PARAMS, seen, CLASSES, mode="code")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), streamed, found)


def test_a_class_without_images_leaves_no_nan():
    batch = batch_of(LABELS != 2)
    found = statistics(NET.look, PARAMS, batch, CLASSES)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    assert found[0].classes.weight[2] == 0


def test_observers_are_kept_and_recognised(tmp_path):
    training = EpochTraining(0.1, epochs=4, batch_size=8, augmentation=Augmentation(("crop",)))
    real = batch_of()._replace(inputs=batch_of().inputs - 30)
    made_by = identity_of(KEY, NET, checksum(real), training)
    assert load_observer(tmp_path, 0, made_by) is None
    params = train_observer(KEY, NET, real, training)
    assert NET.problem.val_loss(params, (), real) < NET.problem.val_loss(PARAMS, (), real)
    save_observer(tmp_path, 0, params, made_by, seconds=1.5)
    loaded, entry = load_observer(tmp_path, 0, made_by)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    assert entry["seconds"] == 1.5

    other = batch_of()
    for changed, what in [
        (identity_of(KEY, NET, checksum(other), training), "another data"),
        (
            identity_of(KEY, observer("convnet:width=2,depth=1", SHAPE, CLASSES), checksum(real), training),
            "another observer",
        ),
        (identity_of(KEY, NET, checksum(real), EpochTraining(0.1, epochs=3, batch_size=8)), "another epochs"),
    ]:
        assert what in error_of(lambda changed=changed: load_observer(tmp_path, 0, changed))
    path = tmp_path / "observer_00.npz"
    path.write_bytes(path.read_bytes()[:-20])
    assert "missing or not what was written" in error_of(lambda: load_observer(tmp_path, 0, made_by))
    (tmp_path / MANIFEST).write_text("{")
    assert "cannot be read" in error_of(lambda: load_observer(tmp_path, 0, made_by))


def test_an_ensemble_says_the_mean_of_logits():
    nets = [NET, observer("convnet:width=2,depth=2", SHAPE, CLASSES)]
    together = ensemble(tuple(net.problem for net in nets))
    params = together.init(KEY, ())
    inputs = batch_of().inputs
    said = [net.problem.apply(one, (), inputs) for net, one in zip(nets, params, strict=True)]
    np.testing.assert_allclose(together.apply(params, (), inputs), (said[0] + said[1]) / 2, rtol=1e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("convnett", "observer 'convnett': unknown image network 'convnett'; did you mean 'convnet'"),
        ("convnet:widht=3", "unknown option of convnet 'widht'; did you mean 'width'?"),
        ("convnet:width=0", "width must be at least 1, not 0"),
        ("convnet:precision=best", "unknown precision 'best'"),
        ("convnet:width=wide", "observer 'convnet:width=wide': width must be a whole number, not 'wide'"),
        ("convnet:depth=3", "the images are too small"),
        ("mlp", "the network 'mlp' has no convolution"),
    ],
)
def test_observers_that_cannot_be_are_refused(text, message):
    assert message in error_of(lambda: observer(text, SHAPE, CLASSES))
