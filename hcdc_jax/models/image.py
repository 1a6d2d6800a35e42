"""Image networks by name, and as `Problem`s."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from hcdc_jax.errors import UserError, check_name
from hcdc_jax.models.convnext import ConvNeXtTiny
from hcdc_jax.models.deep_nets import DenseNet121, ResNet50
from hcdc_jax.models.image_nets import MLP, VGG11, AlexNet, ConvNet, LeNet, ResidualMLP, ResNet18
from hcdc_jax.models.learning_rate import with_learning_rate
from hcdc_jax.models.mobile_nets import EfficientNetB0, MobileNetV2, ShuffleNetV2
from hcdc_jax.models.nas_bench_201 import NASBench201, present
from hcdc_jax.models.perturbations import mixed_up, relu_tanh, smoothed, with_noise
from hcdc_jax.models.regularisers import expected_dropout, expected_dropout_of_amounts
from hcdc_jax.models.swin import SwinTiny
from hcdc_jax.models.vit import DeiTTiny, ViT
from hcdc_jax.models.wide_resnet import WideResNet16
from hcdc_jax.problem import LossOfLogits, Problem, ValLoss, mean_loss
from hcdc_jax.registry import Registry, first_line
from hcdc_jax.training.soft_labels import SoftLoss, either_loss
from hcdc_jax.types import Array, HParams, Params


class _Entry(NamedTuple):
    description: str
    network: Callable[..., nn.Module]  # network(num_classes=, **options)


def _accept(entry: Any) -> _Entry | None:
    """A class of networks, as the registry stores it."""
    if not (isinstance(entry, type) and issubclass(entry, nn.Module)):
        return None
    fields = {field.name for field in dataclasses.fields(entry)}  # pyright: ignore[reportArgumentType]
    return _Entry(first_line(entry), entry) if "num_classes" in fields else None


_BUILT_IN: Mapping[str, _Entry] = {
    "convnet": _Entry(
        "3 x 3 convolutions of one width, each with norm and pooling; 320,010 numbers on CIFAR-10", ConvNet
    ),
    "mlp": _Entry("two hidden layers of 128", MLP),
    "residual_mlp": _Entry("three residual blocks of linear layers, also for tables", ResidualMLP),
    "lenet": _Entry("two 5 x 5 convolutions and three linear layers", LeNet),
    "alexnet": _Entry("five convolutions and a linear layer, without norm", AlexNet),
    "vgg11": _Entry("eight 3 x 3 convolutions of growing width", VGG11),
    "resnet18": _Entry("eight residual blocks", ResNet18),
    "wrn16": _Entry("six wide residual blocks; WRN-16-2 at the usual width factor", WideResNet16),
    "mobilenetv2": _Entry("17 inverted residuals with a 3 x 3 kernel per channel; slow on CPUs", MobileNetV2),
    "shufflenetv2": _Entry(
        "16 blocks that convolve half of the channels; the smallest one; slow on CPUs", ShuffleNetV2
    ),
    "resnet50": _Entry("16 bottlenecks", ResNet50),
    "densenet121": _Entry("58 layers that each read all earlier ones of their block", DenseNet121),
    "efficientnet_b0": _Entry("16 inverted residuals that weigh their channels; slow on CPUs", EfficientNetB0),
    "convnext_tiny": _Entry("18 blocks of a 7 x 7 kernel per channel; slow on CPUs", ConvNeXtTiny),
    "vit": _Entry("a small transformer on patches", ViT),
    "deit_tiny": _Entry("12 blocks of attention, with a class token", DeiTTiny),
    "swin_tiny": _Entry("12 blocks of attention in windows", SwinTiny),
    "nas_bench_201": _Entry("stages of cells from the space of that name; depth counts cells per stage", NASBench201),
}
IMAGE_NETS: Registry[_Entry] = Registry(
    "image network",
    _BUILT_IN,
    group="hcdc_jax.models",
    wanted="a Flax module (a class) with a field num_classes",
    accept=_accept,
    reserved=("own", "spectral_gnn"),  # the network of a study, and that of graphs
)
"""Networks of images by name; classes of Flax modules without state, whose last layer is a `Head`."""


def image_nets() -> dict[str, str]:
    """The names that `image_net` and `image_problem` know, each with a one-line description."""
    return {name: entry.description for name, entry in IMAGE_NETS.items()}


def image_net(name: str, num_classes: int, **options: Any) -> nn.Module:
    """A network of `image_nets()`; networks of equal options are equal.

    Args:
      name: of the network.
      num_classes: number of logits.
      **options: its other attributes, such as `width`, `depth` and `norm` of "convnet".

    Raises:
      UserError: there is no such network or option.
    """
    network = IMAGE_NETS.look_up(name).network
    known = image_net_options(name)
    for option in options:
        check_name(f"option of {name}", option, known)
    return network(num_classes=num_classes, **options)


def image_net_options(name: str) -> dict[str, Any]:
    """The options of a network, with their defaults.

    Raises:
      UserError: there is no such network.
    """
    fields = dataclasses.fields(IMAGE_NETS.look_up(name).network)  # pyright: ignore[reportArgumentType]
    return {field.name: field.default for field in fields if field.name not in ("num_classes", "parent", "name")}


def described_net(text: str) -> tuple[str, dict[str, Any]]:
    """Name and options of a network in words, such as "resnet18" or "convnet:width=32,depth=2".

    Names of options are checked by the network itself.

    Raises:
      UserError: there is no such network or precision, or an option wants another number.
    """
    name, _, rest = text.partition(":")
    usual, options = image_net_options(name), {}
    for part in filter(None, rest.split(",")):
        option, _, value = part.partition("=")
        try:
            options[option] = int(value) if isinstance(usual.get(option), int) else value
        except ValueError as error:
            raise UserError(f"{option} must be a whole number, not {value!r}") from error
        least = 0 if not usual.get(option) else 1
        if isinstance(options[option], int) and options[option] < least:
            raise UserError(f"{option} must be at least {least}, not {value}")
    check_name("precision", options.get("precision", "highest"), ("default", "high", "highest"))
    return name, options


class ImageSetting(NamedTuple):
    """What an image network and its training read of the hyperparameters; None leaves a part as the problem has it.

    Attributes:
      weight_decay: factor of the squared norm of the parameters in the training loss.
      weight_decay_first: the same, for the layer that reads the image alone.
      learning_rate_factor: multiplies the learning rate of Adam, see `with_learning_rate`.
      label_smoothing: share of each label that is spread over all classes in training.
      input_noise: standard deviation of the noise on the inputs in training.
      mixup: strength in [0, 1], see `perturbations.mixed_up`.
      relu_share: in [0, 1]; the activation is this share of the rectifier, and tanh for the rest.
      input_gain: multiplies the inputs, in training and after it.
      dropout: rate in [0, 1) before the last layer, by its expectation, see `expected_dropout`.
      cell: [6, 5] weights of operations, for the network "nas_bench_201" alone.
    """

    weight_decay: Array | None = None
    weight_decay_first: Array | None = None
    learning_rate_factor: Array | None = None
    label_smoothing: Array | None = None
    input_noise: Array | None = None
    mixup: Array | None = None
    relu_share: Array | None = None
    input_gain: Array | None = None
    dropout: Array | None = None
    cell: Array | None = None


def unread(hparams: HParams) -> ImageSetting:
    """The setting of a problem without hyperparameters."""
    del hparams
    return ImageSetting()


def image_problem(
    name: str,
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    weight_decay: float = 2.5e-4,
    read: Callable[[HParams], ImageSetting] = unread,
    soft_loss: SoftLoss | None = None,
    **options: Any,
) -> Problem:
    """A network of `image_nets()` as a `Problem` on batches of images [n, h, w, c].

    Args:
      name: of the network.
      image_shape: (height, width, channels).
      num_classes: number of classes.
      weight_decay: factor of the squared L2 norm of all parameters in the training loss; 2.5e-4 is what PyTorch calls
        a weight decay of 5e-4.
      read: `read(hparams) -> ImageSetting`; by default hyperparameters are ignored.
      soft_loss: what training minimises on labels [n, num_classes]; the cross-entropy if not given. Validation has
        the cross-entropy in any case.
      **options: of the network, see `image_net_options`.

    Raises:
      UserError: there is no such network or option, or the images are too small for it.
    """
    network = image_net(name, num_classes, **options)
    return network_problem(
        network, image_shape, num_classes, weight_decay=weight_decay, read=read, fit_loss=mean_loss, soft_loss=soft_loss
    )


@functools.cache  # by the network, not by its name: in a session another may take that
def network_problem(
    network: nn.Module,
    input_shape: tuple[int, ...],
    num_classes: int | None,
    *,
    weight_decay: float,
    read: Callable[[HParams], ImageSetting],
    fit_loss: ValLoss = mean_loss,
    soft_loss: SoftLoss | None = None,
) -> Problem:
    """A network whose last layer is a `Head` as a `Problem` on batches of inputs [n, *input_shape].

    Args:
      network: without state.
      input_shape: of one example.
      num_classes: number of classes; None for labels that are standardised amounts [n], which smoothing shrinks
        towards their mean.
      weight_decay: see `image_problem`; so are the others.
      read: see `image_problem`.
      fit_loss: `loss(logits, batch)` of validation, and of training unless there is a soft one.
      soft_loss: see `image_problem`.

    Raises:
      UserError: the inputs are too small for the network.
    """
    # Traced once here, so that a network that does not go with the inputs fails before anything is computed.
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, *input_shape)))["params"]
    first = next((layer for layer in ("Conv_0", "Dense_0") if layer in shapes), None)

    train_fit = fit_loss if soft_loss is None else either_loss(fit_loss, soft_loss)

    def init(key, hparams):
        del hparams
        return network.init(key, jnp.zeros((1, *input_shape)))["params"]

    def apply(params, hparams, inputs):
        return only_logits(_set(network, read(hparams)).apply({"params": params}, _scaled(inputs, read(hparams))))

    def train_loss(params, hparams, batch):
        setting = read(hparams)
        if setting.label_smoothing is not None:
            batch = batch._replace(labels=smoothed(batch.labels, num_classes, setting.label_smoothing))
        penalty = _penalty(params, setting, weight_decay, first)
        if setting.dropout is None:
            return train_fit(apply(params, hparams, batch.inputs), batch) + penalty
        if soft_loss is not None and batch.labels.ndim == 2:
            raise UserError("dropout is known under the cross-entropy alone, not under a loss on labels of teachers")
        features, logits = _features_and_logits(network, params, setting, batch.inputs)
        expected = expected_dropout_of_amounts if num_classes is None else expected_dropout
        dropped = expected(setting.dropout, features, _last_kernel(params), logits, batch.weights)
        return train_fit(logits, batch) + dropped + penalty

    def perturb(key, hparams, batch):
        setting = read(hparams)
        mix_key, noise_key = jax.random.split(key)
        if setting.mixup is not None:
            batch = mixed_up(mix_key, batch, setting.mixup, num_classes)
        if setting.input_noise is not None:
            batch = with_noise(noise_key, batch, setting.input_noise)
        return batch

    problem = Problem(init, apply, train_loss, LossOfLogits(apply, fit_loss), perturb)
    return with_learning_rate(problem, lambda hparams: read(hparams).learning_rate_factor)


def image_embedding(
    name: str, num_classes: int, *, read: Callable[[HParams], ImageSetting] = unread, **options: Any
) -> Callable[[Params, HParams, Array], Array]:
    """What the last linear layer of a network reads, as a pure function.

    Args:
      name: see `image_problem`; so are the others, which must be those of the problem that gives the parameters.
      num_classes: see `image_problem`.
      read: see `image_problem`.
      **options: see `image_problem`.

    Returns:
      `embed(params, hparams, images [n, h, w, c]) -> features [n, d]`.

    Raises:
      UserError: there is no such network or option.
    """
    return network_embedding(image_net(name, num_classes, **options), read)


@functools.cache
def network_embedding(
    network: nn.Module, read: Callable[[HParams], ImageSetting]
) -> Callable[[Params, HParams, Array], Array]:
    """As `image_embedding`, of a network whose last layer is a `Head`."""

    def embed(params, hparams, inputs):
        setting = read(hparams)
        factor = setting.learning_rate_factor
        if factor is not None:  # the parameters come in the units of `with_learning_rate`
            params = jax.tree.map(lambda leaf: factor * leaf, params)
        return _features_and_logits(network, params, setting, inputs)[0]

    return embed


@functools.cache
def sign_agreement(
    name: str, num_classes: int, *, read: Callable[[HParams], ImageSetting] = unread, **options: Any
) -> Callable[[Params, HParams, Array], Array]:
    """How often the activations of a network see inputs of the same sign for two images, as a pure function.

    Args:
      name: "nas_bench_201", the only network that tells.
      num_classes: see `image_problem`.
      read: see `image_problem`.
      **options: see `image_problem`.

    Returns:
      `agreement(params, hparams, images [n, h, w, c]) -> counts [n, n]`; activations after operations that are not
      there count 0.

    Raises:
      UserError: there is no such network or option, or it does not tell.
    """
    check_name("network that tells the signs of its activations", name, ["nas_bench_201"])
    network = image_net(name, num_classes, **options)

    def agreement(params, hparams, inputs):
        setting = read(hparams)
        inputs = _scaled(inputs, setting)
        _, state = _set(network, setting).apply({"params": params}, inputs, mutable=["agreement"])
        return jnp.stack(jax.tree.leaves(state)).sum(0)

    return agreement


def num_parameters(params: Params) -> int:
    """How many numbers there are in a tree of arrays or of their shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _set(network: nn.Module, setting: ImageSetting) -> nn.Module:
    """The network with the activation and the cell that the hyperparameters ask for."""
    asked = {}
    if setting.relu_share is not None:
        asked["activation"] = functools.partial(relu_tanh, setting.relu_share)
    if setting.cell is not None:
        asked["cell"] = setting.cell
    return network.clone(**asked) if asked else network


def _features_and_logits(
    network: nn.Module, params: Params, setting: ImageSetting, inputs: Array
) -> tuple[Array, Array]:
    """What the last linear layer reads, and what it makes of it."""
    inputs = _scaled(inputs, setting)
    logits, state = _set(network, setting).apply({"params": params}, inputs, mutable=["intermediates"])
    (features,) = jax.tree.leaves(state)
    return features, logits


def _last_kernel(params: Params) -> Array:
    if "Head_0" not in params:
        raise UserError("dropout needs a network whose last layer is a linear one by itself")
    return params["Head_0"]["Dense_0"]["kernel"]


def _scaled(inputs: Array, setting: ImageSetting) -> Array:
    return inputs if setting.input_gain is None else setting.input_gain * inputs


def _penalty(params: Params, setting: ImageSetting, weight_decay: float, first: str | None) -> Array:
    decay = weight_decay if setting.weight_decay is None else setting.weight_decay
    if setting.cell is not None:
        params = present(params, setting.cell)
    if setting.weight_decay_first is None:
        return decay * optax.tree.norm(params, squared=True)
    if first is None:
        raise UserError("weight_decay_first needs a network whose first layer reads the image by itself")
    rest = {layer: leaves for layer, leaves in params.items() if layer != first}
    of_first, of_rest = (optax.tree.norm(part, squared=True) for part in (params[first], rest))
    return setting.weight_decay_first * of_first + decay * of_rest


def only_logits(output: Any) -> Array:
    """What a network gives that keeps no state, where flax would allow a pair of output and state."""
    return output
