"""Candidates: exact through JSON, and refused with the place of what is wrong."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from compressors.methods.ternary import TernaryConfig
from compressors.methods.uniform import UniformConfig
from compressors.plan import ActivationConfig, CompressionPlan, LayerPlan
from dse.candidate import Candidate
from dse.errors import CandidateError

PLAN = CompressionPlan(
    (
        ("conv", LayerPlan(TernaryConfig(3), ActivationConfig(4), 0.3)),
        ("head", LayerPlan(UniformConfig(5, "minmax"), None)),
        ("left", LayerPlan()),
    ),
    "reestimate",
)
CANDIDATE = Candidate(PLAN, (("conv", 1), ("head", 8), ("left", 8)))


def test_round_trip_through_json_is_exact() -> None:
    text = json.dumps(CANDIDATE.to_dict())
    again = Candidate.from_dict(json.loads(text))
    assert again == CANDIDATE and hash(again) == hash(CANDIDATE)
    assert again.plan.digest() == PLAN.digest()


def test_order_of_layers_makes_no_difference() -> None:
    data = CANDIDATE.to_dict()
    data["granularity"] = dict(reversed(data["granularity"].items()))
    data["plan"]["layers"] = dict(reversed(data["plan"]["layers"].items()))
    assert Candidate.from_dict(data) == CANDIDATE


def changed(path: str, value: Any) -> dict[str, Any]:
    data = copy.deepcopy(CANDIDATE.to_dict())
    *parents, last = path.split("/")
    inner = data
    for key in parents:
        inner = inner[key]
    inner[last] = value
    return data


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("granularity/conv", 3, "granularity: expected layer -> one of"),
        ("granularity/conv", "1", "granularity: expected"),
        ("granularity/conv", [1], "granularity: expected"),
        ("granularity/conv", True, "granularity: expected"),
        ("granularity", [1, 2], "granularity: expected"),
        ("plan", "ternary", "plan: .*expected a mapping"),
        ("plan/layers", [], "plan: plan.layers=.*expected a mapping"),
        ("plan/batch_norm", "none", "plan: plan.batch_norm=none: expected match or"),
        ("plan/layers/conv/weight/method", "ternry", "unknown compressor 'ternry'; did you mean 'ternary'"),
        ("plan/layers/conv/weight/method", None, "plan.layers.conv.weight"),
        ("plan/layers/conv/weight/terms", "3", "ternary.terms=3: expected an integer"),
        ("plan/layers/conv/weight/terms", 99, "ternary.terms=99"),
        ("plan/layers/conv/weight/extra", 1, "unknown setting of 'ternary' 'extra'"),
        ("plan/layers/conv/activation/bits", 0, "activation.bits=0: expected an integer from 1 to 8"),
        ("plan/layers/conv/activation/bits", 4.0, "activation.bits=4.0"),
        ("plan/layers/conv/sparsity", 1.0, "sparsity=1.0"),
        ("plan/layers/conv/sparsity", float("nan"), "sparsity=nan"),
        ("plan/layers/conv/surprise", 1, "plan.layers.conv.surprise"),
        ("extra", 1, "keys 'plan' and 'granularity'"),
    ],
)
def test_altered_values_are_refused(path: str, value: Any, message: str) -> None:
    with pytest.raises(CandidateError, match=message):
        Candidate.from_dict(changed(path, value))


@pytest.mark.parametrize("data", [None, [], "plan", {}, {"plan": PLAN.to_dict()}])
def test_what_is_no_candidate_is_refused(data: Any) -> None:
    with pytest.raises(CandidateError, match="a candidate is a mapping"):
        Candidate.from_dict(data)
