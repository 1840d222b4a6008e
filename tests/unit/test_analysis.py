"""Sensitivity, oracles, fronts and correlations of an analysis, against conversions, closed forms and scipy."""

from __future__ import annotations

import copy
import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import naive
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from scipy import stats

from compressors.calibration.observe import Calibration, calibrate
from compressors.conversion import Conversion
from compressors.errors import ConfigError, DseError, UnknownName
from compressors.methods.binary import BinaryConfig
from compressors.methods.ternary import TernaryConfig
from compressors.methods.uniform import UniformConfig
from compressors.model import CompressedModel
from compressors.parallel import Lanes, lanes
from compressors.plan import ActivationConfig, CompressionPlan, LayerPlan
from compressors.registry import MethodConfig, compress
from compressors.tensor import SlicedTensor
from dse.analysis.branches import Branches
from dse.analysis.distributions import (
    describe_weights,
    family_sample,
    log_likelihoods,
    oracle_error,
    relative_error,
    stage_histograms,
)
from dse.analysis.drawings import choices_figure, repairs_figure, weights_figure
from dse.analysis.figures import write_analysis_figures
from dse.analysis.folder import ABOUT, claim, refuse_analysis
from dse.analysis.measure import count_reuse, count_slices
from dse.analysis.page import render_analysis, write_analysis
from dse.analysis.progress import Steps
from dse.analysis.records import Analysis, OracleError, RepairOutcome, ReuseCount, Sensitivity, SliceCount
from dse.analysis.repairs import planned
from dse.analysis.settings import AnalyzeSettings
from dse.analysis.summary import by_choice, correlations, fronts, most_sensitive, on_fronts, spearman
from dse.analysis.tables import COLUMNS, rows, write_tables
from dse.errors import RunFolderError, StudyMismatch
from dse.figures.style import paper_style, render
from dse.plots import WrittenFigure
from dse.space import Space, SpaceConfig
from dse.weight_choices import weight_choices
from tests.integration.sweeping import content
from tests.networks import images, residual

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ("conv1", "conv2", "conv3", "depthwise", "linear")
LABELS = np.arange(20) % 5

# -- one layer alone, against conversions of that layer alone


class Bed:
    """A small network with everything that stands around it."""

    def __init__(self, repairs: CompressionPlan, pool: Lanes) -> None:
        self.model, self.repairs, self.pool = residual(), repairs, pool
        self.calibration: Calibration = calibrate(self.model, images(70, seed=1))  # more than one chunk
        self.search = images(20, seed=2)

    def branches(self) -> Branches:
        return Branches(self.model, self.calibration, self.search, LABELS, self.repairs, self.pool)

    @torch.no_grad()
    def converted(self, layer: str, plan: LayerPlan) -> CompressedModel:
        """The conversion of this layer alone, without another plan competing."""
        whole = replace(self.repairs, layers=((layer, plan),))
        return Conversion(self.model, whole, self.calibration, {}, self.pool).run()

    def divergence(self, network: torch.nn.Module) -> float:
        return kl(self.model, network, self.calibration.images)

    def accuracy(self, network: torch.nn.Module) -> float:
        with torch.no_grad():
            return float((network(self.search).argmax(1).numpy() == LABELS).mean())


def kl(model: torch.nn.Module, other: torch.nn.Module, batch: torch.Tensor) -> float:
    """By the definition, in numpy."""
    with torch.no_grad():
        logits = [network(batch).double().numpy() for network in (model, other)]
    p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in logits)
    return float((p * np.log(p / q)).sum(1).mean())


@pytest.fixture(params=[("match", "keep"), ("keep", "keep"), ("reestimate", "match")], ids="-".join)
def bed(request: pytest.FixtureRequest) -> Iterator[Bed]:
    batch_norm, bias = request.param
    with lanes() as pool:
        yield Bed(CompressionPlan(batch_norm=batch_norm, bias=bias), pool)


@pytest.mark.parametrize("rounding", ["nearest", "second_order"])
@pytest.mark.parametrize("config", [TernaryConfig(1), UniformConfig(3)], ids=["ternary", "uniform"])
def test_weights_alone_are_what_a_conversion_of_the_layer_alone_makes(
    bed: Bed, config: MethodConfig, rounding: str
) -> None:
    branches = bed.branches()
    for layer in LAYERS:
        site = branches.layer(layer)
        tensor, seconds = site.compress(config, rounding)
        effect = site.with_weights(tensor.to_dense())
        converted = bed.converted(layer, LayerPlan(config, rounding=rounding))
        assert seconds > 0
        assert tensor.digest() == converted.tensors[layer].digest()
        assert effect.kl_nats == pytest.approx(bed.divergence(converted), rel=1e-3, abs=1e-9)
        assert effect.accuracy == bed.accuracy(converted)


def test_an_input_alone_is_what_a_conversion_makes_of_it(bed: Bed) -> None:
    branches = bed.branches()
    for layer in LAYERS:
        site = branches.layer(layer)
        config = ActivationConfig(3)
        grid = bed.calibration.grid(layer, config)
        effect = site.with_input(grid)
        converted = bed.converted(layer, LayerPlan(None, config))
        assert effect.kl_nats == pytest.approx(bed.divergence(converted), rel=1e-3, abs=1e-9)
        assert effect.accuracy == bed.accuracy(converted)
        assert effect.kl_nats > 0
        read = input_of(bed.model, layer, bed.calibration.images)
        assert site.input_error(grid) == pytest.approx(naive.relative_mse(read, grid.round(read)), rel=1e-5)


def input_of(model: torch.nn.Module, layer: str, batch: torch.Tensor) -> torch.Tensor:
    found: list[torch.Tensor] = []
    handle = model.get_submodule(layer).register_forward_pre_hook(lambda _, args: found.append(args[0]))
    with torch.no_grad():
        model(batch)
    handle.remove()
    return found[0]


@pytest.mark.parametrize("layer", LAYERS)
def test_output_error_leaves_out_what_a_batch_norm_takes_up(bed: Bed, layer: str) -> None:
    site = bed.branches().layer(layer)
    tensor, _ = site.compress(UniformConfig(2), "nearest")
    changed = copy.deepcopy(bed.model)
    with torch.no_grad():
        changed.get_submodule(layer).weight.copy_(torch.from_numpy(tensor.to_dense()))
        read = input_of(bed.model, layer, bed.calibration.images)
        exact, other = (m.get_submodule(layer)(read).double().numpy() for m in (bed.model, changed))
    error = other - exact
    normed = layer.startswith("conv")
    if (bed.repairs.batch_norm != "keep") if normed else (bed.repairs.bias == "match"):
        axes = (0,) if layer == "linear" else (0, 2, 3)
        error = error - error.mean(axes, keepdims=True)
        exact = exact - exact.mean(axes, keepdims=True)
    expected = (error**2).sum() / (exact**2).sum()
    assert site.with_weights(tensor.to_dense()).output_error == pytest.approx(expected, rel=1e-5)


def test_a_branch_leaves_the_network_as_it_was(bed: Bed) -> None:
    branches = bed.branches()
    before = copy.deepcopy(branches.graph.state_dict())
    site = branches.layer("conv2")
    first = site.with_weights(np.zeros(site.weight.shape, np.float32))
    assert first.output_error == pytest.approx(1.0)
    after = branches.graph.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    unchanged = site.with_weights(site.weight.astype(np.float32))
    assert unchanged.output_error == 0.0
    assert branches.float_accuracy == bed.accuracy(bed.model)
    if bed.repairs.batch_norm == "reestimate":  # which changes even what nothing was done to
        assert unchanged.kl_nats > 1e-6
    else:
        assert unchanged.kl_nats == pytest.approx(0.0, abs=1e-10)
        assert unchanged.accuracy == branches.float_accuracy
    assert site.with_weights(np.zeros(site.weight.shape, np.float32)) == first


def test_layers_are_asked_for_in_order(bed: Bed) -> None:
    branches = bed.branches()
    branches.layer("conv3")
    with pytest.raises(ValueError, match="conv1 lies behind"):
        branches.layer("conv1")


def test_a_branch_does_not_depend_on_threads() -> None:
    effects = []
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            with lanes() as pool:
                site = Bed(CompressionPlan(), pool).branches().layer("conv2")
                tensor, _ = site.compress(TernaryConfig(1), "second_order")
                effects.append((tensor.digest(), site.with_weights(tensor.to_dense())))
        finally:
            torch.set_num_threads(before)
    assert effects[0] == effects[1]


# -- distributions and their oracles

TABULATED = {  # relative squared errors, from a million samples each
    "gauss": (0.1901, 0.0419, 0.3634, 0.1306),
    "laplace": (0.2642, 0.0823, 0.4999, 0.2293),
    "uniform": (0.1113, 0.0124, 0.2503, 0.0626),
}


@pytest.mark.parametrize("family", TABULATED)
def test_oracles_are_those_of_the_literature(family: str) -> None:
    configs = (TernaryConfig(1), TernaryConfig(2), BinaryConfig(1), BinaryConfig(2))
    for config, expected in zip(configs, TABULATED[family], strict=True):
        assert oracle_error(family, config) == pytest.approx(expected, rel=0.01, abs=5e-5)


def test_short_channels_are_fitted_better_and_long_ones_tend_to_the_oracle() -> None:
    errors = [oracle_error("gauss", TernaryConfig(1), columns) for columns in (9, 144, 4096)]
    assert errors[0] < errors[1] < errors[2] <= oracle_error("gauss", TernaryConfig(1)) * 1.003
    assert errors[2] == pytest.approx(0.1901, rel=0.01)


DENSITIES = {
    "gauss": stats.norm(),
    "laplace": stats.laplace(scale=np.sqrt(0.5)),
    "uniform": stats.uniform(-np.sqrt(3), 2 * np.sqrt(3)),
}


@pytest.mark.parametrize("family", DENSITIES)
def test_samples_follow_the_distribution(family: str) -> None:
    sample = family_sample(family, 16, 2048)
    assert stats.kstest(sample.ravel(), DENSITIES[family].cdf).statistic < 1e-4
    assert sample.var() == pytest.approx(1.0, rel=0.005)
    assert np.array_equal(sample, family_sample.__wrapped__(family, 16, 2048))
    assert np.abs(sample.mean(1)).max() < 0.2  # dealt out at random: no channel is one-sided


@pytest.mark.parametrize("family", DENSITIES)
def test_the_family_is_recognised_whatever_the_scales_of_the_channels(family: str) -> None:
    rng = np.random.default_rng(3)
    scales = np.exp(rng.normal(0, 2, (24, 1, 1, 1)))
    weight = family_sample(family, 24, 72).reshape(24, 8, 3, 3) * scales
    found = describe_weights("stage.conv", weight)
    assert found.family == family
    assert (found.weights, found.stage, found.shape) == (1728, "stage", (24, 8, 3, 3))
    assert found.std == pytest.approx(weight.std())
    expected = {"gauss": 0.0, "laplace": 3.0, "uniform": -1.2}[family]
    assert found.kurtosis_excess == pytest.approx(expected, abs=0.8)


def test_likelihoods_are_those_of_scipy() -> None:
    weight = np.random.default_rng(0).laplace(size=(5, 40))
    scale = np.sqrt((weight**2).mean(1, keepdims=True))
    unit = weight / scale
    found = log_likelihoods(weight)
    for name, distribution in (("gauss", stats.norm), ("laplace", stats.laplace)):
        fitted = [distribution.logpdf(row, *distribution.fit(row, floc=0)).mean() for row in unit]
        assert found[name] == pytest.approx(np.mean(fitted), rel=1e-6)
    reach = np.abs(unit).max(1)
    assert found["uniform"] == pytest.approx(
        np.mean([stats.uniform.logpdf(0, -r, 2 * r) for r in reach]), rel=1e-9
    )


@pytest.mark.parametrize(
    "weight",
    [np.zeros((3, 4)), np.full((3, 4), 1e-30), np.full((1, 1), -2.0), np.eye(4) * 1e30],
    ids=["zeros", "tiny", "one weight", "huge"],
)
def test_odd_weights_are_described_all_the_same(weight: np.ndarray) -> None:
    found = describe_weights("layer", weight)
    silent = not weight.any()
    assert (found.family is None) == silent
    assert (found.kurtosis_excess is None) == silent
    values = [found.mean, found.std, found.kurtosis_excess or 0.0, *found.nats_per_weight.values()]
    assert np.isfinite(values).all()
    assert (relative_error(weight, weight * 0) is None) == silent


def test_histograms_count_every_weight_of_a_stage_once() -> None:
    weights = {name: family_sample("gauss", 8, 100) for name in ("a.x", "a.y", "b.x")}
    weights["c"] = np.zeros((2, 2))
    found = stage_histograms([describe_weights(n, w) for n, w in weights.items()], weights)
    assert [(h.stage, h.weights) for h in found] == [("a", 1600), ("b", 800)]
    for h in found:
        assert (np.array(h.density) * np.diff(h.edges)).sum() == pytest.approx(1.0, abs=1e-3)
        middle = np.argmin(np.abs(h.edges))
        assert h.density[middle] == pytest.approx(0.4, abs=0.12)


# -- reuse


def test_shared_sums_and_values_are_counted() -> None:
    """Rows a + b + c and a + b - c: four additions, three with a + b made once; no magnitude but 1."""
    tensor = SlicedTensor.from_terms(
        np.array([[[1, 1, 1, 0], [1, 1, -1, 0]]]), np.ones((1, 2, 1)), (2, 4), "ternary"
    )
    assert count_reuse(tensor, groups=1) == {
        "adders_before": 4,
        "adders": 3,
        "depth": 2,
        "multiplications_before": 6,
        "multiplications": 2,
    }


# -- slices


@pytest.mark.parametrize("config", [UniformConfig(4), TernaryConfig(2), BinaryConfig(2)])
def test_slices_are_counted_as_digits(config: MethodConfig) -> None:
    tensor = compress(np.random.default_rng(0).standard_normal((5, 37)), config)
    found = count_slices(tensor)
    if tensor.encoding != "twos_complement":
        assert len(found) == 1
        row = found[0]
        assert row["nonzero_share"] == pytest.approx((tensor.digits() != 0).mean())
        assert (row["encoding"], row["planes"]) == (tensor.encoding, tensor.planes)
        return
    assert len(found) == 12
    by_key = {(r["encoding"], r["granularity_bits"]): r for r in found}
    bits = (tensor.codes()[0] & 15)[None] >> np.arange(4)[:, None, None] & 1
    assert by_key["twos_complement", 1]["nonzero_share"] == pytest.approx(bits.mean())
    assert by_key["csd", 8]["nonzero_share"] == pytest.approx((tensor.codes() != 0).mean())


# -- what follows from the records


def row(layer: str, choice: str, bits: float, error: float, **others: object) -> Sensitivity:
    plain = Sensitivity(layer, "weights", choice, "nearest", bits, error, error, error, 0.0, 0.1)
    return replace(plain, **others)  # type: ignore[arg-type]


def analysis(sensitivities: list[Sensitivity]) -> Analysis:
    """Records around the given sensitivities, with something of everything."""
    names = dict.fromkeys(s.layer for s in sensitivities)
    weights = {name: family_sample("gauss", 4, 50) * (i + 1) for i, name in enumerate(names)}
    layers = [describe_weights(n, w) for n, w in weights.items()]
    choices = tuple(dict.fromkeys(s.choice for s in sensitivities if s.part == "weights"))
    return Analysis(
        "made <up>",
        choices,
        0.95,
        {"calibration": 10, "search": 40},
        tuple(layers),
        tuple(stage_histograms(layers, weights)),
        tuple(OracleError(n, c, "gauss", 0.2, 0.19, 0.18) for n in names for c in choices),
        tuple(sensitivities),
        tuple(
            SliceCount(n, c, e, g, 8 // g, 0.5)
            for n in names
            for c in choices
            for e in ("twos_complement", "csd")
            for g in (1, 2, 4, 8)
        ),
        tuple(ReuseCount(n, c, 90, 60, 5, 80, 20) for n in names for c in choices),
        (
            RepairOutcome("ternary", "nearest", "as planned", None, None, 1.0, {"nearest": 0.5}),
            RepairOutcome(
                "ternary", "reconstruct", "without repairs", 0.2, 0.1, 1.0, {"a": 1.0}, {"relu": (0.2, 0.1)}
            ),
        ),
    )


def several() -> list[Sensitivity]:
    rng = np.random.default_rng(0)
    found = []
    for layer in ("stem", "one.a", "one.b", "two.a"):
        for rounding in ("nearest", "second_order"):
            for i, choice in enumerate(("ternary-1", "uniform-2", "uniform-4", "uniform-8")):
                error = float(4.0**-i * rng.uniform(0.5, 2.0))
                drop = round(float(error * 10))
                found.append(
                    row(layer, choice, i + 1.2, error, rounding=rounding, accuracy_drop_points=float(drop))
                )
        for bits in (8, 2):
            error = 4.0**-bits
            found.append(
                row(
                    layer,
                    f"input-{bits}",
                    0.0,
                    error,
                    part="input",
                    rounding="",
                    storage_bits_per_weight=None,
                )
            )
    return found


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.integers(1, 8), st.integers(1, 9)), min_size=1, max_size=12
    )
)
def test_fronts_by_brute_force(points: list[tuple[str, int, int]]) -> None:
    found = fronts(analysis([row("x", *point) for point in points]))
    best = {bits: min(e for _, b, e in points if b <= bits) for _, bits, _ in points}
    stairs = [(b, e) for b, e in sorted(best.items()) if all(best[o] > e for o in best if o < b)]
    assert [(c.storage_bits_per_weight, c.output_error) for c in found] == stairs
    for c in found:
        others = [e for n, b, e in points if b <= c.storage_bits_per_weight and n != c.choice]
        assert c.instead_of_output_error == min(others, default=None)
        assert c.instead_of_output_error is None or c.instead_of_output_error >= c.output_error
    assert sum(count for _, _, count in on_fronts(found)) == len(found)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=3, max_size=20))
def test_rank_correlation_is_that_of_scipy(pairs: list[tuple[int, int]]) -> None:
    first, second = ([float(v) for v in column] for column in zip(*pairs, strict=True))
    found = spearman(first, second)
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(stats.spearmanr(first, second).statistic, abs=1e-12)


def test_correlations_within_a_choice_and_over_everything() -> None:
    made = [
        row(layer, choice, 1.0, error * factor, accuracy_drop_points=drop)
        for choice, error in (("a", 1.0), ("b", 1e-3))
        for layer, factor, drop in (("x", 1.0, 3.0), ("y", 2.0, 2.0), ("z", 3.0, 1.0))
    ]
    found = {(c.proxy, c.target, c.scope): c for c in correlations(analysis(made))}
    inside = found["own_error", "accuracy_drop_points", "layers"]
    assert (inside.spearman, inside.count, inside.distinct) == (pytest.approx(-1.0), 2, 3)
    everything = found["own_error", "accuracy_drop_points", "all"]
    expected = stats.spearmanr([r.own_error for r in made], [r.accuracy_drop_points for r in made]).statistic
    assert everything.spearman == pytest.approx(expected)
    assert everything.count == 6
    flat = [replace(r, accuracy_drop_points=0.0) for r in made]
    silent = [c for c in correlations(analysis(flat)) if c.target == "accuracy_drop_points"]
    assert silent and all(c.spearman is None and c.distinct == 1 for c in silent)


def test_medians_by_choice_and_the_most_sensitive_layer() -> None:
    made = [row(layer, "a", 1.0, error) for layer, error in (("x", 1.0), ("y", 5.0), ("z", 3.0))]
    (found,) = by_choice(analysis(made))
    assert (found.own_error, found.kl_nats, found.worst_layer, found.worst_kl_nats) == (3.0, 3.0, "y", 5.0)
    assert found.oracle_error == 0.19
    assert found.seconds_s == pytest.approx(0.3)
    assert most_sensitive(analysis(made)) == ("y", 5.0)


# -- tables, figures, page


def test_tables_hold_the_records_and_say_what_columns_mean(tmp_path: Path) -> None:
    made = analysis([*several(), row("stem", "odd-1", 3.0, 0.5, output_error=None, own_error=None)])
    write_tables(tmp_path, made)
    meaning = json.loads((tmp_path / "columns.json").read_text())
    assert {path.name for path in tmp_path.glob("*.csv")} == set(meaning) == {f"{t}.csv" for t in COLUMNS}
    for name, columns in meaning.items():
        read = list(csv.DictReader(io.StringIO((tmp_path / name).read_text())))
        assert read
        assert list(read[0]) == list(columns)
    assert [list(r) for r in rows(made)["sensitivity"]] == [list(COLUMNS["sensitivity"])] * len(
        made.sensitivities
    )
    stored = list(csv.DictReader(io.StringIO((tmp_path / "sensitivity.csv").read_text())))
    assert [float(r["kl_nats"]) for r in stored] == [s.kl_nats for s in made.sensitivities]
    assert (stored[-1]["output_error"], stored[-1]["own_error"]) == ("", "")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> list[WrittenFigure]:
    """Every figure of an analysis that has something to show in each."""
    return write_analysis_figures(tmp_path_factory.mktemp("figures"), analysis(several()))


def test_figures_are_all_there_and_the_same_each_time(drawn: list[WrittenFigure]) -> None:
    assert [figure.name for figure in drawn] == [
        "sensitivity_kl",
        "sensitivity_output_error",
        "oracle",
        "weights",
        "proxies",
        "choices",
        "slices",
        "repairs",
    ]
    by_name = {figure.name: figure for figure in drawn}
    made = analysis(several())
    with paper_style():
        again = {"repairs": repairs_figure(made), "choices": choices_figure(made)}
        for name, figure in again.items():
            for suffix, content in render(figure).items():
                assert getattr(by_name[name], suffix).read_bytes() == content


def test_what_is_not_there_is_not_drawn(tmp_path: Path) -> None:
    nothing = replace(analysis([row("x", "a", 1.0, 0.0)]), oracles=(), slices=(), repairs=(), histograms=())
    names = [figure.name for figure in write_analysis_figures(tmp_path, nothing)]
    assert not {"sensitivity_kl", "oracle", "weights", "slices", "repairs"} & set(names)
    inputs_only = replace(analysis([r for r in several() if r.part == "input"]), slices=(), repairs=())
    assert (tmp_path / "report.html") in write_analysis(tmp_path, inputs_only, {}, None)


@pytest.mark.parametrize("stages", [1, 2, 3, 5, 6, 7, 9, 12])
def test_every_column_of_histograms_has_numbers_below(stages: int) -> None:
    weights = {f"s{i}.a": family_sample("gauss", 4, 50) for i in range(stages)}
    layers = [describe_weights(n, w) for n, w in weights.items()]
    with paper_style():
        figure = weights_figure(stage_histograms(layers, weights))
        figure.draw_without_rendering()
        panels = [axes for axes in figure.axes if axes.get_visible()]
        assert [axes.get_title().partition(" ")[0] for axes in panels] == [
            f"s{i}" for i in range(max(0, min(stages, 10)))
        ]
        lowest: dict[float, Axes] = {}
        for axes in panels:
            lowest[round(axes.get_position().x0, 2)] = axes
        for axes in lowest.values():
            assert [label for label in axes.get_xticklabels() if label.get_visible() and label.get_text()]
        assert stages != 5 or len(lowest) == 5  # a row without an empty cell


def test_open_and_filled_dots_are_explained() -> None:
    with paper_style():
        (legend,) = repairs_figure(analysis(several())).legends
    found = {text.get_text(): line for text, line in zip(legend.get_texts(), legend.get_lines(), strict=True)}
    assert list(found) == ["without repair", "with repair", "reconstruct"]
    assert found["without repair"].get_markerfacecolor() == "white"
    assert found["with repair"].get_markerfacecolor() == found["with repair"].get_color() != "white"


def test_the_page_stands_alone_and_escapes_what_it_shows(drawn: list[WrittenFigure]) -> None:
    made = analysis(several())
    page = render_analysis(made, drawn, {"git": {"commit": "<b>"}}, "a: <i>")
    assert "made &lt;up&gt;" in page and "made <up>" not in page
    assert "&lt;b&gt;" in page and "<i>" not in page
    assert "http://" not in page.replace("http://www.w3.org", "") and "<script" not in page
    assert page.count("data:image/svg+xml;base64,") == 8
    assert 0 < page.count("grid-column: 1 / -1") < 8  # wide figures have a row to themselves
    assert "without repairs" in page and "95.00 %" in page


def test_showing_an_analysis_needs_no_torch() -> None:
    names = "dse.analysis.page, dse.analysis.console, dse.analysis.settings, dse.commands.analyze"
    script = f"import sys, {names}; print(*(n for n in ('torch', 'hydra') if n in sys.modules))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.split() == []


# -- settings, recipes, progress


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"layers": []}, "analyze.layers=[]: expected paths of layers, or null"),
        ({"choices": []}, "analyze.choices=[]: expected labels of weight choices, or null"),
        ({"roundings": []}, "analyze.roundings=[]: expected at least one of nearest, second_order"),
        ({"roundings": ["neerest"]}, "analyze.roundings: unknown rounding 'neerest'; did you mean 'nearest'"),
        (
            {"repairs": ["reconstrct"]},
            "analyze.repairs: unknown repair 'reconstrct'; did you mean 'reconstruct'",
        ),
        ({"activation_bits": [9]}, "analyze.activation_bits=9: expected an integer from 1 to 8"),
        ({"layer": ["a"]}, "analyze: unknown key 'layer'; did you mean 'layers'"),
    ],
)
def test_wrong_settings_are_named(given: dict, message: str) -> None:
    with pytest.raises(DseError) as caught:
        AnalyzeSettings.from_dict(given)
    assert str(caught.value).startswith(message)
    assert isinstance(caught.value, ConfigError | UnknownName)


def test_a_folder_holds_one_analysis(tmp_path: Path) -> None:
    about = {"analyze": {"choices": ("ternary-1",)}, "data": {"search": 60}}
    refuse_analysis(tmp_path)
    claim(tmp_path, about)
    before = content(tmp_path)
    claim(tmp_path, about)  # the same again goes on
    with pytest.raises(StudyMismatch) as caught:
        claim(tmp_path, {**about, "data": {"search": 61}})
    assert str(caught.value).startswith(
        f"{tmp_path} holds an analysis of something else:\n  data.search: was 60, "
    )
    assert "study.name=ANOTHER_NAME" in str(caught.value)
    with pytest.raises(RunFolderError, match="holds an analysis; choose another study.name"):
        refuse_analysis(tmp_path)
    assert content(tmp_path) == before


@pytest.mark.parametrize("text", ["", "[]", "{", "\x00"])
def test_a_damaged_account_of_an_analysis_is_told(text: str, tmp_path: Path) -> None:
    (tmp_path / ABOUT).write_text(text)
    with pytest.raises(RunFolderError, match=r"analysis.json: damaged \(.+\); delete it"):
        claim(tmp_path, {"a": 1})
    assert (tmp_path / ABOUT).read_text() == text


def test_layers_are_taken_in_the_order_they_run_and_once() -> None:
    wanted = AnalyzeSettings.from_dict({"layers": ["b", "a", "b"]})
    assert wanted.chosen(("a", "b", "c")) == ("a", "b")
    assert AnalyzeSettings().chosen(("a", "b")) == ("a", "b")
    with pytest.raises(UnknownName, match="analyze.layers: unknown layer 'b'"):
        wanted.chosen(("a", "bb"))


def test_some_choices_can_be_asked_for() -> None:
    space = weight_choices({"ternary": {"terms": [1, 2]}, "uniform": {"bits": [4]}})
    wanted = AnalyzeSettings.from_dict({"choices": ["uniform-4", "ternary-1"]})
    assert list(wanted.some_of(space)) == ["ternary-1", "uniform-4"]
    assert wanted.some_of(space)["ternary-1"] == TernaryConfig(1)
    assert AnalyzeSettings().some_of(space) == space
    with pytest.raises(UnknownName, match="analyze.choices: unknown weight choice 'ternary-3'"):
        AnalyzeSettings(choices=("ternary-3",)).some_of(space)


def test_baselines_are_planned_by_the_configured_recipe_and_the_others() -> None:
    one = {"weights": "ternary-1", "activation_bits": 8, "sparsity": 0.0, "granularity": 1}
    baselines = {"float": {"weights": "float"}, "a": one, "b": {**one, "repair": "reconstruct"}}
    space = SpaceConfig(
        weights={"ternary": {"terms": [1]}}, repair=("second_order",), baselines=baselines, reconstruct=7
    )
    found = planned(space, ("x", "y", "z"), ("nearest", "second_order"))
    assert [(label, recipe) for label, recipe, _ in found] == [
        ("a", "second_order"),
        ("a", "nearest"),
        ("b", "reconstruct"),
        ("b", "nearest"),
        ("b", "second_order"),
    ]
    assert found[0][2] == Space(space, ("x", "y", "z")).baseline("a").plan
    assert {layer.rounding for _, layer in found[1][2].layers} == {"nearest"}
    assert [plan.reconstruct.steps if plan.reconstruct else None for _, _, plan in found] == [
        None,
        None,
        7,
        None,
        None,
    ]
    assert [recipe for _, recipe, _ in planned(space, ("x", "y", "z"), ())] == ["second_order", "reconstruct"]


def test_progress_in_a_log_is_a_line_now_and_then() -> None:
    stream, now = io.StringIO(), [0.0]
    with Steps(5, stream, clock=lambda: now[0]) as steps:
        for i in range(5):
            with steps.step(f"step {i}"):
                now[0] += 6.0
    assert stream.getvalue().splitlines() == [
        "[2/5] step 1; 12 s",
        "[4/5] step 3; 24 s",
        "[5/5] step 4; 30 s",
    ]
