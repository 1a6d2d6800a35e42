"""Images from a hierarchical memory network (HMN, arXiv 2310.07506, section 3).

What images share is stored once: x_{c,i} = D([f_c(m_D); m_C_c; m_I_{c,i}]) with one memory m_D for the data set, a
memory m_C_c and a small extractor f_c for each class c, a memory m_I_{c,i} for each image i, and one decoder D; [;]
joins channels. No layer looks across images, so that an image depends on no instance memory but its own.

The paper has no public code. Every choice it leaves open is made in this file and listed in docs/hmn.md.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import keystr
from jax.tree_util import tree_leaves_with_path as leaves_with_path

from hcdc_jax.containers.base import Container
from hcdc_jax.containers.images import as_they_are
from hcdc_jax.errors import UserError, check_name
from hcdc_jax.models.image_layers import conv
from hcdc_jax.types import Array, Batch, PyTree

SMALLEST_SIDE = 4
"""Of memories whose side is not given: images are halved as long as this leaves at least so many pixels."""
PRECISION = "highest"  # of the convolutions, as in the project's image networks: what is stored is exact


class MemoryShapes(NamedTuple):
    """Channels of the parts of a network; all memories share one height and width.

    Attributes:
      dataset: channels of m_D.
      extracted: channels of f_c(m_D).
      per_class: channels of each m_C_c.
      instance: channels of each m_I_{c,i}; the main knob: more make better images, and fewer.
      width: channels inside the decoder.
      side: height of the memories, h / 2^k rounded up for images of height h; their width follows. None halves until
        another halving would leave less than `SMALLEST_SIDE` pixels.
    """

    dataset: int = 8
    extracted: int = 4
    per_class: int = 4
    instance: int = 2
    width: int = 8
    side: int | None = None


class HMNVariables(NamedTuple):
    """Variables of a hierarchical memory network, all of them learned.

    There are no labels: the image at place c k + i is image i of class c.

    Attributes:
      dataset_memory: m_D [side, side', dataset].
      class_memories: m_C [num_classes, side, side', per_class].
      instance_memories: m_I [num_classes, k, side, side', instance].
      extractors: parameters of f_c, each with leading axis [num_classes].
      decoder: parameters of D.
    """

    dataset_memory: Array
    class_memories: Array
    instance_memories: Array
    extractors: PyTree
    decoder: PyTree


class Extractor(nn.Module):
    """f_c: a 1 x 1 convolution and a leaky rectifier, as small as can be, since each class stores its own.

    Leaky: one channel that never fires would be all that the class has of m_D, and no gradient would bring it back.

    Attributes:
      features: channels that it gives.
    """

    features: int

    @nn.compact
    def __call__(self, memory: Array) -> Array:
        """[n, side, side', extracted] from m_D [n, side, side', dataset]."""
        return jax.nn.leaky_relu(conv(self.features, 1, memory, PRECISION, padding=0))


class Decoder(nn.Module):
    """D: doublings by repetition, each with a 3 x 3 convolution and a leaky rectifier; one more to pixels; a sigmoid.

    No norm: those of a batch would tie images together, those of an image would spend numbers on scales.

    Attributes:
      sizes: (height, width) from that of the memories to that of the images, each twice the one before or one less.
      width: channels inside.
      channels: of the images.
    """

    sizes: tuple[tuple[int, int], ...]
    width: int
    channels: int

    @nn.compact
    def __call__(self, features: Array) -> Array:
        """Pixels [n, height, width, channels] in [0, 1] from joined memories [n, side, side', all channels]."""
        for height, width in self.sizes[1:]:
            doubled = jnp.repeat(jnp.repeat(features, 2, axis=1), 2, axis=2)[:, :height, :width]
            features = jax.nn.leaky_relu(conv(self.width, 3, doubled, PRECISION, padding=1))
        return jax.nn.sigmoid(conv(self.channels, 3, features, PRECISION, padding=1))


class Fit(NamedTuple):
    """How a network is fitted to real images before it is condensed; the paper is silent on its start.

    Attributes:
      steps: of Adam.
      learning_rate: of Adam.
      batch_size: images per step.
    """

    steps: int = 500
    learning_rate: float = 0.01
    batch_size: int = 128


STARTS = ("noise", "fit_real")


@functools.cache
def hmn_container(
    image_shape: tuple[int, int, int],
    num_classes: int,
    shapes: MemoryShapes = MemoryShapes(),
    *,
    start: str = "noise",
    to_inputs: Callable[[Array], Array] = as_they_are,
    fit: Fit = Fit(),
) -> Container:
    """A container of images that a hierarchical memory network generates, sorted by class, equally many of each.

    How many there are is up to the `ImageStart`; `hmn_budget.hmn_sizes` says how many a budget allows.

    Args:
      image_shape: (height, width, channels).
      num_classes: number of classes.
      shapes: of memories and networks.
      start: "noise", standard normal memories and the networks' usual initialisation; or "fit_real", from there fitted
        by least squares to the images of the start, image by image.
      to_inputs: from pixels in [0, 1], which the decoder gives, to what networks read: `preprocessing.apply` of the
        run. Statistics of the real data are not stored in the network.
      fit: of "fit_real".

    Raises:
      UserError: another start, or memories that do not double to the images' size.
    """
    check_name("start of a memory network", start, STARTS, where="in 'condense.init'")
    network = Network(num_classes, shapes, decoder_sizes(image_shape, shapes.side), image_shape[2])

    def init(key, start_images):
        key_fresh, key_fit = jax.random.split(key)
        variables = _fresh(key_fresh, network, _balanced(np.asarray(start_images.labels), num_classes))
        if start == "noise":
            return variables
        images = jnp.asarray(start_images.images, variables.dataset_memory.dtype)
        return _fitted(key_fit, variables, images, decode_at=decode_at, fit=fit)

    def images_of(variables, upper, instances, classes):
        pixels = network.decoder.apply({"params": variables.decoder}, jnp.concatenate([upper, instances], axis=-1))
        inputs = to_inputs(jnp.asarray(pixels))
        return Batch(inputs, classes.astype(jnp.int32), jnp.ones(len(classes), inputs.dtype))

    def decode(variables):
        upper, instances = _upper_tiers(network, variables), variables.instance_memories
        per_class = instances.shape[1]
        classes = jnp.repeat(jnp.arange(num_classes), per_class)
        flat = instances.reshape(-1, *instances.shape[2:])
        return images_of(variables, jnp.repeat(upper, per_class, axis=0), flat, classes)

    def decode_at(variables, places):
        upper, instances = _upper_tiers(network, variables), variables.instance_memories
        classes, within = jnp.divmod(places, instances.shape[1])
        return images_of(variables, upper[classes], instances[classes, within], classes)

    def take(variables, places):
        classes, within = np.divmod(np.asarray(places), variables.instance_memories.shape[1])
        kept = _balanced(classes, num_classes)
        memories = variables.instance_memories[classes, within]
        return variables._replace(instance_memories=memories.reshape(num_classes, kept, *memories.shape[1:]))

    return Container(init, decode, decode_at, take)


class Network(NamedTuple):
    """What is static about a memory network.

    Attributes:
      num_classes: number of classes.
      shapes: of memories and networks.
      sizes: see `decoder_sizes`.
      channels: of the images.
    """

    num_classes: int
    shapes: MemoryShapes
    sizes: tuple[tuple[int, int], ...]
    channels: int

    @property
    def extractor(self) -> Extractor:
        """f_c."""
        return Extractor(self.shapes.extracted)

    @property
    def decoder(self) -> Decoder:
        """D."""
        return Decoder(self.sizes, self.shapes.width, self.channels)


@functools.partial(jax.jit, static_argnames=("network", "per_class"))
def _fresh(key: Array, network: Network, per_class: int) -> HMNVariables:
    """Memories of noise and networks as they are initialised."""
    keys = jax.random.split(key, 5)
    shapes, num_classes, size = network.shapes, network.num_classes, network.sizes[0]
    memories = (
        jax.random.normal(keys[0], (*size, shapes.dataset)),
        jax.random.normal(keys[1], (num_classes, *size, shapes.per_class)),
        jax.random.normal(keys[2], (num_classes, per_class, *size, shapes.instance)),
    )
    joined = jnp.zeros((1, *size, shapes.extracted + shapes.per_class + shapes.instance))
    variables = HMNVariables(
        *memories,
        extractors=jax.vmap(lambda key: network.extractor.init(key, memories[0][None])["params"])(
            jax.random.split(keys[3], num_classes)
        ),
        decoder=network.decoder.init(keys[4], joined)["params"],
    )
    # The initialisers of layers draw in single precision, whatever the rest is in.
    return jax.tree.map(lambda leaf: leaf.astype(memories[0].dtype), variables)


def _upper_tiers(network: Network, variables: HMNVariables) -> Array:
    """`upper_tiers` of variables that are known to be those of the network."""
    # They may come from a file of another configuration.
    _check_shapes(variables, _expected(network, variables.instance_memories.shape[1]))
    return upper_tiers(network.extractor, variables)


def upper_tiers(extractor: Extractor, variables: HMNVariables) -> Array:
    """[f_c(m_D); m_C_c], what the images of a class share: [num_classes, side, side', extracted + per_class]."""
    memory = variables.dataset_memory[None]
    extracted = jax.vmap(lambda params: extractor.apply({"params": params}, memory))(variables.extractors)
    return jnp.concatenate([jnp.asarray(extracted)[:, 0], variables.class_memories], axis=-1)


@functools.cache
def _expected(network: Network, per_class: int) -> HMNVariables:
    """The shapes of the variables of such a network."""
    return jax.eval_shape(functools.partial(_fresh, network=network, per_class=per_class), jax.random.key(0))


def decoder_sizes(image_shape: tuple[int, int, int], side: int | None) -> tuple[tuple[int, int], ...]:
    """(height, width) of the memories, of every doubling, and of the image.

    An odd size is reached by doubling half of it, rounded up, and cutting the last row or column off.

    Args:
      image_shape: (height, width, channels).
      side: height of the memories, see `MemoryShapes`.

    Raises:
      UserError: no number of doublings leads from `side` to the image.
    """
    halved = [image_shape[:2]]
    while min(halved[-1]) > 1:
        halved.append((-(-halved[-1][0] // 2), -(-halved[-1][1] // 2)))
    if side is None:
        usable = [size for size in halved if min(size) >= SMALLEST_SIDE]
        return tuple(reversed(usable or halved[:1]))
    heights = [height for height, _ in halved]
    if side not in heights:
        raise UserError(
            f"memories of side {side} do not double to images of {image_shape[0]} x {image_shape[1]}; choose hmn.side "
            f"among {', '.join(map(str, heights))}"
        )
    return tuple(reversed(halved[: heights.index(side) + 1]))


def _balanced(labels: np.ndarray, num_classes: int) -> int:
    """How many images there are of each class.

    Raises:
      UserError: not equally many of each, sorted by class.
    """
    per_class = len(labels) // num_classes
    if per_class == 0 or not np.array_equal(labels, np.repeat(np.arange(num_classes), per_class)):
        raise UserError(
            f"a memory network stores equally many images of each of its {num_classes} classes, sorted by class; "
            f"these {len(labels)} are not"
        )
    return per_class


def _check_shapes(variables: HMNVariables, expected: HMNVariables) -> None:
    """That variables are those of the network that is to decode them."""
    found, wanted = (
        {keystr(path): leaf.shape for path, leaf in leaves_with_path(tree)} for tree in (variables, expected)
    )
    if found != wanted:
        name = next(name for name in {**wanted, **found} if found.get(name) != wanted.get(name))
        raise UserError(
            f"the memory network{name} is {found.get(name)}, and the settings of [hmn] read {wanted.get(name)}; use "
            "the configuration that it was condensed with"
        )


@functools.partial(jax.jit, static_argnames=("decode_at", "fit"))
def _fitted(
    key: Array, variables: HMNVariables, images: Array, *, decode_at: Callable[[Any, Array], Batch], fit: Fit
) -> HMNVariables:
    """The variables after Adam on the squared distance of decoded images to `images` [n, h, w, c]."""
    optimizer, count = optax.adam(fit.learning_rate), len(images)

    def loss(variables, places):
        return jnp.mean((decode_at(variables, places).inputs - images[places]) ** 2)

    def step(carry, key):
        variables, opt_state = carry
        places = jax.random.permutation(key, count)[: min(fit.batch_size, count)]
        updates, opt_state = optimizer.update(jax.grad(loss)(variables, places), opt_state)
        moved = jax.tree.map(lambda value, update: value + update, variables, updates)
        return (moved, opt_state), None

    start = (variables, optimizer.init(variables))
    return jax.lax.scan(step, start, jax.random.split(key, fit.steps))[0][0]
