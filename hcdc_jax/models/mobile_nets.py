"""Networks with few numbers, for phones: MobileNetV2, ShuffleNetV2 and EfficientNet-B0, for small and large images.

Convolutions across channels are 1 x 1, those across pixels have one kernel per channel. That saves numbers and
multiplications, not time on a CPU: see `image_layers.depthwise`. With the stem "small", as it is taken for images of
32 x 32 pixels, stem and second stage halve nothing and there is no pooling, so that all networks end with 4 x 4 pixels.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from hcdc_jax.errors import UserError
from hcdc_jax.models.image_layers import (
    Activation,
    Block,
    Norm,
    activation,
    bordered,
    conv,
    depthwise,
    is_large,
    linear,
    overlapping_maximum,
    stages,
)
from hcdc_jax.models.image_nets import Head
from hcdc_jax.types import Array

MOBILE_STEM, MOBILE_LAST = 32, 1280
MOBILE_STAGES = (
    (1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip
"""Expansion, channels, blocks, stride of the first one: Table 2 of the paper, where stem and second row halve, too."""
EFFICIENT_STAGES = (
    (1, 16, 1, 1, 3), (6, 24, 2, 1, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)  # fmt: skip
"""The same and the side of the kernels: the paper's Table 1, in which stem and second row halve, too."""
SQUEEZE = 4
SHUFFLE_STEM, SHUFFLE_LAST = 24, 1024
SHUFFLE_BLOCKS = (4, 8, 4)


class InvertedResidual(nn.Module):
    """1 x 1 convolution to many channels, 3 x 3 of each channel, 1 x 1 to few without an activation, and a shortcut.

    The shortcut is there where the shape stays; with expansion 1 the first convolution is left out.

    Attributes:
      width: channels of the result.
      stride: of the convolution in the middle.
      expansion: channels in the middle, in units of those of the input.
      kernel: side of the convolution in the middle.
      squeeze: channels through which those in the middle are weighed by their means (squeeze and excitation, arXiv
        1709.01507); 0 for none of it.
    """

    width: int
    stride: int
    expansion: int
    norm: str
    activation: str | Activation
    precision: str
    kernel: int = 3
    squeeze: int = 0

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """[n, h, w, c] -> [n, h / stride, w / stride, width]."""
        act, hidden = activation(self.activation), images
        if self.expansion != 1:
            many = self.expansion * images.shape[-1]
            hidden = act(Norm(self.norm)(conv(many, 1, images, self.precision, padding=0, bias=False)))
        hidden = depthwise(self.kernel, hidden, self.precision, padding=self.kernel // 2, stride=self.stride)
        hidden = act(Norm(self.norm)(hidden))
        if self.squeeze:
            told = act(linear(self.squeeze, hidden.mean((1, 2), keepdims=True), self.precision))
            hidden = hidden * jax.nn.sigmoid(linear(hidden.shape[-1], told, self.precision))
        hidden = Norm(self.norm)(conv(self.width, 1, hidden, self.precision, padding=0, bias=False))
        return images + hidden if images.shape == hidden.shape else hidden


class MobileNetV2(nn.Module):
    """MobileNetV2 for small images (Sandler et al., arXiv 1801.04381): seven stages of inverted residuals.

    Slow on CPUs for the few numbers it has.

    Attributes:
      num_classes: number of logits.
      width: channels of the stem. All others are in proportion, rounded to multiples of 8 as in the authors' code; the
        last convolution keeps its 1,280 in narrower networks.
      norm: one of `image_layers.NORMS`.
      stem: "small", where stem and second stage halve nothing, "imagenet", where they do, or "auto", the latter for
        images of at least `image_layers.LARGE_SIDE` pixels.
    """

    num_classes: int
    width: int = MOBILE_STEM
    norm: str = "instance"
    activation: str | Activation = "relu6"
    stem: str = "auto"
    precision: str = "highest"

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Logits [n, num_classes]."""
        act, share = activation(self.activation), self.width / MOBILE_STEM
        early = 2 if is_large(images, self.stem) else 1
        hidden = act(Norm(self.norm)(_first(_multiple_of_8(self.width), images, early, self.precision)))
        for number, (expansion, channels, blocks, first) in enumerate(MOBILE_STAGES):
            for stride in (early if number == 1 else first, *[1] * (blocks - 1)):
                hidden = InvertedResidual(
                    _multiple_of_8(share * channels), stride, expansion, self.norm, self.activation, self.precision
                )(hidden)
        last = _multiple_of_8(max(share, 1.0) * MOBILE_LAST)
        hidden = act(Norm(self.norm)(conv(last, 1, hidden, self.precision, padding=0, bias=False)))
        return Head(self.num_classes, self.precision)(hidden.mean((1, 2)))


class EfficientNetB0(nn.Module):
    """EfficientNet-B0 (Tan and Le, arXiv 1905.11946): seven stages of inverted residuals that weigh their channels.

    Without dropout and stochastic depth, since networks here draw nothing. Slow on CPUs for the few numbers it has.

    Attributes:
      num_classes: number of logits.
      width: channels of the stem. All others are in proportion, rounded to multiples of 8.
      depth: blocks of the sixth stage, which has most; the others have 1, 2, 2, 3, 3 and 1 for 4, in proportion.
      norm: one of `image_layers.NORMS`.
      stem: see `MobileNetV2`.
    """

    num_classes: int
    width: int = MOBILE_STEM
    depth: int = 4
    norm: str = "instance"
    activation: str | Activation = "swish"
    stem: str = "auto"
    precision: str = "highest"

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Logits [n, num_classes]."""
        act, share = activation(self.activation), self.width / MOBILE_STEM
        early = 2 if is_large(images, self.stem) else 1
        hidden = act(Norm(self.norm)(_first(_multiple_of_8(self.width), images, early, self.precision)))
        counts = stages([blocks for _, _, blocks, _, _ in EFFICIENT_STAGES], self.depth)
        for number, (expansion, channels, _, first, kernel) in enumerate(EFFICIENT_STAGES):
            for stride in (early if number == 1 else first, *[1] * (counts[number] - 1)):
                hidden = InvertedResidual(
                    _multiple_of_8(share * channels), stride, expansion, self.norm, self.activation, self.precision,
                    kernel, max(1, hidden.shape[-1] // SQUEEZE),
                )(hidden)  # fmt: skip
        last = _multiple_of_8(share * MOBILE_LAST)
        hidden = act(Norm(self.norm)(conv(last, 1, hidden, self.precision, padding=0, bias=False)))
        return Head(self.num_classes, self.precision)(hidden.mean((1, 2)))


class ShuffleBlock(Block):
    """One half of the channels passes, the other one is convolved; then the halves are interleaved.

    With stride 2 both branches read all channels, the one that passed is convolved, too, and `width` may differ.
    """

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """[n, h, w, c] -> [n, h / stride, w / stride, width]."""
        act, half = activation(self.activation), self.width // 2

        def mixed(inputs: Array) -> Array:
            return act(Norm(self.norm)(conv(half, 1, inputs, self.precision, padding=0, bias=False)))

        def spread(inputs: Array) -> Array:
            return Norm(self.norm)(depthwise(3, inputs, self.precision, padding=1, stride=self.stride))

        if self.stride == 1:
            left, right = images[..., :half], images[..., half:]
        else:
            left, right = mixed(spread(images)), images
        return interleaved(left, mixed(spread(mixed(right))))


class ShuffleNetV2(nn.Module):
    """ShuffleNetV2 for small images (Ma et al., arXiv 1807.11164): three stages of 4, 8 and 4 blocks.

    Slow on CPUs for the few numbers it has.

    Attributes:
      num_classes: number of logits.
      width: channels of the first stage, even; the others have twice and four times as many. The paper's 0.5, 1, 1.5
        have 48, 116, 176.
      norm: one of `image_layers.NORMS`.
      stem: "small", which halves nothing, "imagenet", which halves twice, by a stride and by a maximum of 3 x 3 pixels,
        or "auto", the latter for images of at least `image_layers.LARGE_SIDE` pixels.
    """

    num_classes: int
    width: int = 48
    norm: str = "instance"
    activation: str | Activation = "relu"
    stem: str = "auto"
    precision: str = "highest"

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Logits [n, num_classes]."""
        if self.width % 2:
            raise UserError(f"ShuffleNetV2 halves its channels; a width of {self.width} is odd")
        act, large = activation(self.activation), is_large(images, self.stem)
        hidden = act(Norm(self.norm)(_first(SHUFFLE_STEM, images, 2 if large else 1, self.precision)))
        hidden = overlapping_maximum(hidden) if large else hidden
        for stage, blocks in enumerate(SHUFFLE_BLOCKS):
            for stride in (2, *[1] * (blocks - 1)):
                hidden = ShuffleBlock(self.width * 2**stage, stride, self.norm, self.activation, self.precision)(hidden)
        hidden = act(Norm(self.norm)(conv(SHUFFLE_LAST, 1, hidden, self.precision, padding=0, bias=False)))
        return Head(self.num_classes, self.precision)(hidden.mean((1, 2)))


def interleaved(left: Array, right: Array) -> Array:
    """Channels of two arrays [n, h, w, c] in turn, [n, h, w, 2 c]: the shuffle of two groups."""
    return jnp.stack([left, right], -1).reshape(*left.shape[:-1], -1)


def _first(features: int, images: Array, stride: int, precision: str) -> Array:
    """The 3 x 3 convolution that all of these networks begin with. To be called inside a compact module."""
    return conv(features, 3, bordered(images), precision, padding=1, stride=stride, bias=False)


def _multiple_of_8(channels: float) -> int:
    """The nearest multiple of 8; the next one where that would take away more than a tenth."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
