"""What the memories of a memory network hold: a picture of them, and how far images are independent of each other."""

from __future__ import annotations

import jax
import numpy as np
from matplotlib.figure import Figure

from hcdc_jax.containers import Container
from hcdc_jax.containers.hmn import Extractor, HMNVariables, upper_tiers
from hcdc_jax.report.style import WIDTH, house_style
from hcdc_jax.types import Batch

SHOWN = 3
"""Images of each class in the picture."""


def correlations(extractor: Extractor, variables: HMNVariables) -> tuple[float, float]:
    """Mean absolute correlation over pixels of memories of images with the upper tiers, of their class and of others.

    Memories of few pixels correlate by chance; the second number says how much. Channels of classes that are
    the same everywhere are left out.
    """
    upper, instances = np.asarray(upper_tiers(extractor, variables)), np.asarray(variables.instance_memories)
    classes, images, *size, channels = instances.shape
    of_classes = _standardised(upper.reshape(classes, -1, upper.shape[-1]))
    of_images = _standardised(instances.reshape(classes, images, -1, channels))
    found = np.abs(np.einsum("cipk,dpl->cdikl", of_images, of_classes)) / (size[0] * size[1])
    varies = np.ptp(of_classes, axis=1) > 0
    usable = np.broadcast_to(varies[None, :, None, None, :], found.shape)
    same = np.eye(classes, dtype=bool)
    return float(found[same][usable[same]].mean()), float(found[~same][usable[~same]].mean())


def _standardised(values: np.ndarray) -> np.ndarray:
    """Mean 0 and variance 1 over the last axis but one; what does not vary becomes 0."""
    centred = values - values.mean(-2, keepdims=True)
    spread = centred.std(-2, keepdims=True)
    return np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 1e-6)


def images_changed(container: Container, variables: HMNVariables) -> int:
    """How many images are not the same to the bit after the memory of one has moved; 1 is what there should be."""
    moved = variables._replace(instance_memories=variables.instance_memories.at[0, 0].add(1.0))
    before, after = (np.asarray(jax.jit(container.decode)(v).inputs) for v in (variables, moved))
    return int((before != after).reshape(len(before), -1).any(1).sum())


@house_style
def memories(extractor: Extractor, variables: HMNVariables, batch: Batch) -> Figure:
    """All tiers as maps, from the data set's memory down to some images of each class and what is decoded from them."""
    upper, instances = np.asarray(upper_tiers(extractor, variables)), np.asarray(variables.instance_memories)
    classes, images = instances.shape[:2]
    shown = min(images, SHOWN)
    pixels = np.asarray(batch.inputs).reshape(classes, images, *batch.inputs.shape[1:])[:, :shown]
    rows = [("f(m_D), m_C", _side_by_side(upper))]
    for image in range(shown):
        rows.append((f"m_I {image}", _side_by_side(instances[:, image])))
        rows.append((f"image {image}", pixels[:, image].mean(-1)))
    dataset = np.asarray(variables.dataset_memory)
    figure = Figure(figsize=(WIDTH, 0.72 * (len(rows) + 1) + 0.4), layout="constrained")
    panels = figure.subplots(len(rows) + 1, classes, squeeze=False)
    for axes in panels.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for place in range(min(classes, dataset.shape[-1])):
        panels[0, place].imshow(dataset[..., place], cmap="gray")
    panels[0, 0].set_ylabel("m_D", rotation=0, ha="right", va="center")
    for row, (name, maps) in enumerate(rows, 1):
        panels[row, 0].set_ylabel(name, rotation=0, ha="right", va="center")
        for column, values in enumerate(maps):
            panels[row, column].imshow(values, cmap="gray", interpolation="nearest")
    for column in range(classes):
        panels[-1, column].set_xlabel(str(column))
    return figure


def _side_by_side(maps: np.ndarray) -> np.ndarray:
    """[n, side, side', channels] as [n, side, side' channels], a channel beside the other, with a gap between them."""
    gap = np.full((*maps.shape[:2], 1), np.nan)
    parts = [part for channel in range(maps.shape[-1]) for part in (maps[..., channel], gap)]
    return np.concatenate(parts[:-1], axis=2)
