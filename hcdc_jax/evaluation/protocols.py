"""How new networks are trained on condensed images before they are tested: the protocols of the field, as data."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np

from hcdc_jax.batches.augment import Augmentation
from hcdc_jax.batches.augment import settings_of as settings_of_augmentation
from hcdc_jax.batches.rand_augment import RandAugment
from hcdc_jax.config.values import Count, NonNegative, Positive, Probability, Range, Share, merge, parse_words
from hcdc_jax.errors import UserError, check_name
from hcdc_jax.models.perturbations import MixedLabels
from hcdc_jax.registry import Registry
from hcdc_jax.training.train import Decayed


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a network is trained on a condensed set before it is tested.

    Attributes:
      about: one line.
      epochs: passes over the set; sets that fit into one batch take as many steps.
      drops: after how many epochs the learning rate falls; not read where `zeta` says how it does.
      factor: by which it is multiplied then.
      forgets: whether the optimiser starts anew at each drop, without its momentum.
      augmentation: with parameters for each image, one operation per step; None for none.
      cutmix: probability of `perturbations.cut_mixed` per step.
      rand_augment: what is done to images before all of that; None for nothing.
      crop_area: least share of an image that is seen, at its full size, see `augment.draw_crop`; 1 for all of it.
      learning_rate: until the first drop.
      zeta: the learning rate follows `smooth_factors` from epoch to epoch; None for drops.
      early_late: whether it then falls to 0 over the last sixth of the epochs.
      average: decay of the moving average of the parameters, which is what is tested; 0 for the parameters themselves.
      learned_rate: whether a learning rate that was condensed together with the set takes the place of that.
      optimizer: a name in `train.OPTIMIZERS`; "momentum" is SGD with `momentum`, "adamw" has a decay of its own, 0.01.
      momentum: of "momentum".
      weight_decay: added to each gradient per unit of its parameter, as PyTorch counts it; half of it is the factor of
        the squared norm in the loss.
      decayed: which parameters `weight_decay` and the decay of "adamw" are for, see `train.Decayed`.
      batch_size: images per step at most; batches of an epoch are equally large.
      networks: from how many initialisations.
      labels: of what CutMix mixed, "mixed" in proportion or the image's "own".
      label_weight: of the labels' cross-entropy where a teacher is asked for the logits of every image of every step,
        and the difference from these is minimised besides; None where labels are all there is.
      temperature: that difference is the divergence of probabilities softened so, see
        `epoch_training.distilled`; None for the mean squared difference of logits.
      logits: whether the teacher is asked in each step, "online", or has been asked before the first network for all
        that the steps will show, "stored"; networks then share their views of the images.
    """

    about: str
    epochs: Count
    drops: tuple[int, ...] = ()
    factor: Positive = 0.1
    forgets: bool = False
    augmentation: Augmentation | None = None
    cutmix: Probability = 0.0
    rand_augment: RandAugment | None = None
    crop_area: Share = 1.0
    zeta: Annotated[float, Range(low=1)] | None = None
    early_late: bool = False
    average: Annotated[float, Range(low=0, high=0.999_999)] = 0.0
    learning_rate: Positive = 0.01
    learned_rate: bool = False
    optimizer: Literal["adam", "adamw", "momentum", "sgd"] = "momentum"
    momentum: Annotated[float, Range(low=0, high=0.999_999)] = 0.9
    weight_decay: NonNegative = 5e-4
    decayed: Decayed = "all"
    batch_size: Count = 256
    networks: Count = 20
    labels: MixedLabels = "mixed"
    label_weight: NonNegative | None = None
    temperature: Positive | None = None
    logits: Literal["online", "stored"] = "online"


VIEWS = ("epochs", "augmentation", "cutmix", "rand_augment", "crop_area", "batch_size")
"""What of a protocol decides, besides a key, which views of the images networks are shown."""

_EDC = Protocol(
    "EDC (arXiv 2404.13733): 1,000 epochs of AdamW in batches of 25, RandAugment, crops and CutMix",
    epochs=1000, zeta=2.0, average=0.99, crop_area=0.08, cutmix=1.0, augmentation=Augmentation(("flip",)),
    rand_augment=RandAugment(), learning_rate=0.001, optimizer="adamw", weight_decay=0.0, batch_size=25, networks=5,
)  # fmt: skip
_EDC_CODE = dataclasses.replace(
    _EDC, about="EDC's code on CIFAR-10: as edc_soft, with labels unmixed, biases and norms without decay, three drops",
    zeta=None, drops=(800, 900, 950), factor=0.5, decayed="kernels", labels="own", label_weight=0.025,
)  # fmt: skip
_EDC_CODE_SGD = dataclasses.replace(
    _EDC_CODE, zeta=2.0, drops=(), crop_area=0.5, optimizer="momentum", momentum=0.875, learning_rate=0.1,
    weight_decay=5e-4,
)  # fmt: skip

# DC's code, from which DSA's and MTT's came, counts E from 0 to E inclusively, and lowers the rate at the end of epoch
# E / 2 + 1 by making a new optimiser.
_BUILT_IN: Mapping[str, Protocol] = {
    "dc": Protocol(
        "DC (arXiv 2006.05929): 301 epochs, no augmentation", epochs=301, drops=(152,), forgets=True
    ),
    "dsa": Protocol(
        "DSA and DM (arXiv 2102.08259, 2110.04181): 1,001 epochs under DSA's augmentation",
        epochs=1001, drops=(502,), forgets=True, augmentation=Augmentation(),
    ),
    "mtt": Protocol(
        "MTT (arXiv 2203.11932): as dsa, at the learning rate that was learned with the images",
        epochs=1001, drops=(502,), forgets=True, augmentation=Augmentation(), learned_rate=True, networks=5,
    ),
    "idc": Protocol(
        "IDC (arXiv 2205.14959): 1,000 epochs in batches of 64, DSA's augmentation without cutout, CutMix",
        epochs=1000, drops=(666, 833), factor=0.2, cutmix=0.5, batch_size=64, networks=5,
        augmentation=Augmentation(("color", "crop", "flip", "scale", "rotate")),
    ),
    "edc": _EDC,
    "edc_soft": dataclasses.replace(
        _EDC, about="as edc, on the logits that the observers give for what is seen in each step", label_weight=0.025
    ),
    "edc_stored": dataclasses.replace(
        _EDC, about="as edc_soft, on logits that the observers gave once, for views that all networks share",
        label_weight=0.025, logits="stored",
    ),
    "edc_early_late": dataclasses.replace(
        _EDC, about="as edc, with a rate that falls to 0 in the end: for 40 images a class and more", early_late=True
    ),
    "edc_code": _EDC_CODE,
    "edc_code_cifar100": dataclasses.replace(
        _EDC_CODE_SGD, about="EDC's code on CIFAR-100: 1,000 epochs of SGD in batches of 50, the rate down to 0",
        batch_size=50, early_late=True,
    ),
    "edc_code_tiny": dataclasses.replace(
        _EDC_CODE_SGD, about="EDC's code on Tiny-ImageNet: 300 epochs of SGD in batches of 100", epochs=300,
        batch_size=100,
    ),
}  # fmt: skip
PROTOCOLS: Registry[Protocol] = Registry(
    "protocol",
    _BUILT_IN,
    group="hcdc_jax.protocols",
    wanted="a Protocol",
    accept=lambda entry: entry if isinstance(entry, Protocol) else None,
)
"""Protocols by name. Numbers that were made under different ones do not belong in one table."""


_OTHERWISE = ("about", "drops", "augmentation", "rand_augment")
SETTINGS = tuple(field.name for field in dataclasses.fields(Protocol) if field.name not in _OTHERWISE)
"""What of a protocol can be said in a word."""


def described_protocol(text: str) -> tuple[str, Protocol]:
    """A protocol in words, such as "dsa" or "edc_soft:epochs=300,zeta=1": a name, and settings that differ.

    Drops of the learning rate move with the epochs, see `with_epochs`.

    Returns:
      The words as all write them who mean the same, and the protocol.

    Raises:
      UserError: there is no such protocol or setting, or the setting wants another value.
    """
    name, _, rest = text.partition(":")
    PROTOCOLS.look_up(name)
    where, values = f"protocol {text!r}", {}
    for part in rest.split(",") if rest else ():
        setting, _, word = part.partition("=")
        if not setting or not word or setting in values:
            raise UserError(f"{where}: write each setting once, as in edc:epochs=300,zeta=1")
        check_name(f"setting of protocol {name}", setting, SETTINGS)
        values[setting] = parse_words(Protocol, setting, [word], where=where)
    return changed_protocol(name, values, where=where)


def changed_protocol(name: str, values: Mapping[str, Any], *, where: str) -> tuple[str, Protocol]:
    """A protocol of `PROTOCOLS` with settings given as values; returns and raises as `described_protocol`.

    Args:
      name: of the protocol.
      values: by names in `SETTINGS`.
      where: for error messages.
    """
    usual = PROTOCOLS.look_up(name)
    for setting in values:
        check_name(f"setting of protocol {name}", setting, SETTINGS)
    protocol = merge(usual, values, where=where)
    differing = [f"{key}={getattr(protocol, key)}" for key in SETTINGS if getattr(protocol, key) != getattr(usual, key)]
    words = f"{name}:{','.join(differing)}" if differing else name
    return words, dataclasses.replace(protocol, drops=with_epochs(usual, protocol.epochs).drops)


def with_epochs(protocol: Protocol, epochs: int) -> Protocol:
    """The protocol over another number of epochs, its drops at the same shares of them."""
    drops = tuple(round(drop * epochs / protocol.epochs) for drop in protocol.drops)
    return dataclasses.replace(protocol, epochs=epochs, drops=drops)


def settings_of(protocol: Protocol) -> dict[str, Any]:
    """The numbers of a protocol, as JSON gives them back."""
    names = [field.name for field in dataclasses.fields(protocol) if field.name not in ("about", "networks")]
    fields = {name: getattr(protocol, name) for name in names}
    # As dictionaries, where JSON would make lists of them.
    fields["augmentation"] = settings_of_augmentation(protocol.augmentation)
    fields["rand_augment"] = None if protocol.rand_augment is None else protocol.rand_augment._asdict()
    return json.loads(json.dumps(fields))


def smooth_factors(epochs: int, zeta: float, early_late: bool = False) -> np.ndarray:
    """[epochs] what the learning rate is multiplied by in each: (1 + cos(pi i / (zeta epochs))) / 2 in epoch i.

    EDC's smoothing schedule; zeta 1 is the usual cosine down to 0, 2 ends near one half. With `early_late` (SSRS) the
    last sixth is linear instead: the value at 5 / 6 times (epochs - i) / epochs, a sixth of it to begin with.
    """
    done = np.arange(epochs) / epochs
    factors = (1 + np.cos(np.pi * done / zeta)) / 2
    if early_late:
        factors = np.where(done >= 5 / 6, (1 + np.cos(np.pi * 5 / 6 / zeta)) / 2 * (1 - done), factors)
    return factors


def stages(protocol: Protocol) -> tuple[np.ndarray, np.ndarray]:
    """Factors of the learning rate, and for how many epochs each lasts."""
    if protocol.zeta is not None:
        return smooth_factors(protocol.epochs, protocol.zeta, protocol.early_late), np.ones(protocol.epochs, int)
    return protocol.factor ** np.arange(len(protocol.drops) + 1), np.diff((0, *protocol.drops, protocol.epochs))
