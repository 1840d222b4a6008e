"""``dse analyze``: how sensitive each layer is to each way of compressing it, and what that leads to."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from dse.analysis.folder import claim
from dse.analysis.settings import AnalyzeSettings
from dse.errors import DseError, RunFolderError
from dse.memo import Memo, content_key
from dse.provenance import collect_provenance, read_provenance, write_provenance
from dse.run_folder import MEMO, make_run_folder, write_config
from dse.settings import SweepSettings
from dse.study import JOURNAL
from dse.weight_choices import weight_choices

SUFFIX = "-analysis"


def run(config: Mapping[str, Any]) -> int:
    """Analyse the network of ``config``; the same again goes on where it was interrupted."""
    settings = SweepSettings.from_dict(config)
    wanted = AnalyzeSettings.from_dict(config["analyze"])
    wanted.some_of(weight_choices(settings.space.weights))  # a wrong label is told at once
    folder = Path(settings.study.folder) / f"{settings.study.name}{SUFFIX}"
    _prepare(folder)
    print(f"loading {settings.setup.model.name or settings.setup.model.target} and data ...", file=sys.stderr)
    from dse.analysis.measure import Analyser  # torch takes seconds to load
    from dse.analysis.progress import Steps
    from dse.evaluate import Evaluator

    try:
        evaluator = Evaluator(settings.setup)
        analyser = Analyser(evaluator, settings, wanted, Memo(folder / MEMO))
    except DseError:
        with contextlib.suppress(OSError):
            folder.rmdir()  # made above, of no use unless an analysis lies in it already
        raise
    claim(folder, _fingerprint(config, settings, wanted, evaluator.bench.data.digest))
    write_config(folder, config)
    write_provenance(folder, collect_provenance(settings.study.seed, content_key(config)))
    try:
        with Steps(analyser.steps) as steps:
            analysis = analyser.run(steps)
    finally:
        evaluator.bench.close()
    from dse.analysis.console import print_summary
    from dse.analysis.page import write_analysis

    text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
    write_analysis(folder, analysis, read_provenance(folder)[-1], text)
    print_summary(analysis)
    print(
        f"{len(analysis.layers)} layers, {len(analysis.choices)} choices: {folder / 'report.html'}",
        file=sys.stderr,
    )
    return 0


def _fingerprint(
    config: Mapping[str, Any], settings: SweepSettings, wanted: AnalyzeSettings, data_digest: str
) -> dict[str, Any]:
    """What makes it another analysis when it changes; accelerators and objectives are not looked at."""
    setup = settings.setup.fingerprint()
    return {
        "analyze": dataclasses.asdict(wanted),
        "space": config["space"],
        "model": setup["model"],
        "data": setup["data"],
        "data digest": data_digest,
        "evaluation": {"arithmetic": setup["evaluation"]["arithmetic"]},
    }


def _prepare(folder: Path) -> None:
    if (folder / JOURNAL).exists():
        raise RunFolderError(
            f"{folder} holds the study of a sweep; choose another study.name, or move that folder away"
        )
    make_run_folder(folder)
