"""Straight-line kernels against the plain product; their programs by a plain interpreter."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressors.adders import AdderGraph
from compressors.errors import BadTensor, ConfigError, UnknownName
from compressors.kernels import generated
from compressors.kernels.generated import NoCompiler, compile_c, compile_numba, emit_c, emit_numba
from compressors.kernels.program import INPUT_TYPES, Program, schedule
from compressors.reuse import adder_graph

needs_compiler = pytest.mark.skipif(
    generated.find_compiler() is None, reason=f"none of {', '.join(generated.COMPILERS)} is installed"
)


def ternary(rows: int, columns: int, zeros: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where(rng.random((rows, columns)) < zeros, 0, rng.integers(0, 2, (rows, columns)) * 2 - 1)


def inputs_for(program: Program, positions: int, seed: int = 0) -> np.ndarray:
    """Inputs of the program's whole range, its ends among them."""
    rng = np.random.default_rng(seed)
    x = rng.integers(program.low, program.high + 1, (program.shape[1], positions))
    x[rng.random(x.shape) < 0.2] = program.high
    x[rng.random(x.shape) < 0.2] = program.low
    return x.astype(program.input_type)


def interpret(program: Program, x: np.ndarray) -> np.ndarray:
    """Instruction by instruction, in Python's integers; a slot or value that was never written is a KeyError."""
    slots: dict[int, np.ndarray] = {}
    y: dict[int, np.ndarray] = {}
    for part in program.parts:
        v: dict[int, np.ndarray] = {}
        for kind, *n in part:
            if kind == "load":
                v[n[0]] = x[n[1]].astype(object)
            elif kind == "take":
                v[n[0]] = slots[n[1]]
            elif kind == "add":
                v[n[0]] = v[n[1]] * 2 ** n[2] + n[3] * v[n[4]] * 2 ** n[5]
            elif kind == "negate":
                v[n[0]] = -v[n[1]]
            elif kind == "keep":
                assert 0 <= n[1] < program.slots
                slots[n[1]] = v[n[0]]
            else:
                assert n[0] not in y, "a row is put once"
                y[n[0]] = n[1] * v[n[2]] * 2 ** n[3] if kind == "put" else np.zeros(x.shape[1], object)
    return np.array([y[row] for row in range(program.shape[0])], np.int64).reshape(program.shape[0], -1)


@st.composite
def graphs(draw: st.DrawFn) -> tuple[np.ndarray, AdderGraph]:
    rows, columns = draw(st.integers(1, 20)), draw(st.integers(1, 30))
    largest = draw(st.sampled_from([1, 1, 100]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    codes = rng.integers(-largest, largest + 1, (rows, columns))
    codes[rng.random(codes.shape) < draw(st.sampled_from([0.0, 0.4, 0.8]))] = 0
    codes[rng.random(rows) < 0.2] = 0
    block = draw(st.sampled_from([None, (3, 7), (1, 1)]))
    return codes, adder_graph(codes, block)


@settings(max_examples=60, deadline=None)
@given(graphs(), st.sampled_from(INPUT_TYPES))
def test_programs(case: tuple[np.ndarray, AdderGraph], input_type: str) -> None:
    codes, graph = case
    program = schedule(graph, input_type)
    x = inputs_for(program, 4)
    y = interpret(program, x)
    assert np.array_equal(y, codes @ x.astype(np.int64))
    half = 2 ** (program.lane_bits - 1)
    assert -half <= y.min(initial=0) and y.max(initial=0) < half
    assert program.count("add") == graph.adders
    assert program.count("load") == np.count_nonzero(codes.any(0))
    assert program.count("put") == codes.any(1).sum() and program.count("zero") == (~codes.any(1)).sum()


def test_a_graph_of_another_make() -> None:
    # signs and shifts that elimination does not write: an output that is used again, one that is negated twice,
    # an operation that nothing uses
    operations = np.array([[0, -1, 1, -1, 1], [2, 1, 0, -1, 3], [2, -1, 2, 1, 2], [0, 1, 0, 1, 0]])
    outputs = np.array([[2, 0, 1], [3, 1, -1], [4, 0, 1], [1, 2, -1], [-1, 0, 1]])
    graph = AdderGraph(2, operations, outputs, adders_before=9, shared=0)
    a, b = np.array([[5, -7], [3, 11]])
    node = -a - 2 * b
    expected = [node, -2 * (node - 8 * a), 3 * node, -4 * b, 0 * a]
    x = np.array([a, b], np.int32)
    assert np.array_equal(graph.evaluate(x), expected)
    assert np.array_equal(interpret(schedule(graph), x), expected)
    assert np.array_equal(compile_numba(schedule(graph))(x), expected)


def test_slots_are_used_again() -> None:
    graph = adder_graph(ternary(32, 288, 0.5, seed=0))
    assert schedule(graph).slots < (graph.inputs + graph.shared + 32) / 4


@needs_compiler
@settings(max_examples=6, deadline=None)
@given(graphs(), st.sampled_from(INPUT_TYPES), st.integers(0, 70))
def test_c_on_odd_shapes(case: tuple[np.ndarray, AdderGraph], input_type: str, positions: int) -> None:
    codes, graph = case
    kernel = compile_c(schedule(graph, input_type))
    x = inputs_for(kernel.program, positions)
    y = kernel(x)
    assert y.dtype == np.int32 and np.array_equal(y, codes @ x.astype(np.int64))


@pytest.mark.parametrize(
    ("input_type", "bits", "signed", "lane_bits"),
    [("int32", None, True, 32), ("int16", None, True, 32), ("int8", 5, True, 16), ("uint8", 4, False, 16)],
)
@pytest.mark.parametrize("backend", [pytest.param("c", marks=needs_compiler), "numba"])
def test_a_layer(backend: str, input_type: str, bits: int | None, signed: bool, lane_bits: int) -> None:
    codes = ternary(16, 90, 0.5, seed=2)
    codes[3], codes[4, 1:], codes[5] = 0, 0, -np.abs(codes[5])
    program = schedule(adder_graph(codes), input_type, bits, signed)
    assert program.lane_bits == lane_bits
    kernel = compile_c(program) if backend == "c" else compile_numba(program)
    assert kernel.backend == backend and kernel.program.count("add") == adder_graph(codes).adders
    for positions in (1, 15, 16, 33, 64, 100):
        x = inputs_for(program, positions, seed=positions)
        assert np.array_equal(kernel(x), codes @ x.astype(np.int64))
    strided = inputs_for(program, 80)[:, ::2]
    assert np.array_equal(kernel(strided), codes @ strided.astype(np.int64))


@needs_compiler
def test_shifts_and_sums_that_wrap_on_the_way() -> None:
    # 255 x = 256 x - x: the shifted input overflows 16 bits, the output of 7-bit inputs does not
    codes = np.array([[255, 0], [255, -255]])
    program = schedule(adder_graph(codes), "int8", 7)
    assert program.lane_bits == 16
    x = inputs_for(program, 40)
    for kernel in (compile_c(program), compile_numba(program)):
        assert np.array_equal(kernel(x), codes @ x.astype(np.int64))


def test_source_holds_the_graph_and_nothing_else() -> None:
    program = schedule(adder_graph(ternary(9, 40, 0.4, seed=1) * 5), "int8")
    body = emit_c(program).split("static __attribute__((noinline))", 1)[1]
    known = (
        "static __attribute__ noinline void const input_t lanes_t restrict int32_t int64_t stride positions load put"
        " kernel for return if LANES m x y s the last tile overlaps one before"
    )
    words = set(re.findall(r"[A-Za-z_]\w*", body)) - {*known.split(" ")}
    assert all(re.fullmatch(r"(v|part_)\d+", word) for word in words), words
    source = emit_numba(program)
    listings = re.findall(r'"int8 \d+", "([a-z0-9; -]*)"', source)
    assert len(listings) == source.count("straight(")
    kinds = set(re.findall(r"[a-z]+", " ".join(listings)))
    assert kinds <= {"load", "take", "add", "negate", "keep", "put", "zero"}


@needs_compiler
def test_a_folder_of_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = ternary(4, 9, 0.3, seed=4)
    program, other = schedule(adder_graph(codes), "int8"), schedule(adder_graph(-codes), "int8")
    folder = tmp_path / "new" / "kernels"
    compile_c(program, folder)
    (library,) = folder.iterdir()
    compile_c(other, folder)
    assert len(list(folder.iterdir())) == 2 and library.suffix == ".so"

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("compiled although the library is there")

    monkeypatch.setattr(generated.subprocess, "run", refuse)
    x = inputs_for(program, 20)
    assert np.array_equal(compile_c(program, folder)(x), codes @ x.astype(np.int64))


def test_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = schedule(adder_graph(np.eye(2, dtype=int)))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert generated.find_compiler() is None
    with pytest.raises(NoCompiler, match="looked for cc, gcc, clang.*install one.*Numba"):
        compile_c(program)
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho 'cannot do this' >&2\nexit 3\n")
    broken.chmod(0o755)
    with pytest.raises(NoCompiler, match="status 3: cannot do this.*Numba"):
        compile_c(program)
    with pytest.raises(NoCompiler, match="status 3"):
        compile_c(program, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_numba_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generated.config, "DISABLE_JIT", 1)
    with pytest.raises(ConfigError, match="NUMBA_DISABLE_JIT"):
        compile_numba(schedule(adder_graph(np.eye(2, dtype=int))))


def test_what_is_refused() -> None:
    graph = adder_graph(np.array([[100, -100, 27]]))
    with pytest.raises(UnknownName, match="unknown input type 'float32'.*uint8"):
        schedule(graph, "float32")
    with pytest.raises(ConfigError, match=r"int8 holds, and not \[0, 255\]"):
        schedule(graph, "int8", 8, signed=False)
    with pytest.raises(ConfigError, match=r"bits=26.*fit 32 bits; narrow the inputs"):
        schedule(graph, "int32", 26)
    with pytest.raises(ConfigError, match="fit 32 bits"):
        schedule(adder_graph(np.array([[1 << 25]])), "int8")
    program = schedule(graph)
    assert (program.low, program.high) == (-((2**31 - 1) // 227), (2**31 - 1) // 227)
    kernel = compile_numba(program)
    x = inputs_for(program, 3)
    assert np.array_equal(kernel(x), [[100, -100, 27]] @ x.astype(np.int64))
    x[1, 2] = program.high + 1
    with pytest.raises(BadTensor, match=rf"span \[.*, {program.high + 1}\].*exact in \[-{program.high}"):
        kernel(x)
    with pytest.raises(BadTensor, match=r"type int64: expected int32 \[3, positions\]"):
        kernel(x.astype(np.int64))
    with pytest.raises(BadTensor, match=r"shape \(2, 3\)"):
        kernel(x[:2])
