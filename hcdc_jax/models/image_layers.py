"""Layers of image networks: PyTorch's initialisation, norms without running averages, pooling.

The field's numbers were made with PyTorch's default initialisation. Flax's differs in scale and starts biases at 0,
which moves gradients at initialisation and with them whatever matches gradients.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp

from hcdc_jax.errors import UserError, check_name
from hcdc_jax.types import Array

Activation: TypeAlias = Callable[[Array], Array]

ACTIVATIONS: dict[str, Activation] = {
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "leaky_relu": lambda x: jax.nn.leaky_relu(x, 0.01),
    "sigmoid": jax.nn.sigmoid,
    "swish": jax.nn.swish,
    "tanh": jnp.tanh,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "softplus": jax.nn.softplus,
}
NORMS = ("instance", "group", "layer", "batch", "affine", "none")
POOLINGS = ("average", "max", "none")
STEMS = ("auto", "small", "imagenet")
LARGE_SIDE = 128
"""Pixels from which on networks that know both take images for those of ImageNet."""
FEW_CHANNELS = 3
"""Those of a picture."""
NUM_GROUPS = 4
EPS = 1e-5  # of PyTorch's norms; Flax's is 1e-6

# U(-b, b) with b = 1 / sqrt(fan_in), which is PyTorch's kaiming_uniform with a = sqrt(5).
kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Block(nn.Module):
    """What the blocks of residual networks have in common.

    Attributes:
      width: channels; of what, each block says.
      stride: of the convolution that makes the image smaller, and of the shortcut.
      norm: one of `NORMS`.
      activation: a name in `ACTIVATIONS`, or a function.
      precision: of matrix products, see `image_nets.MLP`.
    """

    width: int
    stride: int
    norm: str
    activation: str | Activation
    precision: str


def bias_init(fan_in: int) -> Callable[..., Array]:
    """U(-b, b) with the b = 1 / sqrt(fan_in) of the layer's kernel."""

    def init(key, shape, dtype=jnp.float32):
        bound = 1 / math.sqrt(fan_in)
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def linear(features: int, inputs: Array, precision: str, *, bias: bool = True) -> Array:
    """A linear layer on the last axis. To be called inside a compact module, like those below."""
    fan_in = inputs.shape[-1]
    layer = nn.Dense(features, use_bias=bias, kernel_init=kernel_init, bias_init=bias_init(fan_in), precision=precision)
    return layer(inputs)


def conv(
    features: int, size: int, inputs: Array, precision: str, *, padding: int, stride: int = 1, bias: bool = True
) -> Array:
    """A convolution with square kernels of side `size` of images [n, h, w, c]."""
    fan_in = size * size * inputs.shape[-1]
    layer = nn.Conv(
        features, (size, size), (stride, stride), [(padding, padding)] * 2, use_bias=bias,
        kernel_init=kernel_init, bias_init=bias_init(fan_in), precision=precision,
        conv_general_dilated=as_product if jax.default_backend() == "cpu" else None,
    )  # fmt: skip
    return layer(inputs)


def depthwise(size: int, inputs: Array, precision: str, *, padding: int, stride: int = 1, bias: bool = False) -> Array:
    """A convolution of each channel of images [n, h, w, c] with a square kernel of its own.

    It does little arithmetic for the memory that it moves: slow for what it computes on every device, most so on CPUs.
    """
    channels = inputs.shape[-1]
    layer = nn.Conv(
        channels, (size, size), (stride, stride), [(padding, padding)] * 2, feature_group_count=channels,
        use_bias=bias, kernel_init=kernel_init, bias_init=bias_init(size * size), precision=precision,
        conv_general_dilated=as_shifted_sum if jax.default_backend() == "cpu" else None,
    )  # fmt: skip
    return layer(inputs)


# Recomputed in the backward pass: patches are `size` squared times as large as the images that they are cut from.
@functools.partial(jax.checkpoint, prevent_cse=False, static_argnums=(2, 3, 4))
def _patches_times_kernel(
    images: Array, kernel: Array, stride: int, padding: tuple[tuple[int, int], ...], precision: str
) -> Array:
    size, _, channels, features = kernel.shape
    patches = _patches(images, size, stride, padding)
    return jnp.matmul(patches, kernel.reshape(size * size * channels, features), precision=precision)


def _patches(images: Array, size: int, stride: int, padding: tuple[tuple[int, int], ...]) -> Array:
    """All that a kernel sees at each place, [n, h / stride, w / stride, size * size * c]."""
    if images.shape[-1] > FEW_CHANNELS:
        return jnp.concatenate(shifted_copies(images, size, stride, padding), -1)
    # XLA computes anew for every shifted copy what its images come from. Few channels are those of pictures, perhaps
    # augmented: that is done `size` times for columns, from which rows are cut, in place of `size` squared times. More
    # channels come from a layer, which leaves little to compute; the second copy would take longer.
    images = jnp.pad(images, ((0, 0), *padding, (0, 0)))
    columns = jnp.concatenate(_along(2, images, size, stride), -1)
    return jnp.concatenate(_along(1, columns, size, stride), -1)


@functools.partial(jax.checkpoint, prevent_cse=False, static_argnums=(2, 3))
def _shifted_times_kernel(images: Array, kernel: Array, stride: int, padding: tuple[tuple[int, int], ...]) -> Array:
    size, _, _, channels = kernel.shape
    places = kernel.reshape(size * size, 1, 1, 1, channels)
    shifted = shifted_copies(images, size, stride, padding)
    return functools.reduce(jnp.add, [image * place for image, place in zip(shifted, places, strict=True)])


def shifted_copies(images: Array, size: int, stride: int, padding: tuple[tuple[int, int], ...]) -> list[Array]:
    """What each place of a kernel sees of [n, h, w, c] or [c, h, w, n], sides divided by the stride, row by row."""
    images = jnp.pad(images, ((0, 0), *padding, (0, 0)))
    return [place for row in _along(1, images, size, stride) for place in _along(2, row, size, stride)]


def _along(axis: int, images: Array, size: int, stride: int) -> list[Array]:
    """What each of `size` places in a row, or a column, of a kernel sees."""
    last = stride * ((images.shape[axis] - size) // stride)
    return [jax.lax.slice_in_dim(images, i, i + last + 1, stride, axis) for i in range(size)]


def as_product(
    images: Array, kernel: Array, strides: Sequence[int], padding: Sequence[tuple[int, int]], **options: Any
) -> Array:
    """`jax.lax.conv_general_dilated` of images [n, h, w, c] for square kernels, as a matrix product of patches.

    XLA's CPU compiler knows fast routines for the gradients of a convolution outside of loops only, and for grouped
    convolutions, which `vmap` over candidates makes of them, not at all. Training is a loop: a step of a ConvNet takes
    ten times as long in it. Products are fast everywhere.
    """
    return _patches_times_kernel(images, kernel, strides[0], tuple(padding), options["precision"])


def as_shifted_sum(
    images: Array, kernel: Array, strides: Sequence[int], padding: Sequence[tuple[int, int]], **options: Any
) -> Array:
    """`jax.lax.conv_general_dilated` with a square kernel [k, k, 1, c] for each channel, as k^2 products by element.

    For the reasons of `as_product`. Products by element have full precision on every device.
    """
    del options
    return _shifted_times_kernel(images, kernel, strides[0], tuple(padding))


def pool(images: Array, kind: str) -> Array:
    """Halves height and width, the last row or column of odd ones dropped, by the mean or maximum of 2 x 2 pixels.

    Raises:
      UserError: there are no 2 x 2 pixels left, or no such pooling.
    """
    check_name("pooling", kind, POOLINGS)
    if kind == "none":
        return images
    n, height, width, channels = images.shape
    if min(height, width) < 2:
        raise UserError(f"the images are too small: {height} x {width} are left where they should be halved again")
    # Windows do not overlap, so a reshape will do; XLA's windowed reductions are slower, above all their derivatives.
    cut = images[:, : height // 2 * 2, : width // 2 * 2]
    blocks = cut.reshape(n, height // 2, 2, width // 2, 2, channels)
    return blocks.mean((2, 4)) if kind == "average" else blocks.max((2, 4))


def stem(features: int, images: Array, kind: str, norm: str, act: Activation, precision: str) -> Array:
    """Convolution, norm and activation, with which residual networks begin. To be called inside a compact module.

    - "small": 3 x 3, and the image keeps its size, as is usual for CIFAR.
    - "imagenet": 7 x 7 at every second pixel and the maximum of 3 x 3 of those at every second one: a quarter of each
      side is left.
    - "auto": the latter for images of at least `LARGE_SIDE` pixels, see `is_large`.

    Raises:
      UserError: no such kind.
    """
    large = is_large(images, kind)
    size, stride = (7, 2) if large else (3, 1)
    hidden = conv(features, size, bordered(images), precision, padding=size // 2, stride=stride, bias=False)
    hidden = act(Norm(norm)(hidden))
    return overlapping_maximum(hidden) if large else hidden


def is_large(images: Array, kind: str = "auto") -> bool:
    """Whether a network takes images for those of ImageNet: as the name of its stem says, or by their size.

    Raises:
      UserError: no such stem.
    """
    check_name("stem", kind, STEMS)
    return min(images.shape[1:3]) >= LARGE_SIDE if kind == "auto" else kind == "imagenet"


def overlapping_maximum(images: Array) -> Array:
    """The maximum of 3 x 3 pixels at every second pixel, nothing outside of the image; [n, h / 2, w / 2, c]."""
    outside = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    return functools.reduce(jnp.maximum, shifted_copies(outside, 3, 2, ((0, 0), (0, 0))))


def layer_norm(tokens: Array, eps: float = EPS) -> Array:
    """Vectors along the last axis normalised, with scale and shift. To be called inside a compact module."""
    # Flax's fast variance, E x^2 - (E x)^2, loses digits that solvers need.
    return nn.LayerNorm(epsilon=eps, use_fast_variance=False)(tokens)


def stages(blocks: Sequence[int], depth: int) -> tuple[int, ...]:
    """Blocks of each stage where the longest has `depth`: the published numbers in proportion, at least one each.

    Raises:
      UserError: a depth below 1.
    """
    if depth < 1:
        raise UserError(f"the longest stage of a network needs a block, and depth is {depth}")
    return tuple(-(-count * depth // max(blocks)) for count in blocks)


class Norm(nn.Module):
    """Normalisation with learned scale and shift, and without state.

    - "instance": each channel of each image; GroupNorm with a group per channel in PyTorch.
    - "group": `NUM_GROUPS` groups of channels of each image.
    - "layer": each image; scale and shift for every pixel and channel.
    - "batch": each channel of the batch at hand, in validation as in training. There are no running averages: logits of
      an image depend on its batch, and every example of it counts alike, whatever its weight.
    - "affine": scale and shift of each channel alone: what a batch norm is once its statistics are fixed, see
      `condense.population`.
    - "none": nothing.

    Attributes:
      kind: one of these.
    """

    kind: str

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Normalised images [n, h, w, c]."""
        check_name("norm", self.kind, NORMS)
        if self.kind == "none":
            return images
        shape = affine_shape(self.kind, images.shape[1:])
        scale = self.param("scale", nn.initializers.ones_init(), shape)
        bias = self.param("bias", nn.initializers.zeros_init(), shape)
        return normalised(self.kind, images, scale, bias)


def affine_shape(kind: str, image_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the scale, and of the shift, of a norm of images [height, width, channels]."""
    return image_shape if kind == "layer" else image_shape[-1:]


def normalised(kind: str, images: Array, scale: Array, bias: Array) -> Array:
    """What `Norm` of that kind makes of images [n, h, w, c]; other kinds than "none".

    Raises:
      UserError: the images are too small, or their channels make no groups.
    """
    n, height, width, channels = images.shape
    groups = _num_groups(kind, (height, width, channels))
    parts = images.reshape(n, height, width, groups, channels // groups)
    normal = _standardised(kind, parts, (1, 2, 4), 0).reshape(images.shape)
    full = (1,) * (4 - scale.ndim) + scale.shape
    return normal * scale.reshape(full) + bias.reshape(full)


def normalised_planes(kind: str, planes: Array, scale: Array, bias: Array) -> Array:
    """As `normalised`, of planes [c, h, w, n]; scale and bias are the same."""
    channels, height, width, n = planes.shape
    groups = _num_groups(kind, (height, width, channels))
    parts = planes.reshape(groups, channels // groups, height, width, n)
    normal = _standardised(kind, parts, (1, 2, 3), 4).reshape(planes.shape)

    def full(affine: Array) -> Array:
        return jnp.moveaxis(affine, -1, 0).reshape(channels, *(affine.shape[:-1] or (1, 1)), 1)

    return normal * full(scale) + full(bias)


def _num_groups(kind: str, image_shape: tuple[int, int, int]) -> int:
    """How many parts the channels of an image fall into, each of which is normalised as one."""
    height, width, channels = image_shape
    if kind == "instance" and height * width == 1:
        raise UserError(
            "the images are too small: norm 'instance' of a single pixel leaves nothing of it; choose 'group' or "
            "'none', or a shallower network"
        )
    if kind == "group" and channels % NUM_GROUPS:
        raise UserError(f"norm 'group' makes {NUM_GROUPS} groups; {channels} channels cannot be divided by that")
    return {"group": NUM_GROUPS, "layer": 1}.get(kind, channels)


def _standardised(kind: str, parts: Array, axes: tuple[int, ...], batch_axis: int) -> Array:
    """Less their mean, over their standard deviation, over `axes`; those of "batch" over the batch, too."""
    if kind == "affine":
        return parts
    axes = (*axes, batch_axis) if kind == "batch" else axes
    centred = parts - parts.mean(axes, keepdims=True)
    return centred * jax.lax.rsqrt((centred**2).mean(axes, keepdims=True) + EPS)


def bordered(images: Array) -> Array:
    """Images of 28 x 28 pixels with a border of zeros up to 32 x 32, as the field does to MNIST; others as they are."""
    if images.shape[1:3] != (28, 28):
        return images
    return jnp.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))


def flat(images: Array) -> Array:
    """[n, h, w, c] as [n, h w c]."""
    return images.reshape(len(images), -1)


def activation(given: str | Activation) -> Activation:
    """The activation of that name; a function is one already.

    Raises:
      UserError: there is none of that name.
    """
    if not isinstance(given, str):
        return given
    check_name("activation", given, ACTIVATIONS)
    return ACTIVATIONS[given]
