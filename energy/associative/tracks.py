"""Racetracks: how far nanowires of magnetic domains are shifted.

Every port serves the domains up to the next one, so a domain is reached by shifting its track to an offset below
``domains / ports``. Words lie along a track, least bit first; a column's tracks shift together in all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Tracks:
    """``domains`` per track with evenly spaced ``ports``; one domain under its own port is a plain cell."""

    domains: int
    ports: int

    @property
    def reach(self) -> float:
        """Domains that a port serves."""
        return self.domains / self.ports

    @property
    def shifted(self) -> bool:
        return self.reach > 1

    def shifts(self, accesses: Sequence[int]) -> int:
        """Steps of a track whose domains are used one after the other, from its first on: the sum of ``|delta|``."""
        offsets = [0, *(int(d % self.reach) for d in accesses)]
        return sum(abs(b - a) for a, b in zip(offsets, offsets[1:], strict=False))

    @property
    def seek(self) -> float:
        """Mean steps to a word anywhere on a track that was left anywhere: a third of the reach."""
        return self.reach / 3 if self.shifted else 0.0

    def slowest_seek(self, words: int) -> float:
        """Mean steps of the longest of ``words`` (2 or 3) seeks on different tracks.

        Distances of two uniform points have the distribution ``2u - u**2`` over the reach.
        """
        share = {2: 7 / 15, 3: 19 / 35}[words]
        return self.reach * share if self.shifted else 0.0
