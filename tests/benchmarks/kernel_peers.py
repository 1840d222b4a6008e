"""Other libraries' products, convolutions and searches, on one thread, as functions to time; absent ones say why."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from compressors.operators.lowering import affine

Call = Callable[[], Any]


@dataclass(frozen=True)
class Shape:
    """A convolution of a square image; padding keeps the size.

    Attributes:
        side: pixels.
    """

    side: int
    channels: int
    outputs: int
    kernel: int = 3
    stride: int = 1

    @property
    def padding(self) -> int:
        return self.kernel // 2

    @property
    def macs(self) -> int:
        return (self.side // self.stride) ** 2 * self.channels * self.outputs * self.kernel**2


def missing(*packages: str) -> str:
    """Why a peer is absent: the packages that cannot be imported; "" if all are there."""
    absent = []
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError:
            absent.append(package)
    return f"{', '.join(absent)} not installed: pip install '.[bench]'" if absent else ""


def torch_float(shape: Shape) -> Call:
    """float32 in, float32 out."""
    conv = nn.Conv2d(shape.channels, shape.outputs, shape.kernel, shape.stride, shape.padding).eval()
    conv = conv.to(memory_format=torch.channels_last)
    image = torch.randn(1, shape.channels, shape.side, shape.side).to(memory_format=torch.channels_last)
    return lambda: conv(image)


def torch_int8(shape: Shape) -> Call:
    """uint8 in, uint8 out, by torch's default engine (oneDNN or FBGEMM)."""
    image = torch.rand(1, shape.channels, shape.side, shape.side).to(memory_format=torch.channels_last)
    quantized = torch.quantize_per_tensor(image, 1 / 127, 0, torch.quint8)
    weight = torch.randn(shape.outputs, shape.channels, shape.kernel, shape.kernel) * 0.1
    packed = torch.ops.quantized.conv2d_prepack(
        torch.quantize_per_tensor(weight, 0.01, 0, torch.qint8),
        torch.zeros(shape.outputs),
        [shape.stride] * 2,
        [shape.padding] * 2,
        [1, 1],
        1,
    )
    return lambda: torch.ops.quantized.conv2d(quantized, packed, 0.05, 0)


def ort_int8(shape: Shape) -> Call:
    """uint8 in, uint8 out, by ONNX Runtime's QLinearConv."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    sizes = (shape.outputs, shape.channels, shape.kernel, shape.kernel)
    constants = {
        "xs": np.float32(1 / 127),
        "xz": np.uint8(0),
        "w": rng.integers(-127, 128, sizes).astype(np.int8),
        "ws": np.full(shape.outputs, 0.01, np.float32),
        "wz": np.zeros(shape.outputs, np.int8),
        "ys": np.float32(0.05),
        "yz": np.uint8(0),
        "b": np.zeros(shape.outputs, np.int32),
    }
    node = helper.make_node(
        "QLinearConv",
        ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"],
        ["y"],
        pads=[shape.padding] * 4,
        strides=[shape.stride] * 2,
    )
    graph = helper.make_graph(
        [node],
        "conv",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, shape.channels, shape.side, shape.side])],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    session = _session(_model(graph).SerializeToString())
    image = rng.integers(0, 128, (1, shape.channels, shape.side, shape.side)).astype(np.uint8)
    return lambda: session.run(None, {"x": image})


def ort_int8_network(network: nn.Module, images: np.ndarray) -> Call:
    """The project's CIFAR ResNet, statically quantized to int8 by ONNX Runtime, on the first of ``images``."""
    import tempfile
    from pathlib import Path

    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self._left = [{"x": image[None]} for image in images]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self._left.pop() if self._left else None

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        source.write_bytes(_resnet(network, images.shape[1:]).SerializeToString())
        quantization.quantize_static(
            source, target, Reader(), quant_format=quantization.QuantFormat.QDQ, per_channel=True
        )
        session = _session(target.read_bytes())
    image = images[:1]
    return lambda: session.run(None, {"x": image})


def _session(model: bytes):  # type: ignore[no-untyped-def]
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _model(graph):  # type: ignore[no-untyped-def]
    from onnx import helper

    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _resnet(network: nn.Module, shape: tuple[int, ...]):  # type: ignore[no-untyped-def]
    """``dse.models.resnet.CifarResNet`` as an ONNX graph, batch norms folded."""
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants = [], []

    def constant(name: str, value: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(value, name))
        return name

    def conv(name: str, source: str, layer: nn.Conv2d, norm: nn.Module) -> str:
        gain, offset = affine(norm)
        weight = layer.weight.detach().numpy() * gain.astype(np.float32)[:, None, None, None]
        inputs = [source, constant(f"{name}.w", weight), constant(f"{name}.b", offset.astype(np.float32))]
        nodes.append(
            helper.make_node(
                "Conv", inputs, [name], pads=[1] * 4, strides=list(layer.stride), kernel_shape=[3, 3]
            )
        )
        return name

    def one(kind: str, output: str, *inputs: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    value = one("Relu", "r", conv("c", "x", network.conv1, network.bn1))
    for name, block in network.named_modules():
        if type(block).__name__ != "BasicBlock":
            continue
        inner = one("Relu", f"{name}.r1", conv(f"{name}.c1", value, block.conv1, block.bn1))
        inner = conv(f"{name}.c2", inner, block.conv2, block.bn2)
        if type(block.shortcut).__name__ == "OptionAShortcut":
            steps = {"starts": [0, 0], "ends": [999, 999], "axes": [2, 3], "steps": [2, 2]}
            tables = [constant(f"{name}.{k}", np.array(v, np.int64)) for k, v in steps.items()]
            value = one("Slice", f"{name}.s", value, *tables)
            p = block.shortcut.padding
            pads = constant(f"{name}.p", np.array([0, p, 0, 0, 0, p, 0, 0], np.int64))
            value = one("Pad", f"{name}.z", value, pads)
        value = one("Relu", f"{name}.r2", one("Add", f"{name}.a", inner, value))
    value = one("Flatten", "f", one("GlobalAveragePool", "g", value))
    weight = constant("l.w", network.linear.weight.detach().numpy())
    one("Gemm", "y", value, weight, constant("l.b", network.linear.bias.detach().numpy()), transB=1)
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, *shape])]
    graph = helper.make_graph(
        nodes, "resnet", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], constants
    )
    return _model(graph)


def faiss_search(base: np.ndarray, queries: np.ndarray, k: int) -> Call:
    """Exact Hamming search of packed bytes ``uint8 [n, bytes]``."""
    import faiss

    faiss.omp_set_num_threads(1)
    index = faiss.IndexBinaryFlat(base.shape[1] * 8)
    index.add(base)
    return lambda: index.search(queries, k)


def usearch_search(base: np.ndarray, queries: np.ndarray, k: int) -> Call:
    from usearch.index import MetricKind, search

    return lambda: search(base, queries, k, MetricKind.Hamming, exact=True, threads=1)


def simsimd_search(base: np.ndarray, queries: np.ndarray, k: int) -> Call:
    """All distances, and the nearest by NumPy."""
    import simsimd

    both = np.concatenate([queries, base])  # simsimd refuses some pairs of buffers that are not of one array
    queries, base = both[: len(queries)], both[len(queries) :]
    return lambda: np.asarray(simsimd.cdist(queries, base, metric="hamming", dtype="bin8")).argmin(1)
