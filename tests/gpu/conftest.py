"""These tests run on an NVIDIA GPU alone, and are skipped elsewhere with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

_HERE = Path(__file__).parent


def missing() -> str:
    """Why there is no GPU to test on; "" where there is one."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} was built without CUDA"
    return "" if torch.cuda.is_available() else "torch sees no GPU (no device, or no driver)"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = missing()
    for item in items:
        if reason and _HERE in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def device() -> torch.device:
    """The first GPU."""
    return torch.device("cuda", 0)
