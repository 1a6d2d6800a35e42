"""Continuous hyperparameters of networks on images and tables: how strongly training is regularised, and how."""

from __future__ import annotations

from hcdc_jax.errors import UserError, check_name
from hcdc_jax.models import ImageSetting
from hcdc_jax.spaces.choices import Bounds
from hcdc_jax.spaces.continuous import Space, one_object
from hcdc_jax.spaces.named import box


@one_object
def regularisation() -> Space:
    """Two weight decays, label smoothing, input noise, share of ReLU and input gain, of networks on images.

    They act in six places: two penalties, the labels, the inputs in training, the activation, the scale of the inputs.
    A small training set wants other values of them than a large one.
    """
    return image_training(
        "regularisation",
        weight_decay_first=(5e-5, 5e-2, "log"),
        weight_decay=(5e-5, 5e-2, "log"),
        label_smoothing=(0.0025, 0.18, "logit"),
        input_noise=(0.05, 1.2, "log"),
        relu_share=(0.05, 0.95, "logit"),
        input_gain=(0.22, 2.7, "log"),
    )


@one_object
def tables() -> Space:
    """Two weight decays, label smoothing, dropout, share of ReLU and input gain, of networks on tables.

    All act in the training loss, and so does dropout, by its expectation: implicit differentiation sees each of them.
    """
    return image_training(
        "tables",
        weight_decay_first=(1e-5, 5e-2, "log"),
        weight_decay=(1e-5, 5e-2, "log"),
        label_smoothing=(0.0025, 0.18, "logit"),
        dropout=(0.0, 0.7),
        relu_share=(0.05, 0.95, "logit"),
        input_gain=(0.22, 2.7, "log"),
    )


def image_training(name: str, **bounds: Bounds) -> Space:
    """Hyperparameters by their names in `models.ImageSetting`, each with bounds as in a `box`.

        space = image_training("mine", label_smoothing=(0.001, 0.3, "logit"), mixup=(0.01, 0.99, "logit"))

    Raises:
      UserError: a name that `models.ImageSetting` does not have, which would enter nowhere, bounds as in `box`, or
        those of a dropout rate outside of [0, 1).
    """
    known = [field for field in ImageSetting._fields if field != "cell"]  # which is not a number
    for key in bounds:
        check_name("hyperparameter of image networks", key, known, where=f"in the space {name!r}")
    space = box(name, bounds)
    low, high = bounds.get("dropout", (0, 0))[:2]
    if not 0 <= low <= high < 1:
        raise UserError(f"space {name!r}: the bounds of 'dropout' must lie in [0, 1), got ({low}, {high})")
    return space._replace(read=lambda hparams: ImageSetting(**space.read(hparams)))
