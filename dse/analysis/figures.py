"""The figures of an analysis as PNG and SVG, drawn from plain records alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from matplotlib.figure import Figure

from dse.analysis.drawings import (
    choices_figure,
    oracle_figure,
    proxies_figure,
    repairs_figure,
    sensitivity_figure,
    slices_figure,
    weights_figure,
)
from dse.analysis.records import Analysis
from dse.analysis.summary import fronts
from dse.plots import WrittenFigure, write_drawn


def write_analysis_figures(folder: Path, analysis: Analysis) -> list[WrittenFigure]:
    """Draw every figure there is something to show in; as NAME.png and NAME.svg in ``folder``.

    Raises:
        RunFolderError: the folder cannot be written to.
    """
    return write_drawn(folder, _figures(analysis))


def _figures(analysis: Analysis) -> Iterator[tuple[str, str, Figure]]:
    caption = (
        "of one layer compressed alone, by layer and choice; what is below the scale has its last colour, what is zero "
        "or not to be had is grey."
    )
    for value, title in (("kl_nats", "Divergence (nats)"), ("output_error", "Relative error of the output")):
        figure = sensitivity_figure(analysis, value, title)
        if figure is not None:
            yield f"sensitivity_{value.removesuffix('_nats')}", f"{title} {caption}", figure
    if any(o.oracle_error_same_shape and o.weight_error for o in analysis.oracles):
        caption = (
            "Error of each method on each layer's weights against its error on the distribution they resemble; "
            "on the line the method does as well as it can on weights so distributed."
        )
        yield "oracle", caption, oracle_figure(analysis)
    if analysis.histograms:
        caption = (
            "Weights of each stage, each divided by its channel's root mean square, and known densities."
        )
        yield "weights", caption, weights_figure(analysis.histograms)
    if any(r.part == "weights" for r in analysis.sensitivities):
        caption = (
            "What is cheap to know against the accuracy lost; with Spearman's rank correlation over all layers and "
            "choices, where there is one."
        )
        yield "proxies", caption, proxies_figure(analysis)
        if fronts(analysis):
            caption = "Least error of each layer's output at each storage size: a line per layer, coloured by stage."
            yield "choices", caption, choices_figure(analysis)
    if any(s.encoding not in ("ternary", "binary") for s in analysis.slices):
        caption = (
            "Digits that are not zero, by encoding and bits of a digit: mean over layers, and their range."
        )
        yield "slices", caption, slices_figure(analysis)
    if any(r.planned_kl_nats is not None for r in analysis.repairs):
        caption = (
            "Divergence of the baselines without (open) and with (filled) each repair; the lower was kept."
        )
        yield "repairs", caption, repairs_figure(analysis)
