"""Fixtures of the whole suite."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

_REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """``shared_data(name)``: path of a real data file that is not part of the repository.

    Looked for in ``$DSE_SHARED_DATA``, else in ``shared/data`` beside the repository; a test that needs an
    absent one is skipped, naming it.
    """
    folder = Path(os.environ.get("DSE_SHARED_DATA") or _REPOSITORY.parent / "shared" / "data")

    def locate(name: str) -> Path:
        path = folder / name
        if not path.is_file():
            pytest.skip(f"{path} is absent; set DSE_SHARED_DATA to the folder that holds {name}")
        return path

    return locate
