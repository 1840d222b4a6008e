"""Powers of two and sums of them: which levels there are, and that a weight is a few shifts."""

from __future__ import annotations

import itertools

import naive
import numpy as np
import pytest
from contracts import CompressorContract, gauss
from hypothesis import given, settings
from hypothesis import strategies as st

from compressors.errors import ConfigError
from compressors.methods.power_of_two import PowerOfTwoConfig, exponents, power_table
from compressors.methods.ternary import TernaryConfig
from compressors.registry import alphabet, compress
from compressors.slicing import reslice

VALID = [
    (bits, terms)
    for bits, terms in itertools.product(range(2, 9), range(1, 8))
    if terms < bits and not (bits >= 6 and terms == 1) and not (bits == 8 and terms == 2)
]


class TestPowerOfTwo(CompressorContract):
    ladder = [PowerOfTwoConfig(bits) for bits in (2, 3, 4)]

    def code_range(self, config: PowerOfTwoConfig) -> tuple[int, int]:
        table = power_table(config.bits, config.terms)
        return int(table[0]), int(table[-1])


class TestAdditivePowersOfTwo(TestPowerOfTwo):
    ladder = [PowerOfTwoConfig(3, 2), PowerOfTwoConfig(5, 2), PowerOfTwoConfig(8, 4)]


class TestPowerOfTwoGroups(TestPowerOfTwo):
    ladder = [PowerOfTwoConfig(3, group=9), PowerOfTwoConfig(4, group=9)]


@pytest.mark.parametrize("bits", [2, 3, 4, 5])
def test_levels_of_one_term(bits: int) -> None:
    powers = [2**i for i in range(2 ** (bits - 1) - 1)]
    assert power_table(bits, 1).tolist() == [*(-p for p in reversed(powers)), 0, *powers]


def test_levels_of_the_paper() -> None:
    # arXiv 1909.13144, section 2.2: 5 bits, two terms of two bits each
    first, second = [0, 1, 2**-2, 2**-4], [0, 2**-1, 2**-3, 2**-5]
    magnitudes = sorted(a + b for a in first for b in second)
    assert exponents(5, 2) == ((0, -2, -4), (-1, -3, -5))
    assert [code / 32 for code in power_table(5, 2) if code >= 0] == magnitudes
    # and its code for 4 bits: {0, 1/2, 1/4, 1/16} + {0, 1/8}
    magnitudes = sorted(a + b for a in (0, 1 / 2, 1 / 4, 1 / 16) for b in (0, 1 / 8))
    assert [code / 16 for code in power_table(4, 2) if code >= 0] == magnitudes


@pytest.mark.parametrize(("bits", "terms"), VALID)
def test_exponents_are_disjoint_and_use_every_bit(bits: int, terms: int) -> None:
    PowerOfTwoConfig(bits, terms)
    lists = exponents(bits, terms)
    together = sorted(itertools.chain(*lists), reverse=True)
    assert len(lists) == terms
    assert together == list(range(0, -len(together), -1))
    assert sum(np.log2(len(term) + 1) for term in lists) == bits - 1
    table = power_table(bits, terms)
    assert len(table) == 2**bits - 1 and np.array_equal(table, -table[::-1])
    assert max(naive.popcount(abs(int(code))) for code in table) == terms


@pytest.mark.parametrize(("bits", "terms"), VALID)
def test_a_weight_is_a_few_shifts(bits: int, terms: int) -> None:
    tensor = compress(gauss(4, 120), PowerOfTwoConfig(bits, terms))
    digits = reslice(tensor, "sign_magnitude", 1).digits()
    nonzero = (digits != 0).sum(0)
    assert nonzero.max() <= terms
    assert terms > 1 or np.array_equal(nonzero, (tensor.codes()[0] != 0).astype(int))


@pytest.mark.parametrize(("bits", "terms"), [(2, 1), (3, 1), (4, 1), (4, 2), (5, 2), (6, 3)])
def test_scale_against_a_fine_search(bits: int, terms: int) -> None:
    weight = np.random.default_rng(bits).laplace(size=(3, 80))
    table = power_table(bits, terms)
    got = ((weight - compress(weight, PowerOfTwoConfig(bits, terms)).to_dense()) ** 2).sum(1)
    for row, error in zip(weight, got, strict=True):
        scales = np.geomspace(0.05, 4, 800) * np.abs(row).max() / table[-1]
        fine = min((np.abs(row[:, None] - s * table).min(1) ** 2).sum() for s in scales)
        assert error <= 1.03 * fine + 1e-12


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-7, 7), min_size=1, max_size=12), st.integers(-20, 20))
def test_powers_of_two_are_exact(steps: list[int], shift: int) -> None:
    # 4 bits: magnitudes 0 and 2**0 ... 2**6 of the largest
    weight = np.array([[np.sign(s) * 2.0 ** (abs(s) - 1 + shift) for s in steps]])
    assert np.array_equal(compress(weight, PowerOfTwoConfig(4)).to_dense(), weight)


def test_two_bits_are_ternary() -> None:
    weight = gauss(5, 100)
    power = naive.relative_mse(weight, compress(weight, PowerOfTwoConfig(2)).to_dense())
    ternary = naive.relative_mse(weight, compress(weight, TernaryConfig(1)).to_dense())
    assert ternary <= power <= 1.01 * ternary


def test_more_bits_of_one_term_only_refine_what_is_small() -> None:
    weight = np.random.default_rng(0).standard_normal((1, 40_000))
    one, two = (
        [naive.relative_mse(weight, compress(weight, PowerOfTwoConfig(b, t)).to_dense()) for b in (4, 5)]
        for t in (1, 2)
    )
    assert one[1] > 0.95 * one[0]  # the coarsest steps stay
    assert two[1] < 0.6 * two[0] < 0.3 * one[0]  # a sum has finer steps everywhere


def test_alphabet_and_storage() -> None:
    weight, config = gauss(8, 512), PowerOfTwoConfig(4)
    tensor = compress(weight, config)
    assert np.array_equal(alphabet(tensor, config).ravel(), power_table(4, 1))
    assert tensor.bits == 8  # 64 and its sign
    assert tensor.storage_bits <= 8 * 512 * 4 + 15 * 8 + 8 * 32


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"bits": 1}, "power_of_two.bits=1.*2 to 8"),
        ({"bits": 4, "terms": 4}, "power_of_two.terms=4.*1 to 3"),
        ({"bits": 6}, "power_of_two.terms=1.*at least 2 where power_of_two.bits=6"),
        ({"bits": 8, "terms": 2}, "power_of_two.terms=2.*at least 3 where power_of_two.bits=8"),
        ({"group": True}, "power_of_two.group=True"),
    ],
    ids=str,
)
def test_settings_out_of_range(settings_: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PowerOfTwoConfig(**settings_)  # type: ignore[arg-type]
