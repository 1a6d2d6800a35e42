"""NAS-Bench-201: cells as the benchmark counts them, and its network against one written out in NumPy."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcdc_jax import spaces
from hcdc_jax.data import published_accuracies
from hcdc_jax.data.cells import EDGES, OPERATIONS, all_cells, cell_of, is_connected, number_of, signature, string_of
from hcdc_jax.errors import UserError
from hcdc_jax.models import image_problem, num_parameters, sign_agreement
from hcdc_jax.models.nas_bench_201 import size_of
from hcdc_jax.spaces import discrete_cell, one_hot, softmax_mix
from hcdc_jax.spaces.dcbench import misread, soft_weights
from hcdc_jax.types import Batch

KEY = jax.random.key(0)
SPACE = spaces.get("nas_bench_201")
NO_HPARAMS = jnp.zeros(0)
SHAPE, OPTIONS = (8, 4, 2), {"width": 2, "depth": 2}
MIXED = image_problem("nas_bench_201", SHAPE, 3, read=SPACE.read, weight_decay=0.01, **OPTIONS)
CELL = (3, 0, 2, 4, 3, 1)


def restricted(params, cell):
    """Of the parameters of a network for all cells, those of one cell's own network."""

    def stage(convolutions):
        kept = {}
        for name, leaves in convolutions.items():
            edges = [edge for edge, operation in enumerate(cell) if OPERATIONS[operation] == name]
            if edges:
                kept[name] = jax.tree.map(lambda leaf, edges=edges: leaf[:, np.array(edges)], leaves)
        return kept

    chosen = {name: stage(leaves) if name.startswith("stage_") else leaves for name, leaves in params.items()}
    return {name: leaves for name, leaves in chosen.items() if leaves}


@pytest.fixture(name="params", scope="module")
def _params():
    """Parameters that are nowhere 0 or 1."""
    rng, shapes = np.random.default_rng(0), jax.eval_shape(MIXED.init, KEY, jnp.zeros(30))
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 + 0.4 * rng.normal(size=leaf.shape), jnp.float32), shapes)


@pytest.fixture(name="batch", scope="module")
def _batch():
    return Batch(jax.random.normal(jax.random.key(1), (5, *SHAPE)), jnp.arange(5) % 3, jnp.ones(5))


def test_cells_are_numbered_as_in_the_benchmark():
    assert len(set(map(tuple, all_cells().tolist()))) == 5**6 == 15625
    # The benchmark's first three, as its files list them.
    first = [
        "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|",
        "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|",
        "|avg_pool_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|avg_pool_3x3~0|avg_pool_3x3~1|avg_pool_3x3~2|",
    ]
    assert [string_of(cell_of(number)) for number in range(3)] == first
    for number in (0, 77, 15624):
        cell = cell_of(number)
        assert cell_of(string_of(cell)) == cell_of(list(cell)) == cell
        assert number_of(cell) == number


def test_isomorphic_and_dead_cells_are_told():
    assert len({signature(cell) for cell in all_cells().tolist()}) == 6466  # printed in the paper
    assert signature(cell_of((3, 0, 2, 0, 0, 1))) == "#+#+#+((x)@nor_conv_3x3)@nor_conv_1x1"
    # Walks of the graph by powers of its adjacency matrix.
    adjacency = np.zeros((15625, 4, 4))
    for edge, (source, target) in enumerate(EDGES):
        adjacency[:, source, target] = all_cells()[:, edge] > 0
    walks = sum(np.linalg.matrix_power(adjacency, n)[:, 0, 3] for n in (1, 2, 3))
    np.testing.assert_array_equal(is_connected(all_cells()), walks > 0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (15625, "there is no cell number 15625; NAS-Bench-201 has 0 to 15624"),
        (-1, "there is no cell number -1"),
        ((1, 2), "(1, 2) is no cell: it takes 6 numbers of operations, from 0 to 4"),
        ((0, 0, 0, 0, 0, 5), "is no cell"),
        ("|none~0|", "'|none~0|' is no cell of NAS-Bench-201; write it as |op~0|+|op~0|op~1|+|op~0|op~1|op~2|"),
        ("|none~0|+|none~0|none~0|+|none~0|none~1|none~2|", "is no cell of NAS-Bench-201"),
        ("|conv~0|+|none~0|none~1|+|none~0|none~1|none~2|", "unknown operation 'conv' in the cell"),
    ],
)
def test_what_is_no_cell(given, message):
    with pytest.raises(UserError) as caught:
        one_hot([0, given])
    assert message in str(caught.value)


def test_draws_are_connected_cells_and_every_choice_is_made():
    draws = np.asarray(SPACE.sample(KEY, 5000)).reshape(-1, 6, 5)
    np.testing.assert_array_equal(draws.sum(-1), 1)
    chosen = draws.argmax(-1)
    np.testing.assert_array_equal(draws.max(-1), 1)
    assert is_connected(chosen).all()
    assert (draws.mean(0) > 0.17).all()
    assert [discrete_cell(one_hot([number])[0]) for number in (3, 400)] == [cell_of(3), cell_of(400)]


def test_the_relaxed_space_is_six_simplices():
    outside = jnp.asarray(np.random.default_rng(0).normal(size=30), jnp.float32)
    inside = np.asarray(SPACE.project(outside)).reshape(6, 5)
    np.testing.assert_allclose(inside.sum(1), 1, rtol=1e-6)
    assert (inside >= 0).all()
    # The nearest point: no other of many is nearer.
    others = np.random.default_rng(1).dirichlet(np.ones(5), (2000, 6))
    distance = np.linalg.norm(inside - np.asarray(outside).reshape(6, 5), axis=1)
    assert (np.linalg.norm(others - np.asarray(outside).reshape(6, 5), axis=2) >= distance - 1e-6).all()
    mixed = np.asarray(softmax_mix(outside)).reshape(6, 5)
    expected = np.exp(np.asarray(outside, np.float64).reshape(6, 5))
    np.testing.assert_allclose(mixed, expected / expected.sum(1, keepdims=True), rtol=1e-5)
    with pytest.raises(UserError, match="mix operations; the nearest cell is number"):
        discrete_cell(mixed.ravel())


def test_mixtures_around_cells_are_draws_of_the_concrete_distribution():
    keys = jax.random.split(KEY, 4000)
    cells = SPACE.sample(jax.random.key(1), 4000)
    assert SPACE.mixed is not None
    mixed = jax.jit(jax.vmap(SPACE.mixed, (0, 0, None)))
    found = np.asarray(mixed(keys, cells, 0.5)).reshape(-1, 6, 5)
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-5)
    assert (found > 0).all()
    np.testing.assert_array_equal(found.argmax(-1), np.asarray(cells).reshape(-1, 6, 5).argmax(-1))
    # Without their cells in sight they are softmaxes of plain Gumbel noise: the same sizes, from the largest down.
    noise = np.random.default_rng(0).gumbel(size=(24_000, 5)) / 0.5
    direct = np.exp(noise - noise.max(-1, keepdims=True))
    direct = np.sort(direct / direct.sum(-1, keepdims=True))
    np.testing.assert_allclose(np.sort(found.reshape(-1, 5)).mean(0), direct.mean(0), atol=0.004)
    # What is not the maximum is as likely on every other operation.
    others = found[:, 0][np.asarray(cells)[:, 3] == 1][:, [0, 1, 2, 4]].mean(0)
    np.testing.assert_allclose(others, others.mean(), rtol=0.15)
    assert np.quantile(np.abs(mixed(keys, cells, 1e-3) - cells), 0.99) < 1e-5


# Published: the smallest and the largest cell of the benchmark; the others follow from its operations' sizes.
CONVOLUTION_3X3, CONVOLUTION_1X1 = (243_040, 35_389_440), (28_000, 3_932_160)
SIZES = [
    ((1,) * 6, 73_306, 7_783_050),
    ((3,) * 6, 1_531_546, 220_119_690),
    (CELL, 73_306 + 2 * 243_040 + 28_000, 7_783_050 + 2 * 35_389_440 + 3_932_160),
    ((2, 4, 0, 2, 3, 0), 73_306 + 243_040 + 2 * 28_000, 7_783_050 + 35_389_440 + 2 * 3_932_160),
]


@pytest.mark.parametrize(("cell", "parameters", "flops"), SIZES)
def test_sizes_are_the_published_ones(cell, parameters, flops):
    size = size_of(np.eye(5)[list(cell)])
    assert (size.parameters, size.flops) == (parameters, flops)
    own = image_problem("nas_bench_201", (32, 32, 3), 10, cell=cell)
    assert num_parameters(jax.eval_shape(own.init, KEY, NO_HPARAMS)) == parameters


@pytest.mark.parametrize("norm", ["instance", "layer", "none"])
def test_sizes_follow_the_norm(norm):
    own = image_problem("nas_bench_201", SHAPE, 3, cell=CELL, norm=norm, **OPTIONS)
    found = num_parameters(jax.eval_shape(own.init, KEY, NO_HPARAMS))
    assert size_of(np.eye(5)[list(CELL)], SHAPE, 3, norm=norm, **OPTIONS).parameters == found


def test_logits_are_those_written_out_in_numpy(params, batch):
    mixtures = [one_hot([cell])[0] for cell in (CELL, (3, 4, 1, 0, 2, 3))]
    mixtures.append(softmax_mix(jax.random.normal(KEY, (30,))))
    apply = jax.jit(MIXED.apply)
    for hparams in mixtures:
        expected, _ = written_out(params, np.asarray(hparams).reshape(6, 5), np.asarray(batch.inputs, np.float64))
        np.testing.assert_allclose(apply(params, hparams, batch.inputs), expected, rtol=2e-4, atol=2e-4)


def test_a_cell_answers_alike_alone_and_among_others(params, batch):
    hparams = one_hot([CELL])[0]
    among = jax.jit(MIXED.apply)(params, hparams, batch.inputs)
    own = image_problem("nas_bench_201", SHAPE, 3, cell=string_of(CELL), **OPTIONS)
    alone = jax.jit(own.apply)(restricted(params, CELL), NO_HPARAMS, batch.inputs)
    np.testing.assert_allclose(among, alone, rtol=1e-5, atol=1e-5)
    beside = jax.jit(jax.vmap(MIXED.apply, (None, 0, None)))(params, one_hot([7, CELL]), batch.inputs)
    np.testing.assert_allclose(among, beside[1], rtol=1e-5, atol=1e-5)


def test_cells_are_misread_as_in_dcbench(params, batch):
    cell = (2, 1, 0, 1, 2, 1)  # without 3 x 3 convolutions and pooling: its softmax knows three operations
    chosen, other = np.exp([1, 0]) / (np.e + 2)
    weights = np.zeros((6, 5))
    weights[:, :3] = np.where(np.eye(3)[list(cell)], chosen, other)
    flaws = {"read": misread(SPACE.read, ("softmax", "narrow")), "cell_affine": False}
    flawed = image_problem("nas_bench_201", SHAPE, 3, **flaws, **OPTIONS)
    plain = {name: dict(leaves) for name, leaves in params.items()}
    for stage, operation in itertools.product(range(3), ("nor_conv_1x1", "nor_conv_3x3")):
        leaves = plain[f"stage_{stage}"][operation]
        leaves |= {"scale": jnp.ones_like(leaves["scale"]), "bias": jnp.zeros_like(leaves["bias"])}
        plain[f"stage_{stage}"][operation] = leaves
    expected, _ = written_out(plain, weights, np.asarray(batch.inputs, np.float64))
    found = jax.jit(flawed.apply)(kernels_of(params), one_hot([cell])[0], batch.inputs)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)
    wide, narrow = (soft_weights(jnp.eye(5)[np.array(CELL)], narrow=narrow) for narrow in (False, True))
    np.testing.assert_allclose(wide[0], [0.149, 0.149, 0.149, 0.405, 0.149], atol=1e-3)
    np.testing.assert_array_equal(wide, narrow)  # pooling, which is last, is there


def kernels_of(params):
    """Parameters of a network whose cells learn no scales and shifts."""

    def stage(name, leaves):
        return {op: {"kernel": own["kernel"]} for op, own in leaves.items()} if name.startswith("stage") else leaves

    return {name: stage(name, leaves) for name, leaves in params.items()}


def test_what_is_left_out_is_neither_trained_nor_asked(params, batch):
    hparams = one_hot([CELL])[0]
    of_params, of_hparams = jax.jit(jax.grad(MIXED.train_loss, (0, 1)))(params, hparams, batch)
    for stage, operation in itertools.product(range(3), ("nor_conv_1x1", "nor_conv_3x3")):
        for leaf in jax.tree.leaves(of_params[f"stage_{stage}"][operation]):
            for edge, chosen in enumerate(CELL):
                # No gradient, of the penalty neither; and a gradient wherever the operation is there.
                assert bool(np.any(leaf[:, edge])) == (OPERATIONS[chosen] == operation)
    slopes = np.asarray(of_hparams).reshape(6, 5)
    assert (slopes[:, 0] == 0).all()
    there = np.eye(5, dtype=bool)[list(CELL)]
    there[:, [1, 4]] = True  # operations without parameters answer without training
    there[:, 0] = False
    np.testing.assert_array_equal(slopes != 0, there)


def test_signs_that_images_share_are_counted_as_written_out(params, batch):
    agreement = sign_agreement("nas_bench_201", 3, read=SPACE.read, **OPTIONS)
    _, signs = written_out(params, np.eye(5)[list(CELL)], np.asarray(batch.inputs, np.float64))
    expected = (signs[:, None] == signs[None]).sum(-1)
    found = jax.jit(agreement)(params, one_hot([CELL])[0], batch.inputs)
    assert signs.shape[1] > 500
    np.testing.assert_allclose(found, expected, atol=1)  # a sign may differ where an input rounds to 0
    with pytest.raises(UserError, match="unknown network that tells the signs of its activations 'mlp'"):
        sign_agreement("mlp", 3)


def test_images_that_cannot_be_halved_twice_are_refused():
    with pytest.raises(UserError, match="halves images twice; 6 x 8 pixels are no multiples of 4"):
        image_problem("nas_bench_201", (6, 8, 3), 10)


def written_out(params, weights, images):
    """Logits [n, 3] and all that rectifiers see, [n, signs], in loops over pixels; norms of the batch."""
    params, signs = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params), []

    def rectified(x, seen=True):
        if seen:
            signs.append((x > 0).reshape(len(x), -1))
        return np.maximum(x, 0)

    def normal(x, layer):
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        return (x - mean) / np.sqrt(var + 1e-5) * layer["scale"] + layer["bias"]

    def windows(x, side, stride):
        border = side // 2
        padded = np.pad(x, ((0, 0), (border, border), (border, border), (0, 0)))
        rows, columns = range(0, x.shape[1], stride), range(0, x.shape[2], stride)
        return [[padded[:, i : i + side, j : j + side] for j in columns] for i in rows]

    def conv(x, kernel, stride=1):
        side = len(kernel)
        patches = windows(x, side, stride)
        return np.stack([np.stack([np.einsum("nijc,ijcd->nd", p, kernel) for p in row], 1) for row in patches], 1)

    def average(x):
        total, count = windows(x, 3, 1), windows(np.ones_like(x), 3, 1)
        sums = [
            [t.sum((1, 2)) / c.sum((1, 2)) for t, c in zip(*rows, strict=True)]
            for rows in zip(total, count, strict=True)
        ]
        return np.stack([np.stack(row, 1) for row in sums], 1)

    def cell(x, layers, depth):
        nodes = [x, *(np.zeros_like(x) for _ in range(3))]
        for edge, (source, target) in enumerate(EDGES):
            _, skip, one, three, pool = weights[edge]
            nodes[target] = nodes[target] + skip * nodes[source] + pool * average(nodes[source])
            for weight, name in ((one, "nor_conv_1x1"), (three, "nor_conv_3x3")):
                layer = {key: leaf[depth, edge] for key, leaf in layers[name].items()}
                if weight:
                    nodes[target] += weight * normal(conv(rectified(nodes[source]), layer["kernel"]), layer)
        return nodes[3]

    x = normal(conv(images, params["stem"]["kernel"]), params["stem"])
    for stage in range(3):
        if stage:
            layer = params[f"reduction_{stage}"]
            inner = normal(conv(rectified(x), layer["first"]["kernel"], 2), layer["first"])
            inner = normal(conv(rectified(inner), layer["second"]["kernel"]), layer["second"])
            means = (x[:, ::2] + x[:, 1::2]) / 2
            x = inner + conv((means[:, :, ::2] + means[:, :, 1::2]) / 2, layer["kernel"])
        for depth in range(OPTIONS["depth"]):
            x = cell(x, params[f"stage_{stage}"], depth)
    last = rectified(normal(x, params["norm"])).mean((1, 2))
    head = params["Head_0"]["Dense_0"]
    return last @ head["kernel"] + head["bias"], np.concatenate(signs, 1)


def write_table(folder: Path, **changes) -> Path:
    arrays = {"ops": all_cells(), "op_names": np.array(OPERATIONS, "S"), "cifar10_test_acc": np.linspace(0, 100, 15625)}
    arrays = {name: array for name, array in (arrays | changes).items() if array is not None}
    (folder / "nasbench201").mkdir()
    np.savez(folder / "nasbench201" / "nasbench201.npz", **arrays)
    return folder


def test_a_table_is_read_by_the_numbers_of_cells(tmp_path):
    accuracies = published_accuracies("cifar10", "test", data_dir=write_table(tmp_path))
    assert accuracies[number_of(cell_of(7))] == pytest.approx(700 / 15624)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ops": all_cells()[::-1]}, "does not list the 15625 cells of NAS-Bench-201 in the benchmark's order"),
        ({"op_names": np.array(OPERATIONS[::-1], "S")}, "does not list the 15625 cells"),
        ({"cifar10_test_acc": np.zeros(3)}, "cifar10_test_acc must hold 15625 numbers from 0 to 100"),
        ({"cifar10_test_acc": np.full(15625, np.nan)}, "must hold 15625 numbers from 0 to 100"),
        ({"cifar10_test_acc": np.linspace(0, 1, 15625)}, "must be in per cent"),
        ({"cifar10_test_acc": None}, "array 'cifar10_test_acc' is missing; the file holds op_names, ops"),
    ],
)
def test_tables_of_something_else_are_refused(tmp_path, changes, message):
    with pytest.raises(UserError) as caught:
        published_accuracies("cifar10", "test", data_dir=write_table(tmp_path, **changes))
    assert message in str(caught.value)


def test_a_table_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.delenv("HCDC_DATA_DIR", raising=False)
    with pytest.raises(
        UserError, match="there are no published accuracies for 'cifar10', 'train'; known are cifar10 val"
    ):
        published_accuracies("cifar10", "train")
    for folder in (None, tmp_path):
        with pytest.raises(
            UserError, match=r"read from disk only: put nasbench201/nasbench201\.npz into a folder that HCDC"
        ):
            published_accuracies("cifar10", "test", data_dir=folder)


@pytest.mark.skipif(
    not (Path(os.environ.get("HCDC_DATA_DIR", "/nowhere")) / "nasbench201" / "nasbench201.npz").exists(),
    reason="HCDC_DATA_DIR holds no nasbench201",
)
def test_the_published_table():
    best = {
        ("cifar10", "test"): 94.37, ("cifar10", "val"): 91.61, ("cifar100", "val"): 73.49, ("cifar100", "test"): 73.51,
        ("imagenet16_120", "val"): 46.73, ("imagenet16_120", "test"): 47.31,
    }  # fmt: skip
    for table, expected in best.items():
        accuracies = published_accuracies(*table)
        assert accuracies.max() == pytest.approx(expected, abs=0.006)
    with np.load(Path(os.environ["HCDC_DATA_DIR"]) / "nasbench201" / "nasbench201.npz") as file:
        strings, same = file["arch"].astype("U").tolist(), file["canonical_id"].tolist()
    assert [string_of(cell) for cell in all_cells().tolist()] == strings
    signatures = [signature(cell) for cell in all_cells().tolist()]
    assert len(set(zip(signatures, same, strict=True))) == len(set(same)) == 6466
