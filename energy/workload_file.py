"""Workloads as YAML files: written from a traced network, or by hand from a layer table.

By hand, a layer needs its loop bounds and the formats of its operands; what is not counted on real tensors is assumed::

    image_bits: 24576
    layers:
      - {name: conv1, outputs: 16, inputs: 3, kernel: [3, 3], output_size: [32, 32], output_bits: 4,
         weights: {bits: 8}, input: {bits: 8, signed: true}}
      - {name: conv2, outputs: 16, inputs: 16, kernel: [3, 3], output_size: [32, 32], output_bits: 4,
         weights: {ternary: 1, density: 0.5}, input: {bits: 4}}
      - {name: head, outputs: 10, inputs: 16, output_bits: 32, weights: null, input: null}

``weights`` take the ``bits`` of codes between ``-2**(bits-1)+1`` and ``2**(bits-1)-1``, or ``ternary`` or ``binary``
terms; null is floating point. ``density`` is the share of digits that are not zero (1 if left out), the same for every
slice.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from compressors.errors import DseError, UnknownName
from compressors.slicing import ENCODINGS, GRANULARITIES, from_codes
from energy.activity import InputActivity, WeightActivity, input_activity
from energy.workload import LayerWork, Workload

_DEFAULTS = {
    "groups": 1,
    "kernel": (1, 1),
    "stride": (1, 1),
    "dilation": (1, 1),
    "output_size": (1, 1),
    "output_bits": 8,
}
_NEEDED = ("name", "outputs", "inputs", "weights", "input")
_PAIRS = ("kernel", "stride", "dilation", "output_size")
_MOST = 1 << 40  # of anything that is counted


class WorkloadError(DseError):
    """A workload file that is not what it should be."""


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
    names = [layer.name for layer in layers]
    for name in names:
        if names.count(name) > 1:
            raise WorkloadError(f"two layers are called {name!r}")
    unpriced = data.get("unpriced", [])
    if not isinstance(unpriced, list) or not all(isinstance(name, str) for name in unpriced):
        raise WorkloadError(f"unpriced: expected a list of names, got {unpriced!r}")
    return Workload(layers, _count(data.get("image_bits"), "image_bits"), tuple(unpriced))


def _layer(entry: Any, position: int) -> LayerWork:
    if not isinstance(entry, Mapping):
        raise WorkloadError(f"layer {position}: expected a mapping, got {type(entry).__name__}")
    where = f"layer {entry.get('name', position)}"
    for key in entry:
        if key not in LayerWork.__dataclass_fields__:
            raise UnknownName(f"key of {where}", key, LayerWork.__dataclass_fields__)
    for key in _NEEDED:
        if key not in entry:
            raise WorkloadError(f"{where}: {key!r} is missing")
    fields = {**_DEFAULTS, **entry}
    try:
        for key in _PAIRS:
            fields[key] = tuple(_count(n, f"{where}: {key}") for n in fields[key])
            if len(fields[key]) != 2:
                raise WorkloadError(f"{where}: {key}: expected height and width, got {entry[key]!r}")
        for key in ("outputs", "inputs", "groups", "output_bits"):
            fields[key] = _count(fields[key], f"{where}: {key}")
        if fields["inputs"] % fields["groups"] or fields["outputs"] % fields["groups"]:
            raise WorkloadError(f"{where}: channels do not fall into {fields['groups']} groups")
        reduction = fields["inputs"] // fields["groups"] * fields["kernel"][0] * fields["kernel"][1]
        fields["weights"] = _weights(fields["weights"], fields["outputs"], reduction, where)
        fields["input"] = _input(fields["input"], where)
        for key in ("added", "kept"):
            if not isinstance(fields.get(key, False), bool):
                raise WorkloadError(f"{where}: {key}: expected true or false, got {fields[key]!r}")
        return LayerWork.from_dict({"reuse": None, **fields, "name": str(fields["name"])})
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise WorkloadError(f"{where}: {error!r}") from error


def _weights(given: Any, outputs: int, reduction: int, where: str) -> dict[str, Any]:
    """Activity by encoding as plain data, counted or assumed."""
    if not given:
        return {}
    kinds = ("bits", "ternary", "binary")
    chosen = [kind for kind in kinds if kind in given]
    if not chosen:  # counted, as a traced network writes it
        for encoding in given:
            if encoding not in ENCODINGS:
                raise UnknownName(f"key of the weights of {where}", encoding, (*kinds, "density", *ENCODINGS))
        return dict(given)
    for key in given:
        if key not in (chosen[0], "density"):
            raise UnknownName(f"key of the weights of {where}", key, (chosen[0], "density"))
    density = _density(given, where)
    number = _count(given[chosen[0]], f"{where}: weights.{chosen[0]}", 8 if chosen[0] == "bits" else 16)
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
    if given is None or "nonzero" in given:
        return given
    for key in given:
        if key not in ("bits", "signed", "density"):
            raise UnknownName(f"key of the input of {where}", key, ("bits", "signed", "density"))
    bits, signed = _count(given["bits"], f"{where}: input.bits", 32), bool(given.get("signed", False))
    ones = input_activity(np.full((1, 1), (1 << max(bits - signed, 1)) - 1), bits, signed)
    density = _density(given, where)
    return InputActivity(bits, signed, {g: f * density for g, f in ones.nonzero.items()}).to_dict()


def _density(given: Mapping[str, Any], where: str) -> float:
    density = given.get("density", 1.0)
    if isinstance(density, bool) or not isinstance(density, (int, float)) or not 0 <= density <= 1:
        raise WorkloadError(f"{where}: density={density!r}: expected a share from 0 to 1")
    return float(density)


def _count(value: Any, what: str, most: int = _MOST) -> int:
    if type(value) is not int or not 0 < value <= most:
        raise WorkloadError(f"{what}={value!r}: expected a whole number from 1 to {most}")
    return value
