"""Generated circuits: simulated bit for bit against integer products, synthesised, and the laws fitted to them."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressors.errors import ConfigError, UnknownName
from compressors.kernels.layout import InputFormat
from compressors.operators.product import Product, Window
from compressors.reuse import adder_graph
from compressors.slicing import from_codes
from compressors.tensor import SlicedTensor
from energy.fpga import fabric
from energy.fpga.clock import clock_hz, fit_period
from energy.fpga.fabric import Composition, Law
from energy.published.rtl import gates, luts, recorded
from energy.rtl.catalogue import CATALOGUE, CLOCKED
from energy.rtl.design import Design, Port, levels, packed, unpacked
from energy.rtl.graphs import delay_bits, graph_design, output_fields, ternary_constant
from energy.rtl.layers import (
    LayerFormat,
    layer_element,
    layer_graph,
    layer_graph_steps,
    layer_sums,
    module_name,
)
from energy.rtl.simulate import Step, self_checking, simulate
from energy.rtl.steps import graph_steps, popcount_steps, serial_steps, ternary_steps
from energy.rtl.synthesise import count, synthesise
from energy.rtl.tools import ToolError, missing, tool
from energy.rtl.trees import bit_serial, popcount_dot, ternary_mux_add
from energy.technology import load_technology

ROOT = Path(__file__).resolve().parents[2]
_NO_SIMULATOR, _NO_YOSYS = missing("iverilog", "vvp"), missing("yosys")
simulated = pytest.mark.skipif(_NO_SIMULATOR is not None, reason=str(_NO_SIMULATOR))
synthesised = pytest.mark.skipif(_NO_YOSYS is not None, reason=str(_NO_YOSYS))
few = settings(max_examples=12, deadline=None, derandomize=True)


def drawn(rng: np.random.Generator, bits: int, signed: bool, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers over the whole range; the first all least, the second all greatest."""
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    x = rng.integers(low, high + 1, shape)
    x[0], x[1] = low, high
    return x


def ternary(terms: int, rows: int, columns: int, *, runs: int = 1, seed: int = 0) -> SlicedTensor:
    codes = np.random.default_rng(seed).integers(-1, 2, (terms, rows, columns))
    return SlicedTensor.from_terms(codes, np.ones((terms, rows, runs)), (rows, columns), "ternary")


# --- layout


@given(st.lists(st.integers(-128, 127), max_size=9))
def test_packing_is_undone(values: list[int]) -> None:
    assert unpacked(packed(values, 8), 8, len(values), signed=True) == values


def test_packing_by_hand() -> None:
    assert packed([1, -1, 2], 2) == 0b10_11_01
    assert [levels(n) for n in (1, 2, 3, 4, 5, 64, 65)] == [0, 1, 2, 2, 3, 6, 7]


def test_a_design_describes_itself_and_is_the_same_every_time() -> None:
    design = ternary_mux_add(6, 4)
    assert design.describe() == {
        "module": "ternary_mux_add",
        "inputs": {"x": 24, "mask": 6, "sign": 6},
        "outputs": {"y": 8},  # 6 * 15 needs 7 bits, and a sign
        "latency": 4,  # three levels, and the ones of negated lanes
        "parameters": {"lanes": 6, "bits": 4, "signed": 0, "pipelined": 1},
    }
    assert design == ternary_mux_add(6, 4)
    assert ternary_mux_add(6, 4, pipelined=False).latency == 0
    assert (
        Port("x", 1).declaration == "input [0:0] x"
        and Port("y", 3, output=True).declaration == "output [2:0] y"
    )


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ternary_mux_add(0, 4), "lanes=0"),
        (lambda: ternary_mux_add(4, 33), "bits=33"),
        (lambda: bit_serial(4, 2, 5), "accumulator=5: expected an integer from 8"),
        (lambda: bit_serial(4, 17, 64), "bits=17"),
        (lambda: graph_design(adder_graph(np.eye(2, dtype=int)), 0, False), "bits=0"),
    ],
)
def test_shapes_out_of_range_are_refused(build, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match=message):
        build()


def test_module_names_are_identifiers() -> None:
    assert [module_name(n) for n in ("layer1.0.conv1", "0.conv", "fc")] == [
        "layer1_0_conv1",
        "layer_0_conv",
        "fc",
    ]


# --- simulation against integers


@simulated
@few
@given(st.integers(1, 20), st.integers(1, 8), st.booleans(), st.booleans(), st.integers(0, 99))
def test_ternary_mux_add_is_the_operators_product(
    lanes: int, bits: int, signed: bool, pipelined: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x, weights = drawn(rng, bits, signed, (8, lanes)), rng.integers(-1, 2, (8, lanes))
    weights[:2] = -1
    product = Product(weights.reshape(1, 8, lanes, 1, 1), InputFormat.integers(bits, signed))
    sums = np.diag(product.sums(x.reshape(8, lanes, 1, 1))[0, :, :, 0, 0])
    design = ternary_mux_add(lanes, bits, signed=signed, pipelined=pipelined)
    assert simulate(design, ternary_steps(design, weights, x, sums)) == []


@simulated
@few
@given(st.integers(1, 70), st.booleans(), st.booleans(), st.integers(0, 99))
def test_popcount_counts(lanes: int, xnor: bool, pipelined: bool, seed: int) -> None:
    a, b = np.random.default_rng(seed).integers(0, 2, (2, 10, lanes))
    a[0], b[0] = 1, 1
    counts = [
        sum(int(p == q) if xnor else int(p and q) for p, q in zip(*row, strict=True))
        for row in zip(a, b, strict=True)
    ]
    assert (
        simulate(popcount_dot(lanes, xnor=xnor, pipelined=pipelined), popcount_steps(a, b, np.array(counts)))
        == []
    )


@simulated
@pytest.mark.parametrize("digit", [1, 2, 4, 8])
@pytest.mark.parametrize("encoding", ["sign_magnitude", "csd", "twos_complement"])
def test_bit_serial_is_the_operators_product(digit: int, encoding: str) -> None:
    rng = np.random.default_rng(digit)
    rows, lanes, bits = 4, 6, 8
    codes = rng.integers(-127, 128, (1, rows, lanes))
    codes[0, 0] = -127
    weights = from_codes(
        codes, np.ones((1, rows, 1)), shape=(rows, lanes), bits=8, encoding=encoding, granularity=digit
    )
    x = rng.integers(-128, 128, lanes)
    product = Product(codes.reshape(1, rows, lanes, 1, 1), InputFormat.integers(bits, True))
    sums = product.sums(x.reshape(1, lanes, 1, 1))[0, 0, :, 0, 0]
    design = bit_serial(lanes, digit, 32)
    assert simulate(design, serial_steps(design, weights, x, sums)) == []


@simulated
def test_bit_serial_without_signs_subtracts_the_leading_plane() -> None:
    rng = np.random.default_rng(5)
    codes, x = rng.integers(-8, 8, (1, 5, 9)), rng.integers(0, 32, 9)
    weights = from_codes(codes, np.ones((1, 5, 1)), shape=(5, 9), bits=4)
    assert (weights.factor < 0).tolist() == [False, False, False, True]
    design = bit_serial(9, 1, 16, signed=False)
    sums = np.array([sum(int(w) * int(v) for w, v in zip(row, x, strict=True)) for row in codes[0]])
    assert simulate(design, serial_steps(design, weights, x, sums)) == []


@simulated
@few
@given(
    st.integers(1, 9),
    st.integers(1, 16),
    st.integers(1, 8),
    st.booleans(),
    st.booleans(),
    st.sampled_from([1, 3, 40]),
    st.integers(0, 99),
)
def test_adder_graphs_are_their_matrix(
    rows: int, inputs: int, bits: int, signed: bool, pipelined: bool, largest: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.integers(-largest, largest + 1, (rows, inputs))
    weights[0] = 0 if rows > 2 else weights[0]
    weights[-1] = -np.abs(weights[-1])
    graph = adder_graph(weights)
    design = graph_design(graph, bits, signed, pipelined=pipelined)
    x = drawn(rng, bits, signed, (10, inputs)).T
    fields = output_fields(graph, bits, signed)
    assert design.latency == (graph.depth if pipelined else 0)
    assert simulate(design, graph_steps(x, bits, weights @ x, fields)) == []


@simulated
def test_constant_weights_are_one_row_of_adders() -> None:
    weights = np.array([1, -1, 0, 1, 1])
    design = ternary_constant(weights, 3, False)
    assert design.parameters["adders"] == 3
    step = Step({"x": packed([7, 1, 5, 0, 2], 3)}, {"y": packed([7 - 1 + 0 + 2], design.outputs[0].width)})
    assert simulate(design, [step]) == []


LAYERS = {
    "two terms, two scales a row": (ternary(2, 6, 12, runs=2), LayerFormat(4, False, 1)),
    "grouped convolution": (
        from_codes(
            np.random.default_rng(1).integers(-7, 8, (1, 8, 18)),
            np.ones((1, 8, 1)),
            shape=(8, 2, 3, 3),
            bits=4,
        ),
        LayerFormat(3, True, 2),
    ),
    "binary weights and bits": (
        SlicedTensor.from_terms(
            np.random.default_rng(2).choice([-1, 1], (1, 5, 20)), np.ones((1, 5, 1)), (5, 20), "binary"
        ),
        LayerFormat(1, False, 1),
    ),
    "nothing but zeros": (
        SlicedTensor.from_terms(np.zeros((1, 2, 4), int), np.ones((1, 2, 1)), (2, 4), "ternary"),
        LayerFormat(4, False, 1),
    ),
}


@simulated
@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_circuits(name: str) -> None:
    tensor, layout = LAYERS[name]
    design, fields = layer_graph(tensor, layout, "layer")
    assert simulate(design, layer_graph_steps(design, fields, tensor, layout)) == []
    element, steps = layer_element(tensor, layout, 2)
    assert simulate(element, steps) == []


def test_layer_sums_are_a_convolution() -> None:
    """The inputs of one position, in the order that a layer's port has them, give the operator's sums."""
    tensor, layout = LAYERS["grouped convolution"]
    x = np.random.default_rng(0).integers(-4, 4, (1, 4, 3, 3))
    product = Product(
        tensor.codes().reshape(1, 8, 2, 3, 3), InputFormat.integers(3, True), Window((3, 3), groups=2)
    )
    sums = layer_sums(tensor, layout.groups, x.reshape(4 * 9, 1))
    assert np.array_equal(sums[0, 0, :, 0], product.sums(x)[0, 0, :, 0, 0])


@simulated
def test_the_simulation_notices_one_wrong_bit() -> None:
    design = popcount_dot(5, xnor=False)
    right = [Step({"a": 0b11011, "b": 0b11001}, {"y": 3})] * 3
    assert simulate(design, right) == []
    (told,) = simulate(design, [*right, Step({"a": 0b11011, "b": 0b11001}, {"y": 2})])
    assert told == f"cycle {3 + design.latency}: y is 3, expected 2"
    broken = Design(
        design.name, design.text.replace("a & b, a ^ b", "a & b, a | b"), design.ports, design.latency
    )
    assert broken.text != design.text and simulate(broken, [Step({"a": 3, "b": 3}, {"y": 2})]) != []


@simulated
def test_what_no_simulator_reads_is_refused() -> None:
    with pytest.raises(ToolError, match="iverilog ended with"):
        simulate(Design("broken", "module broken(", (), 0), [Step({})])


def test_the_testbench_holds_its_numbers() -> None:
    text = self_checking(popcount_dot(4), [Step({"a": 15, "b": 9}, {"y": 2})])
    assert "a_at[0] = 4'hf;" in text and "y_at[2] = 3'h2;" in text and "popcount_dot dut (" in text


# --- tools


def test_a_missing_tool_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSE_YOSYS", "no-such-yosys")
    tool.cache_clear()
    try:
        with pytest.raises(
            ToolError, match=r"no-such-yosys is not installed; .*pip install 'dse-lowbit\[rtl\]'"
        ):
            tool("yosys")
        assert "no-such-yosys" in str(missing("yosys"))
    finally:
        tool.cache_clear()


def test_cells_that_are_not_known_are_not_left_out() -> None:
    cells = {"SB_LUT4": 5, "SB_DFFE": 2, "SB_DFF": 1, "SB_CARRY": 4}
    assert vars(count(cells)) == {"logic": 5, "flip_flops": 3, "carries": 4}
    assert vars(count({"LUT6": 2, "LUT2": 1, "INV": 3, "FDRE": 4, "CARRY4": 1, "MUXF7": 1}))["logic"] == 3
    assert vars(count({"$_NAND_": 2, "$_NOT_": 3, "$_DFF_P_": 1, "$_MUX_": 1}))["logic"] == 3
    with pytest.raises(ToolError, match="1 cells of the kind DSP48E1"):
        count({"LUT6": 2, "DSP48E1": 1})
    with pytest.raises(UnknownName, match="unknown target 'ice4'"):
        synthesise(popcount_dot(4), "ice4")


@synthesised
@pytest.mark.parametrize("name", ["ternary mux-add, 4 lanes x 4 bits", "popcount, 16 lanes, xnor"])
def test_synthesis_gives_the_recorded_counts(name: str) -> None:
    """Other versions of Yosys come near, the recorded one to the same."""
    element = next(e for e in CATALOGUE if e.name == name)
    found, kept = synthesise(element.design, "ice40"), recorded().counts[name]["ice40"]
    same = tool("yosys").version == recorded().tools["yosys"]
    assert found.logic == pytest.approx(kept[0], rel=0 if same else 0.1)
    assert found.flip_flops == pytest.approx(kept[1], rel=0 if same else 0.1)


@synthesised
def test_quick_benchmark(tmp_path: Path) -> None:
    script = ROOT / "tests" / "benchmarks" / "rtl.py"
    command = [sys.executable, str(script), "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=570)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(io.StringIO((tmp_path / "rtl.csv").read_text(encoding="utf-8"))))
    assert len(rows) == 3 + 5 and all(not row["bar"] for row in rows)
    assert float(rows[0]["ours"]) < 30
    assert [row["note"] for row in rows if not row["ours"]] == ["left out of the quick run"]
    assert (tmp_path / "rtl.png").read_bytes().startswith(b"\x89PNG")


# --- laws


def test_every_element_is_recorded() -> None:
    known = recorded()
    assert list(known.counts) == [element.name for element in CATALOGUE]
    assert len(CATALOGUE) >= 20 and {e.family for e in CATALOGUE} == {
        "ternary",
        "popcount",
        "bit-serial",
        "adder graph",
    }
    assert {name: bits for name, (bits, _) in known.periods.items()} == {
        n: b for n, (b, _) in CLOCKED.items()
    }


def test_the_laws_reach_their_bar_without_the_element_in_question() -> None:
    for checks in (luts(), gates()):
        errors = [abs(check.error) for check in checks]
        assert all(check.kind == "blind" for check in checks)
        assert sum(errors) / len(errors) < 0.10
        assert max(errors) < 0.40


@pytest.mark.parametrize("target", fabric.TARGETS)
def test_the_shipped_laws_are_the_fit(target: str) -> None:
    counted = [recorded().counts[element.name][target][0] for element in CATALOGUE]
    fitted = fabric.fit([element.made_of for element in CATALOGUE], counted)
    assert fabric.law(load_technology("cmos45"), target).factors == pytest.approx(fitted.factors, rel=1e-3)


def test_flip_flops_are_known_from_the_shape() -> None:
    errors = [abs(e.made_of.registers / recorded().counts[e.name]["ice40"][1] - 1) for e in CATALOGUE]
    assert sum(errors) / len(errors) < 0.06


def test_compositions_by_hand() -> None:
    # Five numbers of 3 bits: 2 + 1 pairs of 4 and 5 bits, one of 6; the odd one waits. Unsigned carries are free.
    tree = fabric.tree(5, 3, signed=True)
    assert tree == Composition(sums=2 * 4 + 5 + 6, registers=3 * 4 + 2 * 5 + 6)
    assert fabric.tree(5, 3, signed=False).sums == 2 * 3 + 4 + 5
    # Seven bits: three pairs counted in LUTs; then 2 + 1 sums of 2- and 3-bit numbers without their carries.
    assert fabric.popcount_element(7) == Composition(sums=2 * 2 + 3, counted=6, registers=4 * 2 + 2 * 3 + 4)
    # Four lanes of 2 bits: 3-bit terms; sums 2 * 4 + 5, of ones 2; the last sum has 2 + 2 + 1 bits.
    element = fabric.ternary_element(4, 2)
    assert element == Composition(sums=13 + 2 + 5, picked=12, counted=4, registers=2 * 4 + 5 + 2 * 2 + 3 + 5)
    # Two lanes of 4-bit digits: 9 inner adders, 8 product bits each; terms of 9 bits, their sum 10, with the ones 11.
    serial = fabric.serial_element(2, 4, 20)
    assert (serial.products, serial.picked, serial.counted) == (2 * 9, 2 * 8 + 20, 2)
    assert serial.sums == 10 + 11 + 20


def test_an_adder_graph_by_hand() -> None:
    """y0 = a + b, y1 = (a + b) - 2c, for unsigned numbers of 4 bits."""
    graph = adder_graph(np.array([[1, 1, 0], [1, 1, -2]]))
    assert graph.adders == 2
    made_of = fabric.graph_element(graph, 4, signed=False)
    # a + b: 5 bits, one of them the carry. Less 2c: -30 to 30 in 6 bits; c stands there inverted.
    assert (made_of.sums, made_of.inverted, made_of.registers) == (4 + 6, 4, 5 + 6)
    # c waits one cycle for a + b, and a + b another one as an output.
    assert delay_bits(graph, 4, False) == 4 + 5


def test_a_fit_finds_factors_and_never_negative_ones() -> None:
    rng = np.random.default_rng(0)
    elements = [Composition(*rng.integers(1, 50, 6).astype(float)) for _ in range(12)]
    law = Law((1.0, 0.5, 2.0, 0.25, 3.0))
    found = fabric.fit(elements, [law(e) for e in elements])
    assert found.factors == pytest.approx(law.factors)
    assert fabric.leave_one_out(elements, [law(e) for e in elements]) == pytest.approx(
        [law(e) for e in elements]
    )
    negative = Law((1.0, -0.5, 2.0, 0.25, 3.0))
    kept = [e for e in elements if negative(e) > 0]
    fitted = fabric.fit(kept, [negative(e) for e in kept])
    assert min(fitted.factors) >= 0 and fitted.factors[1] == 0


def test_clocks_by_hand() -> None:
    assert fit_period([10, 20, 30], [4.0, 5.0, 6.0]) == pytest.approx((3.0, 0.1))
    technology = load_technology("cmos45")
    fitted = fit_period(*zip(*recorded().periods.values(), strict=True))
    shipped = [technology[f"fabric.period.{part}"].value for part in ("start", "per_bit")]
    assert fitted == pytest.approx(shipped, rel=0.01)
    start, slope = shipped
    # 32 bits are what reached 200 MHz; 64 take longer by the ratio of the periods; narrower ones are not faster.
    assert clock_hz(technology, "xc7z020", 32).nominal == 200e6
    expected = 200e6 * (start + 32 * slope) / (start + 64 * slope)
    assert clock_hz(technology, "xc7z020", 64).nominal == pytest.approx(expected)
    assert clock_hz(technology, "xc7z020", 8).nominal == 200e6
    on_ice40 = 1e9 / (start + 32 * slope)
    assert clock_hz(technology, "ice40hx8k", 32).nominal == pytest.approx(on_ice40, rel=0.03)
