"""Pictures of condensed data: learned graphs as heat maps, images as grids."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from hcdc_jax.report import tables
from hcdc_jax.report.results import Adjacency, Images
from hcdc_jax.report.style import GREY, WIDTH, Drawing, house_style

MOST_PER_CLASS, MOST_CLASSES = 10, 20
"""Images that a grid shows: what fits on a page."""


@house_style
def adjacency(graph: Adjacency | None) -> Drawing:
    """Learned edge weights of S_train and S_val as heat maps, nodes sorted by class."""
    if graph is None:
        return "No learned graph was stored."
    figure = Figure(figsize=(WIDTH, 3.9), layout="constrained")
    panels = figure.subplots(1, 2)
    highest = max(float(graph.train.max(initial=0)), float(graph.val.max(initial=0)), 1e-12)
    image = None
    for axes, name, weights, labels in (
        (panels[0], "S_train", graph.train, graph.train_labels),
        (panels[1], "S_val", graph.val, graph.val_labels),
    ):
        nobody = np.iinfo(labels.dtype).max
        group = np.where(labels < 0, nobody, labels)  # nodes without a class come last
        order = np.argsort(group, kind="stable")
        image = axes.imshow(weights[np.ix_(order, order)], cmap="Blues", vmin=0, vmax=highest)
        classes, counts = np.unique(group, return_counts=True)
        ends = np.cumsum(counts)
        for end in ends[:-1] - 0.5:
            axes.axhline(end, color=GREY, linewidth=0.5)
            axes.axvline(end, color=GREY, linewidth=0.5)
        names = np.array([tables.MISSING if c == nobody else str(c) for c in classes])
        every = slice(None, None, -(-len(classes) // 12))  # so that the names of many classes do not collide
        middles = ends - counts / 2 - 0.5
        axes.set_xticks(middles[every], names[every])
        axes.set_yticks(middles[every], names[every])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(True)
        axes.set_title(f"{graph.method}, seed {graph.seed}: {name}, {len(labels)} nodes")
        axes.set_xlabel("class")
    panels[0].set_ylabel("class")
    if image is not None:
        figure.colorbar(image, ax=panels, fraction=0.03, shrink=0.8, label="edge weight").outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    return figure


@house_style
def image_grids(images: Images) -> Drawing:
    """The images of S_train and S_val, one column a class."""
    parts = (("train", images.train, images.train_labels), ("val", images.val, images.val_labels))
    return image_panels(
        [
            (f"{images.method}, seed {images.seed}: S_{part}, {len(labels)} images", pixels, labels)
            for part, pixels, labels in parts
        ]
    )


@house_style
def image_panels(sets: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> Figure:
    """Sets of images below each other, one column a class: title, pixels [n, h, w, c] from 0 to 1, labels of each."""
    grids = [(title, *_grid(pixels, labels)) for title, pixels, labels in sets]
    heights = [WIDTH * grid.shape[0] / grid.shape[1] + 0.5 for _, grid, _ in grids]
    figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
    panels = figure.subplots(len(grids), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (title, grid, middles) in zip(panels, grids, strict=True):
        axes.imshow(grid, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.set_xticks(middles, [str(c) for c in range(len(middles))])
        axes.set_yticks([])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_title(title, parse_math=False)
    panels[-1].set_xlabel("class")
    return figure


def _grid(pixels: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One image of all images [n, h, w, c] with white lines between them, and the middles of its columns."""
    classes = labels if labels.ndim == 1 else labels.argmax(1)
    columns = [pixels[classes == c][:MOST_PER_CLASS] for c in range(min(int(classes.max()) + 1, MOST_CLASSES))]
    rows = max(map(len, columns))
    _, height, width, channels = pixels.shape
    line = 1
    grid = np.ones((rows * (height + line) - line, len(columns) * (width + line) - line, channels))
    for column, of_class in enumerate(columns):
        for row, image in enumerate(of_class):
            top, left = row * (height + line), column * (width + line)
            grid[top : top + height, left : left + width] = np.clip(image, 0, 1)
    middles = np.arange(len(columns)) * (width + line) + (width - 1) / 2
    return grid[..., 0] if channels == 1 else grid, middles
