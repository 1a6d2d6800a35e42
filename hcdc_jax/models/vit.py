"""A small vision transformer (Dosovitskiy et al., arXiv 2010.11929) that pools by the mean over patches."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from hcdc_jax.errors import UserError
from hcdc_jax.models.image_layers import EPS, linear
from hcdc_jax.models.image_nets import Head
from hcdc_jax.types import Array


class Attention(nn.Module):
    """Multi-head self-attention.

    Attributes:
      heads: number of heads; divides the width.
      precision: of all products.
    """

    heads: int
    precision: str

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        """[n, t, width] -> [n, t, width]."""
        n, t, width = tokens.shape
        joint = linear(3 * width, tokens, self.precision).reshape(n, t, 3, self.heads, width // self.heads)
        queries, keys, values = (joint[:, :, i] for i in range(3))
        scores = jnp.einsum("nqhd,nkhd->nhqk", queries, keys, precision=self.precision)
        attention = jax.nn.softmax(scores * (width // self.heads) ** -0.5)
        mixed = jnp.einsum("nhqk,nkhd->nqhd", attention, values, precision=self.precision)
        return linear(width, mixed.reshape(n, t, width), self.precision)


class ViT(nn.Module):
    """Linear embedding of patches, learned positions, `depth` pre-norm blocks, the mean over patches, a linear layer.

    Attributes:
      num_classes: number of logits.
      patch: side of a patch; divides height and width of the images.
      width: of the tokens.
      depth: number of blocks.
      heads: of the attention; divides the width.
      mlp_width: of the hidden layer in each block.
      precision: see `image_nets.MLP`.
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
        n, height, width, channels = images.shape
        rows, columns = height // self.patch, width // self.patch
        if (rows * self.patch, columns * self.patch) != (height, width):
            raise UserError(f"images of {height} x {width} cannot be cut into patches of side {self.patch}")
        if self.width % self.heads:
            raise UserError(f"{self.heads} heads do not divide the width {self.width} of a ViT")
        patches = images.reshape(n, rows, self.patch, columns, self.patch, channels).swapaxes(2, 3)
        tokens = linear(self.width, patches.reshape(n, rows * columns, -1), self.precision)
        tokens = tokens + self.param("positions", nn.initializers.normal(0.02), (1, *tokens.shape[1:]))
        for _ in range(self.depth):
            tokens = tokens + Attention(self.heads, self.precision)(_layer_norm(tokens))
            hidden = jax.nn.gelu(linear(self.mlp_width, _layer_norm(tokens), self.precision), approximate=False)
            tokens = tokens + linear(self.width, hidden, self.precision)
        return Head(self.num_classes, self.precision)(_layer_norm(tokens).mean(1))


def _layer_norm(tokens: Array) -> Array:
    # Flax's fast variance, E x^2 - (E x)^2, loses digits that solvers need.
    return nn.LayerNorm(epsilon=EPS, use_fast_variance=False)(tokens)
