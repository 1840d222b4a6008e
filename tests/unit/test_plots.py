"""Figures checked by what they draw: positions, lengths, texts and files."""

from __future__ import annotations

import io
import itertools
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from PIL import Image
from synthetic_records import (
    ACCELERATOR,
    LAYERS,
    METRICS,
    OBJECTIVES,
    make_records,
    with_evaluation,
    with_metric,
)

from dse.figures.breakdown import (
    component_colours,
    component_energy,
    energy_components_figure,
    energy_layers_figure,
)
from dse.figures.scales import accuracy_axis, cost_axis
from dse.figures.style import PNG_DPI, new_figure, paper_style
from dse.figures.tradeoff import tradeoff_figure
from dse.pareto import normalised_hypervolume, on_log_scale
from dse.plots import WrittenFigure, write_figures
from dse.records import TrialRecord
from dse.summary import StudySummary, comparable, summarise, value_of

ENERGY = METRICS[f"energy.{ACCELERATOR}"]


def study(searched: int, **options: object) -> StudySummary:
    return summarise(make_records(searched, **options), OBJECTIVES, METRICS)


def lines_named(figure: Figure, label: str) -> list:
    return [line for line in figure.axes[0].lines if line.get_label() == label]


def bar_lengths(axes: object) -> dict[int, float]:
    """Row -> total length of its stacked bars."""
    totals: dict[int, float] = {}
    for bar in axes.patches:
        row = round(bar.get_y() + bar.get_height() / 2)
        totals[row] = totals.get(row, 0.0) + bar.get_width()
    return totals


@pytest.fixture(autouse=True)
def style():
    with paper_style():
        yield


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[WrittenFigure]]:
    folder = tmp_path_factory.mktemp("figures")
    return folder, write_figures(folder, study(12))


def width(figure: WrittenFigure) -> int:
    with Image.open(figure.png) as image:
        return image.width


def test_the_whole_set_is_written_a_column_wide_with_text_as_text(written):
    folder, figures = written
    assert [figure.name for figure in figures] == [
        "accuracy_energy.bitserial",
        "accuracy_area.bitserial",
        "accuracy_size",
        "accuracy_latency.bitserial",
        "hypervolume",
        "energy_layers.bitserial",
        "energy_components.bitserial",
    ]
    assert {p.name for p in folder.iterdir()} == {p.name for f in figures for p in (f.png, f.svg)}
    assert [width(figure) for figure in figures] == [round(3.5 * PNG_DPI)] * len(figures)
    svg = figures[0].svg.read_text("utf-8")
    assert ">uniform 8<" in svg and ">Energy per inference on bitserial (µJ, modelled)<" in svg
    assert "<dc:date>" not in svg


def test_same_records_same_bytes_whatever_the_user_prefers(written, tmp_path: Path):
    with matplotlib.rc_context({"font.size": 20, "axes.grid": False, "svg.fonttype": "path"}):
        again = write_figures(tmp_path, study(12))
        assert matplotlib.rcParams["font.size"] == 20
    for a, b in zip(written[1], again, strict=True):
        assert a.png.read_bytes() == b.png.read_bytes() and a.svg.read_bytes() == b.svg.read_bytes()


def test_absent_metrics_get_no_figure_and_measured_energy_gets_one_where_it_is_there(tmp_path: Path):
    records = [with_evaluation(r, breakdown={}) for r in make_records(2, with_baselines=False)]
    records = [with_metric(r, latency__bitserial=None, energy__measured=0.5 + r.number) for r in records]
    names = [figure.name for figure in write_figures(tmp_path, summarise(records, OBJECTIVES, METRICS))]
    assert "accuracy_energy.measured" in names and "accuracy_latency.bitserial" not in names
    assert not any(name.startswith("energy_") for name in names)


def test_no_trial_no_figure(tmp_path: Path):
    assert write_figures(tmp_path, summarise([], OBJECTIVES, METRICS)) == []


@pytest.mark.parametrize("searched", [1, 3, 100])
def test_the_step_line_is_the_best_accuracy_for_any_energy(searched: int):
    summary = study(searched, with_baselines=False)
    figure = tradeoff_figure(summary, ENERGY)
    (line,) = lines_named(figure, "front in this plane")
    assert line.get_drawstyle() == "steps-post"
    x, y = line.get_data()
    both = [(value_of(r, ENERGY) * 1e6, r.evaluation.metrics["accuracy"] * 100) for r in summary.complete]
    for energy in np.geomspace(min(e for e, _ in both), figure.axes[0].get_xlim()[1], 200):
        best = max((a for e, a in both if e <= energy), default=None)
        drawn = y[np.searchsorted(x, energy, side="right") - 1]
        assert best is not None and drawn == pytest.approx(best)


def test_every_finished_trial_is_a_dot_and_the_front_is_filled():
    summary = study(60)
    axes = tradeoff_figure(summary, ENERGY).axes[0]
    dots = {collection.get_label(): len(collection.get_offsets()) for collection in axes.collections}
    priced = [r for r in summary.complete if value_of(r, ENERGY) is not None]
    assert dots["all trials"] == len(priced) and dots["front of all objectives"] == len(summary.front)
    assert dots["baseline"] == 4 and dots["knee"] == 1


def test_float_network_is_a_dashed_line_at_its_accuracy_only_where_there_is_one():
    def dashed(figure: Figure) -> list[float]:
        return [line.get_ydata()[0] for line in figure.axes[0].lines if line.is_dashed()]

    assert dashed(tradeoff_figure(study(5), ENERGY)) == [pytest.approx(99.5)]
    assert dashed(tradeoff_figure(study(5, with_baselines=False), ENERGY)) == []


def crowded() -> StudySummary:
    """All baselines and the knee at nearly one place."""
    records = [with_metric(r, accuracy=0.9, energy__bitserial=1e-6) for r in make_records(20) if r.evaluation]
    return summarise(records, OBJECTIVES, METRICS)


@pytest.mark.parametrize("metric", ["energy.bitserial", "area.bitserial", "size"])
@pytest.mark.parametrize(
    "summary", [study(0), study(30), study(1000), crowded()], ids=["0", "30", "1000", "same"]
)
def test_labels_cover_neither_each_other_nor_leave_the_figure(summary: StudySummary, metric: str):
    figure = tradeoff_figure(summary, METRICS[metric])
    renderer = figure.canvas.get_renderer()
    texts = [
        text for text in figure.axes[0].texts if isinstance(text, Annotation) and text.get_text() != "float"
    ]
    boxes = [Annotation.get_window_extent(text, renderer) for text in texts]
    assert {text.get_text() for text in texts} >= {"uniform 8", "uniform 4", "uniform 2", "ternary"}
    assert any(text.get_text() == f"knee, trial {summary.knee.number}" for text in texts)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    frame = figure.bbox
    assert all(frame.x0 <= b.x0 and b.x1 <= frame.x1 and frame.y0 <= b.y0 and b.y1 <= frame.y1 for b in boxes)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 400), min_size=1, max_size=30))
def test_accuracy_axis_keeps_every_accuracy_in_sight_and_in_order(hits: list[int]):
    accuracy_pct = np.array(hits) / 4.0
    axes = new_figure(2.0).add_subplot()
    accuracy_axis(axes, accuracy_pct)
    low, high = axes.get_ylim()
    assert low < accuracy_pct.min() and accuracy_pct.max() < high
    ordered = np.unique(accuracy_pct)
    heights = axes.transData.transform(np.column_stack([np.zeros_like(ordered), ordered]))[:, 1]
    assert np.isfinite(heights).all() and (np.diff(heights) > 0).all()
    ticks = [tick for tick in axes.get_yticks() if low <= tick <= high]
    assert all(0 <= tick <= 100 for tick in ticks) and len(ticks) >= 2


def test_halving_the_error_is_one_step_where_accuracies_differ_a_lot():
    axes = new_figure(2.0).add_subplot()
    accuracy_axis(axes, [10.0, 99.5])
    points = axes.transData.transform([[0, 92.0], [0, 96.0], [0, 98.0], [0, 99.0]])[:, 1]
    assert np.diff(points) == pytest.approx([np.diff(points)[0]] * 3)
    axes = new_figure(2.0).add_subplot()
    accuracy_axis(axes, [99.0, 99.5])
    assert axes.get_yscale() == "linear"


@given(st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=20))
@settings(deadline=None, max_examples=40)
def test_cost_axis_holds_all_costs(costs: list[float]):
    axes = new_figure(2.0).add_subplot()
    cost_axis(axes, costs)
    low, high = axes.get_xlim()
    assert low < min(costs) and max(costs) < high
    assert axes.get_xscale() == ("log" if max(costs) / min(costs) >= 4 else "linear")


def test_layers_figure_shows_baseline_and_knee_in_joules_by_layer():
    summary = study(60)
    figure = energy_layers_figure(summary, ENERGY, ACCELERATOR)
    shown = [summary.baselines["uniform 8"], summary.knee]
    assert len(figure.axes) == 2
    for axes, record in zip(figure.axes, shown, strict=True):
        table = record.evaluation.breakdown[ACCELERATOR]["energy_j"]
        expected = [sum(table[layer].values()) * 1e6 for layer in LAYERS]
        lengths = bar_lengths(axes)
        assert [lengths[row] for row in range(len(LAYERS))] == pytest.approx(expected)
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == list(LAYERS)


def test_deep_networks_fold_the_cheapest_layers_into_one_bar_that_adds_up():
    rng = np.random.default_rng(0)
    table = {f"block{i}.conv": {"pe array": float(rng.uniform(1, 9)) * 1e-8} for i in range(110)}
    record = with_evaluation(make_records(0)[1], breakdown={ACCELERATOR: {"energy_j": table}})
    figure = energy_layers_figure(summarise([record], OBJECTIVES, METRICS), ENERGY, ACCELERATOR)
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert len(names) == 26 and names[-1] == "85 others"
    costliest = sorted(table, key=lambda layer: -table[layer]["pe array"])[:25]
    assert names[:-1] == [layer for layer in table if layer in costliest]
    total = sum(sum(parts.values()) for parts in table.values())
    assert sum(bar_lengths(figure.axes[0]).values()) == pytest.approx(total * 1e6)


def test_components_figure_adds_up_and_sorts_by_total():
    summary = study(60)
    axes = energy_components_figure(summary, ENERGY, ACCELERATOR).axes[0]
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert {"uniform 8", "uniform 4", "uniform 2", "ternary"} <= {n.removesuffix(" (knee)") for n in names}
    assert sum(name.endswith("(knee)") for name in names) == 1 and "float" not in names
    lengths = [bar_lengths(axes)[row] for row in range(len(names))]
    assert lengths == sorted(lengths, reverse=True)
    eight = summary.baselines["uniform 8"]
    assert lengths[names.index("uniform 8")] == pytest.approx(value_of(eight, ENERGY) * 1e6)
    assert sum(component_energy(eight, ACCELERATOR).values()) == pytest.approx(value_of(eight, ENERGY))


def test_components_keep_their_colours_and_unknown_ones_get_others():
    few = component_colours(["leakage", "pe array"])
    many = component_colours(["new part", "dram", "pe array", "leakage", "other part"])
    assert few.items() <= many.items() and len(set(many.values())) == 5


def test_hypervolume_figure_ends_where_the_study_ends(written):
    (figure,) = [figure for figure in written[1] if figure.name == "hypervolume"]
    _, values, directions = comparable(study(12).complete, OBJECTIVES)
    volume = normalised_hypervolume(on_log_scale(values, directions), directions)
    assert f">{volume:.3f}<" in figure.svg.read_text("utf-8")


@pytest.mark.parametrize("accuracy", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("searched", [1, 20])
def test_all_accuracies_equal_still_draws(searched: int, accuracy: float):
    records = [with_metric(r, accuracy=accuracy) for r in make_records(searched, with_baselines=False)]
    figure = tradeoff_figure(summarise(records, OBJECTIVES, METRICS), ENERGY)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    pixels = np.asarray(Image.open(buffer).convert("RGB"))
    assert (np.abs(pixels.astype(int) - (213, 94, 0)).sum(axis=2) < 30).any(), "no knee to be seen"


def test_baseline_retried_under_its_label_is_shown_once():
    records = make_records(3)
    orphan = TrialRecord(99, "FAIL", "ternary", {}, None, error="interrupted")
    assert summarise([*records, orphan], OBJECTIVES, METRICS).baselines["ternary"].number == 4


def test_drawing_needs_no_pyplot_and_no_search_or_network_library():
    code = (
        "import sys, dse.plots, dse.report\n"
        "found = {'matplotlib.pyplot', 'torch', 'hydra', 'pandas'} & set(sys.modules)\n"
        "sys.exit(str(found) if found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
