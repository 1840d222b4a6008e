"""Where Icarus Verilog, Yosys and nextpnr are, or how to install what is missing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from compressors.errors import DseError

_SECONDS = 600
_FROM_PYPI = "pip install 'dse-lowbit[rtl]'"
_INSTALL = {
    "iverilog": "install Icarus Verilog (Debian: apt-get install iverilog)",
    "vvp": "install Icarus Verilog (Debian: apt-get install iverilog)",
    "yosys": f"install Yosys (Debian: apt-get install yosys; or {_FROM_PYPI})",
    "nextpnr-ice40": f"install nextpnr (Debian: apt-get install nextpnr-ice40; or {_FROM_PYPI})",
}


class ToolError(DseError):
    """A tool that is not there, or that refuses its input."""


@dataclass(frozen=True)
class Tool:
    """A program and its version as it prints it."""

    path: str
    version: str

    def run(self, *arguments: str, cwd: Path) -> str:
        """What it prints on standard output.

        Raises:
            ToolError: it ends with an error; the message holds the last of what it said.
        """
        done = subprocess.run(
            [self.path, *arguments], cwd=cwd, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip())[-600:]
            raise ToolError(f"{Path(self.path).name} ended with {done.returncode}: {said}")
        return done.stdout


def missing(*names: str) -> str | None:
    """Why the tools ``names`` cannot all be run, or None."""
    for name in names:
        try:
            tool(name)
        except ToolError as error:
            return str(error)
    return None


@cache
def tool(name: str) -> Tool:
    """``iverilog``, ``vvp``, ``yosys`` or ``nextpnr-ice40``, or its YoWASP twin from PyPI.

    The path in ``$DSE_NAME`` (as ``DSE_YOSYS``) wins over what is on the search path and beside this interpreter.

    Raises:
        ToolError: it is not installed; says how to.
    """
    given = os.environ.get(f"DSE_{name.upper().replace('-', '_')}")
    beside = str(Path(sys.executable).parent)
    for candidate in [given] if given else [name, f"yowasp-{name}"]:
        path = shutil.which(candidate) or shutil.which(candidate, path=beside)
        if path is not None:
            return Tool(path, _version(path))
    raise ToolError(f"{given or name} is not installed; {_INSTALL[name]}")


def _version(path: str) -> str:
    """Name and version from what the program says of itself, without how it was built; nextpnr says it as an error."""
    done = subprocess.run([path, "-V"], capture_output=True, text=True, timeout=_SECONDS, check=False)
    said = done.stdout + done.stderr
    found = re.search(
        r"nextpnr-\d[\w.]*|Yosys \d[\w.+]*|Icarus Verilog version \d[\w.]*|Icarus Verilog runtime version \d[\w.]*",
        said,
    )
    return found.group() if found else "unknown version"
