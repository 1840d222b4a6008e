"""How figures look: a paper's column wide, colours for every kind of vision, the same bytes each time."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLUMN_IN = 3.5
PNG_DPI = 400

# Okabe & Ito (2008), "Color Universal Design": told apart by all common kinds of colour vision.
BLACK, GREY, ORANGE, SKY = "#000000", "#8c8c8c", "#E69F00", "#56B4E9"
GREEN, YELLOW, BLUE, VERMILION, PURPLE = "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
INK = "#262626"

_STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Arial", "Helvetica"],
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "legend.handletextpad": 0.4,
    "legend.columnspacing": 1.0,
    "legend.labelspacing": 0.3,
    "axes.linewidth": 0.6,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "xtick.minor.size": 1.6,
    "ytick.minor.size": 1.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.5,
    "figure.dpi": 100,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "none",
    "svg.hashsalt": "dse",
}


@contextlib.contextmanager
def paper_style() -> Iterator[None]:
    """Matplotlib settings of all figures, whatever the user's ``matplotlibrc`` says; put back afterwards."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def new_figure(height_in: float, width_in: float = COLUMN_IN) -> Figure:
    """An empty figure with a canvas, laid out so that nothing is cut off; free of pyplot's global state."""
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02)
    return figure


def settle_layout(figure: Figure) -> None:
    """Lay the figure out now and keep it so: what is placed by pixel afterwards stays where it was put."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def render(figure: Figure) -> dict[str, bytes]:
    """The figure as ``{"png": ..., "svg": ...}``; text in the SVG stays text, and neither holds a date."""
    return {
        "png": _saved(figure, "png", dpi=PNG_DPI, metadata={"Software": None}),
        "svg": _saved(figure, "svg", metadata={"Date": None, "Creator": None}),
    }


def _saved(figure: Figure, suffix: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=suffix, **options)
    return buffer.getvalue()
