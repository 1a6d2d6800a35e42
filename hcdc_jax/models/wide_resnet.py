"""A wide residual network of 16 layers for small images (Zagoruyko and Komodakis, arXiv 1605.07146)."""

from __future__ import annotations

import flax.linen as nn

from hcdc_jax.models.image_layers import Activation, Block, Norm, activation, bordered, conv
from hcdc_jax.models.image_nets import Head
from hcdc_jax.types import Array

STEM = 16
GROUPS = ((16, 1), (32, 2), (64, 2))
"""Channels before the width factor, and stride of the first block."""
BLOCKS = 2
"""Per group: (16 - 4) / 6, since a block has two convolutions and stem, shortcuts and linear layer make the other 4."""


class PreactivationBlock(Block):
    """Norm and activation before each of two 3 x 3 convolutions, and a shortcut (He et al., arXiv 1603.05027).

    Where the number of channels changes the shortcut is a 1 x 1 convolution of what the first convolution reads.
    """

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """[n, h, w, c] -> [n, h / stride, w / stride, width]."""
        act, (width, stride) = activation(self.activation), (self.width, self.stride)
        ready = act(Norm(self.norm)(images))
        hidden = conv(width, 3, ready, self.precision, padding=1, stride=stride, bias=False)
        hidden = conv(width, 3, act(Norm(self.norm)(hidden)), self.precision, padding=1, bias=False)
        if stride != 1 or images.shape[-1] != width:
            images = conv(width, 1, ready, self.precision, padding=0, stride=stride, bias=False)
        return hidden + images


class WideResNet16(nn.Module):
    """WRN-16-k: a 3 x 3 stem, three groups of two blocks, norm and activation, the mean over pixels, a linear layer.

    Attributes:
      num_classes: number of logits.
      width_factor: k; the groups have 16 k, 32 k and 64 k channels.
      norm: one of `image_layers.NORMS`.
    """

    num_classes: int
    width_factor: int = 2
    norm: str = "instance"
    activation: str | Activation = "relu"
    precision: str = "highest"

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Logits [n, num_classes]."""
        hidden = conv(STEM, 3, bordered(images), self.precision, padding=1, bias=False)
        for channels, first in GROUPS:
            for stride in (first, *[1] * (BLOCKS - 1)):
                width = channels * self.width_factor
                hidden = PreactivationBlock(width, stride, self.norm, self.activation, self.precision)(hidden)
        hidden = activation(self.activation)(Norm(self.norm)(hidden))
        return Head(self.num_classes, self.precision)(hidden.mean((1, 2)))
