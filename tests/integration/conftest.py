"""One finished small sweep, shared by the tests of what commands do with a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.integration.sweeping import sweep


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished sweep, moved from where it was made; tests read it or work on a copy."""
    folder, threads = tmp_path_factory.mktemp("made"), torch.get_num_threads()
    try:
        assert sweep(folder / "first") == 0
    finally:
        torch.set_num_threads(threads)
    return (folder / "first").rename(folder / "moved")


@pytest.fixture
def own_threads() -> Iterator[None]:
    """Give torch its number of threads back, which a sweep in this process changes."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
