"""Deep networks of the cross-architecture tables: ResNet-50 and DenseNet-121, for small images and for ImageNet's.

With the stem "small" an image of 32 x 32 pixels is halved three times, to 4 x 4, as public code for CIFAR has it; with
"imagenet" the networks are the published ones, down to the number of parameters. Left alone, the size decides.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from hcdc_jax.models.image_layers import Activation, Block, Norm, activation, conv, pool, stages, stem
from hcdc_jax.models.image_nets import Head
from hcdc_jax.types import Array

RESNET50_BLOCKS = (3, 4, 6, 3)
EXPANSION = 4
DENSENET121_BLOCKS = (6, 12, 24, 16)


class Bottleneck(Block):
    """1 x 1 to `width` channels, 3 x 3, 1 x 1 to four times as many, and a shortcut, 1 x 1 where the shape changes.

    The 3 x 3 convolution takes the stride, as in all public code since 2017 and not as in the paper.
    """

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """[n, h, w, c] -> [n, h / stride, w / stride, 4 width]."""
        act, wide = activation(self.activation), EXPANSION * self.width
        hidden = act(Norm(self.norm)(conv(self.width, 1, images, self.precision, padding=0, bias=False)))
        hidden = conv(self.width, 3, hidden, self.precision, padding=1, stride=self.stride, bias=False)
        hidden = act(Norm(self.norm)(hidden))
        hidden = Norm(self.norm)(conv(wide, 1, hidden, self.precision, padding=0, bias=False))
        if self.stride != 1 or images.shape[-1] != wide:
            images = conv(wide, 1, images, self.precision, padding=0, stride=self.stride, bias=False)
            images = Norm(self.norm)(images)
        return act(hidden + images)


class ResNet50(nn.Module):
    """ResNet-50 (He et al., arXiv 1512.03385): stem, four stages of bottlenecks, mean over pixels, a linear layer.

    Attributes:
      num_classes: number of logits.
      width: channels of the stem and in the middle of the first stage's blocks; each stage has twice as many.
      depth: blocks of the third stage, which has most; the others have 3, 4 and 3 for 6, in proportion.
      norm: one of `image_layers.NORMS`.
    """

    num_classes: int
    width: int = 64
    depth: int = 6
    norm: str = "instance"
    activation: str | Activation = "relu"
    stem: str = "auto"
    precision: str = "highest"

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Logits [n, num_classes]."""
        hidden = stem(self.width, images, self.stem, self.norm, activation(self.activation), self.precision)
        for stage, blocks in enumerate(stages(RESNET50_BLOCKS, self.depth)):
            for stride in (1 if stage == 0 else 2, *[1] * (blocks - 1)):
                width = self.width * 2**stage
                hidden = Bottleneck(width, stride, self.norm, self.activation, self.precision)(hidden)
        return Head(self.num_classes, self.precision)(hidden.mean((1, 2)))


class DenseLayer(nn.Module):
    """1 x 1 and 3 x 3 convolutions, each after norm and activation, whose result stands beside what they read.

    Attributes:
      growth: channels of the result; the 1 x 1 convolution has four times as many.
    """

    growth: int
    norm: str
    activation: str | Activation
    precision: str

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """[n, h, w, c] -> [n, h, w, c + growth]."""
        act = activation(self.activation)
        hidden = act(Norm(self.norm)(images))
        hidden = conv(EXPANSION * self.growth, 1, hidden, self.precision, padding=0, bias=False)
        hidden = conv(self.growth, 3, act(Norm(self.norm)(hidden)), self.precision, padding=1, bias=False)
        return jnp.concatenate([images, hidden], -1)


class DenseNet121(nn.Module):
    """DenseNet-121 (Huang et al., arXiv 1608.06993): four dense blocks, between them half the channels and pixels.

    Attributes:
      num_classes: number of logits.
      width: growth rate, channels that each layer adds; the stem has twice as many.
      depth: layers of the third block, which has most; the others have 6, 12 and 16 for 24, in proportion.
      norm: one of `image_layers.NORMS`.
    """

    num_classes: int
    width: int = 32
    depth: int = 24
    norm: str = "instance"
    activation: str | Activation = "relu"
    stem: str = "auto"
    precision: str = "highest"

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Logits [n, num_classes]."""
        act = activation(self.activation)
        hidden = stem(2 * self.width, images, self.stem, self.norm, act, self.precision)
        for block, layers in enumerate(stages(DENSENET121_BLOCKS, self.depth)):
            if block:
                half = hidden.shape[-1] // 2
                hidden = conv(half, 1, act(Norm(self.norm)(hidden)), self.precision, padding=0, bias=False)
                hidden = pool(hidden, "average")
            for _ in range(layers):
                hidden = DenseLayer(self.width, self.norm, self.activation, self.precision)(hidden)
        return Head(self.num_classes, self.precision)(act(Norm(self.norm)(hidden)).mean((1, 2)))
