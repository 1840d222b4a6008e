"""What the kernels reach: shares of this core's peak, and speed beside other libraries, in one process on one thread.

    python tests/benchmarks/kernels.py            a few minutes; peers come with pip install '.[bench]'
    python tests/benchmarks/kernels.py --quick    under a minute, small shapes, no bar counts

Candidates take turns, round by round; a figure is the median over the rounds of CPU time, and a ratio the median of
the ratios within a round. Writes ``results/reference/kernels.csv`` and a figure beside it.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from numba import njit, types  # noqa: E402
from numba.core import cgutils  # noqa: E402
from numba.extending import intrinsic  # noqa: E402

from compressors.adders import AdderGraph  # noqa: E402
from compressors.kernels import popcount  # noqa: E402
from compressors.kernels.generated import NoCompiler, compile_c  # noqa: E402
from compressors.kernels.layout import InputFormat  # noqa: E402
from compressors.kernels.machine import machine  # noqa: E402
from compressors.kernels.program import schedule  # noqa: E402
from compressors.kernels.statistics import _count_plainly as count_plainly  # noqa: E402
from compressors.kernels.statistics import statistics as statistics_of  # noqa: E402
from compressors.operators.product import FEW_LEVELS, Finish, Product, Window  # noqa: E402
from compressors.operators.search import PackedIndex  # noqa: E402
from compressors.reuse import adder_graph  # noqa: E402
from dse.reference import Row, show, write_table  # noqa: E402
from tests.benchmarks import kernel_peers as peers  # noqa: E402
from tests.benchmarks.kernel_peers import Call, Shape  # noqa: E402
from tests.benchmarks.kernels_figure import draw  # noqa: E402
from tests.benchmarks.processes import ROOT  # noqa: E402

RESNET18 = (
    *[Shape(56, 64, 64)] * 4, Shape(56, 64, 128, 3, 2), *[Shape(28, 128, 128)] * 3, Shape(56, 64, 128, 1, 2),
    Shape(28, 128, 256, 3, 2), *[Shape(14, 256, 256)] * 3, Shape(28, 128, 256, 1, 2),
    Shape(14, 256, 512, 3, 2), *[Shape(7, 512, 512)] * 3, Shape(14, 256, 512, 1, 2),
)  # fmt: skip
"""The convolutions of ResNet-18's blocks."""
PRODUCTS = ((768, 128, 1152), (768, 512, 4608), (1536, 1024, 8192))
"""Rows, outputs and inputs."""
ROUNDS = 7
_ACCUMULATORS = 12


@intrinsic
def _peak(typingctx, turns):  # type: ignore[no-untyped-def]
    """XOR, popcount and add on registers alone: what no product can exceed."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        vector = popcount._VECTOR
        totals = [cgutils.alloca_once_value(builder, popcount._constant(i)) for i in range(_ACCUMULATORS)]
        with cgutils.for_range(builder, args[0]) as loop:
            word = popcount._splat(builder, builder.trunc(loop.index, popcount._I32), vector)
            for i, total in enumerate(totals):
                met = builder.xor(word, popcount._constant(0x5BD1E995 * (i + 1) % (1 << 31)))
                builder.store(builder.add(builder.load(total), popcount._population(builder, met)), total)
        result = builder.load(totals[0])
        for total in totals[1:]:
            result = builder.add(result, builder.load(total))
        return builder.extract_element(result, popcount._I32(3))

    return types.int32(types.int64), codegen


@njit(nogil=True)
def peak(turns):  # type: ignore[no-untyped-def]
    return _peak(turns)


PEAK_TURNS = 200_000
PEAK_MACS = PEAK_TURNS * _ACCUMULATORS * 512
"""Bit products of one call of ``peak``."""


def seconds(call: Call, least: float = 0.01) -> float:
    """CPU seconds of one call, best of a few that together take ``least`` seconds."""
    best, spent, count = float("inf"), 0.0, 0
    while spent < least or count < 2:
        start = time.thread_time()
        call()
        taken = time.thread_time() - start
        best, spent, count = min(best, taken), spent + taken, count + 1
    return best


def rounds(calls: Mapping[str, Call], count: int) -> dict[str, list[float]]:
    """Name -> seconds, one for each round in which all take their turn."""
    for call in calls.values():  # compiled, and in the cache
        call()
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(count):
        for name, call in calls.items():
            found[name].append(seconds(call))
    return found


def ratio(found: Mapping[str, list[float]], other: str, own: str = "ours") -> float:
    """How many times as long the other takes, median over the rounds."""
    return statistics.median(a / b for a, b in zip(found[other], found[own], strict=True))


def ours(shape: Shape, weights: str, fmt: InputFormat, method: str | None = None) -> Call:
    """A convolution from packed codes to packed codes of the same format."""
    rng = np.random.default_rng(0)
    size = (1, shape.outputs, shape.channels, shape.kernel, shape.kernel)
    codes = {
        "binary": rng.choice([-1, 1], size),
        "ternary": rng.integers(-1, 2, size),
        "int8": rng.integers(-127, 128, size),
    }
    window = Window((shape.kernel,) * 2, (shape.stride,) * 2, (shape.padding,) * 2)
    product = Product(codes[weights].astype(np.int64), fmt, window, method=method)
    sheet = product.sheet(1, (shape.side, shape.side))
    buffer = sheet.empty()
    stored = rng.integers(0, fmt.largest + 1, (1, shape.channels, shape.side, shape.side))
    sheet.fill(buffer, stored * fmt.step + fmt.low)
    bound = product.bind(sheet)
    reader = Product(np.zeros((1, 1, shape.outputs, 1, 1), np.int64), fmt, method=method)
    out = reader.sheet(1, bound.out_size, (1, 1))
    rescale = "thresholds" if fmt.largest <= FEW_LEVELS else "multiply"
    finish = Finish(np.full((1, shape.outputs), 1000), np.zeros(shape.outputs, np.int64), 14, rescale=rescale)
    arguments = bound.arguments(finish, codes=out.empty(), out=out)
    return lambda: bound.kernel(buffer, *arguments, 0, bound.tiles)


def bare_product(
    rows: int, outputs: int, inputs: int, weights: str
) -> tuple[Callable[[int, int], None], int]:
    """A product into 32-bit sums, without anything behind, and its number of tiles."""
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2, (rows, inputs, 1, 1))
    codes = rng.choice([-1, 1] if weights == "binary" else [-1, 0, 1], (1, outputs, inputs, 1, 1)).astype(
        np.int64
    )
    product = Product(codes, InputFormat.integers(1, False), method="popcount")
    sheet = product.sheet(rows, (1, 1))
    buffer = sheet.empty()
    sheet.fill(buffer, values)
    bound = product.bind(sheet)
    _, arguments = bound.sum_arguments()
    return lambda first, last: bound.kernel(buffer, *arguments, first, last), bound.tiles


def product_rows(quick: bool) -> list[Row]:
    """Shares of the peak."""
    found = []
    for weights, bar in (("binary", 90.0), ("ternary", 72.0)):
        shares, notes = [], []
        for m, n, k in PRODUCTS[:1] if quick else PRODUCTS:
            run, tiles = bare_product(m, n, k, weights)
            times = rounds(
                {"ours": lambda r=run, t=tiles: r(0, t), "peak": lambda: peak(PEAK_TURNS)},
                2 if quick else ROUNDS,
            )
            macs = m * n * k
            shares.append(100 * statistics.median(
                (macs / a) / (PEAK_MACS / b) for a, b in zip(times["ours"], times["peak"], strict=True)
            ))  # fmt: skip
            notes.append(
                f"{m} x {n} x {k}: {shares[-1]:.0f} %, {macs / statistics.median(times['ours']) / 1e9:.0f} GMAC/s"
            )
        name = "XOR" if weights == "binary" else "masked"
        limit = PEAK_MACS / statistics.median(times["peak"]) / 1e9
        note = f"least of: {'; '.join(notes)}; peak: XOR, popcount and add on registers, {limit:.0f} GMAC/s"
        found.append(
            Row(
                f"{name} products, share of the peak",
                min(shares),
                None if quick else bar,
                "higher",
                "%",
                note,
            )
        )
    return found


def convolution_rows(quick: bool) -> list[Row]:
    """Sums over ResNet-18's blocks, beside float32 and the better int8."""
    shapes = {Shape(14, 64, 64): 1} if quick else {s: RESNET18.count(s) for s in dict.fromkeys(RESNET18)}
    formats = {
        "binary x binary": ("binary", InputFormat.binary(), "popcount", 20.0, 5.0),
        "ternary x u2": ("ternary", InputFormat.integers(2, False), "popcount", 8.0, 2.0),
        "ternary x u4": ("ternary", InputFormat.integers(4, False), "popcount", 4.0, 1.0),
        "int8 x u8, byte products": ("int8", InputFormat.integers(8, False), "bytes", None, 0.95),
    }
    absent = peers.missing("onnx", "onnxruntime")
    totals: dict[str, np.ndarray] = {}
    for shape, count in shapes.items():
        calls: dict[str, Call] = {"float32": peers.torch_float(shape), "torch int8": peers.torch_int8(shape)}
        if not absent:
            calls["ONNX Runtime int8"] = peers.ort_int8(shape)
        calls |= {
            name: ours(shape, w, fmt, method)
            for name, (w, fmt, method, *_) in formats.items()
            if method != "bytes" or machine().dots_bytes
        }
        times = rounds(calls, 2 if quick else ROUNDS)
        int8 = [times[n] for n in ("torch int8", "ONNX Runtime int8") if n in times]
        times["int8"] = [min(pair) for pair in zip(*int8, strict=True)]
        for name, values in times.items():
            totals[name] = totals.get(name, 0) + count * np.array(values)
    rows = []
    best = PEAK_MACS / min(seconds(lambda: peak(PEAK_TURNS)) for _ in range(2 if quick else ROUNDS))
    products = sum(shape.macs * count for shape, count in shapes.items())
    for name, (_, fmt, method, against_float, against_int8) in formats.items():
        if name not in totals:
            reason = "this processor has no byte products of vectors (AVX-512 VNNI)"
            rows.append(Row(f"{name}: int8 time over ours", None, against_int8, "higher", "times", reason))
            continue
        note = (
            f"ours {1e3 * np.median(totals[name]):.2f} ms, float32 {1e3 * np.median(totals['float32']):.2f} ms, "
            + ", ".join(
                f"{n} {1e3 * np.median(totals[n]):.2f} ms"
                for n in ("torch int8", "ONNX Runtime int8")
                if n in totals
            )
            + (f"; {absent}" if absent else "")
            + "; the sum over ResNet-18's blocks, batch 1, packed codes in and out"
        )
        if method == "popcount":
            least = 1e3 * products * len(fmt.exponents) / best
            note += f"; at this processor's peak of popcounts, nothing else counted, ours would take {least:.2f} ms"
        for other, bar in (("float32", against_float), ("int8", against_int8)):
            if bar is None:
                continue
            value = float(np.median(totals[other] / totals[name]))
            peer = "torch float32" if other == "float32" else "best of torch and ONNX Runtime, layer by layer"
            rows.append(
                Row(
                    f"{name}: {other} time over ours",
                    value,
                    None if quick else bar,
                    "higher",
                    "times",
                    note,
                    1.0,
                    peer,
                )
            )
    return rows


def network_rows(quick: bool) -> list[Row]:
    """A whole lowered ResNet-20, ternary weights and 4-bit inputs (8 bits for the image), batch 1."""
    from compressors.calibration.observe import calibrate
    from compressors.convert import convert
    from compressors.methods.ternary import TernaryConfig
    from compressors.plan import ActivationConfig, CompressionPlan, LayerPlan
    from tests.benchmarks.cifar import cifar10_resnet20, digits_resnet20

    subject = cifar10_resnet20(16) or digits_resnet20(16)
    images = subject.test.tensor(0, 16)
    calibration = calibrate(subject.model, images)
    names = [layer.name for layer in calibration.layers]
    plans = tuple(
        (n, LayerPlan(TernaryConfig(1), ActivationConfig(8 if n == names[0] else 4))) for n in names
    )
    network = convert(subject.model, CompressionPlan(plans, batch_norm="match", bias="match"), calibration)
    image = images[:1]
    lowered, popcounts = network.lower(), network.lower(method="popcount")
    calls: dict[str, Call] = {
        "ours": lambda: lowered(image),
        "popcount": lambda: popcounts(image),
        "float32": lambda: subject.model(image),
    }
    absent = peers.missing("onnx", "onnxruntime")
    if not absent:
        calls["ONNX Runtime int8"] = peers.ort_int8_network(subject.model, images.numpy())
    with torch.inference_mode():
        times = rounds(calls, 2 if quick else 3 * ROUNDS)
    note = ", ".join(f"{n} {1e6 * statistics.median(t):.0f} us" for n, t in times.items())
    note += f"; {subject.name}; 'popcount' is ours without byte products"
    rows = [Row("lowered ResNet-20, ternary x u4, batch 1: float32 time over ours", ratio(times, "float32"),
                None if quick else 6.0, "higher", "times", note, 1.0, "torch float32")]  # fmt: skip
    value = None if absent else ratio(times, "ONNX Runtime int8")
    rows.append(Row("lowered ResNet-20, ternary x u4, batch 1: int8 time over ours", value, None if quick else 1.3,
                    "higher", "times", absent or note, None if absent else 1.0, "ONNX Runtime int8"))  # fmt: skip
    return rows


def search_rows(quick: bool) -> list[Row]:
    """Exact Hamming search: a large database, and an associative memory of few long vectors."""
    rng = np.random.default_rng(0)
    rows = []
    base = rng.integers(0, 1 << 63, (20_000 if quick else 1_000_000, 16)).astype(np.uint64)
    index = PackedIndex(1024)
    index.add(base)
    absent = peers.missing("faiss")
    for count, bar in ((1, 1.1), (16, 5.0), (128, 6.0)):
        queries = rng.integers(0, 1 << 63, (count, 16)).astype(np.uint64)
        calls: dict[str, Call] = {"ours": lambda q=queries: index.search(q, 10)}
        if not absent:
            calls["faiss"] = peers.faiss_search(base.view(np.uint8), queries.view(np.uint8), 10)
            assert np.array_equal(calls["ours"]()[0], calls["faiss"]()[0])
        times = rounds(calls, 2 if quick else ROUNDS)
        note = absent or ", ".join(f"{n} {1e3 * statistics.median(t):.2f} ms" for n, t in times.items())
        rows.append(Row(f"top 10 of {len(base):,} x 1,024 bits, {count} queries: faiss time over ours",
                        None if absent else ratio(times, "faiss"), None if quick else bar, "higher", "times", note,
                        None if absent else 1.0, "faiss"))  # fmt: skip
    memory = rng.integers(0, 1 << 63, (128, 157)).astype(np.uint64)
    queries = rng.integers(0, 1 << 63, (256, 157)).astype(np.uint64)
    index = PackedIndex(157 * 64)
    index.add(memory)
    calls, refused = {"ours": lambda: index.search(queries, 1)}, []
    for name, peer in (
        ("faiss", peers.faiss_search),
        ("usearch", peers.usearch_search),
        ("simsimd", peers.simsimd_search),
    ):
        if peers.missing(name):
            refused.append(peers.missing(name))
            continue
        call = peer(memory.view(np.uint8), queries.view(np.uint8), 1)
        try:
            call()
        except Exception as error:  # whatever a peer answers with is its answer
            refused.append(f"{name}: {error}")
        else:
            calls[name] = call
    times = rounds(calls, 2 if quick else ROUNDS)
    best = min((n for n in times if n != "ours"), key=lambda n: statistics.median(times[n]), default="")
    note = ", ".join(f"{n} {1e6 * statistics.median(t):.0f} us" for n, t in times.items())
    check = "associative memory, 128 classes x 10,048 bits, 256 queries: best peer's time over ours"
    bar, value = None if quick else 3.3, ratio(times, best) if best else None
    note = "; ".join([note, *refused]) if best else peers.missing("faiss", "usearch", "simsimd")
    rows.append(Row(check, value, bar, "higher", "times", note, 1.0 if best else None, best))
    return rows


def statistics_rows(quick: bool) -> list[Row]:
    """Ones, toggles, non-zero digits and zero groups of packed planes in the cache."""
    planes = np.random.default_rng(0).integers(0, 1 << 63, (8, 3136, 4)).astype(np.uint64)
    calls = {
        "ours": lambda: statistics_of(planes),
        "NumPy": lambda: count_plainly(planes.reshape(8, 1, -1), 4),
    }
    times = rounds(calls, 2 if quick else ROUNDS)
    note = (
        ", ".join(f"{n} {1e6 * statistics.median(t):.0f} us" for n, t in times.items())
        + "; 8 x 3136 x 4 words"
    )
    rate = planes.size * 64 / statistics.median(times["ours"]) / 1e9
    return [
        Row("activity statistics: NumPy's time over ours", ratio(times, "NumPy"), None if quick else 10.0, "higher",
            "times", note, 1.0, "NumPy"),
        Row("activity statistics", rate, None if quick else 400.0, "higher", "Gbit/s", note),
    ]  # fmt: skip


def reuse_rows(quick: bool) -> list[Row]:
    """Additions left after common sub-expressions, and a generated kernel beside the popcount kernel."""
    rng = np.random.default_rng(0)
    found = []
    cases = (((64, 576), 0.5, 7466, 0.1), ((512, 4608), 0.8, 200_000, 60.0))
    adder_graph(np.ones((2, 2), np.int64))  # compiled
    for shape, zeros, adders, most_s in cases[:1] if quick else cases:
        codes = np.where(rng.random(shape) < zeros, 0, rng.choice([-1, 1], shape))
        times = []
        for _ in range(3 if shape[0] < 100 else 1):
            start = time.perf_counter()
            graph = adder_graph(codes)
            times.append(time.perf_counter() - start)
        name = f"random ternary {shape[0]} x {shape[1]}, {100 * zeros:.0f} % zeros"
        note = f"{graph.adders_before} before, depth {graph.depth}"
        found.append(
            Row(
                f"adders after reuse, {name}",
                graph.adders,
                None if quick else adders,
                "lower",
                "adders",
                note,
            )
        )
        found.append(
            Row(
                f"time to find them, {name}",
                statistics.median(times),
                None if quick else most_s,
                "lower",
                "s",
                note,
            )
        )
        if shape[0] < 100:
            found.append(_generated_row(codes, graph, quick))
    return found


def _generated_row(codes: np.ndarray, graph: AdderGraph, quick: bool) -> Row:
    check = "generated kernel, 64 x 576, 1,024 positions of 4-bit inputs: popcount kernel's time over its"
    try:
        kernel = compile_c(schedule(graph, "uint8", bits=4, signed=False))
    except NoCompiler as error:
        return Row(check, None, None, "higher", "times", f"{error}: not installed")
    rng = np.random.default_rng(0)
    inputs = rng.integers(0, 16, (576, 1024)).astype(np.uint8)
    product = Product(
        codes[None, :, :, None, None].astype(np.int64), InputFormat.integers(4, False), method="popcount"
    )
    sheet = product.sheet(1024, (1, 1))
    buffer = sheet.empty()
    sheet.fill(buffer, inputs.T[:, :, None, None])
    bound = product.bind(sheet)
    out, arguments = bound.sum_arguments()
    calls: dict[str, Call] = {
        "ours": lambda: kernel(inputs),
        "popcount": lambda: bound.kernel(buffer, *arguments, 0, bound.tiles),
    }
    calls["popcount"]()
    assert np.array_equal(kernel(inputs).T, out[:, :64])
    times = rounds(calls, 2 if quick else ROUNDS)
    note = ", ".join(f"{n} {1e6 * statistics.median(t):.0f} us" for n, t in times.items())
    return Row(
        check, ratio(times, "popcount"), None, "higher", "times", f"{note}; 'ours' is the generated one, in C"
    )


def start_rows(quick: bool) -> list[Row]:
    """From nothing to the first product, its kernel compiled before."""
    code = (
        "import time; start = time.perf_counter()\n"
        "import numpy as np\n"
        "from compressors.kernels.layout import InputFormat\n"
        "from compressors.operators.product import Product\n"
        "codes = np.ones((1, 16, 64, 1, 1), np.int64)\n"
        "Product(codes, InputFormat.integers(1, False)).sums(np.ones((8, 64, 1, 1), np.int64))\n"
        "print(time.perf_counter() - start)"
    )
    found = []
    for _ in range(2 if quick else 5):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        )
        found.append(float(done.stdout))
    note = f"{len(found)} processes after one that filled the cache, {min(found[1:]):.2f} to {max(found[1:]):.2f} s"
    return [
        Row(
            "start to the first product, warm cache",
            statistics.median(found[1:]),
            None if quick else 1.5,
            "lower",
            "s",
            note,
        )
    ]


def thread_rows(quick: bool) -> list[Row]:
    """What a second thread brings, in wall time."""
    run, tiles = bare_product(*((96, 128, 1152) if quick else (1536, 1024, 8192)), "ternary")

    def walled(work: Callable[[], Any]) -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    with ThreadPoolExecutor(2) as pool:
        both = lambda: list(pool.map(run, (0, tiles // 2), (tiles // 2, tiles)))  # noqa: E731
        both()
        pairs = [(walled(lambda: run(0, tiles)), walled(both)) for _ in range(3 if quick else 15)]
    gain = statistics.median(a / b for a, b in pairs)
    alone = 1e3 * statistics.median(a for a, _ in pairs)
    note = f"1536 x 1024 x 8192 ternary, {alone:.1f} ms on one; {os.cpu_count()} cores"
    return [
        Row(
            "two threads on a large product: time of one over two",
            gain,
            None if quick else 1.6,
            "higher",
            "times",
            note,
        )
    ]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small shapes, under a minute; no bar counts")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "reference", help="folder to write to")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    for part in (
        product_rows,
        convolution_rows,
        network_rows,
        search_rows,
        statistics_rows,
        reuse_rows,
        start_rows,
        thread_rows,
    ):
        found = part(options.quick)
        print(show(found), flush=True)
        rows += found
    rows[0] = Row(
        **{**vars(rows[0]), "note": f"{rows[0].note}; {machine().name}, Python {platform.python_version()}"}
    )
    options.out.mkdir(parents=True, exist_ok=True)
    files = [write_table(options.out / "kernels.csv", rows), *draw(rows, options.out / "kernels")]
    print(*files, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
