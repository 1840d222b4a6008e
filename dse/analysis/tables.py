"""The tables of an analysis as CSV, every column's unit in its name or in ``columns.json``."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dse.analysis.records import REUSE_BLOCK, Analysis, ReuseCount
from dse.analysis.summary import correlations, fronts
from dse.files import write_atomically

_ERROR = "1"
COLUMNS: dict[str, dict[str, tuple[str, str]]] = {
    "layers": {
        "layer": ("", "path of the layer in the network"),
        "stage": ("", "first part of the path"),
        "shape": ("", "of the weights: outputs x inputs x kernel"),
        "weights_count": ("1", "number of weights"),
        "mean": ("1", "of all weights of the layer"),
        "std": ("1", "standard deviation of all weights of the layer"),
        "kurtosis_excess": (
            "1",
            "of the weights divided by their channel's root mean square: Gauss 0, Laplace 3",
        ),
        "near_zero_share": ("1", "weights below a tenth of their channel's root mean square"),
        "family": ("", "likeliest distribution, with a scale for each channel"),
        "gauss_nats_per_weight": (
            "nat",
            "mean log-likelihood of a weight, up to the same constant for all three",
        ),
        "laplace_nats_per_weight": ("nat", "the same for the Laplace distribution"),
        "uniform_nats_per_weight": ("nat", "the same for the uniform distribution"),
    },
    "oracles": {
        "layer": ("", "path of the layer"),
        "choice": ("", "weight method, rounded to nearest"),
        "family": ("", "likeliest distribution of the layer's weights"),
        "oracle_error": (_ERROR, "relative squared error of the method on one long channel of the family"),
        "oracle_error_same_shape": (_ERROR, "the same on channels as long as the layer's"),
        "weight_error": (_ERROR, "relative squared error of the method on the layer's weights"),
        "error_over_oracle": (_ERROR, "weight_error / oracle_error_same_shape"),
    },
    "sensitivity": {
        "layer": ("", "path of the layer that is compressed alone"),
        "part": ("", "weights, or input of the layer"),
        "choice": ("", "what is done to it"),
        "rounding": ("", "of the weights"),
        "storage_bits_per_weight": ("bit", "scales included"),
        "own_error": (_ERROR, "relative squared error of the weights, or of the input"),
        "output_error": (
            _ERROR,
            "relative squared error of the layer's output on the calibration images, less what a repair takes up",
        ),
        "kl_nats": (
            "nat",
            "mean divergence of the network's answers from the float network's, calibration images",
        ),
        "accuracy_drop_points": ("percentage point", "against the float network, search images"),
        "seconds_s": ("s", "to choose the weights or the grid, as a conversion of this layer would take"),
    },
    "choices": {
        "layer": ("", "path of the layer"),
        "storage_bits_per_weight": ("bit", "scales included"),
        "choice": ("", "of least output error among all that need no more storage"),
        "rounding": ("", "of the weights"),
        "output_error": (_ERROR, "see sensitivity"),
        "instead_of": ("", "the best of the other methods that need no more storage"),
        "instead_of_output_error": (_ERROR, "its output error"),
    },
    "slices": {
        "layer": ("", "path of the layer"),
        "choice": ("", "weight method, rounded to nearest"),
        "encoding": ("", "how the codes are written"),
        "granularity_bits": ("bit", "of one digit"),
        "planes_count": ("1", "digits per weight"),
        "nonzero_share": ("1", "digits that are not zero"),
        "nonzero_per_weight": ("1", "digits per weight that are not zero"),
    },
    "reuse": {
        "layer": ("", "path of the layer"),
        "choice": ("", "weight method, rounded to nearest"),
        "adders_before_count": ("1", "additions of one product with an input, signed digits one by one"),
        "adders_count": (
            "1",
            f"additions where blocks of {REUSE_BLOCK[0]} outputs x {REUSE_BLOCK[1]} inputs share partial sums",
        ),
        "adders_saved_ratio": ("1", "the former over the latter"),
        "depth_count": ("1", "additions on the longest way"),
        "multiplications_before_count": ("1", "weights that are not zero"),
        "multiplications_count": (
            "1",
            "left where inputs of equal weight are added first, in the same blocks",
        ),
    },
    "repairs": {
        "baseline": ("", "label of the baseline in the space"),
        "recipe": ("", "nearest, second_order or reconstruct; the configured one comes first"),
        "kept": ("", "as planned, or without repairs where that came nearer to the float network"),
        "planned_kl_nats": (
            "nat",
            "divergence with repairs on the calibration images; empty: nothing competed",
        ),
        "plain_kl_nats": ("nat", "divergence without repairs"),
        "accuracy_drop_points": ("percentage point", "of what was kept, search images"),
        "seconds_s": ("s", "of the whole conversion that is recorded; layers known from before take none"),
        "units_improved_count": ("1", "units of the network whose output a reconstruction brought nearer"),
        "units_count": ("1", "units reconstructed"),
    },
    "units": {
        "baseline": ("", "label of the baseline in the space"),
        "recipe": ("", "see repairs"),
        "unit": ("", "operation of the traced network that ends the unit"),
        "before_output_error": (_ERROR, "of the unit's output before reconstruction, on images held out"),
        "after_output_error": (_ERROR, "after it"),
    },
    "correlations": {
        "rows": ("", "weights so rounded, or input"),
        "proxy": ("", "column of sensitivity that is cheaper to have"),
        "target": ("", "column of sensitivity that it should rank"),
        "scope": (
            "",
            "all: everything with everything; layers: over layers at one choice, median over choices",
        ),
        "spearman": ("1", "rank correlation; empty where a column never changes"),
        "compared_count": ("1", "rows, or choices that have a correlation"),
        "target_distinct_count": (
            "1",
            "different values of the target: few mean that it hardly resolves anything",
        ),
    },
}


def rows(analysis: Analysis) -> dict[str, list[dict[str, Any]]]:
    """Table -> its rows, with exactly the columns of ``COLUMNS``."""
    return {
        "layers": _layers(analysis),
        "oracles": [
            {**vars(o), "error_over_oracle": _ratio(o.weight_error, o.oracle_error_same_shape)}
            for o in analysis.oracles
        ],
        "sensitivity": [vars(s) for s in analysis.sensitivities],
        "choices": [vars(c) for c in fronts(analysis)],
        "slices": [_slice(vars(s)) for s in analysis.slices],
        "reuse": [_reuse(r) for r in analysis.reuses],
        "repairs": _repairs(analysis),
        "units": _units(analysis),
        "correlations": [
            {
                **{k: v for k, v in vars(c).items() if k not in ("count", "distinct")},
                "compared_count": c.count,
                "target_distinct_count": c.distinct,
            }
            for c in correlations(analysis)
        ],
    }


def write_tables(folder: Path, analysis: Analysis) -> list[Path]:
    """Write every table and ``columns.json`` into ``folder``; returns their paths.

    Raises:
        RunFolderError: the folder cannot be written to.
    """
    meaning = {
        f"{table}.csv": {name: {"unit": unit, "meaning": text} for name, (unit, text) in columns.items()}
        for table, columns in COLUMNS.items()
    }
    written = [
        write_atomically(folder / f"{table}.csv", _csv(list(COLUMNS[table]), content))
        for table, content in rows(analysis).items()
    ]
    return [*written, write_atomically(folder / "columns.json", json.dumps(meaning, indent=2) + "\n")]


def _layers(analysis: Analysis) -> list[dict[str, Any]]:
    return [
        {
            "layer": layer.layer,
            "stage": layer.stage,
            "shape": "x".join(map(str, layer.shape)),
            "weights_count": layer.weights,
            "mean": layer.mean,
            "std": layer.std,
            "kurtosis_excess": layer.kurtosis_excess,
            "near_zero_share": layer.near_zero_share,
            "family": layer.family,
            **{f"{f}_nats_per_weight": layer.nats_per_weight.get(f) for f in ("gauss", "laplace", "uniform")},
        }
        for layer in analysis.layers
    ]


def _slice(row: Mapping[str, Any]) -> dict[str, Any]:
    rest = {name: value for name, value in row.items() if name != "planes"}
    planes = row["planes"]
    return {**rest, "planes_count": planes, "nonzero_per_weight": planes * row["nonzero_share"]}


def _reuse(r: ReuseCount) -> dict[str, Any]:
    return {
        "layer": r.layer,
        "choice": r.choice,
        "adders_before_count": r.adders_before,
        "adders_count": r.adders,
        "adders_saved_ratio": _ratio(r.adders_before, r.adders),
        "depth_count": r.depth,
        "multiplications_before_count": r.multiplications_before,
        "multiplications_count": r.multiplications,
    }


def _repairs(analysis: Analysis) -> list[dict[str, Any]]:
    return [
        {
            "baseline": r.baseline,
            "recipe": r.recipe,
            "kept": r.kept,
            "planned_kl_nats": r.planned_kl_nats,
            "plain_kl_nats": r.plain_kl_nats,
            "accuracy_drop_points": r.accuracy_drop_points,
            "seconds_s": sum(r.seconds.values()),
            "units_improved_count": sum(after < before for before, after in r.units.values())
            if r.units
            else None,
            "units_count": len(r.units) if r.units else None,
        }
        for r in analysis.repairs
    ]


def _units(analysis: Analysis) -> list[dict[str, Any]]:
    return [
        {
            "baseline": r.baseline,
            "recipe": r.recipe,
            "unit": unit,
            "before_output_error": before,
            "after_output_error": after,
        }
        for r in analysis.repairs
        for unit, (before, after) in r.units.items()
    ]


def _ratio(value: float | None, of: float | None) -> float | None:
    return None if value is None or not of else value / of


def _csv(columns: Sequence[str], content: Iterable[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(content)
    return text.getvalue()
