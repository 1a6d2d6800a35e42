"""Vision transformers: a small one that pools by the mean over patches, and DeiT-Tiny with its class token."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from hcdc_jax.errors import UserError
from hcdc_jax.models.image_layers import bordered, is_large, layer_norm, linear
from hcdc_jax.models.image_nets import Head
from hcdc_jax.types import Array

DEIT_MLP_RATIO = 4
DEIT_EPS = 1e-6
"""Of the norms of DeiT; its code does not take PyTorch's default."""


class Attention(nn.Module):
    """Multi-head self-attention.

    Attributes:
      heads: number of heads; divides the width.
      precision: of all products.
    """

    heads: int
    precision: str

    @nn.compact
    def __call__(self, tokens: Array, bias: Array | None = None) -> Array:
        """[n, t, width] -> [n, t, width]; the scores of queries and keys may have a bias [n, heads, t, t]."""
        n, t, width = tokens.shape
        joint = linear(3 * width, tokens, self.precision).reshape(n, t, 3, self.heads, width // self.heads)
        queries, keys, values = (joint[:, :, i] for i in range(3))
        scores = jnp.einsum("nqhd,nkhd->nhqk", queries, keys, precision=self.precision)
        scores = scores * (width // self.heads) ** -0.5
        attention = jax.nn.softmax(scores if bias is None else scores + bias)
        mixed = jnp.einsum("nhqk,nkhd->nqhd", attention, values, precision=self.precision)
        return linear(width, mixed.reshape(n, t, width), self.precision)


class ViT(nn.Module):
    """Linear embedding of patches, learned positions, `depth` pre-norm blocks, the mean over patches, a linear layer.

    A small vision transformer (Dosovitskiy et al., arXiv 2010.11929).

    Attributes:
      num_classes: number of logits.
      patch: side of a patch; divides height and width of the images.
      width: of the tokens.
      depth: number of blocks.
      heads: of the attention; divides the width.
      mlp_width: of the hidden layer in each block.
    """

    num_classes: int
    patch: int = 4
    width: int = 128
    depth: int = 6
    heads: int = 4
    mlp_width: int = 256
    precision: str = "highest"

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Logits [n, num_classes]."""
        cut = patches(images, self.patch)
        if self.width % self.heads:
            raise UserError(f"{self.heads} heads do not divide the width {self.width} of a ViT")
        tokens = linear(self.width, cut.reshape(len(images), -1, cut.shape[-1]), self.precision)
        tokens = tokens + self.param("positions", nn.initializers.normal(0.02), (1, *tokens.shape[1:]))
        for _ in range(self.depth):
            tokens = tokens + Attention(self.heads, self.precision)(layer_norm(tokens))
            tokens = tokens + mlp(self.mlp_width, layer_norm(tokens), self.precision)
        return Head(self.num_classes, self.precision)(layer_norm(tokens).mean(1))


class DeiTTiny(nn.Module):
    """DeiT-Tiny (Touvron et al., arXiv 2012.12877): a vision transformer that classifies by a token of its own.

    Without a token for distillation, dropout and stochastic depth; kernels start as everywhere here, not from a
    truncated normal distribution. Patches of 4 pixels are usual for small images: 32 x 32 of them have 64.

    Attributes:
      num_classes: number of logits.
      patch: side of a patch, which divides height and width of the images; 0 for 16, as in the paper, on images of at
        least `image_layers.LARGE_SIDE` pixels, and for 4 on others.
      width: of the tokens.
      depth: number of blocks.
      heads: of the attention; divides the width.
    """

    num_classes: int
    patch: int = 0
    width: int = 192
    depth: int = 12
    heads: int = 3
    precision: str = "highest"

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Logits [n, num_classes]."""
        cut = patches(bordered(images), self.patch or (16 if is_large(images) else 4))
        init = nn.initializers.normal(0.02)
        if self.width % self.heads:
            raise UserError(f"{self.heads} heads do not divide the width {self.width} of a DeiT")
        tokens = linear(self.width, cut.reshape(len(images), -1, cut.shape[-1]), self.precision)
        first = jnp.tile(self.param("class_token", init, (1, 1, self.width)), (len(images), 1, 1))
        tokens = jnp.concatenate([first, tokens], 1)
        tokens = tokens + self.param("positions", init, (1, *tokens.shape[1:]))
        for _ in range(self.depth):
            tokens = tokens + Attention(self.heads, self.precision)(layer_norm(tokens, DEIT_EPS))
            tokens = tokens + mlp(DEIT_MLP_RATIO * self.width, layer_norm(tokens, DEIT_EPS), self.precision)
        return Head(self.num_classes, self.precision)(layer_norm(tokens, DEIT_EPS)[:, 0])


def patches(images: Array, side: int) -> Array:
    """Images [n, h, w, c] cut into squares, [n, h / side, w / side, side^2 c].

    Raises:
      UserError: the side does not divide height and width.
    """
    n, height, width, channels = images.shape
    rows, columns = height // side, width // side
    if (rows * side, columns * side) != (height, width):
        raise UserError(f"images of {height} x {width} cannot be cut into patches of side {side}")
    squares = images.reshape(n, rows, side, columns, side, channels).swapaxes(2, 3)
    return squares.reshape(n, rows, columns, side * side * channels)


def mlp(hidden_width: int, tokens: Array, precision: str) -> Array:
    """Two linear layers with a Gaussian error unit in between. To be called inside a compact module."""
    hidden = jax.nn.gelu(linear(hidden_width, tokens, precision), approximate=False)
    return linear(tokens.shape[-1], hidden, precision)
