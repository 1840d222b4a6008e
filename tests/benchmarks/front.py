"""The front of a run as one figure, for the reference results and the README."""

from __future__ import annotations

from pathlib import Path

from dse.figures.style import paper_style, render
from dse.figures.tradeoff import tradeoff_figure
from dse.files import write_atomically
from dse.objectives import metrics_for
from dse.run_folder import read_config
from dse.study import load_records, load_study_info
from dse.summary import summarise


def draw_front(run: Path, stem: Path, cost: str = "energy.bitserial") -> list[Path]:
    """Draw accuracy against ``cost`` of the study in ``run`` as ``stem.png`` and ``stem.svg``."""
    metrics = metrics_for(read_config(run)["accelerators"])
    summary = summarise(load_records(run), load_study_info(run).objectives, metrics)
    with paper_style():
        files = render(tradeoff_figure(summary, metrics[cost]))
    return [
        write_atomically(stem.with_name(f"{stem.name}.{suffix}"), content)
        for suffix, content in files.items()
    ]
