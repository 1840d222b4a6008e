"""Small networks with settled batch norms, for tests that need one but not a trained one."""

from __future__ import annotations

import torch
from torch import nn


class Residual(nn.Module):
    """Two convolutions before and two around a residual add, a depthwise convolution, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(6)
        self.conv3 = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(6)
        self.relu = nn.ReLU()
        self.depthwise = nn.Conv2d(6, 6, 3, stride=2, groups=6)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        inner = self.relu(self.bn2(self.conv2(x)))
        x = self.relu(self.bn3(self.conv3(inner)) + x)
        return self.linear(self.flatten(self.pool(self.depthwise(x))))


def images(count: int = 24, seed: int = 0) -> torch.Tensor:
    """``[count, 3, 8, 8]`` of normal values."""
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def settled(model: nn.Module, batch: torch.Tensor, seed: int = 0) -> nn.Module:
    """``model`` in evaluation mode, batch norms with random affine parts and statistics of ``batch``."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.affine:
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(module.bias, 0.0, 0.3, generator=generator)
    model.train()
    with torch.no_grad():
        for _ in range(8):
            model(batch)
    return model.eval()


def residual(seed: int = 0) -> nn.Module:
    """A settled :class:`Residual`; the same at every call with one seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Residual()
    return settled(model, images(32, seed=99), seed)
