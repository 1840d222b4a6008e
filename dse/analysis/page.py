"""The page of an analysis: headline numbers, tables and figures with what they say; no outside resource."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from dse.analysis.figures import write_analysis_figures
from dse.analysis.records import Analysis
from dse.analysis.summary import by_choice, correlations, fronts, most_sensitive, on_fronts
from dse.analysis.tables import write_tables
from dse.figures.style import COLUMN_IN
from dse.files import write_atomically
from dse.plots import WrittenFigure
from dse.report import flattened
from dse.summary import significant


def write_analysis(
    folder: Path, analysis: Analysis, provenance: Mapping[str, Any], config_yaml: str | None
) -> list[Path]:
    """Write tables, figures and ``report.html`` into ``folder``; returns their paths.

    Raises:
        RunFolderError: the folder cannot be written to.
    """
    paths = write_tables(folder, analysis)
    figures = write_analysis_figures(folder / "figures", analysis)
    paths += [path for figure in figures for path in (figure.png, figure.svg)]
    page = render_analysis(analysis, figures, provenance, config_yaml)
    return [*paths, write_atomically(folder / "report.html", page)]


def render_analysis(
    analysis: Analysis,
    figures: Sequence[WrittenFigure],
    provenance: Mapping[str, Any],
    config_yaml: str | None,
) -> str:
    """The HTML page: figures inline, every text escaped."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    folder = resources.files("dse")
    template = environment.from_string(folder.joinpath("analysis", "report.html.j2").read_text("utf-8"))
    chosen = fronts(analysis)
    return template.render(
        analysis=analysis,
        style=_style(folder.joinpath("report.html.j2").read_text("utf-8")),
        figures=[(figure, _data_uri(figure.svg), _is_wide(figure.svg)) for figure in figures],
        choices=by_choice(analysis),
        correlations=correlations(analysis),
        on_fronts=on_fronts(chosen),
        sensitive=most_sensitive(analysis),
        families=_families(analysis),
        provenance=list(flattened(provenance)),
        config_yaml=config_yaml,
        show=shown,
        seconds=lambda repair: shown(sum(repair.seconds.values())),
    )


def shown(value: float | None) -> str:
    """Three digits, or a dash for what could not be had."""
    return "–" if value is None else significant(value)


def _families(analysis: Analysis) -> list[tuple[str, int]]:
    names = [layer.family for layer in analysis.layers if layer.family is not None]
    return [(name, names.count(name)) for name in sorted(set(names), key=lambda n: -names.count(n))]


def _style(template: str) -> str:
    """The look of a sweep's page, which this one shares."""
    found = re.search(r"<style>(.*?)</style>", template, flags=re.DOTALL)
    return found[1] if found else ""


def _is_wide(svg: Path) -> bool:
    """Whether a figure is wider than a column of a paper."""
    width = re.search(r'<svg[^>]*? width="([0-9.]+)pt"', svg.read_text(encoding="utf-8"))
    return width is not None and float(width[1]) > 1.5 * COLUMN_IN * 72


def _data_uri(path: Path) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(path.read_bytes()).decode()}"
