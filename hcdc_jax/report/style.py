"""How figures look, and how they become files."""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeAlias, TypeVar

import matplotlib
from matplotlib.figure import Figure

Drawing: TypeAlias = Figure | str
P = ParamSpec("P")
Drawn = TypeVar("Drawn", bound=Drawing)

# Okabe and Ito's palette, told apart by every common kind of colour vision.
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
PALETTE = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY)
GREY, PALE = "#6b7280", "#d1d5db"

_STYLE: Any = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.8,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": "black",
    "ytick.labelcolor": "black",
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "figure.dpi": 150,
    "savefig.dpi": 150,
}
WIDTH = 8.0  # inches: 1,200 pixels, and text of 14 pixels where a page shows the figure 800 pixels wide


@contextlib.contextmanager
def _styled() -> Iterator[None]:
    """The report's style, whatever the user's matplotlibrc says; the user's settings come back afterwards."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def house_style(draw: Callable[P, Drawn]) -> Callable[P, Drawn]:
    """Makes `draw` work under the report's style."""

    @functools.wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Drawn:
        with _styled():
            return draw(*args, **kwargs)

    return styled


def to_png(figure: Figure) -> bytes:
    """The figure as a PNG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with _styled():
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
