"""A candidate: what changes the numbers a network computes, and what does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compressors.plan import CompressionPlan
from compressors.slicing import GRANULARITIES
from dse.errors import CandidateError, DseError


@dataclass(frozen=True)
class Candidate:
    """One point of the design space.

    Attributes:
        plan: the compression of every layer; decides accuracy and size.
        granularity: layer -> bits of one digit on the accelerator; decides energy, latency and area alone.
    """

    plan: CompressionPlan
    granularity: tuple[tuple[str, int], ...]

    def to_dict(self) -> dict[str, Any]:
        return {"plan": self.plan.to_dict(), "granularity": dict(self.granularity)}

    @classmethod
    def from_dict(cls, data: Any) -> Candidate:
        """Parse and validate.

        Raises:
            CandidateError: anything that is not a candidate; says what and where.
        """
        if not isinstance(data, Mapping) or set(data) != {"plan", "granularity"}:
            raise CandidateError("a candidate is a mapping with the keys 'plan' and 'granularity'")
        granularity = data["granularity"]
        if not isinstance(granularity, Mapping) or not all(
            type(g) is int and g in GRANULARITIES for g in granularity.values()
        ):
            raise CandidateError(f"granularity: expected layer -> one of {GRANULARITIES}, got {granularity}")
        try:
            plan = CompressionPlan.from_dict(data["plan"])
        except (DseError, TypeError) as error:
            raise CandidateError(f"plan: {error}") from error
        return cls(plan, tuple(sorted((str(n), int(g)) for n, g in granularity.items())))
