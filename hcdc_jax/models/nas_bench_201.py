"""The network of NAS-Bench-201 around any of its cells, or around a mixture of them (arXiv 2001.00326).

A stem, three stages of `depth` cells with C, 2 C and 4 C channels, residual blocks that halve the image between them.

One structure serves all cells and mixtures: each edge adds up its operations by their weights, and a convolution whose
weight is 0 is skipped by a branch. So a cell by itself costs what it computes, though all share one compiled program;
under `vmap` over cells branches turn into selections and all operations are computed. The slope in the weight of a
convolution that is left out is 0: its numbers were never trained, and what it would add says nothing about the cell.
Convolutions are products with shifted copies of the image, for those stay products where candidates are mapped over,
while XLA's own become grouped ones, which are slow on CPUs. Inside the network images lie as planes [c, h, w, n].
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from hcdc_jax.data.cells import CONV_1X1, CONV_3X3, EDGES, NONE, OPERATIONS, POOL, SKIP, Cell, cell_of
from hcdc_jax.errors import UserError, check_name
from hcdc_jax.models.image_layers import (
    NORMS,
    Activation,
    activation,
    affine_shape,
    bordered,
    kernel_init,
    normalised_planes,
)
from hcdc_jax.models.image_nets import Head
from hcdc_jax.models.planes import convolved_planes, pooled, times_pooled
from hcdc_jax.types import Array, Params

CONVOLUTIONS = {CONV_1X1: 1, CONV_3X3: 3}
"""The operations with numbers to learn, and the sides of their kernels."""
NUM_STAGES = 3


class NASBench201(nn.Module):
    """The whole network.

    Attributes:
      num_classes: number of logits.
      cell: weights of the operations [6, 5], of each edge in the order of `cells.EDGES`; or one cell for good, by its
        string or its six operations, whose network has no other operations. None: the mean of all operations.
      width: C, channels of the first stage.
      depth: cells per stage; 5 in the benchmark, 1 where searches need a small one.
      norm: one of `image_layers.NORMS`; "batch" in the benchmark, here without running averages.
      activation: see `image_nets.MLP`.
      precision: see `image_nets.MLP`.
      cell_affine: whether norms inside cells learn scales and shifts.
    """

    num_classes: int
    cell: str | Cell | Array | None = None
    width: int = 16
    depth: int = 5
    norm: str = "batch"
    activation: str | Activation = "relu"
    precision: str = "highest"
    cell_affine: bool = True

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Logits [n, num_classes] of images [n, h, w, c], height and width multiples of 4."""
        check_name("norm", self.norm, NORMS)
        images = bordered(images)
        if any(size % 2 ** (NUM_STAGES - 1) for size in images.shape[1:3]):
            height, width = images.shape[1:3]
            raise UserError(f"nas_bench_201 halves images twice; {height} x {width} pixels are no multiples of 4")
        layers = _Layers(self.norm, activation(self.activation), self.precision, self.cell_affine)
        hidden = ConvNorm(self.width, 3, layers, name="stem")(images.transpose(3, 1, 2, 0))
        for stage in range(NUM_STAGES):
            width = self.width * 2**stage
            if stage:
                hidden = Reduction(width, layers, name=f"reduction_{stage}")(hidden)
            hidden = Stage(self.cell, self.depth, layers, name=f"stage_{stage}")(hidden)
        hidden = _act(self, layers, Affine(layers, name="norm")(hidden))
        return Head(self.num_classes, self.precision)(hidden.mean((1, 2)).T)


class _Layers(NamedTuple):
    """What all layers of a network share."""

    norm: str
    activation: Activation
    precision: str
    cell_affine: bool


class Affine(nn.Module):
    """The norm of a network, with its scale and shift."""

    layers: _Layers

    @nn.compact
    def __call__(self, planes: Array) -> Array:
        """[c, h, w, n] -> [c, h, w, n]."""
        return _normal(self.layers, planes, _affine(self, self.layers, (), _image_shape(planes)))


class ConvNorm(nn.Module):
    """A convolution without bias, and the norm; what comes before it is activated elsewhere."""

    width: int
    size: int
    layers: _Layers
    stride: int = 1

    @nn.compact
    def __call__(self, planes: Array) -> Array:
        """[c, h, w, n] -> [width, h / stride, w / stride, n]."""
        kernel = self.param("kernel", kernel_init, (self.size, self.size, len(planes), self.width))
        hidden = convolved_planes(planes, kernel, self.stride, self.layers.precision)
        return _normal(self.layers, hidden, _affine(self, self.layers, (), _image_shape(hidden)))


class Reduction(nn.Module):
    """The residual block that halves the image: two 3 x 3 convolutions, and 2 x 2 means under a 1 x 1 one."""

    width: int
    layers: _Layers

    @nn.compact
    def __call__(self, planes: Array) -> Array:
        """[c, h, w, n] -> [width, h / 2, w / 2, n]."""
        channels, height, width, n = planes.shape
        hidden = ConvNorm(self.width, 3, self.layers, stride=2, name="first")(_act(self, self.layers, planes))
        hidden = ConvNorm(self.width, 3, self.layers, name="second")(_act(self, self.layers, hidden))
        kernel = self.param("kernel", kernel_init, (1, 1, channels, self.width))
        means = planes.reshape(channels, height // 2, 2, width // 2, 2, n).mean((2, 4))
        return convolved_planes(means, kernel, 1, self.layers.precision) + hidden


class Stage(nn.Module):
    """Cells of one width, one after the other. Leading axes of all parameters: cells, then edges."""

    cell: Any
    depth: int
    layers: _Layers

    @nn.compact
    def __call__(self, planes: Array) -> Array:
        """[c, h, w, n] -> [c, h, w, n]."""
        fixed = cell_of(self.cell) if isinstance(self.cell, str | tuple) else None
        weights = _weights(fixed or self.cell)
        params = {}
        for operation, size in CONVOLUTIONS.items():
            edges = len(EDGES) if fixed is None else fixed.count(operation)
            if edges:
                convolution = Convolution((self.depth, edges), size, self.layers, name=OPERATIONS[operation])
                params[operation] = convolution(_image_shape(planes))
        wanted = self.is_mutable_collection("agreement")

        def advance(hidden, of_cell):
            if fixed is None:
                nodes = _mixed_nodes(weights, of_cell, self.layers, hidden)
            else:
                nodes = _chosen_nodes(fixed, of_cell, self.layers, hidden)
            return nodes[-1], _agreement(nodes[:-1], _rectifiers(weights)) if wanted else ()

        # Cells are compiled once, however many follow one another.
        hidden, agreements = jax.lax.scan(advance, planes, params, length=self.depth, unroll=self.depth == 1)
        if wanted:
            self.sow("agreement", "kernel", jnp.sum(jnp.asarray(agreements), 0))
        return hidden


def _weights(cell: Any) -> Array:
    """The weights [6, 5] of the operations."""
    if cell is None:
        return jnp.full((len(EDGES), len(OPERATIONS)), 1 / len(OPERATIONS))
    return jnp.eye(len(OPERATIONS))[np.array(cell)] if isinstance(cell, tuple) else cell


class Convolution(nn.Module):
    """Kernels, scales and shifts of many convolutions of one kind, with the same leading axes."""

    leading: tuple[int, ...]
    size: int
    layers: _Layers

    @nn.compact
    def __call__(self, image_shape: tuple[int, int, int]) -> dict[str, Array]:
        """The parameters by name, for images [height, width, channels]."""
        channels = image_shape[-1]
        batch_axes = tuple(range(len(self.leading)))
        init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform", batch_axis=batch_axes)
        shape = (*self.leading, self.size, self.size, channels, channels)
        kernel = {"kernel": self.param("kernel", init, shape)}
        if self.layers.cell_affine or self.layers.norm == "none":
            return kernel | _affine(self, self.layers, self.leading, image_shape)
        plain = (*self.leading, *affine_shape(self.layers.norm, image_shape))
        return kernel | {"scale": jnp.ones(plain), "bias": jnp.zeros(plain)}


def _affine(
    module: nn.Module, layers: _Layers, leading: tuple[int, ...], image_shape: tuple[int, ...]
) -> dict[str, Array]:
    """Scale and shift of a norm as parameters of the module; nothing where there is no norm."""
    if layers.norm == "none":
        return {}
    shape = (*leading, *affine_shape(layers.norm, image_shape))
    scale = module.param("scale", nn.initializers.ones_init(), shape)
    return {"scale": scale, "bias": module.param("bias", nn.initializers.zeros_init(), shape)}


def _image_shape(planes: Array) -> tuple[int, int, int]:
    """Height, width and channels."""
    channels, height, width, _ = planes.shape
    return height, width, channels


def _normal(layers: _Layers, planes: Array, affine: Mapping[str, Array]) -> Array:
    return planes if layers.norm == "none" else normalised_planes(layers.norm, planes, affine["scale"], affine["bias"])


def _act(module: nn.Module, layers: _Layers, planes: Array) -> Array:
    """The activation, and which of its inputs are positive, for those who ask."""
    if module.is_mutable_collection("agreement"):
        module.sow("agreement", "kernel", _agreement([planes], [1.0]))
    return layers.activation(planes)


def _mixed_nodes(weights: Array, params: Any, layers: _Layers, planes: Array) -> list[Array]:
    """The nodes of a cell that adds up all operations by their weights."""
    nodes = [planes, *[jnp.zeros_like(planes)] * 3]
    # In this order an edge finds its source complete. A loop would compile in 0.6 of the time, and copy nodes at each
    # edge: a step of training would take a quarter longer.
    for edge, ((source, target), weight) in enumerate(zip(EDGES, weights.astype(planes.dtype), strict=True)):
        own = jax.tree.map(lambda leaf, edge=edge: leaf[edge], params)
        nodes[target] = nodes[target] + _mixed(layers, weight, own, nodes[source])
    return nodes


def _mixed(layers: _Layers, weight: Array, params: Mapping[int, Any], source: Array) -> Array:
    """What an edge adds up."""
    # Computed again for the backward pass, for which a branch that is not taken would store zeros.
    computed = jax.checkpoint(functools.partial(_convolution, layers), prevent_cse=False)
    total = weight[SKIP] * source + times_pooled(weight[POOL], source)
    for operation in CONVOLUTIONS:
        there = weight[operation] != 0
        total += weight[operation] * jax.lax.cond(there, computed, _nothing, params[operation], source)
    return total


def _chosen_nodes(cell: Cell, params: Any, layers: _Layers, planes: Array) -> list[Array]:
    """The nodes of a cell with one operation for each edge."""
    nodes = [planes, *[jnp.zeros_like(planes)] * 3]
    for edge, ((source, target), operation) in enumerate(zip(EDGES, cell, strict=True)):
        if operation in CONVOLUTIONS:
            place = cell[:edge].count(operation)
            term = _convolution(
                layers, jax.tree.map(lambda leaf, place=place: leaf[place], params[operation]), nodes[source]
            )
        else:
            term = {NONE: jnp.zeros_like, SKIP: lambda x: x, POOL: pooled}[operation](nodes[source])
        nodes[target] = nodes[target] + term
    return nodes


def _convolution(layers: _Layers, params: Mapping[str, Array], source: Array) -> Array:
    return _normal(layers, convolved_planes(layers.activation(source), params["kernel"], 1, layers.precision), params)


def _nothing(params: Mapping[str, Array], source: Array) -> Array:
    del params
    return jnp.zeros_like(source)


def _rectifiers(weights: Array) -> Array:
    """How many rectifiers read each of the first three nodes: one before every convolution that is there."""
    present = (weights[:, np.array(list(CONVOLUTIONS))] != 0).sum(-1)
    leaving = np.array([[source == node for source, _ in EDGES] for node in range(3)])
    return (present[None] * leaving).sum(-1)


def _agreement(inputs: Array | Sequence[Array], copies: Array | Sequence[float]) -> Array:
    """How many signs of activations' inputs each pair of images shares: [n, n]."""
    total = 0.0
    for planes, count in zip(inputs, copies, strict=True):
        signs = (planes > 0).reshape(-1, planes.shape[-1]).astype(planes.dtype)
        total += count * (signs.T @ signs + (1 - signs).T @ (1 - signs))
    return jnp.asarray(total)


def present(params: Params, cell: Array) -> Params:
    """The parameters with zeros in place of those of operations whose weight is 0 in `cell` [6, 5]."""

    def mask(path, leaf):
        operation = next((OPERATIONS.index(entry.key) for entry in path if entry.key in OPERATIONS), None)
        if operation is None:
            return leaf
        there = (cell[:, operation] != 0).reshape(1, len(EDGES), *[1] * (leaf.ndim - 2))
        return jnp.where(there, leaf, 0)

    return jax.tree_util.tree_map_with_path(mask, params)


class Size(NamedTuple):
    """How large a network is.

    Attributes:
      parameters: numbers to learn.
      flops: multiply-adds of convolutions and of the last layer for one image, as the benchmark counts them.
    """

    parameters: Array | np.floating
    flops: Array | np.floating


def size_of(
    cell: Array | np.ndarray,
    image_shape: tuple[int, int, int] = (32, 32, 3),
    num_classes: int = 10,
    *,
    width: int = 16,
    depth: int = 5,
    norm: str = "batch",
) -> Size:
    """The size of a cell's network, from the weights [6, 5] of its operations; those of weight 0 are not there.

    Whole numbers as floats, exact where `cell` is an array of NumPy, else below 2^24. At the defaults from 0.073 M to
    1.532 M parameters, and from 7.8 M to 220.1 M multiply-adds.
    """
    height, breadth, channels = image_shape
    numbers, products = np.zeros(1 + len(OPERATIONS)), np.zeros(1 + len(OPERATIONS))  # the rest, then per edge

    def add(place: int, inputs: int, outputs: int, side: int, pixels: int, copies: int = 1, normed: bool = True):
        kernel = side * side * inputs * outputs
        affine = 0 if norm == "none" or not normed else 2 * outputs * (pixels if norm == "layer" else 1)
        numbers[place] += copies * (kernel + affine)
        products[place] += copies * kernel * pixels

    add(0, channels, width, 3, height * breadth)
    for stage in range(NUM_STAGES):
        c, pixels = width * 2**stage, (height // 2**stage) * (breadth // 2**stage)
        if stage:
            add(0, c // 2, c, 3, pixels)
            add(0, c, c, 3, pixels)
            add(0, c // 2, c, 1, pixels, normed=False)
        for operation, side in CONVOLUTIONS.items():
            add(1 + operation, c, c, side, pixels, copies=depth)
    add(0, 0, c, 1, pixels)  # the last norm
    for counts in (numbers, products):
        counts[0] += c * num_classes + num_classes  # the benchmark counts the bias as a product
    edges = (cell != 0).sum(0)
    return Size(*(counts[0] + (edges * counts[1:]).sum() for counts in (numbers, products)))
