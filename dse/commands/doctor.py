"""``dse doctor``: what this machine can measure, and what to do about the rest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from energy.meters.doctor import inspect_machine


def run(config: Mapping[str, Any]) -> int:
    """Print the findings as a table, or as JSON."""
    findings = inspect_machine()
    if config["json"]:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
        return 0
    table = Table("what", "status", "found", "what to do")
    for finding in findings:
        table.add_row(finding.subject, finding.status, finding.detail, finding.remedy or "")
    Console().print(table)
    return 0
