"""The grid that suits a layer best: every candidate is tried, the one of least squared error is taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from compressors.errors import ConfigError, UnknownName
from compressors.methods.kmeans import KmeansConfig
from compressors.methods.normal_float import NormalFloatConfig
from compressors.methods.power_of_two import PowerOfTwoConfig
from compressors.methods.quantile import QuantileConfig
from compressors.methods.uniform import UniformConfig
from compressors.registry import MethodConfig, alphabet, check_range, compress, register
from compressors.tensor import SlicedTensor

_CANDIDATES: dict[str, Callable[[int], MethodConfig]] = {
    "uniform": UniformConfig,
    "kmeans": KmeansConfig,
    "quantile": QuantileConfig,
    "normal_float": NormalFloatConfig,
    "power_of_two": lambda bits: PowerOfTwoConfig(bits, terms=bits // 2),  # two bits of magnitude for each
}


@dataclass(frozen=True)
class AutoConfig:
    """The best of several grids of ``bits`` bits, layer by layer.

    Attributes:
        bits: of a code or an index.
        among: names of the methods to try, with commas between; of equally good ones the first is taken.
    """

    bits: int = 4
    among: str = "uniform,kmeans,quantile,normal_float,power_of_two"

    def __post_init__(self) -> None:
        check_range("auto.bits", self.bits, 2, 8)
        if not isinstance(self.among, str) or not self.among.strip():
            raise ConfigError("auto.among", self.among, "names of methods, with commas between")
        for name in _names(self):
            if name not in _CANDIDATES:
                raise UnknownName("candidate", name, _CANDIDATES, key="auto.among")


def _names(config: AutoConfig) -> list[str]:
    return [name.strip() for name in config.among.split(",")]


def _candidates(config: AutoConfig) -> list[MethodConfig]:
    return [_CANDIDATES[name](config.bits) for name in _names(config)]


def _best(weight: np.ndarray, keep: np.ndarray, config: AutoConfig) -> tuple[MethodConfig, SlicedTensor]:
    kept = np.where(keep, weight, 0.0)
    tried = [(candidate, compress(weight, candidate, keep)) for candidate in _candidates(config)]
    return min(tried, key=lambda pair: float(((pair[1].to_dense() - kept) ** 2).sum()))


def chosen(weight: np.ndarray, keep: np.ndarray | None, config: AutoConfig) -> MethodConfig:
    """The candidate that :func:`compress_auto` takes for ``weight [N, ...]``; ``keep`` of that shape or None."""
    rows = weight.reshape(weight.shape[0], -1).astype(np.float64)
    mask = np.ones(rows.shape, bool) if keep is None else keep.reshape(rows.shape)
    return _best(rows, mask, config)[0]


def _alphabet(tensor: SlicedTensor, config: AutoConfig) -> np.ndarray:
    """That of the first candidate which ``tensor`` may come from: it writes as many bits and knows all of its codes."""
    codes = tensor.codes()[0].reshape(*tensor.scale.shape[1:], -1)
    for candidate in _candidates(config):
        levels = alphabet(tensor, candidate)
        fits = levels.shape[-1] <= 1 << config.bits and tensor.bits == _bits(candidate)
        if fits and _within(codes, levels[0]):
            return levels
    raise ConfigError("auto.among", config.among, "the methods that the tensor was made with")


def _within(codes: np.ndarray, levels: np.ndarray) -> bool:
    """Whether ``codes [N, groups, run]`` are among ``levels [N or 1, groups or 1, L]``."""
    if levels.shape[:2] == (1, 1):
        return bool(np.isin(codes, levels).all())
    return all(
        np.isin(*pair).all() for row in zip(codes, levels, strict=True) for pair in zip(*row, strict=True)
    )


def _bits(candidate: MethodConfig) -> int:
    """Bits of the codes that ``candidate`` writes."""
    return compress(np.zeros((1, 1)), candidate).bits


@register("auto", AutoConfig, _alphabet)
def compress_auto(weight: np.ndarray, keep: np.ndarray, config: AutoConfig) -> SlicedTensor:
    """The candidate of least squared error for ``weight [N, K]``; :func:`chosen` says which one it was."""
    return _best(weight, keep, config)[1]
