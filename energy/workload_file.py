"""Workloads as YAML files: written from a traced network, or by hand from a layer table.

By hand, a layer needs its loop bounds and the formats of its operands; what is not counted on real tensors is assumed::

    image_bits: 24576
    layers:
      - {name: conv1, outputs: 16, inputs: 3, kernel: [3, 3], output_size: [32, 32], output_bits: 4,
         weights: {bits: 8}, input: {bits: 8, signed: true}}
      - {name: conv2, outputs: 16, inputs: 16, kernel: [3, 3], output_size: [32, 32], output_bits: 4,
         weights: {ternary: 1, density: 0.5}, input: {bits: 4}}
      - {name: head, outputs: 10, inputs: 16, output_bits: 32, weights: null, input: null}

``weights`` take the ``bits`` (2 to 8) of codes between ``-2**(bits-1)+1`` and ``2**(bits-1)-1``, or ``ternary`` or
``binary`` terms; null is floating point. ``density`` is the share of digits that are not zero (1 if left out), the same
for every slice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from compressors.errors import DseError, UnknownName
from compressors.slicing import ENCODINGS, GRANULARITIES, from_codes
from energy.activity import InputActivity, WeightActivity, input_activity
from energy.counted import (
    MOST_BITS,
    WorkloadError,
    check_input,
    check_reuse,
    check_weights,
    count,
    flag,
    share,
    shown,
)
from energy.workload import LayerWork, Workload

__all__ = ["WorkloadError", "parse_workload", "read_workload", "workload_yaml"]

_DEFAULTS = {
    "groups": 1,
    "kernel": (1, 1),
    "stride": (1, 1),
    "dilation": (1, 1),
    "output_size": (1, 1),
    "output_bits": 8,
    "added": False,
    "kept": False,
    "reuse": None,
}
_NEEDED = ("name", "outputs", "inputs", "weights", "input")
_PAIRS = {"kernel": 1 << 12, "stride": 1 << 12, "dilation": 1 << 12, "output_size": 1 << 20}
_NUMBERS = {"outputs": 1 << 20, "inputs": 1 << 20, "groups": 1 << 20, "output_bits": 64}
"""Key of a layer -> the most that it may be: a model may go through all divisors, and holds a count per output."""
_KINDS = {"bits": (2, 8), "ternary": (1, 16), "binary": (1, 16)}


def workload_yaml(workload: Workload) -> str:
    """The workload as YAML, its activity included; :func:`parse_workload` reads it back exactly."""
    return yaml.safe_dump(workload.to_dict(), sort_keys=False, width=120, default_flow_style=None)


def read_workload(path: Path) -> Workload:
    """Read a workload file.

    Raises:
        WorkloadError: it cannot be read, or says something that is no workload; names the layer and the key.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise WorkloadError(f"{path}: cannot be read: {error}") from error
    try:
        return parse_workload(text)
    except DseError as error:
        raise WorkloadError(f"{path}: {error}") from error


def parse_workload(text: str) -> Workload:
    """A workload from the text of a YAML file; see :func:`read_workload`."""
    try:
        data = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise WorkloadError(f"not YAML: {str(error)[:200]}") from error
    if not isinstance(data, Mapping) or not isinstance(data.get("layers"), list) or not data["layers"]:
        raise WorkloadError("expected a mapping with 'image_bits' and a list of 'layers'")
    for key in data:
        if key not in ("layers", "image_bits", "unpriced"):
            raise UnknownName("key", key, ("layers", "image_bits", "unpriced"))
    layers = tuple(_layer(entry, position) for position, entry in enumerate(data["layers"]))
    for name, times in Counter(layer.name for layer in layers).items():
        if times > 1:
            raise WorkloadError(f"two layers are called {name!r}")
    unpriced = data.get("unpriced", [])
    if not isinstance(unpriced, list) or not all(isinstance(name, str) for name in unpriced):
        raise WorkloadError(f"unpriced: expected a list of names, got {shown(unpriced)}")
    return Workload(layers, count(data.get("image_bits"), "image_bits"), tuple(unpriced))


def _layer(entry: Any, position: int) -> LayerWork:
    if not isinstance(entry, Mapping):
        raise WorkloadError(f"layer {position}: expected a mapping, got {type(entry).__name__}")
    where = f"layer {shown(entry['name']) if 'name' in entry else position}".replace("'", "")
    for key in entry:
        if key not in LayerWork.__dataclass_fields__:
            raise UnknownName(f"key of {where}", key, LayerWork.__dataclass_fields__)
    for key in _NEEDED:
        if key not in entry:
            raise WorkloadError(f"{where}: {key!r} is missing")
    fields = {**_DEFAULTS, **entry}
    if isinstance(fields["name"], bool) or not isinstance(fields["name"], (str, int)):
        raise WorkloadError(f"{where}: name: expected a text")
    fields["name"] = str(fields["name"])
    for key, most in _PAIRS.items():
        fields[key] = _pair(fields[key], f"{where}: {key}", most)
    for key, most in _NUMBERS.items():
        fields[key] = count(fields[key], f"{where}: {key}", most)
    if fields["inputs"] % fields["groups"] or fields["outputs"] % fields["groups"]:
        raise WorkloadError(f"{where}: channels do not fall into {fields['groups']} groups")
    reduction = fields["inputs"] // fields["groups"] * fields["kernel"][0] * fields["kernel"][1]
    fields["weights"] = _weights(fields["weights"], fields["outputs"], reduction, where)
    fields["input"] = _input(fields["input"], where)
    for key in ("added", "kept"):
        flag(fields[key], f"{where}: {key}")
    check_reuse(fields["reuse"], where)
    return LayerWork.from_dict(fields)


def _pair(given: Any, what: str, most: int) -> tuple[int, int]:
    if not isinstance(given, (list, tuple)) or len(given) != 2:
        raise WorkloadError(f"{what}: expected height and width, got {shown(given)}")
    height, width = (count(n, what, most) for n in given)
    return height, width


def _weights(given: Any, outputs: int, reduction: int, where: str) -> dict[str, Any]:
    """Activity by encoding as plain data, counted or assumed; none of floating point."""
    if given is None or given == {}:
        return {}
    if not isinstance(given, Mapping):
        raise WorkloadError(
            f"{where}: weights={shown(given)}: expected bits, ternary or binary, as in {{bits: 8}}, or null"
        )
    chosen = [kind for kind in _KINDS if kind in given]
    if not chosen:  # counted, as a traced network writes it
        if "density" in given:
            raise WorkloadError(f"{where}: weights: density needs bits, ternary or binary beside it")
        for key in given:
            if key not in ENCODINGS:
                raise UnknownName(f"key of the weights of {where}", key, (*_KINDS, "density", *ENCODINGS))
        check_weights(given, outputs, reduction, where)
        return dict(given)
    for key in given:
        if key not in (chosen[0], "density"):
            raise UnknownName(f"key of the weights of {where}", key, (chosen[0], "density"))
    density = share(given.get("density", 1.0), f"{where}: density")
    least, most = _KINDS[chosen[0]]
    number = count(given[chosen[0]], f"{where}: weights.{chosen[0]}", most, least)
    return {e: _assumed(chosen[0], number, e, outputs, reduction, density).to_dict() for e in ENCODINGS}


def _assumed(
    kind: str, number: int, encoding: str, outputs: int, reduction: int, density: float
) -> WeightActivity:
    """Digits of which the share ``density`` is not zero, in every plane and output alike."""
    native = kind != "bits"
    nonzero, signs = {}, {}
    for g in GRANULARITIES:
        planes = number if native else _planes(number, encoding, g)
        nonzero[g] = np.full((planes, outputs), round(density * reduction), np.int64)
        total = int(nonzero[g].sum())
        of_codes = outputs * round(density * reduction) if encoding == "sign_magnitude" else 0
        signs[g] = total if native or encoding == "csd" else of_codes
    stored = {"bits": number, "ternary": 2 * number, "binary": number + (density < 1)}[kind]
    return WeightActivity(
        encoding=encoding,
        terms=number if native else 1,
        magnitude_bits=1 if native else number,
        dense_bits=outputs * reduction * stored,
        nonzero=nonzero,
        signs=signs,
    )


def _planes(bits: int, encoding: str, g: int) -> int:
    """Planes of codes of ``bits`` bits that are as often negative as positive."""
    largest = np.full((1, 1, 1), max((1 << (bits - 1)) - 1, 1), np.int64)
    scale = np.ones((1, 1, 1))
    return len(from_codes(largest, scale, shape=(1, 1), bits=bits, encoding=encoding, granularity=g).factor)


def _input(given: Any, where: str) -> dict[str, Any] | None:
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise WorkloadError(f"{where}: input={shown(given)}: expected its bits, as in {{bits: 8}}, or null")
    if "nonzero" in given:
        check_input(given, where)
        return dict(given)
    for key in given:
        if key not in ("bits", "signed", "density"):
            raise UnknownName(f"key of the input of {where}", key, ("bits", "signed", "density"))
    bits = count(given.get("bits"), f"{where}: input.bits", MOST_BITS)
    signed = flag(given.get("signed", False), f"{where}: input.signed")
    density = share(given.get("density", 1.0), f"{where}: density")
    ones = input_activity(np.full((1, 1), (1 << max(bits - signed, 1)) - 1), bits, signed)
    return InputActivity(bits, signed, {g: f * density for g, f in ones.nonzero.items()}).to_dict()
