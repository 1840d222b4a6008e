"""``dse report``: everything a run shows, written again from its folder alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dse.run_folder import rebuild_report


def run(config: Mapping[str, Any]) -> int:
    """Write the report of ``config["run"]`` and print where it lies."""
    for path in rebuild_report(Path(config["run"])):
        print(path)
    return 0
