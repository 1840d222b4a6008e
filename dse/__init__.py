"""Design-space exploration of post-training compression for energy-efficient machine learning."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

__version__ = "0.1.0"


def _guard_siblings() -> None:
    """Refuse a stranger's package of the same name: other distributions install ``compressors`` and ``energy`` too."""
    here = Path(__file__).resolve().parent.parent
    for name in ("compressors", "energy"):
        spec = find_spec(name)
        found = Path(spec.origin).resolve().parent if spec is not None and spec.origin else None
        if found is None or found.parent != here:
            raise ImportError(
                f"{name!r} was found at {found}, expected beside dse in {here}; another distribution provides that "
                "name: uninstall it, or install dse into an environment of its own"
            )


_guard_siblings()
