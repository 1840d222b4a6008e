"""Hyperdimensional classifiers: an encoder from samples to hypervectors, and a memory that they are compared with.

Such a model is an ordinary ``torch.nn.Module``: its memory is a linear layer without bias, whose rows are the class
vectors, so that every compressor of linear layers applies to it. Encoders are modules of their own kind; what one must
be able to do stands in :class:`Encoder`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from compressors.errors import BadTensor

Alphabet = Literal["binary", "ternary"]
ALPHABETS: tuple[Alphabet, ...] = ("binary", "ternary")


@dataclass(frozen=True, eq=False)
class PackedVectors:
    """Hypervectors as bits.

    Attributes:
        negative: ``uint64 [n, words]``, bit ``j`` of word ``w`` set where element ``64 * w + j`` is -1.
        nonzero: the same for elements that are not zero; None for binary vectors, which have no zeros.
        dimensions: elements of a vector; bits beyond are zero.
    """

    negative: np.ndarray
    nonzero: np.ndarray | None
    dimensions: int

    def __len__(self) -> int:
        return len(self.negative)

    def dense(self) -> np.ndarray:
        """``int8 [n, dimensions]`` of -1, 0 and 1."""
        negative = _bits(self.negative, self.dimensions)
        present = np.ones_like(negative) if self.nonzero is None else _bits(self.nonzero, self.dimensions)
        return present * (1 - 2 * negative)


def pack(values: np.ndarray, alphabet: Alphabet) -> PackedVectors:
    """Pack ``[n, dimensions]`` of -1 and 1, or of -1, 0 and 1.

    Raises:
        BadTensor: other values.
    """
    values = np.asarray(values)
    if values.ndim != 2 or not np.isin(values, (-1, 1) if alphabet == "binary" else (-1, 0, 1)).all():
        raise BadTensor(
            f"{alphabet} hypervectors are [n, dimensions] of -1{', 0' if alphabet == 'ternary' else ''} and 1"
        )
    nonzero = _words(values != 0) if alphabet == "ternary" else None
    return PackedVectors(_words(values < 0), nonzero, values.shape[1])


@dataclass(frozen=True)
class EncoderWork:
    """What encoding one sample takes, for every dimension of its hypervector.

    Attributes:
        terms: products that are summed: features of a record or projection, n-grams of a text.
        factors: vectors or numbers multiplied in each of them.
        input_bits: bits of the factor that depends on the sample: 1 for vectors of signs, those of a feature otherwise.
        signed: whether that factor may be negative; a sign counts as such.
        stored_bits: bits that the item and level memories hold for each dimension.
    """

    terms: int
    factors: int
    input_bits: int
    signed: bool
    stored_bits: int


class Encoder(nn.Module, ABC):
    """Samples in, hypervectors out; computes nothing that depends on a class memory.

    Attributes:
        dimensions: elements of a hypervector.
        alphabet: ``binary`` for elements of -1 and 1, ``ternary`` for -1, 0 and 1.
    """

    dimensions: int
    alphabet: Alphabet

    @abstractmethod
    def packed(self, samples: torch.Tensor) -> PackedVectors:
        """Hypervectors of a batch, straight from the kernels."""

    @abstractmethod
    def select(self, index: np.ndarray) -> Encoder:
        """The encoder of some dimensions alone: equals taking these columns, bit for bit.

        Args:
            index: ``int64 [d]``, distinct, in 0..dimensions - 1.
        """

    @abstractmethod
    def work(self) -> EncoderWork:
        """What one sample takes; for texts, one of the mean length seen when the model was made."""

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        """Hypervectors as float32 ``[n, dimensions]``."""
        return torch.from_numpy(self.packed(samples).dense().astype(np.float32))


class Outline(Encoder):
    """Stands for an encoder where shapes alone matter."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.dimensions, self.alphabet, self._work = encoder.dimensions, encoder.alphabet, encoder.work()

    def packed(self, samples: torch.Tensor) -> PackedVectors:
        return pack(np.ones((len(samples), self.dimensions), np.int8), self.alphabet)

    def select(self, index: np.ndarray) -> Outline:
        part = Outline(self)
        part.dimensions = len(index)
        return part

    def work(self) -> EncoderWork:
        return self._work


class HypervectorClassifier(nn.Module):
    """Nearest class vector by dot product.

    The rows of ``memory`` carry whatever scale makes the dot product the intended similarity (divided by their
    norms, the cosine; equal norms, Hamming distance).

    Attributes:
        encoder: see :class:`Encoder`.
        memory: class vectors ``[classes * centroids, dimensions]``; a class's centroids follow one another.
        centroids: vectors per class; the nearest counts.
        facts: how the model was made, plain data.
    """

    def __init__(
        self, encoder: Encoder, vectors: torch.Tensor, centroids: int = 1, facts: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        if vectors.ndim != 2 or vectors.shape[1] != encoder.dimensions or len(vectors) % centroids:
            raise BadTensor(
                f"class vectors {list(vectors.shape)}: expected [classes * {centroids}, {encoder.dimensions}]"
            )
        self.encoder = encoder
        self.memory = nn.Linear(vectors.shape[1], vectors.shape[0], bias=False)
        with torch.no_grad():
            self.memory.weight.copy_(vectors)
        self.centroids = centroids
        self.facts = dict(facts or {})

    @property
    def classes(self) -> int:
        return self.memory.out_features // self.centroids

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        """Similarities ``[n, classes]``."""
        scores = self.memory(self.encoder(samples))
        if self.centroids > 1:
            scores = scores.unflatten(1, (self.classes, self.centroids)).amax(2)
        return scores


def _words(bits: np.ndarray) -> np.ndarray:
    words = -(-bits.shape[1] // 64)
    padded = np.zeros((len(bits), words * 64), np.bool_)
    padded[:, : bits.shape[1]] = bits
    return np.packbits(padded, axis=1, bitorder="little").view(np.uint64)


def _bits(words: np.ndarray, dimensions: int) -> np.ndarray:
    flat = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=1, bitorder="little")
    return flat[:, :dimensions].astype(np.int8)
