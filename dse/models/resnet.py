"""The CIFAR ResNet family (He et al. 2015, arXiv:1512.03385, section 4.2): 6n+2 layers, three stages.

Every step of the forward pass but the residual addition is a module, so that ``torch.fx`` sees the whole
network, and the names in the state dict are those of the widely shared checkpoints.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from dse.models.registry import register_model

_WIDTHS = (16, 32, 64)


class OptionAShortcut(nn.Module):
    """The parameter-free shortcut between stages: every second pixel, new channels filled with zeros.

    Maps ``[n, c, h, w]`` to ``[n, c + 2 * padding, ceil(h / 2), ceil(w / 2)]``, the same number of new
    channels in front and behind.
    """

    def __init__(self, padding: int) -> None:
        super().__init__()
        self.padding = padding

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.padding, self.padding))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around which the input is added; ``[n, in, h, w]`` to ``[n, out, h/s, w/s]``."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(in_channels, out_channels, stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU()
        self.conv2 = _conv3x3(out_channels, out_channels, 1)
        self.bn2 = nn.BatchNorm2d(out_channels)
        changed = stride != 1 or in_channels != out_channels
        self.shortcut = OptionAShortcut((out_channels - in_channels) // 2) if changed else nn.Identity()
        self.relu2 = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(inner)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """A ResNet of ``6 * blocks + 2`` layers: ``[n, channels, h, w]`` to logits ``[n, classes]``."""

    def __init__(self, blocks: int, classes: int, channels: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(channels, _WIDTHS[0], 1)
        self.bn1 = nn.BatchNorm2d(_WIDTHS[0])
        self.relu = nn.ReLU()
        self.layer1 = _stage(_WIDTHS[0], _WIDTHS[0], 1, blocks)
        self.layer2 = _stage(_WIDTHS[0], _WIDTHS[1], 2, blocks)
        self.layer3 = _stage(_WIDTHS[1], _WIDTHS[2], 2, blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(_WIDTHS[2], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(self.flatten(self.pool(x)))


def _conv3x3(in_channels: int, out_channels: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)


def _stage(in_channels: int, out_channels: int, stride: int, blocks: int) -> nn.Sequential:
    first = BasicBlock(in_channels, out_channels, stride)
    return nn.Sequential(first, *(BasicBlock(out_channels, out_channels, 1) for _ in range(blocks - 1)))


@register_model("resnet8")
def resnet8(classes: int, channels: int) -> nn.Module:
    """Eight layers, 0.08 M parameters."""
    return CifarResNet(1, classes, channels)


@register_model("resnet20")
def resnet20(classes: int, channels: int) -> nn.Module:
    """Twenty layers, 0.27 M parameters, 41 M multiply-accumulates on 32x32x3."""
    return CifarResNet(3, classes, channels)


@register_model("resnet32")
def resnet32(classes: int, channels: int) -> nn.Module:
    """32 layers, 0.46 M parameters."""
    return CifarResNet(5, classes, channels)


@register_model("resnet44")
def resnet44(classes: int, channels: int) -> nn.Module:
    """44 layers, 0.66 M parameters."""
    return CifarResNet(7, classes, channels)


@register_model("resnet56")
def resnet56(classes: int, channels: int) -> nn.Module:
    """56 layers, 0.85 M parameters."""
    return CifarResNet(9, classes, channels)
