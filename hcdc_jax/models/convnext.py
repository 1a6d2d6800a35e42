"""ConvNeXt-Tiny (Liu et al., arXiv 2201.03545): convolutions arranged like a transformer."""

from __future__ import annotations

import flax.linen as nn
import jax

from hcdc_jax.errors import UserError
from hcdc_jax.models.image_layers import bordered, conv, depthwise, is_large, layer_norm, linear, stages
from hcdc_jax.models.image_nets import Head
from hcdc_jax.types import Array

BLOCKS = (3, 3, 9, 3)
KERNEL = 7
MLP_RATIO = 4
LAYER_SCALE = 1e-6
"""What the branches of all blocks are multiplied by at first; learned for each channel."""
LAYER_EPS = 1e-6
"""Of the norms; the paper's code does not take PyTorch's default."""


class ConvNeXtBlock(nn.Module):
    """7 x 7 of each channel, norm, two linear layers with four times as many channels in between, and a shortcut."""

    precision: str

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """[n, h, w, c] -> [n, h, w, c]."""
        channels = images.shape[-1]
        hidden = depthwise(KERNEL, images, self.precision, padding=KERNEL // 2, bias=True)
        hidden = linear(MLP_RATIO * channels, layer_norm(hidden, LAYER_EPS), self.precision)
        hidden = linear(channels, jax.nn.gelu(hidden, approximate=False), self.precision)
        scale = self.param("layer_scale", nn.initializers.constant(LAYER_SCALE), (channels,))
        return images + hidden * scale.reshape(1, 1, 1, -1)


class ConvNeXtTiny(nn.Module):
    """A stem that cuts patches, four stages of blocks with halvings between them, the mean over pixels, a linear layer.

    Without stochastic depth, since networks here draw nothing; kernels start as everywhere here, not from a truncated
    normal distribution. On images of 32 x 32 pixels patches of 2 leave 2 x 2 pixels in the last stage. Slow on CPUs.

    Attributes:
      num_classes: number of logits.
      patch: side of the stem's kernels and its stride; 0 for 4, as in the paper, on images of at least
        `image_layers.LARGE_SIDE` pixels, and for 2 on others.
      width: channels of the first stage; each of the others has twice as many as the one before.
      depth: blocks of the third stage, which has most; the others have 3 for 9, in proportion.
    """

    num_classes: int
    patch: int = 0
    width: int = 96
    depth: int = 9
    precision: str = "highest"

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Logits [n, num_classes]."""
        hidden, patch = bordered(images), self.patch or (4 if is_large(images) else 2)
        for stage, blocks in enumerate(stages(BLOCKS, self.depth)):
            size = 2 if stage else patch
            if min(hidden.shape[1:3]) < size:
                raise UserError(
                    f"the images are too small: {hidden.shape[1]} x {hidden.shape[2]} are left where {size} x {size} "
                    "should become one; choose a smaller patch"
                )
            hidden = layer_norm(hidden, LAYER_EPS) if stage else hidden
            hidden = conv(self.width * 2**stage, size, hidden, self.precision, padding=0, stride=size)
            hidden = layer_norm(hidden, LAYER_EPS) if not stage else hidden
            for _ in range(blocks):
                hidden = ConvNeXtBlock(self.precision)(hidden)
        return Head(self.num_classes, self.precision)(layer_norm(hidden.mean((1, 2)), LAYER_EPS))
