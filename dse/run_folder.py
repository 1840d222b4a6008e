"""The files of a run folder that commands share: its configuration, test accuracies, and the report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from compressors.parsing import parse_json
from dse.errors import DseError, RunFolderError
from dse.files import write_atomically
from dse.objectives import metrics_for
from dse.provenance import read_provenance
from dse.report import write_report
from dse.study import load_records, load_study_info

CONFIG = "config.yaml"
TEST_ACCURACY = "test_accuracy.json"
MEMO = "memo"


def make_run_folder(run: Path) -> None:
    """Make the folder where it is not there yet.

    Raises:
        RunFolderError: it cannot be made.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(
            f"cannot make the run folder {run}: {error.strerror}; set study.folder to a place that can be written"
        ) from error


def write_config(run: Path, config: Mapping[str, Any]) -> Path:
    """Keep the composed configuration beside the study it made."""
    return write_atomically(run / CONFIG, yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))


def read_config(run: Path) -> dict[str, Any]:
    """The composed configuration of a run, as plain data.

    Raises:
        RunFolderError: there is none, or it is not YAML.
    """
    try:
        config = yaml.safe_load((run / CONFIG).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError) as error:
        raise RunFolderError(
            f"{run / CONFIG}: cannot be read ({error}); run= takes a folder that sweep wrote"
        ) from error
    if not isinstance(config, dict):
        raise RunFolderError(f"{run / CONFIG}: expected a mapping of settings")
    return config


def write_test_accuracy(run: Path, accuracies: Mapping[int, float]) -> Path:
    """Keep the front's accuracies on the test images, by trial number."""
    return write_atomically(
        run / TEST_ACCURACY, json.dumps({str(n): a for n, a in sorted(accuracies.items())})
    )


def read_test_accuracy(run: Path) -> dict[int, float]:
    """What :func:`write_test_accuracy` kept; empty where the sweep has not come that far."""
    path = run / TEST_ACCURACY
    if not path.is_file():
        return {}
    try:
        return {int(n): float(a) for n, a in parse_json(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise RunFolderError(
            f"{path}: damaged ({error}); delete it and run the sweep's command again"
        ) from error


def rebuild_report(run: Path) -> list[Path]:
    """Write tables, figures and page from the run folder's own files alone; returns their paths.

    Raises:
        DseError: the folder holds no study, or cannot be written.
    """
    info = load_study_info(run)
    config = read_config(run)
    accelerators = config.get("accelerators")
    if not isinstance(accelerators, dict):
        raise DseError(f"{run / CONFIG}: 'accelerators' is missing")
    evaluation = config.get("evaluation")
    shared = isinstance(evaluation, dict) and evaluation.get("reuse_block") is not None
    sessions = read_provenance(run)
    return write_report(
        run,
        load_records(run),
        info.objectives,
        metrics_for(accelerators, shared),
        test_accuracy=read_test_accuracy(run),
        provenance=sessions[-1] if sessions else {},
        config_yaml=(run / CONFIG).read_text(encoding="utf-8"),
    )
