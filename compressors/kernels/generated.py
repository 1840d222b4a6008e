"""Straight-line kernels generated from an adder graph: every addition of a layer is one vector instruction.

The layer's weights are the program (see ``compressors.kernels.program``). A tile of positions fills one vector of 64
bytes, and every operation of the graph is one addition of such vectors.

There are two back ends: C through the system's compiler, and LLVM through Numba where there is none. Source holds
numbers that follow from the graph, and nothing else from outside.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from llvmlite import binding, ir
from numba import config, njit, types
from numba.extending import intrinsic

from compressors.errors import BadTensor, ConfigError, DseError
from compressors.kernels.program import VECTOR_BYTES, Instruction, Program

COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-O3", "-march=native", "-fwrapv", "-fPIC", "-shared", "-w")
_JOINED = 8  # parts in one Python function, each of which takes Numba about a tenth of a second
_SECONDS = 600  # a compiler that takes longer is stopped


class NoCompiler(DseError):
    """There is no C compiler, or it does not compile."""


_C_TYPES = {"int8": "int8_t", "uint8": "uint8_t", "int16": "int16_t", "int32": "int32_t"}

_C_HEAD = """\
#include <stdint.h>
#include <string.h>
#define LANES {lanes}
typedef {input} input_t;
typedef int{bits}_t lane_t;
typedef input_t inputs_t __attribute__((vector_size(LANES * sizeof(input_t))));
typedef {halfway} halfway_t __attribute__((vector_size(LANES * sizeof({halfway}))));
typedef lane_t lanes_t __attribute__((vector_size(LANES * sizeof(lane_t))));
typedef int32_t outputs_t __attribute__((vector_size(LANES * sizeof(int32_t))));

static inline lanes_t load(const input_t *from) {{
    inputs_t x;
    memcpy(&x, from, sizeof x);
    return __builtin_convertvector(__builtin_convertvector(x, halfway_t), lanes_t); /* GCC widens twofold at best */
}}

static inline void put(int32_t *to, lanes_t v) {{
    outputs_t y = __builtin_convertvector(v, outputs_t);
    memcpy(to, &y, sizeof y);
}}
"""

_C_TAIL = """\
void kernel(const input_t *x, int32_t *y, lanes_t *s, int64_t positions) {{
    for (int64_t m = 0;;) {{
{calls}
        m += LANES;
        if (m >= positions) return;
        if (m > positions - LANES) m = positions - LANES; /* the last tile overlaps the one before */
    }}
}}
"""


def emit_c(program: Program) -> str:
    """C source of ``kernel(x, y, workspace, positions)`` for at least ``lanes`` positions."""
    halfway = "int32_t" if program.input_type == "int32" else "int16_t"
    head = _C_HEAD.format(
        lanes=program.lanes, input=_C_TYPES[program.input_type], bits=program.lane_bits, halfway=halfway
    )
    parts, calls = [], []
    for number, part in enumerate(program.parts):
        body = "\n".join(f"    {_c_line(i)}" for i in part)
        parts.append(
            f"static __attribute__((noinline)) void part_{number}(const input_t *restrict x, int32_t *restrict y, "
            f"lanes_t *restrict s, int64_t stride) {{\n{body}\n}}\n"
        )
        calls.append(f"        part_{number}(x + m, y + m, s, positions);")
    return "\n".join([head, *parts, _C_TAIL.format(calls="\n".join(calls))])


def _c_line(instruction: Instruction) -> str:
    kind, *n = instruction
    if kind == "load":
        return f"const lanes_t v{n[0]} = load(x + {n[1]} * stride);"
    if kind == "take":
        return f"const lanes_t v{n[0]} = s[{n[1]}];"
    if kind == "keep":
        return f"s[{n[1]}] = v{n[0]};"
    if kind == "zero":
        return f"put(y + {n[0]} * stride, (lanes_t){{0}});"
    if kind == "put":
        return f"put(y + {n[0]} * stride, {'-' if n[1] < 0 else ''}{_shifted(n[2], n[3])});"
    if kind == "negate":
        return f"const lanes_t v{n[0]} = -v{n[1]};"
    value, first, first_shift, sign, second, second_shift = n
    operation = "-" if sign < 0 else "+"
    return f"const lanes_t v{value} = {_shifted(first, first_shift)} {operation} {_shifted(second, second_shift)};"


def _shifted(value: int, shift: int) -> str:
    return f"(v{value} << {shift})" if shift else f"v{value}"


def emit_numba(program: Program) -> str:
    """Python source of ``kernel(x, y, workspace, positions)`` with addresses as integers, as :func:`emit_c`.

    The listing of a part is a literal, which the intrinsic ``straight`` turns into vector instructions when the part is
    compiled: type inference over thousands of statements would take minutes.
    """
    setting, size = f"{program.input_type} {program.lane_bits}", np.dtype(program.input_type).itemsize
    functions, calls = [], []
    for number, first in enumerate(range(0, len(program.parts), _JOINED)):
        code = [i for part in program.parts[first : first + _JOINED] for i in part]
        listing = "; ".join(" ".join(str(n) for n in instruction) for instruction in code)
        functions.append(f"{_NUMBA_HEAD}def part_{number}(x, y, s, stride):\n")
        functions.append(f'    straight(x, y, s, stride, "{setting}", "{listing}")\n\n')
        calls.append(f"        part_{number}(x + m * {size}, y + m * 4, s, positions)\n")
    tail = _NUMBA_TAIL.format(head=_NUMBA_HEAD, lanes=program.lanes, calls="".join(calls))
    return "".join(functions) + tail


_NUMBA_HEAD = "@njit('void(int64, int64, int64, int64)', nogil=True)\n"

_NUMBA_TAIL = """\
{head}def kernel(x, y, s, positions):
    m = 0
    while m < positions:
        m = min(m, positions - {lanes})  # the last tile overlaps the one before
{calls}        m += {lanes}
"""


class _Emitter:
    """Vector instructions of one part, into LLVM's builder."""

    def __init__(self, builder: ir.IRBuilder, arguments: tuple, input_type: str, lane_bits: int) -> None:
        self.b = builder
        lanes, dtype = 8 * VECTOR_BYTES // lane_bits, np.dtype(input_type)
        self.lane = ir.VectorType(ir.IntType(lane_bits), lanes)
        self.source = ir.VectorType(ir.IntType(8 * dtype.itemsize), lanes)
        self.target = ir.VectorType(ir.IntType(32), lanes)
        self.signed, self.size = dtype.kind == "i", dtype.itemsize
        self.x, self.y, self.s, self.stride = arguments
        self.values: dict[int, ir.Value] = {}

    def run(self, kind: str, n: list[int]) -> None:
        emit = {
            "load": self._load,
            "take": self._take,
            "keep": self._keep,
            "zero": self._zero,
            "put": self._put,
            "add": self._add,
            "negate": self._negate,
        }
        emit[kind](*n)

    def _at(self, base: ir.Value, row: int, size: int, kind: ir.Type) -> ir.Value:
        step = self.b.mul(self.stride, ir.Constant(ir.IntType(64), row * size))
        return self.b.inttoptr(self.b.add(base, step), kind.as_pointer())

    def _slot(self, slot: int) -> ir.Value:
        offset = ir.Constant(ir.IntType(64), slot * VECTOR_BYTES)
        return self.b.inttoptr(self.b.add(self.s, offset), self.lane.as_pointer())

    def _load(self, node: int, row: int) -> None:
        loaded = self.b.load(self._at(self.x, row, self.size, self.source), align=1)
        if self.source.element.width < self.lane.element.width:
            loaded = (self.b.sext if self.signed else self.b.zext)(loaded, self.lane)
        elif self.source.element.width > self.lane.element.width:
            loaded = self.b.trunc(loaded, self.lane)
        self.values[node] = loaded

    def _take(self, node: int, slot: int) -> None:
        self.values[node] = self.b.load(self._slot(slot), align=VECTOR_BYTES)

    def _keep(self, node: int, slot: int) -> None:
        self.b.store(self.values[node], self._slot(slot), align=VECTOR_BYTES)

    def _zero(self, row: int) -> None:
        self._store(row, ir.Constant(self.lane, None))

    def _put(self, row: int, sign: int, node: int, shift: int) -> None:
        value = self._shift(node, shift)
        self._store(row, self.b.neg(value) if sign < 0 else value)

    def _store(self, row: int, value: ir.Value) -> None:
        if self.lane.element.width < 32:
            value = self.b.sext(value, self.target)
        self.b.store(value, self._at(self.y, row, 4, self.target), align=4)

    def _add(
        self, value: int, first: int, first_shift: int, sign: int, second: int, second_shift: int
    ) -> None:
        operation = self.b.sub if sign < 0 else self.b.add
        self.values[value] = operation(self._shift(first, first_shift), self._shift(second, second_shift))

    def _negate(self, value: int, of: int) -> None:
        self.values[value] = self.b.neg(self.values[of])

    def _shift(self, node: int, shift: int) -> ir.Value:
        width = self.lane.element
        amount = ir.Constant(self.lane, [ir.Constant(width, shift)] * self.lane.count)
        return self.b.shl(self.values[node], amount) if shift else self.values[node]


@intrinsic(prefer_literal=True)
def straight(typingctx, x, y, s, stride, setting, listing):  # type: ignore[no-untyped-def]
    """One part: the listing of :func:`emit_numba` as vector instructions."""
    if not isinstance(listing, types.StringLiteral) or not isinstance(setting, types.StringLiteral):
        return None
    input_type, lane_bits = setting.literal_value.split()

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        emitter = _Emitter(builder, args[:4], input_type, int(lane_bits))
        for line in listing.literal_value.split(";"):
            kind, *numbers = line.split()
            emitter.run(kind, [int(n) for n in numbers])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64, setting, listing), codegen


@dataclass(frozen=True, eq=False)
class GeneratedKernel:
    """A compiled straight-line kernel.

    Attributes:
        backend: ``c`` or ``numba``.
        source: what was compiled.
        program: what it carries out; ``program.count("add")`` additions per position, none repeated.
        run: ``run(x address, y address, workspace address, positions)``, unchecked.
    """

    backend: str
    source: str
    program: Program
    run: Callable[[int, int, int, int], None]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """``int32 [N, M]`` for ``x [K, M]`` of the program's input type.

        Raises:
            BadTensor: an ``x`` of another shape or type, or with numbers for which an output might overflow.
        """
        program = self.program
        rows, inputs = program.shape
        if x.dtype != program.input_type or x.ndim != 2 or x.shape[0] != inputs:
            raise BadTensor(
                f"inputs of shape {x.shape} and type {x.dtype}: expected {program.input_type} [{inputs}, positions]"
            )
        whole = np.iinfo(x.dtype)
        if x.size and (program.low > whole.min or program.high < whole.max):
            low, high = int(x.min()), int(x.max())
            if low < program.low or high > program.high:
                raise BadTensor(
                    f"inputs span [{low}, {high}]: this kernel is exact in [{program.low}, {program.high}]; "
                    "generate it for inputs of more bits"
                )
        positions = x.shape[1]
        padded = max(positions, program.lanes)
        if padded > positions:
            x = np.pad(x, ((0, 0), (0, padded - positions)))
        x, y = np.ascontiguousarray(x), np.empty((rows, padded), np.int32)
        if positions and rows:
            workspace = np.empty(program.slots * VECTOR_BYTES + VECTOR_BYTES, np.uint8)
            aligned = -(-workspace.ctypes.data // VECTOR_BYTES) * VECTOR_BYTES
            self.run(x.ctypes.data, y.ctypes.data, aligned, padded)
        return y[:, :positions]


def find_compiler() -> str | None:
    """Path of the system's C compiler, or ``None``."""
    return next((path for name in COMPILERS if (path := shutil.which(name))), None)


def compile_c(program: Program, cache: Path | None = None) -> GeneratedKernel:
    """Compile a program as C and load it.

    Args:
        cache: folder in which the library is looked for and left; whoever can write there decides what runs. Without
            one it is built in a private temporary folder, which is gone when this returns.

    Raises:
        NoCompiler: none is found, or it fails; the message says what to install or do.
    """
    compiler, source = find_compiler(), emit_c(program)
    if compiler is None:
        raise NoCompiler(
            f"no C compiler: looked for {', '.join(COMPILERS)} on PATH; install one (Debian: apt install gcc) or use "
            "the kernel that Numba compiles"
        )
    if cache is None:
        with tempfile.TemporaryDirectory(prefix="dse-kernel-") as folder:
            run = _load(_build(compiler, source, Path(folder) / "kernel.so"))
    else:
        target = Path(cache) / f"kernel-{_digest(compiler, source)}.so"
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        run = _load(target if target.is_file() else _build(compiler, source, target))
    return GeneratedKernel("c", source, program, run)


def compile_numba(program: Program) -> GeneratedKernel:
    """Compile a program by Numba; nothing is cached.

    Raises:
        ConfigError: Numba's compiler is switched off.
    """
    if config.DISABLE_JIT:
        raise ConfigError("NUMBA_DISABLE_JIT", 1, "0 to generate kernels with Numba")
    source, names = emit_numba(program), {"njit": njit, "straight": straight}
    exec(compile(source, "<generated kernel>", "exec"), names)
    return GeneratedKernel("numba", source, program, names["kernel"])


def _digest(compiler: str, source: str) -> str:
    """Names a library by all that decides about it; ``-march=native`` makes the processor part of that."""
    features = binding.get_host_cpu_features().flatten()
    text = "\n".join([source, compiler, *FLAGS, binding.get_host_cpu_name(), features])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _build(compiler: str, source: str, target: Path) -> Path:
    """Compile to ``target``, which appears whole or not at all."""
    with tempfile.TemporaryDirectory(prefix="build-", dir=target.parent) as folder:
        text, made = Path(folder) / "kernel.c", Path(folder) / "kernel.so"
        text.write_text(source)
        command = [compiler, *FLAGS, "-o", str(made), str(text)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise NoCompiler(f"{compiler} took over {_SECONDS} s; share sums in smaller blocks") from error
        if done.returncode:
            raise NoCompiler(
                f"{' '.join(command)} failed with status {done.returncode}: {done.stderr.strip()[:500]}; GCC 9, "
                "Clang 9 or later is needed, or use the kernel that Numba compiles"
            )
        os.replace(made, target)
    return target


def _load(library: Path) -> Callable[[int, int, int, int], None]:
    function = ctypes.CDLL(str(library)).kernel
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    function.restype = None
    return function
