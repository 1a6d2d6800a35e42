"""Swin-Tiny (Liu et al., arXiv 2103.14030): attention inside windows, which every second block shifts by a half."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from hcdc_jax.errors import UserError
from hcdc_jax.models.image_layers import bordered, is_large, layer_norm, linear, stages
from hcdc_jax.models.image_nets import Head
from hcdc_jax.models.vit import Attention, mlp, patches
from hcdc_jax.types import Array

BLOCKS = (2, 2, 6, 2)
MLP_RATIO = 4
APART = -1e9
"""Added to the scores of tokens that share a window after a shift alone, from opposite borders of the image."""


class SwinBlock(nn.Module):
    """Attention inside windows with a learned bias for each offset, and two linear layers, each with a shortcut.

    Attributes:
      heads: of the attention.
      window: side of a window in tokens; divides the sides of the image.
      shift: by which windows are moved, less than `window`.
    """

    heads: int
    window: int
    shift: int
    precision: str

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        """[n, h, w, c] -> [n, h, w, c]."""
        n, height, width, channels = tokens.shape
        window, area = self.window, self.window**2
        hidden = jnp.roll(layer_norm(tokens), (-self.shift, -self.shift), (1, 2))
        inside = in_windows(hidden, window).reshape(-1, area, channels)
        table = self.param("relative_bias", nn.initializers.normal(0.02), ((2 * window - 1) ** 2, self.heads))
        bias = table[offsets(window).reshape(-1)].reshape(area, area, self.heads).transpose(2, 0, 1)
        apart = jnp.asarray(separated(height, width, window, self.shift) * APART, bias.dtype)
        bias = jnp.tile(bias[None] + apart[:, None], (n, 1, 1, 1))
        mixed = Attention(self.heads, self.precision)(inside, bias).reshape(n, -1, area, channels)
        tokens = tokens + jnp.roll(from_windows(mixed, height, width), (self.shift, self.shift), (1, 2))
        return tokens + mlp(MLP_RATIO * channels, layer_norm(tokens), self.precision)


class SwinTiny(nn.Module):
    """Linear embedding of patches, four stages of blocks, between them 2 x 2 tokens become one, the mean over tokens.

    Without stochastic depth, since networks here draw nothing; kernels start as everywhere here, not from a truncated
    normal distribution. Of images of 32 x 32 pixels four stages leave 2 x 2 tokens. A window that is larger than the
    image becomes as large as that.

    Attributes:
      num_classes: number of logits.
      patch: side of a patch; 0 for 4, as in the paper, on images of at least `image_layers.LARGE_SIDE` pixels, and for
        2 on others.
      window: side of a window in tokens; 0 for 7, as in the paper, where that divides the sides of the first stage, and
        for 4 elsewhere.
      width: of the tokens of the first stage; each of the others has twice as many as the one before.
      depth: blocks of the third stage, which has most; the others have 2 for 6, in proportion. Every second one of a
        stage shifts its windows.
      heads: of the attention in the first stage; each of the others has twice as many as the one before.
    """

    num_classes: int
    patch: int = 0
    window: int = 0
    width: int = 96
    depth: int = 6
    heads: int = 3
    precision: str = "highest"

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Logits [n, num_classes]."""
        if self.width % self.heads:
            raise UserError(f"{self.heads} heads do not divide the width {self.width} of a Swin transformer")
        patch = self.patch or (4 if is_large(images) else 2)
        tokens = layer_norm(linear(self.width, patches(bordered(images), patch), self.precision))
        largest = self.window or (4 if any(side % 7 for side in tokens.shape[1:3]) else 7)
        for stage, blocks in enumerate(stages(BLOCKS, self.depth)):
            if stage:
                tokens = layer_norm(patches(tokens, 2))
                tokens = linear(self.width * 2**stage, tokens, self.precision, bias=False)
            height, width = tokens.shape[1:3]
            window = min(largest, height, width)
            if height % window or width % window:
                raise UserError(
                    f"{height} x {width} tokens cannot be cut into windows of side {window}; choose a window that "
                    "divides them in every stage"
                )
            for number in range(blocks):
                shift = window // 2 if number % 2 and window < min(height, width) else 0
                tokens = SwinBlock(self.heads * 2**stage, window, shift, self.precision)(tokens)
        return Head(self.num_classes, self.precision)(layer_norm(tokens).mean((1, 2)))


def in_windows(tokens: Array, window: int) -> Array:
    """[n, h, w, c] as [n, windows, window^2, c], row by row."""
    n, height, width, channels = tokens.shape
    rows, columns = height // window, width // window
    blocks = tokens.reshape(n, rows, window, columns, window, channels).swapaxes(2, 3)
    return blocks.reshape(n, rows * columns, window * window, channels)


def from_windows(tokens: Array, height: int, width: int) -> Array:
    """The inverse of `in_windows`: [n, windows, window^2, c] as [n, height, width, c]."""
    n, _, area, channels = tokens.shape
    window = round(area**0.5)
    rows, columns = height // window, width // window
    blocks = tokens.reshape(n, rows, columns, window, window, channels).swapaxes(2, 3)
    return blocks.reshape(n, height, width, channels)


def offsets(window: int) -> np.ndarray:
    """[window^2, window^2] numbers of the offsets in rows and columns between the tokens of a window."""
    places = np.mgrid[:window, :window].reshape(2, -1)
    rows, columns = places[:, :, None] - places[:, None] + window - 1
    return rows * (2 * window - 1) + columns


def separated(height: int, width: int, window: int, shift: int) -> np.ndarray:
    """[windows, window^2, window^2] 1 where two tokens of a shifted window come from opposite borders, else 0."""

    def region(side: int) -> np.ndarray:
        return (np.arange(side) >= side - shift).astype(np.float32) if shift else np.zeros(side, np.float32)

    regions = 2 * region(height)[:, None] + region(width)[None]
    inside = (
        regions.reshape(height // window, window, width // window, window).swapaxes(1, 2).reshape(-1, window * window)
    )
    return (inside[:, :, None] != inside[:, None]).astype(np.float32)
