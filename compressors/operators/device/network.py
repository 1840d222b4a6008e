"""A compressed network on a device: its layers on the kernels chosen for them, recorded as one CUDA graph."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn

from compressors.errors import BadTensor, DseError, UnsupportedLayer
from compressors.model import CompressedModel
from compressors.operators.device.choice import KernelChoice, choose
from compressors.operators.device.folding import fold
from compressors.operators.device.formats import LayerFormat
from compressors.operators.device.reference import VALUE_ERRORS, LayerReference, relative, rms
from compressors.operators.device.registry import selected
from compressors.operators.device.replay import record
from compressors.operators.device.settings import DeviceSettings

_SAME_LAYER = 1e-5
"""Error of a layer of the network beside the reference, at most: single precision beside double."""
_SAME_NETWORK = 0.25
"""Error of the logits beyond which the lowered network is another one: thresholds of coarse grids that fall otherwise
in 16 bits change much less."""


_SAME_REPLAY = 1e-4


class KernelMismatch(DseError):
    """The lowered network does not compute what the candidate does."""


class DeviceNetwork(nn.Module):
    """A compressed network that runs the kernels chosen for its layers.

    Attributes:
        kernels: layer -> its kernel and why.
        max_error: greatest error of a logit on the example, over the greatest magnitude of a logit.
        relative_error: root mean square of the logits' error over that of the logits.
        agreement: fraction of the example's images with the same largest logit; None where logits are not
            ``[n, classes]``.
        graph: True if a batch of the example's shape replays a CUDA graph; else why not.
        device: where it runs.
    """

    def __init__(
        self,
        network: nn.Module,
        kernels: Mapping[str, KernelChoice],
        example: torch.Tensor,
        device: torch.device,
        settings: DeviceSettings,
    ) -> None:
        """``network`` reads and answers in ``settings.values``, on the device; ``example`` is a batch there."""
        super().__init__()
        self.network, self.kernels, self.device, self.settings = network, dict(kernels), device, settings
        self.max_error, self.relative_error = 0.0, 0.0
        self.agreement: float | None = None
        self._batch = self._laid_out(example).clone(memory_format=torch.preserve_format)
        self.graph: bool | str = "not asked for"
        if settings.graph:
            self._replay = record(lambda: self._run(self._batch), device)
            self.graph = self._replay.obstacle or self._unlike() or True

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits ``float32 [n, classes]`` on the device, of ``float32`` images anywhere.

        A batch of the example's shape replays the graph where there is one: its logits are overwritten by the next
        call. Batches of other shapes run kernel by kernel.
        """
        if len(images) == 0:
            raise BadTensor("no image: expected a batch of at least one")
        with _current(self.device):
            if self.graph is not True or images.shape != self._batch.shape:
                return self._run(self._laid_out(images))
            self._batch.copy_(images)
            self._replay.run()
        return self._replay.answer

    def compare(self, images: torch.Tensor, logits: torch.Tensor) -> None:
        """Hold the network against the candidate's logits for some images.

        Raises:
            KernelMismatch: it answers otherwise.
        """
        error = self(images).cpu().double() - logits.double()
        self.relative_error = relative(error, rms(logits.double()))
        self.max_error = relative(error.abs().max(), float(logits.abs().max()))
        if logits.ndim == 2:
            same = (error + logits).argmax(1) == logits.argmax(1)
            self.agreement = float(same.double().mean())
        if self.relative_error > _SAME_NETWORK:
            raise KernelMismatch(
                f"the logits on {self.device} are {self.relative_error:.2g} away from the candidate's, "
                f"above {_SAME_NETWORK:g}, with {self.summary}: allow kernels of more precision"
            )

    def _unlike(self) -> str:
        """What is wrong with a replay on other images than those it was recorded on; "" if nothing is."""
        own = self._batch.clone(memory_format=torch.preserve_format)
        self._batch.copy_(own.flip(0) if len(own) > 1 else -own)
        expected = self._run(self._batch)
        self._replay.run()
        error = relative((self._replay.answer - expected).double(), rms(expected.double()))
        self._batch.copy_(own)
        limit = _SAME_REPLAY + VALUE_ERRORS[self.settings.dtype]
        return "" if error <= limit else f"its replay is {error:.2g} away from the same kernels one by one"

    def _laid_out(self, images: torch.Tensor) -> torch.Tensor:
        return _channels_last(images.to(self.device, torch.float32))

    @torch.no_grad()
    def _run(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images.to(self.settings.dtype)).float()

    @property
    def summary(self) -> str:
        """Kernels and how many layers each runs, such as ``int8 x 18, fp32 x 2``."""
        counts = Counter(choice.name for choice in self.kernels.values())
        return ", ".join(f"{name} x {count}" for name, count in counts.most_common())

    def record(self) -> dict[str, Any]:
        """Plain data for JSON: what runs, why, and how near it is to the candidate."""
        of_gpu = self.device.type == "cuda"
        return {
            "device": torch.cuda.get_device_name(self.device) if of_gpu else "processor",
            "torch": torch.__version__,
            "values": self.settings.values,
            "batch": list(self._batch.shape),
            "kernels": {name: choice.to_dict() for name, choice in self.kernels.items()},
            "summary": self.summary,
            "graph": self.graph,
            "max_error": self.max_error,
            "relative_error": self.relative_error,
            "agreement": self.agreement,
        }


def lower_for_device(
    model: CompressedModel,
    example: torch.Tensor,
    device: torch.device | str,
    settings: DeviceSettings | None = None,
) -> DeviceNetwork:
    """Lower each layer of a compressed network to the best kernel of a device, checked before anything is timed.

    Args:
        model: the candidate; it stays as it is. A float network is one without sliced weights and grids.
        example: ``float32`` images of a real batch, ``[n, channels, height, width]``: kernels are checked and timed on
            what the layers read of it, and a CUDA graph is recorded for its shape.
        device: a GPU, or the processor.
        settings: by default every kernel may be chosen, with float32 between layers.

    Raises:
        NoKernel: a layer that no allowed kernel runs.
        KernelMismatch: the lowered network answers otherwise than the candidate.
        UnknownName: a kernel of the settings that does not exist.
        BadTensor: no image in the example.
    """
    settings, device = settings or DeviceSettings(), _with_index(torch.device(device))
    kernels = selected(settings.kernels)
    if len(example) == 0:
        raise BadTensor("no image in the example: expected a batch of at least one")
    with torch.inference_mode(False), torch.no_grad(), _current(device):
        images = example.detach().to("cpu", torch.float32, copy=True)
        reference = _on_processor(model)
        folded = fold(reference)
        folded.network.to(device, settings.dtype)  # kernels keep types of their own and come later
        layers = {layer.name: layer for layer in reference.layers}
        chosen: dict[str, KernelChoice] = {}

        def lower(name: str, module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
            tensor, grid = reference.tensors.get(name), reference.grids.get(name)
            layer = LayerFormat.of(layers[name], module, tensor, grid, folded.after[name], settings.dtype)
            right = LayerReference(layer, x, settings.checked, module.bias)
            _check_layer(right, y)
            read = _channels_last(x.to(device, settings.dtype))
            kernel, chosen[name] = choose(layer, read, right, kernels, device, settings)
            folded.put(name, kernel)

        logits = _walk(reference, images, lower)
        lowered = DeviceNetwork(folded.network, chosen, images, device, settings)
        lowered.compare(images, logits)
    return lowered


def _with_index(device: torch.device) -> torch.device:
    """``cuda`` as the GPU that it stands for."""
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _current(device: torch.device) -> AbstractContextManager[object]:
    """Numba launches on the current device, whatever its arguments lie on."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


_See = Callable[[str, nn.Module, torch.Tensor, torch.Tensor], None]


def _on_processor(model: CompressedModel) -> CompressedModel:
    """The candidate itself, or a copy of it where it lies on a device."""
    elsewhere = any(p.device.type != "cpu" for p in model.parameters())
    return copy.deepcopy(model).cpu() if elsewhere else model


def _walk(model: CompressedModel, images: torch.Tensor, see: _See) -> torch.Tensor:
    """Run a network, showing what each layer reads (before it is rounded) and answers; its logits."""
    modules = dict(model.network.named_modules())
    read: dict[str, torch.Tensor] = {}
    handles = []
    for name in (layer.name for layer in model.layers):
        before = partial(_keep, read, name)
        handles.append(modules[name].register_forward_pre_hook(before, prepend=True))
        after = partial(_show, read, name, see)
        handles.append(modules[name].register_forward_hook(after))
    try:
        logits = model(images)
    finally:
        for handle in handles:
            handle.remove()
    if not isinstance(logits, torch.Tensor):
        raise UnsupportedLayer("a network with several outputs cannot be lowered for a device")
    return logits


def _keep(read: dict[str, torch.Tensor], name: str, _: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
    read[name] = args[0]


def _show(
    read: dict[str, torch.Tensor],
    name: str,
    see: _See,
    module: nn.Module,
    _: tuple[torch.Tensor, ...],
    answer: torch.Tensor,
) -> None:
    see(name, module, read.pop(name), answer)


def _check_layer(reference: LayerReference, answer: torch.Tensor) -> None:
    """The reference must be what the network computes, or nothing that is held against it means anything."""
    if reference.layer.values != torch.float32:
        return
    own = answer[reference.images].double()
    error = relative(reference.plain - own, rms(own))
    if error > _SAME_LAYER:
        raise KernelMismatch(
            f"layer {reference.layer.name}: the network's own answer is {error:.2g} away from its weights times its "
            f"rounded input, above {_SAME_LAYER:g}; does a hook change it?"
        )


def _channels_last(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
