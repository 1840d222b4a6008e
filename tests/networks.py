"""Small networks with settled batch norms, for tests that need one but not a trained one."""

from __future__ import annotations

from collections.abc import Callable

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


class Separable(nn.Module):
    """MobileNet's way: a stem, depthwise and pointwise convolutions with ReLU6, one block with a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _normed(nn.Conv2d(3, 8, 3, padding=1, bias=False))
        self.depthwise1 = _normed(nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8, bias=False))
        self.pointwise1 = _normed(nn.Conv2d(8, 10, 1, bias=False))
        self.depthwise2 = _normed(nn.Conv2d(10, 10, 3, padding=1, groups=10, bias=False))
        self.pointwise2 = nn.Sequential(nn.Conv2d(10, 10, 1, bias=False), nn.BatchNorm2d(10))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(10, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pointwise1(self.depthwise1(self.stem(x)))
        x = self.pointwise2(self.depthwise2(x)) + x
        return self.linear(torch.flatten(self.pool(x), 1))


def _normed(layer: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(layer, nn.BatchNorm2d(layer.out_channels), nn.ReLU6())


class Flattened(nn.Module):
    """A convolution without batch norm, flattened by ``view`` on the batch size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2)
        self.linear = nn.Linear(36, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv(x))
        return self.linear(x.view(x.size(0), -1))


class TwoHeads(nn.Module):
    """One trunk, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Conv2d(3, 4, 3, stride=2)
        self.left, self.right = nn.Linear(36, 3), nn.Linear(36, 2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.relu(self.trunk(x)).flatten(1)
        return self.left(x), self.right(x)


def perceptron() -> nn.Module:
    """Linear layers alone, without batch norm."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(192, 20), nn.ReLU(), nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 5)
    )


def vgg() -> nn.Module:
    """A chain with max pooling, biases in front of batch norms, a grouped convolution and two linear layers."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, padding=1, groups=2),
        nn.BatchNorm2d(12),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(48, 16),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.Linear(16, 5),
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "residual": Residual,
    "separable": Separable,
    "vgg": vgg,
    "perceptron": perceptron,
    "flattened": Flattened,
}


def network(name: str, seed: int = 0) -> nn.Module:
    """A settled network of ``NETWORKS``; the same at every call with one seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = NETWORKS[name]()
    return settled(model, images(32, seed=99), seed)


def smooth_images(count: int = 24, seed: int = 0) -> torch.Tensor:
    """Images whose neighbours are alike, as in photographs: what a layer reads is correlated."""
    rough = images(count, seed)
    blurred = nn.functional.avg_pool2d(nn.functional.pad(rough, (2, 2, 2, 2), mode="replicate"), 5, 1)
    return 3.0 * (blurred + 0.3 * blurred.mean(1, keepdim=True)) + 0.1 * rough
