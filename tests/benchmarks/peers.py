"""Other toolkits on the same network and images, each where it is installed; nothing here is needed otherwise.

A peer gets a copy of the float network and the calibration images, and returns a network to be scored like any other.
Settings are those their documentation recommends for convolutional networks, on all calibration images.
"""

from __future__ import annotations

import copy
import io
import logging
import os
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib import metadata

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.data import DataLoader, TensorDataset

_BATCH, _STEPS = 64, 500
Quantizer = Callable[[nn.Module, torch.Tensor], nn.Module]


class NotInstalled(Exception):
    """The peer's package cannot be imported."""


@dataclass(frozen=True)
class Peer:
    """One setting of one toolkit.

    Attributes:
        package: distribution that it needs.
        setting: what is done, for people.
        quantize: float network, calibration images -> network; whatever it raises is the peer's refusal.
        slow: takes minutes.
    """

    package: str
    setting: str
    quantize: Quantizer
    slow: bool = False

    @property
    def name(self) -> str:
        """Package, version and setting."""
        return f"{self.package} {self.version} {self.setting}"

    @property
    def version(self) -> str:
        try:
            return metadata.version(self.package)
        except metadata.PackageNotFoundError:
            raise NotInstalled(f"{self.package} is not installed") from None


def brevitas(
    weight: int, activation: int, rounding: str, model: nn.Module, images: torch.Tensor
) -> nn.Module:
    """Layer by layer, scales from the largest weight of each channel, biases corrected.

    Args:
        weight, activation: bits; the first and the last layer have 8.
        rounding: ``nearest``, ``gptq`` or ``learned``.
        model: the float network.
        images: to calibrate on.
    """
    from brevitas.graph.quantize import layerwise_quantize, preprocess_for_quantize
    from brevitas_examples.imagenet_classification.ptq import ptq_common as ptq

    network = preprocess_for_quantize(model, equalize_iters=0, equalize_merge_bias=False, merge_bn=True)
    names = [n for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    ends = [names[0], names[-1]]
    for bits, left_out in (((weight, activation), ends), ((8, 8), None)):
        network = layerwise_quantize(network, _brevitas_map(ptq, *bits), name_blacklist=left_out)
    network.eval()
    loader = DataLoader(TensorDataset(images, torch.zeros(len(images))), batch_size=_BATCH)
    with torch.no_grad():
        network(images[:_BATCH])  # scales are made on the first call
    ptq.calibrate(loader, network)
    if rounding == "gptq":
        ptq.apply_gptq(loader, network, act_order=True, use_quant_activations=True, create_weight_orig=True)
    elif rounding == "learned":
        _learn_rounding(network, loader)
    ptq.apply_bias_correction(loader, network)
    return network.eval()


def _brevitas_map(ptq: object, weight: int, activation: int) -> dict[type, tuple[type, dict[str, object]]]:
    """What each kind of layer is replaced by."""
    maps = ptq.create_quant_maps(
        dtype=torch.float32,
        bias_bit_width=32,
        weight_bit_width=weight,
        weight_param_method="stats",
        weight_scale_type="float_scale",
        weight_quant_type="sym",
        weight_quant_granularity="per_channel",
        weight_narrow_range=False,
        weight_quant_format="int",
        act_quant_format="int",
        act_bit_width=activation,
        act_scale_type="float_scale",
        act_scale_computation_type="static",
        act_param_method="stats",
        act_quant_type="asym",
        act_quant_granularity="per_tensor",
        act_quant_percentile=99.999,
    )
    return maps[1]


def _learn_rounding(network: nn.Module, loader: DataLoader[tuple[torch.Tensor, ...]]) -> None:
    """Their AdaRound, layer after layer, 500 steps of 32 images each."""
    from brevitas_examples.common.learned_round.learned_round_trainer import LearnedRoundTrainer, get_blocks
    from brevitas_examples.imagenet_classification.ptq import learned_round_utils as learned

    settings = Namespace(
        learned_round="hard_sigmoid",
        learned_round_loss="regularised_mse",
        learned_round_iters=_STEPS,
        learned_round_lr=1e-3,
        learned_round_lr_scheduler=None,
        learned_round_batch_size=32,
    )
    config = learned.parse_args_to_dataclass(settings)
    config.training_args.use_amp = False  # half precision is no help on a CPU: many times slower
    LearnedRoundTrainer(config=config).train(
        model=network,
        model_forward=learned.vision_forward,
        block_forward=learned.vision_block_forward,
        data_loader=loader,
        cache=learned.CacheVision(),
        get_blocks_fn=partial(get_blocks, block_check_fn=learned.is_layer),
        keep_gpu=True,
    )


def nncf(weight: int, activation: int, model: nn.Module, images: torch.Tensor) -> nn.Module:
    """Their post-training quantization with the ``mixed`` preset; other widths than 8 are asked for, and refused."""
    import nncf as package
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, QuantizationParameters

    # It compiles its kernels on the first call, and gives up after a minute.
    os.environ.setdefault("NNCF_EXTENSION_LOAD_TIMEOUT", "550")
    advanced = AdvancedQuantizationParameters(
        weights_quantization_params=QuantizationParameters(num_bits=weight),
        activations_quantization_params=QuantizationParameters(num_bits=activation),
    )
    return package.quantize(
        model,
        package.Dataset(list(images.split(1))),
        preset=package.QuantizationPreset.MIXED,
        subset_size=len(images),
        advanced_parameters=None if (weight, activation) == (8, 8) else advanced,
    )


def torchao(weight: int, model: nn.Module, images: torch.Tensor) -> nn.Module:
    """Weights alone, rounded to nearest with a scale per output and kernel position; needs no images."""
    from torchao.quantization import IntxWeightOnlyConfig, quantize_

    config = IntxWeightOnlyConfig(weight_dtype=getattr(torch, f"int{weight}"))
    network = fold_batch_norms(model)
    quantize_(network, config, filter_fn=lambda module, _: isinstance(module, nn.Conv2d | nn.Linear))
    return network


def fold_batch_norms(model: nn.Module) -> nn.Module:
    """A copy in which each batch norm ``...bnX`` has gone into the convolution ``...convX`` in front of it."""
    network = copy.deepcopy(model).eval()
    modules = dict(network.named_modules())
    for name, module in modules.items():
        if isinstance(module, nn.BatchNorm2d):
            parent, _, own = name.rpartition(".")
            front = own.replace("bn", "conv")
            holder = modules[parent]
            setattr(holder, front, fuse_conv_bn_eval(getattr(holder, front), module))
            setattr(holder, own, nn.Identity())
    return network


def _brevitas_peers(weight: int, activation: int) -> list[Peer]:
    bits = f"W{weight}A{activation}"
    ends = "" if (weight, activation) == (8, 8) else ", first and last layer 8 bits"
    settings = (("nearest", "nearest", False), ("gptq", "GPTQ", False), ("learned", "learned rounding", True))
    return [
        Peer("brevitas", f"{bits} {name}{ends}", partial(brevitas, weight, activation, rounding), slow)
        for rounding, name, slow in settings
    ]


def _peers(weight: int, activation: int, with_torchao: bool = True) -> list[Peer]:
    quantizer = partial(nncf, weight, activation)
    found = [*_brevitas_peers(weight, activation), Peer("nncf", f"W{weight}A{activation}", quantizer)]
    if with_torchao:
        found.append(Peer("torchao", f"W{weight}, activations float", partial(torchao, weight)))
    return found


PEERS: dict[str, list[Peer]] = {
    "8 / 8": _peers(8, 8),
    "4 / 8": _peers(4, 8),
    "4 / 4": _peers(4, 4, with_torchao=False),
    "3 / 8": _peers(3, 8),
    "2 / 8": _peers(2, 8),
}
"""Condition of the benchmark -> the settings of other toolkits nearest to it."""


def refusal(error: Exception) -> str:
    """Kind and first line of what a peer raised."""
    lines = str(error).strip().splitlines() or ["no message"]
    return f"{type(error).__name__}: {lines[0][:160]}"


@contextmanager
def quiet() -> Iterator[None]:
    """Keep progress bars, logs and warnings of the peers off the terminal."""
    level, sink = logging.root.manager.disable, io.StringIO()
    with warnings.catch_warnings(), redirect_stdout(sink), redirect_stderr(sink):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(level)
