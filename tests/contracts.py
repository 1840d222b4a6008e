"""What every implementation of a kind must keep; subclassed once per implementation."""

from __future__ import annotations

from typing import Any, ClassVar

import naive
import numpy as np
import pytest

from compressors.errors import BadTensor
from compressors.registry import MethodConfig, compress, config_from_dict, config_to_dict
from compressors.slicing import ENCODINGS, GRANULARITIES, reslice
from compressors.tensor import SlicedTensor

SHAPES = ((3, 5), (1, 1), (4, 1), (1, 64), (2, 65), (5, 2, 3, 3), (2, 1, 1, 1), (3, 130))


def gauss(*shape: int, seed: int = 0) -> np.ndarray:
    """Standard normal weights as float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


class CompressorContract:
    """A weight method.

    Attributes:
        ladder: settings from the coarsest to the finest; on continuous weights finer is never worse.
    """

    ladder: ClassVar[list[MethodConfig]]

    def code_range(self, config: Any) -> tuple[int, int]:
        """The least and largest code the settings allow."""
        raise AssertionError("a contract's subclass says what its codes may be")

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "config" in metafunc.fixturenames and hasattr(metafunc.cls, "ladder"):
            metafunc.parametrize("config", metafunc.cls.ladder, ids=str)

    def sound(self, tensor: SlicedTensor, weight: np.ndarray, config: MethodConfig) -> None:
        low, high = self.code_range(config)
        codes = tensor.codes()
        assert tensor.shape == weight.shape == tensor.to_dense().shape
        assert tensor.to_dense().dtype == np.float32
        assert low <= codes.min() and codes.max() <= high
        assert np.abs(tensor.digits()).max() < 2**tensor.granularity
        assert tensor.scale.dtype == np.float32 and np.isfinite(tensor.scale).all()
        assert np.isfinite(tensor.to_dense()).all()

    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_codes_in_range_and_shape_kept(self, config: MethodConfig, shape: tuple[int, ...]) -> None:
        weight = gauss(*shape)
        self.sound(compress(weight, config), weight, config)

    def test_dense_is_the_scaled_sum_of_codes(self, config: MethodConfig) -> None:
        tensor = compress(gauss(3, 2, 3, 3), config)
        expected = np.zeros((3, 18))
        for term in range(tensor.terms):
            scale = np.repeat(tensor.scale[term].astype(np.float64), 18 // tensor.scale.shape[2], axis=1)
            expected += scale * tensor.codes()[term]
        assert np.array_equal(tensor.to_dense(), expected.astype(np.float32).reshape(3, 2, 3, 3))

    def test_deterministic_and_input_untouched(self, config: MethodConfig) -> None:
        weight = gauss(4, 70)
        before = weight.copy()
        assert compress(weight, config).digest() == compress(weight.copy(), config).digest()
        assert np.array_equal(weight, before)
        assert compress(weight, config).digest() != compress(2 * weight, config).digest()

    def test_pruned_weights_are_zero_in_every_plane(self, config: MethodConfig) -> None:
        weight = gauss(6, 3, 5)
        keep = np.random.default_rng(1).random(weight.shape) < 0.4
        keep[2] = False  # a channel that is pruned altogether
        tensor = compress(weight, config, keep)
        self.sound(tensor, weight, config)
        assert not tensor.digits()[:, ~keep.reshape(6, -1)].any()
        assert not tensor.to_dense()[~keep].any()
        assert tensor.sparsity >= 1 - keep.mean()

    def test_channels_are_independent(self, config: MethodConfig) -> None:
        weight, order = gauss(5, 33), np.array([3, 0, 4, 1, 2])
        dense = compress(weight, config).to_dense()
        assert np.array_equal(compress(weight[order], config).to_dense(), dense[order])
        alone = np.concatenate([compress(row[None], config).to_dense() for row in weight])
        assert np.array_equal(alone, dense)

    @pytest.mark.parametrize("power", [-20, 3])
    def test_a_power_of_two_passes_through(self, config: MethodConfig, power: int) -> None:
        weight = gauss(3, 40)
        dense = compress(weight, config).to_dense()
        assert np.array_equal(compress(weight * 2.0**power, config).to_dense(), dense * 2.0**power)

    def test_mirrored_weights_cost_the_same(self, config: MethodConfig) -> None:
        weight = gauss(3, 40)
        error = naive.relative_mse(weight, compress(weight, config).to_dense())
        mirrored = naive.relative_mse(-weight, compress(-weight, config).to_dense())
        assert mirrored == pytest.approx(error, rel=1e-12)

    @pytest.mark.parametrize("encoding", ENCODINGS)
    @pytest.mark.parametrize("granularity", GRANULARITIES)
    def test_exact_in_other_digits(self, config: MethodConfig, encoding: str, granularity: int) -> None:
        tensor = compress(gauss(3, 70), config)
        sliced = reslice(tensor, encoding, granularity)
        assert np.array_equal(sliced.codes(), tensor.codes())
        assert np.array_equal(sliced.to_dense(), tensor.to_dense())
        assert np.array_equal(sliced.scale, tensor.scale)
        assert (sliced.sparsity, sliced.storage_bits) == (tensor.sparsity, tensor.storage_bits)

    @pytest.mark.parametrize("encoding", ENCODINGS)
    def test_planes_compute_the_product(self, config: MethodConfig, encoding: str) -> None:
        sliced = reslice(compress(gauss(2, 66), config), encoding, 2)
        inputs = np.random.default_rng(2).integers(0, 8, 66)
        products = naive.sliced_product(
            sliced.magnitude, sliced.sign, sliced.term, sliced.factor, sliced.terms, inputs, 3
        )
        assert np.array_equal(products, sliced.codes() @ inputs)

    def test_rows_of_zeros(self, config: MethodConfig) -> None:
        weight = gauss(4, 9)
        weight[1] = 0.0
        tensor = compress(weight, config)
        self.sound(tensor, weight, config)
        assert not tensor.to_dense()[1].any()
        assert not compress(np.zeros((2, 3), np.float32), config).to_dense().any()

    @pytest.mark.parametrize("value", [1.0, -0.37])
    def test_constant_weights_are_kept(self, config: MethodConfig, value: float) -> None:
        weight = np.full((2, 7), value, np.float32)
        assert compress(weight, config).to_dense() == pytest.approx(weight, rel=1e-6)

    @pytest.mark.parametrize("magnitude", [1e-45, 1e-40, 1e-36, 1e36])
    def test_extreme_magnitudes_stay_finite(self, config: MethodConfig, magnitude: float) -> None:
        weight = (np.sign(gauss(3, 8)) * magnitude).astype(np.float32)
        self.sound(compress(weight, config), weight, config)

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
    def test_what_no_scale_can_hold_is_refused(self, config: MethodConfig, bad: float) -> None:
        weight = gauss(2, 3)
        weight[1, 2] = weight[0, 0] = bad
        with pytest.raises(BadTensor, match="2 of 6 weights are NaN"):
            compress(weight, config)

    @pytest.mark.parametrize("shape", [(0, 3), (3, 0), (4,), (2, 0, 3)], ids=str)
    def test_shapes_without_inputs_or_outputs_are_refused(
        self, config: MethodConfig, shape: tuple[int, ...]
    ) -> None:
        with pytest.raises(BadTensor, match="none empty"):
            compress(np.zeros(shape, np.float32), config)

    @pytest.mark.parametrize("dtype", [np.float16, np.float64])
    def test_other_precisions(self, config: MethodConfig, dtype: type) -> None:
        weight = gauss(3, 20).astype(dtype)
        tensor = compress(weight, config)
        self.sound(tensor, weight, config)
        assert tensor.digest() == compress(weight.astype(np.float64), config).digest()

    def test_memory_layout_does_not_matter(self, config: MethodConfig) -> None:
        weight = gauss(3, 4, 5)
        columns_first = np.asfortranarray(weight)
        keep = weight > -0.5
        assert compress(columns_first, config, keep).digest() == compress(weight, config, keep).digest()

    def test_settings_round_trip(self, config: MethodConfig) -> None:
        assert config_from_dict(config_to_dict(config)) == config

    @pytest.mark.parametrize("distribution", ["standard_normal", "laplace", "random"])
    def test_finer_is_never_worse(self, distribution: str) -> None:
        rng = np.random.default_rng(3)
        for columns in rng.integers(1, 90, 40):
            weight = getattr(rng, distribution)(size=(2, columns))
            errors = [naive.relative_mse(weight, compress(weight, c).to_dense()) for c in self.ladder]
            for coarse, fine in zip(errors, errors[1:], strict=False):
                assert fine <= coarse * (1 + 1e-6) + 1e-12
            assert errors[0] < 1.0  # better than no weights at all
