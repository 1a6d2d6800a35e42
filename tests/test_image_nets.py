"""Image networks: sizes, PyTorch's initialisation, forward passes written out in NumPy, and what JAX does to them."""

from __future__ import annotations

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from hcdc_jax.errors import UserError
from hcdc_jax.models import (
    ImageSetting,
    image_embedding,
    image_net,
    image_net_options,
    image_nets,
    image_problem,
    num_parameters,
)
from hcdc_jax.models.convnext import ConvNeXtBlock
from hcdc_jax.models.deep_nets import Bottleneck, DenseLayer
from hcdc_jax.models.image_layers import (
    ACTIVATIONS,
    NORMS,
    Norm,
    affine_shape,
    as_product,
    as_shifted_sum,
    bordered,
    normalised,
    normalised_planes,
    overlapping_maximum,
    pool,
)
from hcdc_jax.models.layer_inputs import layer_inputs
from hcdc_jax.models.mobile_nets import InvertedResidual, ShuffleBlock
from hcdc_jax.models.swin import SwinBlock
from hcdc_jax.models.vit import Attention
from hcdc_jax.models.wide_resnet import PreactivationBlock
from hcdc_jax.types import Batch

KEY = jax.random.key(0)
NO_HPARAMS = jnp.zeros(0)
# Small versions on small images; those without options are as wide as they are. The norm of the single image over the
# 2 x 2 pixels that two of them end with would blow rounding up over 50 layers, to a tenth of the slopes.
SMALL = {
    "convnet": ((8, 8, 1), {"width": 4, "depth": 2}),
    "mlp": ((5, 4, 2), {"width": 6}),
    "residual_mlp": ((3, 2, 2), {"width": 6, "depth": 1}),
    "lenet": ((16, 16, 1), {}),
    "alexnet": ((8, 8, 1), {}),
    "vgg11": ((32, 32, 1), {}),
    "resnet18": ((16, 16, 1), {}),
    "wrn16": ((8, 8, 1), {"width_factor": 1}),
    "mobilenetv2": ((16, 16, 1), {"width": 4, "norm": "group"}),
    "shufflenetv2": ((16, 16, 1), {"width": 8, "norm": "group"}),
    "resnet50": ((16, 16, 1), {"width": 4, "depth": 1, "norm": "group"}),
    "densenet121": ((16, 16, 1), {"width": 4, "depth": 1}),
    "efficientnet_b0": ((16, 16, 1), {"width": 4, "depth": 1, "norm": "group"}),
    "convnext_tiny": ((16, 16, 1), {"width": 4, "depth": 1}),
    "vit": ((8, 8, 1), {"width": 8, "depth": 1, "heads": 2, "mlp_width": 12}),
    "deit_tiny": ((8, 8, 1), {"width": 6, "depth": 1, "heads": 2}),
    "swin_tiny": ((16, 16, 1), {"width": 4, "depth": 1, "heads": 1}),
    "nas_bench_201": ((4, 4, 1), {"width": 2, "depth": 1}),
}
# The others are large or deep whatever their options, and made of the same layers.
QUICK = ["convnet", "mlp", "vit"]
DEEP = ["wrn16", "mobilenetv2", "shufflenetv2"]
ACROSS = ["resnet50", "densenet121", "efficientnet_b0", "convnext_tiny", "deit_tiny", "swin_tiny"]
LARGE = ["lenet", "alexnet", "vgg11", "resnet18", *DEEP, "resnet50", "swin_tiny"]
ALL = QUICK + [pytest.param(name, marks=pytest.mark.slow) for name in LARGE]


def shapes_of(name, image_shape=(32, 32, 3), num_classes=10, **options):
    return jax.eval_shape(image_problem(name, image_shape, num_classes, **options).init, KEY, NO_HPARAMS)


@functools.cache
def small(name):
    """A small problem, parameters that are nowhere 0, and a batch of six images in three classes."""
    shape, options = SMALL[name]
    problem = image_problem(name, shape, 3, **options)
    params = jax.jit(problem.init)(KEY, NO_HPARAMS)
    images = jax.random.normal(jax.random.fold_in(KEY, 1), (6, *shape))
    return problem, params, Batch(images, jnp.arange(6) % 3, jnp.arange(1.0, 7.0))


def conv_size(inputs, outputs, side, bias=True):
    return side * side * inputs * outputs + bias * outputs


def linear_size(inputs, outputs):
    return inputs * outputs + outputs


def convnet_size(num_classes, channels=3, width=128, depth=3, side=32, norm=2):
    blocks = sum(conv_size(channels if d == 0 else width, width, 3) + norm * width for d in range(depth))
    return blocks + linear_size(width * (side // 2**depth) ** 2, num_classes)


def vgg11_size(num_classes):
    widths = [3, 64, 128, 256, 256, 512, 512, 512, 512]
    convs = sum(conv_size(a, b, 3) + 2 * b for a, b in itertools.pairwise(widths))
    return convs + linear_size(512, num_classes)


def resnet18_size(num_classes):
    total = conv_size(3, 64, 3, bias=False) + 2 * 64
    for before, width in ((64, 64), (64, 128), (128, 256), (256, 512)):
        shortcut = 0 if before == width else conv_size(before, width, 1, bias=False) + 2 * width
        convs = conv_size(before, width, 3, bias=False) + 3 * conv_size(width, width, 3, bias=False)
        total += convs + 4 * 2 * width + shortcut
    return total + linear_size(512, num_classes)


def vit_size(num_classes, width=128, depth=6, mlp=256, tokens=64, patch=48):
    block = 2 * 2 * width + linear_size(width, 3 * width) + linear_size(width, width)
    block += linear_size(width, mlp) + linear_size(mlp, width)
    return linear_size(patch, width) + tokens * width + depth * block + 2 * width + linear_size(width, num_classes)


def plain_size(inputs, outputs, side):
    """A convolution without bias, and the norm that goes with it."""
    return conv_size(inputs, outputs, side, bias=False) + 2 * outputs


def depthwise_size(channels):
    return 9 * channels + 2 * channels


def wrn16_size(num_classes, factor=2):
    # A block's norms stand before its convolutions: of what it reads, and of what its first one gives.
    total, before = conv_size(3, 16, 3, bias=False), 16
    for width in (16 * factor, 32 * factor, 64 * factor):
        total += 2 * before + plain_size(before, width, 3) + conv_size(width, width, 3, bias=False)
        total += 0 if before == width else conv_size(before, width, 1, bias=False)
        total += 2 * width + plain_size(width, width, 3) + conv_size(width, width, 3, bias=False)
        before = width
    return total + 2 * before + linear_size(before, num_classes)


def mobilenetv2_size(num_classes, widths=(32, 16, 24, 32, 64, 96, 160, 320), last=1280):
    total = plain_size(3, widths[0], 3) + depthwise_size(widths[0]) + plain_size(widths[0], widths[1], 1)
    for before, width, blocks in zip(widths[1:], widths[2:], (2, 3, 4, 3, 3, 1), strict=False):
        for inputs in (before, *[width] * (blocks - 1)):
            total += plain_size(inputs, 6 * inputs, 1) + depthwise_size(6 * inputs) + plain_size(6 * inputs, width, 1)
    return total + plain_size(widths[-1], last, 1) + linear_size(last, num_classes)


def shufflenetv2_size(num_classes, width=48):
    total, before = plain_size(3, 24, 3), 24
    for stage, blocks in enumerate((4, 8, 4)):
        half = 2**stage * width // 2
        total += depthwise_size(before) + plain_size(before, half, 1)
        total += plain_size(before, half, 1) + depthwise_size(half) + plain_size(half, half, 1)
        total += (blocks - 1) * (2 * plain_size(half, half, 1) + depthwise_size(half))
        before = 2 * half
    return total + plain_size(before, 1024, 1) + linear_size(1024, num_classes)


ALEXNET = [(3, 128, 5), (128, 192, 5), (192, 256, 3), (256, 192, 3), (192, 192, 3)]
# Counted layer by layer here; where a number is printed in the literature, that number too.
SIZES = [
    ("convnet", {}, 10, 320_010, convnet_size(10)),
    ("convnet", {}, 100, 504_420, convnet_size(100)),
    ("convnet", {"width": 32, "depth": 4}, 10, None, convnet_size(10, width=32, depth=4)),
    ("convnet", {"norm": "none"}, 10, None, convnet_size(10, norm=0)),
    ("convnet", {"norm": "group"}, 10, 320_010, convnet_size(10)),
    ("convnet", {"norm": "batch"}, 10, 320_010, convnet_size(10)),
    ("convnet", {"norm": "layer"}, 10, None, convnet_size(10, norm=0) + 2 * 128 * (32**2 + 16**2 + 8**2)),
    ("convnet", {"pooling": "none"}, 10, None, convnet_size(10) + 10 * 128 * (32**2 - 4**2)),
    ("mlp", {}, 10, None, linear_size(3072, 128) + linear_size(128, 128) + linear_size(128, 10)),
    (
        "residual_mlp", {"width": 8, "depth": 2}, 10, None,
        linear_size(3072, 8) + 2 * (16 + linear_size(8, 16) + linear_size(16, 8)) + 16 + linear_size(8, 10),
    ),
    (
        "lenet", {}, 10, 62_006,
        conv_size(3, 6, 5) + conv_size(6, 16, 5) + linear_size(400, 120) + linear_size(120, 84) + linear_size(84, 10),
    ),
    ("alexnet", {}, 10, None, sum(conv_size(*layer) for layer in ALEXNET) + linear_size(192 * 16, 10)),
    ("vgg11", {}, 10, 9_231_114, vgg11_size(10)),
    ("resnet18", {}, 10, 11_173_962, resnet18_size(10)),
    ("resnet18", {}, 100, 11_220_132, resnet18_size(100)),
    ("wrn16", {}, 10, None, wrn16_size(10)),
    ("wrn16", {}, 100, 703_284, wrn16_size(100)),
    ("wrn16", {"width_factor": 1}, 10, None, wrn16_size(10, 1)),
    ("mobilenetv2", {}, 10, None, mobilenetv2_size(10)),
    ("mobilenetv2", {}, 1000, 3_504_872, mobilenetv2_size(1000)),
    ("mobilenetv2", {"width": 16}, 1000, None, mobilenetv2_size(1000, (16, 8, 16, 16, 32, 48, 80, 160))),
    ("shufflenetv2", {}, 10, None, shufflenetv2_size(10)),
    ("shufflenetv2", {}, 1000, 1_366_792, shufflenetv2_size(1000)),
    ("shufflenetv2", {"width": 116}, 1000, 2_278_604, shufflenetv2_size(1000, 116)),
    ("vit", {}, 10, None, vit_size(10)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "num_classes", "published", "counted"), SIZES)
def test_number_of_parameters(name, options, num_classes, published, counted):
    found = num_parameters(shapes_of(name, num_classes=num_classes, **options))
    assert found == counted
    assert published in (None, found)


# Of the networks in ImageNet's tables, at 224 pixels and for 1,000 classes, as PyTorch's public models print them.
IMAGENET = {
    "resnet18": 11_689_512, "resnet50": 25_557_032, "densenet121": 7_978_856, "efficientnet_b0": 5_288_548,
    "convnext_tiny": 28_589_128, "deit_tiny": 5_717_416, "swin_tiny": 28_288_354,
}  # fmt: skip


@pytest.mark.parametrize("name", IMAGENET)
def test_networks_for_imagenet_have_the_published_number_of_parameters(name):
    assert num_parameters(shapes_of(name, (224, 224, 3), 1000)) == IMAGENET[name]


@pytest.mark.parametrize("name", ["mobilenetv2", "shufflenetv2", "efficientnet_b0"])
def test_networks_for_phones_leave_7_pixels_of_224_as_published(name):
    for side, left in ((224, 7), (32, 4)):
        shape = (side, side, 3)
        seen = jax.eval_shape(layer_inputs(name, 3), shapes_of(name, shape, 3), jnp.zeros((1, *shape)))
        assert seen.normed[-1].shape[1] == left


@pytest.mark.parametrize(
    ("name", "at_32"),
    [
        # The stem's kernel, 7 x 7 or 3 x 3; positions of 14 x 14 or 8 x 8 patches, embeddings of 16 x 16 or 4 x 4.
        ("resnet50", (49 - 9) * 3 * 64),
        ("deit_tiny", (196 - 64) * 192 + (256 - 16) * 3 * 192),
        # Embedding, and the offsets in windows of 7 or 4, in the last stage 2, for each head.
        (
            "swin_tiny",
            (16 - 4) * 3 * 96 + (13**2 - 7**2) * (2 * 3 + 2 * 6 + 6 * 12) + (13**2 - 3**2) * 2 * 24,
        ),
    ],
)  # fmt: skip
def test_on_small_images_they_lose_what_is_made_for_large_ones(name, at_32):
    assert num_parameters(shapes_of(name, num_classes=1000)) == IMAGENET[name] - at_32


def test_images_of_28_pixels_are_treated_as_32():
    for name in ("convnet", "lenet", "alexnet", "vgg11", "resnet18"):
        assert num_parameters(shapes_of(name, (28, 28, 1))) == num_parameters(shapes_of(name, (32, 32, 1)))
    assert num_parameters(shapes_of("lenet", (28, 28, 1))) == 61_706
    images = np.random.default_rng(0).normal(size=(2, 28, 28, 1))
    framed = np.asarray(bordered(jnp.asarray(images)))
    np.testing.assert_array_equal(framed[:, 2:30, 2:30], images.astype(np.float32))
    assert np.abs(framed).sum() == pytest.approx(np.abs(images).sum(), rel=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_initialisation_is_that_of_pytorch(name):
    """Kernels and biases are uniform in +-1 / sqrt(fan_in), norms start at 1 and 0."""
    shape, options = ((32, 32, 3), {"depth": 2}) if name in ("convnet", "mlp") else SMALL[name]
    params = jax.jit(image_problem(name, shape, 10, **options).init)(KEY, NO_HPARAMS)
    layers = {}
    for path, leaf in jax.tree.leaves_with_path(params):
        *place, kind = (entry.key for entry in path)
        layers.setdefault(tuple(place), {})[kind] = np.asarray(leaf)
    biases = []
    for place, layer in layers.items():
        if "kernel" in layer:
            kernel = layer["kernel"]
            bound = math.prod(kernel.shape[:-1]) ** -0.5
            assert np.abs(kernel).max() <= bound
            # The variance of a uniform distribution, within five standard errors.
            assert kernel.var() == pytest.approx(bound**2 / 3, rel=5 * math.sqrt(0.8 / kernel.size)), place
            assert abs(kernel.mean()) < 5 * bound / math.sqrt(3 * kernel.size)
            if "bias" in layer:
                assert np.abs(layer["bias"]).max() <= bound
                biases.append(layer["bias"] / bound)
        elif "scale" in layer:
            assert (layer["scale"] == 1).all()
            assert (layer["bias"] == 0).all()
    biases = np.concatenate(biases)
    assert biases.var() == pytest.approx(1 / 3, rel=5 * math.sqrt(0.8 / biases.size))


# Forward passes -------------------------------------------------------------------------------------------------------


def conv_by_hand(images, layer, padding):
    kernel, side = np.asarray(layer["kernel"], np.float64), layer["kernel"].shape[0]
    padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rows, columns = padded.shape[1] - side + 1, padded.shape[2] - side + 1
    result = np.zeros((len(images), rows, columns, kernel.shape[-1]))
    for i in range(side):
        for j in range(side):
            result += padded[:, i : i + rows, j : j + columns] @ kernel[i, j]
    return result + (np.asarray(layer["bias"], np.float64) if "bias" in layer else 0.0)


def norm_by_hand(images, layer, kind):
    n, height, width, channels = images.shape
    if kind == "none":
        return images
    if kind == "affine":
        return images * np.asarray(layer["scale"]) + np.asarray(layer["bias"])
    if kind == "batch":
        mean, var = images.mean((0, 1, 2)), images.var((0, 1, 2))
    else:
        groups = {"instance": channels, "group": 4, "layer": 1}[kind]
        parts = images.reshape(n, height, width, groups, -1)
        mean, var = (
            np.repeat(statistic, channels // groups, axis=-1)[:, None, None, :]
            for statistic in (parts.mean((1, 2, 4)), parts.var((1, 2, 4)))
        )
    return (images - mean) / np.sqrt(var + 1e-5) * np.asarray(layer["scale"]) + np.asarray(layer["bias"])


def pool_by_hand(images, kind):
    corners = np.stack(
        [images[:, i::2, j::2][:, : images.shape[1] // 2, : images.shape[2] // 2] for i in (0, 1) for j in (0, 1)]
    )
    return {"average": corners.mean(0), "max": corners.max(0)}[kind] if kind != "none" else images


@jax.jit
def stirred(params):
    """Parameters moved a little, so that norms scale and shift."""
    vector, unravel = ravel_pytree(params)
    return unravel(vector + 0.1 * jax.random.normal(KEY, vector.shape))


@pytest.mark.parametrize(
    ("norm", "pooling"), [(norm, "average") for norm in NORMS] + [("instance", "max"), ("none", "none")]
)
def test_convnet_is_the_formula(norm, pooling):
    shape = (5, 5, 2) if pooling == "none" else (9, 8, 2)
    problem = image_problem("convnet", shape, 3, width=8, depth=2, norm=norm, pooling=pooling, activation="leaky_relu")
    params = stirred(jax.jit(problem.init)(KEY, NO_HPARAMS))
    images = np.random.default_rng(1).normal(size=(4, *shape))
    hidden = images
    for block in range(2):
        hidden = conv_by_hand(hidden, params[f"Conv_{block}"], 1)
        hidden = norm_by_hand(hidden, params.get(f"Norm_{block}"), norm)
        hidden = pool_by_hand(np.where(hidden > 0, hidden, 0.01 * hidden), pooling)
    layer = params["Head_0"]["Dense_0"]
    features = hidden.reshape(4, -1)
    expected = features @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"])
    inputs = jnp.asarray(images, jnp.float32)
    np.testing.assert_allclose(jax.jit(problem.apply)(params, NO_HPARAMS, inputs), expected, atol=2e-5)
    embed = image_embedding("convnet", 3, width=8, depth=2, norm=norm, pooling=pooling, activation="leaky_relu")
    np.testing.assert_allclose(jax.jit(embed)(params, NO_HPARAMS, inputs), features, atol=2e-5)


def depthwise_by_hand(images, layer):
    kernel, (n, height, width, channels) = np.asarray(layer["kernel"], np.float64), images.shape
    padded, result = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0))), np.zeros((n, height, width, channels))
    for row, column, channel in np.ndindex(height, width, channels):
        seen = padded[:, row : row + 3, column : column + 3, channel]
        result[:, row, column, channel] = (seen * kernel[:, :, 0, channel]).sum((1, 2))
    return result


def block_on(block, channels):
    """Six by six pixels, parameters that are nowhere 0, and what a block makes of the one with the other."""
    images = np.random.default_rng(1).normal(size=(3, 6, 6, channels))
    inputs = jnp.asarray(images, jnp.float32)
    params = stirred(jax.jit(block.init)(KEY, inputs)["params"])
    return images, params, jax.jit(block.apply)({"params": params}, inputs)


def normed_by_hand(hidden, params, number):
    return norm_by_hand(hidden, params[f"Norm_{number}"], "instance")


@pytest.mark.parametrize(("width", "stride"), [(4, 1), (6, 1), (4, 2)])
def test_preactivation_block_is_the_formula(width, stride):
    images, params, found = block_on(PreactivationBlock(width, stride, "instance", "relu", "highest"), 4)
    ready = np.maximum(normed_by_hand(images, params, 0), 0)
    hidden = conv_by_hand(ready, params["Conv_0"], 1)[:, ::stride, ::stride]
    hidden = conv_by_hand(np.maximum(normed_by_hand(hidden, params, 1), 0), params["Conv_1"], 1)
    same = width == 4 and stride == 1
    shortcut = images if same else conv_by_hand(ready, params["Conv_2"], 0)[:, ::stride, ::stride]
    np.testing.assert_allclose(found, hidden + shortcut, atol=2e-5)


@pytest.mark.parametrize(("width", "stride", "expansion"), [(4, 1, 3), (6, 1, 3), (4, 2, 3), (4, 1, 1)])
def test_inverted_residual_is_the_formula(width, stride, expansion):
    block = InvertedResidual(width, stride, expansion, "instance", "relu6", "highest")
    images, params, found = block_on(block, 4)
    hidden, number = images, 0
    if expansion != 1:
        hidden, number = conv_by_hand(images, params["Conv_0"], 0), 1
        assert hidden.shape[-1] == 12
        hidden = np.clip(normed_by_hand(hidden, params, 0), 0, 6)
    hidden = depthwise_by_hand(hidden, params[f"Conv_{number}"])[:, ::stride, ::stride]
    hidden = np.clip(normed_by_hand(hidden, params, number), 0, 6)
    hidden = normed_by_hand(conv_by_hand(hidden, params[f"Conv_{number + 1}"], 0), params, number + 1)
    shortcut = images if (width, stride) == (4, 1) else 0
    np.testing.assert_allclose(found, shortcut + hidden, atol=2e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_shuffle_block_is_the_formula(stride):
    width = 6 if stride == 1 else 10
    images, params, found = block_on(ShuffleBlock(width, stride, "instance", "relu", "highest"), 6)
    numbers = itertools.count()

    def mixed(hidden):
        number = next(numbers)
        return np.maximum(normed_by_hand(conv_by_hand(hidden, params[f"Conv_{number}"], 0), params, number), 0)

    def spread(hidden):
        number = next(numbers)
        hidden = depthwise_by_hand(hidden, params[f"Conv_{number}"])[:, ::stride, ::stride]
        return normed_by_hand(hidden, params, number)

    left = images[..., :3] if stride == 1 else mixed(spread(images))
    right = mixed(spread(mixed(images[..., 3:] if stride == 1 else images)))
    expected = np.zeros(found.shape)
    expected[..., ::2], expected[..., 1::2] = left, right
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_mapped_slopes_of_a_block_are_finite_and_those_of_a_loop():
    block = InvertedResidual(4, 2, 2, "instance", "relu", "highest")
    images = jax.random.normal(KEY, (3, 4, 4, 4))
    params = jax.jit(block.init)(KEY, images)
    networks = [params, jax.tree.map(lambda leaf: -0.7 * np.asarray(leaf), params)]
    slopes = jax.grad(lambda params: jnp.sin(block.apply(params, images)).sum())
    one = jax.jit(slopes)
    mapped = jax.jit(jax.vmap(slopes))(jax.tree.map(lambda *leaves: np.stack(leaves), *networks))
    for i, network in enumerate(networks):
        for together, alone in zip(jax.tree.leaves(mapped), jax.tree.leaves(one(network)), strict=True):
            assert np.isfinite(alone).all()
            np.testing.assert_allclose(np.asarray(together)[i], alone, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "convolutions", "halvings"),
    [
        ("wrn16", 16, 2), ("mobilenetv2", 52, 3), ("shufflenetv2", 56, 3), ("resnet50", 53, 3),
        ("efficientnet_b0", 49, 3),
    ],
)  # fmt: skip
def test_deep_networks_have_the_layers_of_their_papers_and_tell_what_they_read(name, convolutions, halvings):
    seen = jax.eval_shape(layer_inputs(name, 10), shapes_of(name, (28, 28, 3)), jnp.zeros((2, 28, 28, 3)))
    assert len(seen.convolved) == convolutions
    assert seen.convolved[0].shape == (2, 32, 32, 3), "with a border"
    sides = [read.shape[1] for read in seen.normed]
    assert sorted(set(sides), reverse=True) == [32 // 2**i for i in range(halvings + 1)]
    assert sides[-1] == 32 // 2**halvings


@pytest.mark.slow
@pytest.mark.parametrize("name", [*DEEP, "densenet121", "convnext_tiny"])
def test_deep_networks_look_at_each_image_by_itself(name):
    problem, params, batch = small(name)
    order, logits = np.array([3, 1, 0, 5, 2, 4]), jax.jit(problem.apply)
    found = logits(params, NO_HPARAMS, batch.inputs[order])
    np.testing.assert_allclose(found, logits(params, NO_HPARAMS, batch.inputs)[order], atol=1e-4)


def test_residual_block_is_the_formula():
    from hcdc_jax.models.image_nets import ResidualBlock

    images, params, found = block_on(ResidualBlock(8, 2, "group", "relu", "highest"), 4)
    hidden = np.maximum(
        norm_by_hand(conv_by_hand(images, params["Conv_0"], 1)[:, ::2, ::2], params["Norm_0"], "group"), 0
    )
    hidden = norm_by_hand(conv_by_hand(hidden, params["Conv_1"], 1), params["Norm_1"], "group")
    shortcut = norm_by_hand(conv_by_hand(images, params["Conv_2"], 0)[:, ::2, ::2], params["Norm_2"], "group")
    np.testing.assert_allclose(found, np.maximum(hidden + shortcut, 0), atol=2e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_bottleneck_is_the_formula(stride):
    images, params, found = block_on(Bottleneck(4, stride, "group", "relu", "highest"), 16)
    hidden = norm_by_hand(conv_by_hand(images, params["Conv_0"], 0), params["Norm_0"], "group")
    hidden = conv_by_hand(np.maximum(hidden, 0), params["Conv_1"], 1)[:, ::stride, ::stride]
    hidden = np.maximum(norm_by_hand(hidden, params["Norm_1"], "group"), 0)
    hidden = norm_by_hand(conv_by_hand(hidden, params["Conv_2"], 0), params["Norm_2"], "group")
    if stride == 2:
        images = norm_by_hand(conv_by_hand(images, params["Conv_3"], 0)[:, ::2, ::2], params["Norm_3"], "group")
    np.testing.assert_allclose(found, np.maximum(hidden + images, 0), atol=2e-5)


def test_dense_layer_is_the_formula():
    images, params, found = block_on(DenseLayer(4, "group", "relu", "highest"), 8)
    hidden = np.maximum(norm_by_hand(images, params["Norm_0"], "group"), 0)
    hidden = norm_by_hand(conv_by_hand(hidden, params["Conv_0"], 0), params["Norm_1"], "group")
    hidden = conv_by_hand(np.maximum(hidden, 0), params["Conv_1"], 1)
    np.testing.assert_allclose(found, np.concatenate([images, hidden], -1), atol=2e-5)


def dense_by_hand(inputs, layer):
    return inputs @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"], np.float64)


def test_squeezed_residual_is_the_formula():
    block = InvertedResidual(8, 1, 2, "group", "swish", "highest", 5, 2)
    images, params, found = block_on(block, 8)

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    hidden = norm_by_hand(conv_by_hand(images, params["Conv_0"], 0), params["Norm_0"], "group")
    hidden = hidden * sigmoid(hidden)
    kernel = np.asarray(params["Conv_1"]["kernel"])
    spread = [
        conv_by_hand(hidden[..., i : i + 1], {"kernel": kernel[..., i : i + 1]}, 2) for i in range(kernel.shape[-1])
    ]
    hidden = norm_by_hand(np.concatenate(spread, -1), params["Norm_1"], "group")
    hidden = hidden * sigmoid(hidden)
    told = dense_by_hand(hidden.mean((1, 2), keepdims=True), params["Dense_0"])
    hidden = hidden * sigmoid(dense_by_hand(told * sigmoid(told), params["Dense_1"]))
    hidden = norm_by_hand(conv_by_hand(hidden, params["Conv_2"], 0), params["Norm_2"], "group")
    np.testing.assert_allclose(found, images + hidden, atol=2e-5)


def test_convnext_block_is_the_formula():
    images, params, found = block_on(ConvNeXtBlock("highest"), 6)
    kernel, bias = np.asarray(params["Conv_0"]["kernel"]), np.asarray(params["Conv_0"]["bias"])
    hidden = np.concatenate(
        [conv_by_hand(images[..., i : i + 1], {"kernel": kernel[..., i : i + 1]}, 3) + bias[i] for i in range(6)], -1
    )
    hidden = (hidden - hidden.mean(-1, keepdims=True)) / np.sqrt(hidden.var(-1, keepdims=True) + 1e-6)
    hidden = hidden * np.asarray(params["LayerNorm_0"]["scale"]) + np.asarray(params["LayerNorm_0"]["bias"])
    hidden = dense_by_hand(hidden, params["Dense_0"])
    hidden = hidden * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2))) / 2
    hidden = dense_by_hand(hidden, params["Dense_1"]) * np.asarray(params["layer_scale"])
    np.testing.assert_allclose(found, images + hidden, atol=2e-5)


def test_stem_of_imagenet_leaves_a_quarter_of_each_side_by_maxima_that_overlap():
    images = jax.random.normal(KEY, (2, 7, 8, 3))
    expected = jax.lax.reduce_window(
        images, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0))
    )
    np.testing.assert_array_equal(overlapping_maximum(images), expected)
    for side, stem, left in ((64, "imagenet", 16), (128, "auto", 32), (64, "auto", 64), (128, "small", 128)):
        look, shape = layer_inputs("resnet18", 3, width=2, stem=stem), (side, side, 3)
        seen = jax.eval_shape(look, shapes_of("resnet18", shape, 3, width=2, stem=stem), jnp.zeros((1, *shape)))
        assert [read.shape[1] for read in seen.convolved[:2]] == [side, left]


@pytest.mark.parametrize("shift", [0, 1])
def test_tokens_attend_inside_their_shifted_windows_alone(shift):
    block = SwinBlock(2, 2, shift, "highest")
    tokens = jax.random.normal(KEY, (1, 4, 6, 4))
    # One image as it is, and one for each token with a number of that token moved.
    moved = np.eye(24).reshape(24, 4, 6, 1) * np.eye(4)[0]
    images = jnp.concatenate([tokens, tokens + jnp.asarray(moved, jnp.float32)])
    params = stirred(block.init(KEY, tokens))
    first, *others = np.asarray(jax.jit(block.apply)(params, images))
    influence = (np.abs(np.stack(others) - first[None]).max(-1) > 1e-5).reshape(4, 6, 4, 6)
    rows, columns = np.mgrid[:4, :6]
    window = (rows - shift) // 2 * 100 + (columns - shift) // 2
    np.testing.assert_array_equal(influence, window[:, :, None, None] == window[None, None])


def test_block_of_windows_is_the_formula():
    block, tokens = SwinBlock(2, 2, 0, "highest"), jax.random.normal(KEY, (3, 2, 2, 4))
    params = stirred(block.init(KEY, tokens))["params"]
    places = [(0, 0), (0, 1), (1, 0), (1, 1)]
    table = np.asarray(params["relative_bias"]).reshape(3, 3, 2)
    bias = np.array([[table[a[0] - b[0] + 1, a[1] - b[1] + 1] for b in places] for a in places]).transpose(2, 0, 1)

    def normed(hidden, layer):
        hidden = (hidden - hidden.mean(-1, keepdims=True)) / np.sqrt(hidden.var(-1, keepdims=True) + 1e-5)
        return hidden * np.asarray(layer["scale"]) + np.asarray(layer["bias"])

    images = np.asarray(tokens, np.float64).reshape(3, 4, 4)
    attention = functools.partial(Attention(2, "highest").apply, {"params": params["Attention_0"]})
    hidden = images + np.asarray(
        attention(jnp.asarray(normed(images, params["LayerNorm_0"]), jnp.float32), np.tile(bias[None], (3, 1, 1, 1)))
    )
    mixed = dense_by_hand(normed(hidden, params["LayerNorm_1"]), params["Dense_0"])
    mixed = dense_by_hand(mixed * (1 + np.vectorize(math.erf)(mixed / math.sqrt(2))) / 2, params["Dense_1"])
    found = block.apply({"params": params}, tokens)
    np.testing.assert_allclose(found, (hidden + mixed).reshape(3, 2, 2, 4), atol=2e-5)


def test_deit_reads_its_class_token_alone():
    problem, params, batch = small("deit_tiny")
    apply = jax.jit(problem.apply)
    # Without attention the token sees nothing of the image.
    blind = {"Dense_1": jax.tree.map(jnp.zeros_like, params["Attention_0"]["Dense_1"])}
    blind = params | {"Attention_0": params["Attention_0"] | blind}
    logits = np.asarray(apply(blind, NO_HPARAMS, batch.inputs))
    np.testing.assert_allclose(logits, np.repeat(logits[:1], 6, 0), atol=1e-6)


def test_attention_is_the_formula():
    tokens = np.random.default_rng(1).normal(size=(2, 5, 6))
    attention = Attention(2, "highest")
    params = attention.init(KEY, jnp.asarray(tokens, jnp.float32))["params"]
    first, last = (jax.tree.map(lambda x: np.asarray(x, np.float64), params[f"Dense_{i}"]) for i in (0, 1))
    joint = tokens @ first["kernel"] + first["bias"]
    heads = []
    for head in range(2):
        query, key, value = (joint[..., 6 * i + 3 * head : 6 * i + 3 * head + 3] for i in range(3))
        scores = np.exp(query @ key.swapaxes(1, 2) / math.sqrt(3))
        heads.append(scores / scores.sum(-1, keepdims=True) @ value)
    expected = np.concatenate(heads, -1) @ last["kernel"] + last["bias"]
    np.testing.assert_allclose(
        attention.apply({"params": params}, jnp.asarray(tokens, jnp.float32)), expected, atol=1e-5
    )


def test_vit_does_not_know_pixels_from_their_patch_but_positions():
    problem, params, batch = small("vit")
    swapped = batch.inputs.at[:, :4, :4].set(batch.inputs[:, 4:, 4:]).at[:, 4:, 4:].set(batch.inputs[:, :4, :4])
    still = params | {"positions": jnp.zeros_like(params["positions"])}
    apply = jax.jit(problem.apply)
    np.testing.assert_allclose(apply(still, NO_HPARAMS, batch.inputs), apply(still, NO_HPARAMS, swapped), atol=1e-5)
    moved = np.abs(np.asarray(apply(params, NO_HPARAMS, batch.inputs)) - apply(params, NO_HPARAMS, swapped))
    assert moved.max() > 1e-4


@pytest.mark.parametrize("kind", ["average", "max"])
def test_pooling_drops_odd_edges(kind):
    images = np.random.default_rng(0).normal(size=(2, 5, 7, 3)).astype(np.float32)
    start, reduce = (0.0, jax.lax.add) if kind == "average" else (-jnp.inf, jax.lax.max)
    expected = jax.lax.reduce_window(images, start, reduce, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    expected = expected / 4 if kind == "average" else expected
    np.testing.assert_allclose(pool(jnp.asarray(images), kind), expected, rtol=1e-6)


# Problems -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", image_nets())
def test_logits_have_their_shape(name):
    shape, options = SMALL[name]
    problem = image_problem(name, shape, 3, **options)
    params = jax.eval_shape(problem.init, KEY, NO_HPARAMS)
    images = jax.ShapeDtypeStruct((6, *shape), jnp.float32)
    assert jax.eval_shape(problem.apply, params, NO_HPARAMS, images).shape == (6, 3)
    embed = image_embedding(name, 3, **options)
    features = jax.eval_shape(embed, params, NO_HPARAMS, images)
    (last,) = [leaf for path, leaf in jax.tree.leaves_with_path(params) if "Head_0" in str(path) and leaf.ndim == 2]
    assert features.shape == (6, last.shape[0])


@pytest.mark.parametrize("name", ALL)
def test_mapped_networks_are_those_of_a_loop(name):
    problem, params, batch = small(name)
    gradient = jax.value_and_grad(problem.train_loss)
    networks = [params, jax.tree.map(lambda leaf: -0.7 * np.asarray(leaf), params)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *networks)
    mapped = jax.jit(jax.vmap(gradient, (0, None, None)))(stacked, NO_HPARAMS, batch)
    one = jax.jit(gradient)
    for i, network in enumerate(networks):
        alone = one(network, NO_HPARAMS, batch)
        for together, single in zip(jax.tree.leaves(mapped), map(np.asarray, jax.tree.leaves(alone)), strict=True):
            np.testing.assert_allclose(np.asarray(together)[i], single, atol=1e-4 * max(1.0, np.abs(single).max()))


@pytest.mark.parametrize("name", ALL)
def test_second_derivatives_are_finite_differences_of_the_first(name):
    """Forward over reverse, as hypergradients take them, through pooling and norms; along a direction without kinks."""
    problem, params, batch = small(name)
    # Logits are linear in the last layer: moving it moves no rectifier and no maximum.
    rng = np.random.default_rng(0)
    last = {"Head_0": jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), params["Head_0"])}
    direction = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), params) | last
    gradient = jax.grad(problem.train_loss)

    @jax.jit
    def along(position):
        """The gradient at a position on the line, and its derivative."""

        def flat_gradient(t):
            moved = jax.tree.map(lambda p, d: p + t * d, params, direction)
            return ravel_pytree(gradient(moved, NO_HPARAMS, batch))[0]

        return jax.jvp(flat_gradient, (position,), (1.0,))

    step = 3e-3
    (after, _), (_, found), (before, _) = (map(np.asarray, along(t)) for t in (step, 0.0, -step))
    assert np.linalg.norm(found) > 0.1
    assert np.linalg.norm(found - (after - before) / (2 * step)) <= 1e-2 * np.linalg.norm(found)


def test_soft_labels_of_one_class_are_hard_labels():
    problem, params, batch = small("convnet")
    loss = jax.jit(problem.val_loss)
    soft = batch._replace(labels=jax.nn.one_hot(batch.labels, 3))
    hard, softened = (loss(params, NO_HPARAMS, b) for b in (batch, soft))
    np.testing.assert_allclose(hard, softened, rtol=1e-6)
    uniform = batch._replace(labels=jnp.full((6, 3), 1 / 3))
    mean = -jax.nn.log_softmax(jax.jit(problem.apply)(params, NO_HPARAMS, batch.inputs)).mean(1)
    np.testing.assert_allclose(loss(params, NO_HPARAMS, uniform), jnp.vdot(mean, batch.weights) / 21, rtol=1e-6)


def test_examples_of_weight_0_do_not_count():
    problem, params, batch = small("convnet")
    without = Batch(*(leaf[:4] for leaf in batch))
    blank = batch._replace(weights=batch.weights.at[4:].set(0))
    losses = [jax.jit(problem.val_loss)(params, NO_HPARAMS, b) for b in (without, blank)]
    np.testing.assert_allclose(*losses, rtol=1e-6)


def test_weight_decay_is_in_the_training_loss_and_may_be_searched():
    problem, params, batch = small("mlp")
    size = float(sum((leaf**2).sum() for leaf in jax.tree.leaves(params)))
    plain = jax.jit(problem.val_loss)(params, NO_HPARAMS, batch)
    loss = jax.jit(problem.train_loss)
    np.testing.assert_allclose(loss(params, NO_HPARAMS, batch), plain + 2.5e-4 * size, rtol=1e-6)

    def read(hparams):
        return ImageSetting(weight_decay=jnp.exp(hparams[0]))

    searched = jax.jit(image_problem("mlp", (5, 4, 2), 3, width=6, read=read).train_loss)
    for decay in (1e-3, 1e-1):
        value = searched(params, jnp.log(jnp.array([decay])), batch)
        np.testing.assert_allclose(value, plain + decay * size, rtol=1e-5)


def test_learning_rate_factor_scales_the_parameters_of_problem_and_embedding():
    def read(hparams):
        return ImageSetting(learning_rate_factor=hparams[0])

    options = {"width": 6, "read": read}
    problem, factor = image_problem("mlp", (5, 4, 2), 3, **options), jnp.array([4.0])
    plain, params, batch = small("mlp")
    scaled = jax.jit(problem.init)(KEY, factor)
    for ours, theirs in zip(jax.tree.leaves(scaled), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(4 * ours, theirs, rtol=1e-6)
    np.testing.assert_allclose(
        problem.apply(scaled, factor, batch.inputs), plain.apply(params, NO_HPARAMS, batch.inputs), rtol=1e-5
    )
    np.testing.assert_allclose(
        image_embedding("mlp", 3, **options)(scaled, factor, batch.inputs),
        image_embedding("mlp", 3, width=6)(params, NO_HPARAMS, batch.inputs),
        rtol=1e-5,
    )


def test_equal_options_give_the_same_problem():
    """So the second seed of a run compiles nothing."""
    make = functools.partial(image_problem, "convnet", (8, 8, 1), 3)
    assert make(width=4) is make(width=4)
    assert make(width=4) is not make(width=8)
    assert image_net("vit", 10, depth=2) == image_net("vit", 10, depth=2)


def test_batch_norm_has_no_state():
    """Scale and shift are all it keeps; its output is that of the batch at hand."""
    images = jax.random.normal(KEY, (5, 4, 4, 3)) * 7 + 3
    variables = Norm("batch").init(KEY, images)
    assert list(variables) == ["params"]
    out = Norm("batch").apply(variables, images)
    np.testing.assert_allclose(out.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(out.var((0, 1, 2)), 1, rtol=1e-4)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_smooth_enough_to_train(name):
    x = jnp.linspace(-3, 3, 13)
    values, slopes = jax.vmap(jax.value_and_grad(ACTIVATIONS[name]))(x)
    assert jnp.isfinite(values).all()
    assert jnp.isfinite(slopes).all()
    assert (jnp.diff(values)[7:] > 0).all()


MISTAKES = [
    (("convnt", (8, 8, 1), {}), "unknown image network 'convnt'; did you mean 'convnet'"),
    (("convnet", (8, 8, 1), {"widht": 3}), "unknown option of convnet 'widht'; did you mean 'width'?"),
    (("convnet", (8, 8, 1), {"norm": "batchnorm"}), "unknown norm 'batchnorm'; did you mean 'batch'?"),
    (("convnet", (8, 8, 1), {"activation": "rleu"}), "unknown activation 'rleu'; did you mean 'relu'"),
    (("convnet", (8, 8, 1), {"pooling": "mean"}), "unknown pooling 'mean'; known are average, max, none"),
    (
        ("convnet", (8, 8, 1), {"depth": 4}),
        "the images are too small: norm 'instance' of a single pixel leaves nothing",
    ),
    (
        ("convnet", (8, 8, 1), {"depth": 4, "norm": "none"}),
        "the images are too small: 1 x 1 are left where they should",
    ),
    (("convnet", (8, 8, 1), {"width": 6, "norm": "group"}), "norm 'group' makes 4 groups; 6 channels cannot be"),
    (("lenet", (8, 8, 1), {}), "the images are too small for LeNet, which needs at least 16 x 16 pixels"),
    (("resnet18", (8, 8, 1), {}), "the images are too small: norm 'instance' of a single pixel leaves nothing"),
    (("wrn16", (4, 4, 1), {}), "the images are too small: norm 'instance' of a single pixel leaves nothing"),
    (("mobilenetv2", (8, 8, 1), {}), "the images are too small: norm 'instance' of a single pixel leaves nothing"),
    (("shufflenetv2", (16, 16, 1), {"width": 5}), "ShuffleNetV2 halves its channels; a width of 5 is odd"),
    (("resnet50", (8, 8, 1), {}), "the images are too small: norm 'instance' of a single pixel leaves nothing"),
    (("resnet50", (32, 32, 1), {"stem": "tiny"}), "unknown stem 'tiny'; known are auto, small, imagenet"),
    (("densenet121", (32, 32, 1), {"depth": 0}), "the longest stage of a network needs a block, and depth is 0"),
    (("efficientnet_b0", (8, 8, 1), {"depth": 1}), "the images are too small: norm 'instance' of a single pixel"),
    (("convnext_tiny", (8, 8, 1), {}), "the images are too small: 1 x 1 are left where 2 x 2 should become one"),
    (("deit_tiny", (30, 30, 1), {}), "images of 30 x 30 cannot be cut into patches of side 4"),
    (("deit_tiny", (32, 32, 1), {"width": 100}), "3 heads do not divide the width 100 of a DeiT"),
    (("swin_tiny", (20, 20, 1), {}), "10 x 10 tokens cannot be cut into windows of side 4"),
    (("swin_tiny", (8, 8, 1), {}), "images of 1 x 1 cannot be cut into patches of side 2"),
    (("swin_tiny", (32, 32, 1), {"heads": 5}), "5 heads do not divide the width 96 of a Swin transformer"),
    (("vit", (28, 28, 1), {"patch": 5}), "images of 28 x 28 cannot be cut into patches of side 5"),
    (("vit", (28, 28, 1), {"heads": 3}), "3 heads do not divide the width 128 of a ViT"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_mistakes_are_named_before_anything_is_computed(arguments, message):
    name, shape, options = arguments
    with pytest.raises(UserError) as caught:
        image_problem(name, shape, 3, **options)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_registry_describes_every_network():
    assert set(image_nets()) == {
        "convnet",
        "mlp",
        "residual_mlp",
        "lenet",
        "alexnet",
        "vgg11",
        "resnet18",
        *DEEP,
        *ACROSS,
        "vit",
        "nas_bench_201",
    }
    assert all(image_nets().values())
    assert image_net_options("convnet") == {
        "width": 128, "depth": 3, "norm": "instance", "activation": "relu", "pooling": "average",
        "precision": "highest",
    }  # fmt: skip


@pytest.mark.parametrize(("size", "padding", "stride"), [(1, 0, 2), (3, 1, 1), (3, 1, 2), (5, 0, 1)])
@pytest.mark.parametrize(("ours", "channels"), [(as_product, 3), (as_product, 5), (as_shifted_sum, 3)])
def test_convolutions_as_products_are_convolutions(ours, channels, size, padding, stride):
    keys = jax.random.split(jax.random.key(0), 2)
    groups = channels if ours is as_shifted_sum else 1
    kernel = jax.random.normal(keys[1], (size, size, 1, channels) if groups > 1 else (size, size, channels, 4))
    operands = jax.random.normal(keys[0], (2, 7, 6, channels)), kernel
    options = {
        "dimension_numbers": ("NHWC", "HWIO", "NHWC"), "precision": "highest", "feature_group_count": groups
    }  # fmt: skip

    def of(convolve):
        def outputs(*operands):
            return convolve(*operands, (stride, stride), [(padding, padding)] * 2, **options)

        value, pull_back = jax.vjp(outputs, *operands)
        _, tangent = jax.jvp(outputs, operands, operands)
        return value, pull_back(jnp.sin(value)), tangent

    found, expected = (jax.jit(of, static_argnums=0)(f) for f in (ours, jax.lax.conv_general_dilated))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, expected)


@pytest.mark.parametrize("kind", ["instance", "group", "layer", "batch", "affine"])
def test_planes_are_normalised_as_images_are(kind):
    images = 3 + 2 * jax.random.normal(KEY, (3, 4, 6, 8))
    shape = affine_shape(kind, images.shape[1:])
    scale, bias = 1 + jnp.arange(np.prod(shape), dtype=jnp.float32).reshape(shape), jnp.full(shape, 0.5)
    planes = normalised_planes(kind, images.transpose(3, 1, 2, 0), scale, bias)
    np.testing.assert_allclose(
        planes.transpose(3, 1, 2, 0), normalised(kind, images, scale, bias), rtol=1e-4, atol=1e-4
    )
