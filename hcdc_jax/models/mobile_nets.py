"""Networks with few numbers, for phones: MobileNetV2 and ShuffleNetV2, with the strides that small images bear.

Convolutions across channels are 1 x 1, those across pixels have one kernel per channel. That saves numbers and
multiplications, not time on a CPU: see `image_layers.depthwise`. On images of 32 x 32 pixels the stem and, in
MobileNetV2, the second stage halve nothing and there is no pooling, so that both networks end with 4 x 4 pixels.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from hcdc_jax.errors import UserError
from hcdc_jax.models.image_layers import Activation, Norm, activation, bordered, conv, depthwise
from hcdc_jax.models.image_nets import Head
from hcdc_jax.types import Array

MOBILE_STEM, MOBILE_LAST = 32, 1280
MOBILE_STAGES = (
    (1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip
"""Expansion, channels, blocks, stride of the first one: the paper's Table 2, but the second row halves nothing."""
SHUFFLE_STEM, SHUFFLE_LAST = 24, 1024
SHUFFLE_BLOCKS = (4, 8, 4)


class InvertedResidual(nn.Module):
    """1 x 1 convolution to many channels, 3 x 3 of each channel, 1 x 1 to few without an activation, and a shortcut.

    The shortcut is there where the shape stays; with expansion 1 the first convolution is left out.

    Attributes:
      width: channels of the result.
      stride: of the convolution in the middle.
      expansion: channels in the middle, in units of those of the input.
      norm: see `MobileNetV2`.
      activation: see `image_nets.MLP`.
      precision: see `image_nets.MLP`.
    """

    width: int
    stride: int
    expansion: int
    norm: str
    activation: str | Activation
    precision: str

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """[n, h, w, c] -> [n, h / stride, w / stride, width]."""
        act, hidden = activation(self.activation), images
        if self.expansion != 1:
            many = self.expansion * images.shape[-1]
            hidden = act(Norm(self.norm)(conv(many, 1, images, self.precision, padding=0, bias=False)))
        hidden = depthwise(3, hidden, self.precision, padding=1, stride=self.stride)
        hidden = act(Norm(self.norm)(hidden))
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
      activation: see `image_nets.MLP`.
      precision: see `image_nets.MLP`.
    """

    num_classes: int
    width: int = MOBILE_STEM
    norm: str = "instance"
    activation: str | Activation = "relu6"
    precision: str = "highest"

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Logits [n, num_classes]."""
        act, share = activation(self.activation), self.width / MOBILE_STEM
        hidden = conv(_multiple_of_8(self.width), 3, bordered(images), self.precision, padding=1, bias=False)
        hidden = act(Norm(self.norm)(hidden))
        for expansion, channels, blocks, first in MOBILE_STAGES:
            for stride in (first, *[1] * (blocks - 1)):
                hidden = InvertedResidual(
                    _multiple_of_8(share * channels), stride, expansion, self.norm, self.activation, self.precision
                )(hidden)
        last = _multiple_of_8(max(share, 1.0) * MOBILE_LAST)
        hidden = act(Norm(self.norm)(conv(last, 1, hidden, self.precision, padding=0, bias=False)))
        return Head(self.num_classes, self.precision)(hidden.mean((1, 2)))


class ShuffleBlock(nn.Module):
    """One half of the channels passes, the other one is convolved; then the halves are interleaved.

    With stride 2 both branches read all channels, the one that passed is convolved, too, and `width` may differ.

    Attributes:
      width: channels of the result; those of the input at stride 1.
      stride: 1 or 2.
      norm: see `ShuffleNetV2`.
      activation: see `image_nets.MLP`.
      precision: see `image_nets.MLP`.
    """

    width: int
    stride: int
    norm: str
    activation: str | Activation
    precision: str

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
      activation: see `image_nets.MLP`.
      precision: see `image_nets.MLP`.
    """

    num_classes: int
    width: int = 48
    norm: str = "instance"
    activation: str | Activation = "relu"
    precision: str = "highest"

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Logits [n, num_classes]."""
        if self.width % 2:
            raise UserError(f"ShuffleNetV2 halves its channels; a width of {self.width} is odd")
        act = activation(self.activation)
        hidden = conv(SHUFFLE_STEM, 3, bordered(images), self.precision, padding=1, bias=False)
        hidden = act(Norm(self.norm)(hidden))
        for stage, blocks in enumerate(SHUFFLE_BLOCKS):
            for stride in (2, *[1] * (blocks - 1)):
                hidden = ShuffleBlock(self.width * 2**stage, stride, self.norm, self.activation, self.precision)(hidden)
        hidden = act(Norm(self.norm)(conv(SHUFFLE_LAST, 1, hidden, self.precision, padding=0, bias=False)))
        return Head(self.num_classes, self.precision)(hidden.mean((1, 2)))


def interleaved(left: Array, right: Array) -> Array:
    """Channels of two arrays [n, h, w, c] in turn, [n, h, w, 2 c]: the shuffle of two groups."""
    return jnp.stack([left, right], -1).reshape(*left.shape[:-1], -1)


def _multiple_of_8(channels: float) -> int:
    """The nearest multiple of 8; the next one where that would take away more than a tenth."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
