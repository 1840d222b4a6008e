"""``dse export``: one candidate of a run as files that stand on their own."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from compressors.slicing import ENCODINGS
from dse.candidate import Candidate
from dse.errors import CandidateError, ConfigError, UnknownName
from dse.export import Export, write_export
from dse.pareto import select
from dse.records import Evaluation
from dse.run_folder import read_config, read_test_accuracy
from dse.settings import Setup
from dse.study import load_records, load_study_info
from energy.workload_file import workload_yaml


def run(config: Mapping[str, Any]) -> int:
    """Choose a trial by the rule, convert it again, check its metrics, and write it to ``exports/TRIAL``."""
    _check_format(config["format"], config["layer"])
    folder = Path(config["run"])
    rule = config["select"] if config["trial"] is None else f"trial={config['trial']}"
    record = select(load_records(folder), load_study_info(folder).objectives, rule)
    candidate = Candidate.from_dict(record.evaluation.candidate)
    setup = Setup.from_dict(read_config(folder))
    from dse.evaluate import Evaluator  # torch takes seconds to load, which a wrong rule need not wait for

    evaluator = Evaluator(setup)
    target = folder / "exports" / str(record.number)
    again = evaluator.evaluate(candidate)
    _check_same(record.number, record.evaluation, again)
    from compressors.serialize import to_bytes

    metrics = {
        "trial": record.number,
        "label": record.label,
        "metrics": dict(record.evaluation.metrics),
        "absent": dict(record.evaluation.absent),
        "test_accuracy": read_test_accuracy(folder).get(record.number),
        "breakdown": record.evaluation.breakdown,
        "plan_digest": record.evaluation.plan,
    }
    model = evaluator.compress(candidate)
    further = {}
    if config["format"] == "verilog":
        from dse.verilog import layer_files  # after a wrong rule would have been told

        granularity = dict(candidate.granularity)
        further = layer_files(model, config["layer"], granularity, setup.evaluation.reuse_block)
    weights = to_bytes(model)
    export = Export(candidate, setup, record.number, sha256(weights).hexdigest())
    # in every encoding, as ``price`` may put other machines to it than those of the study
    workload = workload_yaml(evaluator.bench.workload(model, ENCODINGS))
    for path in write_export(target, export, weights, workload, metrics, further):
        print(path)
    return 0


def _check_format(wanted: str | None, layer: str | None) -> None:
    """Refuse a format that is not known, and a layer without one or the other way round."""
    if wanted not in (None, "verilog"):
        raise UnknownName("format", str(wanted), ("verilog",), key="format")
    if (wanted is None) != (layer is None):
        raise ConfigError("layer", layer, "a layer's name with format=verilog, and null without it")


def _check_same(number: int, told: Evaluation, again: Evaluation) -> None:
    """Refuse to export what this machine does not compute the same way as the sweep did."""
    for name, value in told.metrics.items():
        if name != "energy.measured" and again.metrics.get(name) != value:
            raise CandidateError(
                f"trial {number}: the sweep found {name} {value!r}, converting it again here gives "
                f"{again.metrics.get(name)!r}; the network, the data or the versions differ from the sweep's "
                "(see provenance.json)"
            )
