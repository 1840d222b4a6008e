"""Weights as a sum of ternary planes, each with one scale per output channel, group of inputs or tensor."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from compressors.errors import ConfigError
from compressors.methods.alternation import alternate
from compressors.methods.planes import check_choice, check_joint, check_layout, fit_scales, spread, to_rows
from compressors.registry import check_range, register
from compressors.tensor import SlicedTensor

RULES = ("optimal", "twn")
REFINES = ("greedy", "least_squares", "joint")
_JOINT_TERMS = 4  # 81 levels; above, greedy planes err by less than 8-bit weights do
TWN_THRESHOLD = 0.7  # of the mean magnitude

# scales, in root mean squares of a row, at which alternation ends lowest for normal, Laplace and uniform weights: the
# best of 300 random starts for each. Greedy scales lead it to optima that are up to 30 % worse.
_JOINT_STARTS: dict[int, tuple[tuple[float, ...], ...]] = {
    1: (),
    2: ((1.381, 0.908), (1.826, 1.248), (1.155, 0.385)),
    3: ((1.602, 0.887, 0.541), (1.927, 1.686, 1.21), (1.155, 0.385, 0.128)),
    4: ((1.67, 0.805, 0.736, 0.543), (2.19, 1.793, 1.477, 0.485), (1.155, 0.385, 0.128, 0.043)),
}


@dataclass(frozen=True)
class TernaryConfig:
    """``terms`` planes of {-1, 0, 1}.

    Attributes:
        terms: planes.
        rule: how a plane is fitted to what the ones before left over: ``optimal`` is exact, ``twn`` keeps what is
            above 0.7 times the mean magnitude (Li & Liu, arXiv 1605.04711).
        refine: ``greedy`` stops there; ``least_squares`` solves the scales of all planes anew after each one
            (Guo et al., Network Sketching, arXiv 1706.02021); ``joint`` alternates between the best tuple of codes
            of every weight and the best scales (PTQTP, arXiv 2509.16989), for up to 4 terms.
        group: 0 for one scale per channel, else a scale per run of the largest length up to ``group`` that divides
            the inputs.
        asymmetric: positive and negative weights have scales of their own (Zhu et al., TTQ, arXiv 1612.01064), so
            that a term is two planes, one of {0, 1} and one of {-1, 0}.
        per: ``channel``, or ``tensor`` for one scale in all channels.
    """

    terms: int = 1
    rule: str = "optimal"
    refine: str = "greedy"
    group: int = 0
    asymmetric: bool = False
    per: str = "channel"

    def __post_init__(self) -> None:
        check_range("ternary.terms", self.terms, 1, 8)
        check_choice("ternary.rule", self.rule, RULES)
        check_choice("ternary.refine", self.refine, REFINES)
        check_layout("ternary", self.group, self.per)
        if not isinstance(self.asymmetric, bool):
            raise ConfigError("ternary.asymmetric", self.asymmetric, "true or false")
        check_joint("ternary", self.refine, self.terms, _JOINT_TERMS)


def optimal_ternary(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ternary plane and scale of least squared error, per row.

    For a support of ``n`` weights the best scale is their mean magnitude and the error falls by
    ``(sum of magnitudes)**2 / n``, so the support is the ``n`` largest with ``n`` maximising that
    (Li & Liu, Ternary Weight Networks, arXiv 1605.04711, solved exactly instead of by its threshold rule).

    Args:
        weight: float ``[N, K]``.

    Returns:
        Codes ``int64 [N, K]`` in {-1, 0, 1} and scales ``float64 [N]``; a row of zeros gives zeros.
    """
    magnitude = np.abs(weight)
    order = np.argsort(-magnitude, axis=1, kind="stable")
    total = np.cumsum(np.take_along_axis(magnitude, order, 1), 1)
    sizes = np.arange(1, weight.shape[1] + 1)
    best = np.argmax(total**2 / sizes, axis=1)
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.broadcast_to(sizes - 1, order.shape), 1)
    codes = np.where(rank <= best[:, None], np.sign(weight), 0.0).astype(np.int64)
    return codes, np.take_along_axis(total, best[:, None], 1)[:, 0] / (best + 1)


def threshold_ternary(
    weight: np.ndarray, keep: np.ndarray, factor: float = TWN_THRESHOLD
) -> tuple[np.ndarray, np.ndarray]:
    """The plane of the weights above ``factor`` times their row's mean magnitude, and its best scale.

    Args:
        weight: float ``[N, K]``; keep: booleans ``[N, K]``, what the mean is taken over.

    Returns:
        Codes ``int64 [N, K]`` in {-1, 0, 1} and scales ``float64 [N]``.
    """
    magnitude = np.where(keep, np.abs(weight), 0.0)
    mean = magnitude.sum(1) / np.maximum(keep.sum(1), 1)
    codes = np.where(magnitude > factor * mean[:, None], np.sign(weight), 0.0).astype(np.int64)
    return codes, _mean_magnitude(weight, codes)


def _mean_magnitude(weight: np.ndarray, codes: np.ndarray) -> np.ndarray:
    support = codes != 0
    return np.where(support, np.abs(weight), 0.0).sum(1) / np.maximum(support.sum(1), 1)


def optimal_binary(weight: np.ndarray, keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sign plane and mean magnitude over the kept weights, per row (Rastegari et al., arXiv 1603.05279).

    Args:
        weight: float ``[N, K]``; keep: booleans ``[N, K]``.

    Returns:
        Codes ``int64 [N, K]``, ±1 where kept and 0 where pruned, and scales ``float64 [N]``.
    """
    codes = np.where(keep, np.where(weight < 0, -1, 1), 0).astype(np.int64)
    kept = np.maximum(keep.sum(1), 1)
    return codes, np.where(keep, np.abs(weight), 0.0).sum(1) / kept


def _planes(
    rest: np.ndarray, keep: np.ndarray, rule: str, asymmetric: bool
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The planes and scales of one more term; with two scales either side is a problem of its own."""
    if rule == "binary":
        return [optimal_binary(rest, keep)]
    if rule == "optimal":
        sides = (np.maximum(rest, 0.0), np.minimum(rest, 0.0)) if asymmetric else (rest,)
        return [optimal_ternary(side) for side in sides]
    codes, scale = threshold_ternary(rest, keep)
    if not asymmetric:
        return [(codes, scale)]
    return [(side, _mean_magnitude(rest, side)) for side in (np.maximum(codes, 0), np.minimum(codes, 0))]


def residual_terms(
    weight: np.ndarray,
    keep: np.ndarray,
    terms: int,
    *,
    binary: bool = False,
    rule: str = "optimal",
    asymmetric: bool = False,
    resolve: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """``terms`` planes in turn, each fitted to what the ones before left over.

    With ``resolve`` the scales of all planes so far are solved anew by least squares after each one.

    Returns codes ``int64 [terms, N, K]`` and scales ``float32 [terms, N]``; twice as many planes if ``asymmetric``.
    """
    kept = np.where(keep, weight, 0.0)
    rest = kept
    all_codes: list[np.ndarray] = []
    all_scales: list[np.ndarray] = []
    for _ in range(terms):
        for codes, scale in _planes(rest, keep, "binary" if binary else rule, asymmetric):
            all_codes.append(codes)
            all_scales.append(scale.astype(np.float32))
            rest = rest - all_scales[-1][:, None].astype(np.float64) * codes
        if resolve and len(all_codes) > 1:
            all_scales = list(fit_scales(kept, np.stack(all_codes), np.stack(all_scales)))
            rest = kept - sum(
                s[:, None].astype(np.float64) * c for s, c in zip(all_scales, all_codes, strict=True)
            )
    return np.stack(all_codes), np.stack(all_scales)


def tuples(values: tuple[int, ...], terms: int) -> np.ndarray:
    """Every tuple of ``terms`` codes out of ``values``: ``int64 [terms, 1, 1, len(values) ** terms]``."""
    return np.array(list(itertools.product(values, repeat=terms)), np.int64).T[:, None, None, :]


def _two_sided(codes: np.ndarray) -> np.ndarray:
    """Tuples ``[terms, ...]`` of {-1, 0, 1} as tuples ``[2 * terms, ...]`` of {0, 1} and {-1, 0} in turn."""
    return np.stack([np.maximum(codes, 0), np.minimum(codes, 0)], axis=1).reshape(-1, *codes.shape[1:])


def _alphabet(tensor: SlicedTensor, config: TernaryConfig) -> np.ndarray:
    codes = tuples((-1, 0, 1), config.terms)
    return _two_sided(codes) if config.asymmetric else codes


def _joint(weight: np.ndarray, keep: np.ndarray, config: TernaryConfig) -> tuple[np.ndarray, np.ndarray]:
    """Alternation from the scales of the other refinements and from those that suit known distributions.

    With scales for either side it starts from the one-sided result as well, which it hence never is worse than.
    """

    def fitted(asymmetric: bool) -> list[np.ndarray]:
        settings = {"rule": config.rule, "asymmetric": asymmetric}
        return [residual_terms(weight, keep, config.terms, resolve=r, **settings)[1] for r in (False, True)]

    codes = tuples((-1, 0, 1), config.terms)[:, 0, 0]
    codes = codes[
        :, np.argsort((codes != 0).sum(0), kind="stable")
    ]  # of equal levels the sparsest comes first
    starts = spread(weight, keep, fitted(False), _JOINT_STARTS[config.terms])
    one_sided = alternate(weight, keep, starts, codes)
    if not config.asymmetric:
        return one_sided
    starts = spread(weight, keep, [*fitted(True), np.repeat(one_sided[1], 2, axis=0)], ())
    return alternate(weight, keep, starts, _two_sided(codes))


@register("ternary", TernaryConfig, _alphabet)
def compress_ternary(weight: np.ndarray, keep: np.ndarray, config: TernaryConfig) -> SlicedTensor:
    """Ternary planes of ``weight [N, K]``; pruned weights are zero in every plane."""
    layout = to_rows(weight, keep, config.group, config.per)
    if config.refine == "joint":
        codes, scale = _joint(layout.weight, layout.keep, config)
    else:
        codes, scale = residual_terms(
            layout.weight,
            layout.keep,
            config.terms,
            rule=config.rule,
            asymmetric=config.asymmetric,
            resolve=config.refine == "least_squares",
        )
    return layout.tensor(codes, scale, "ternary")
