"""Networks to compress: a small registry, loading of weights, and any ``torch.nn.Module`` by import path."""

from __future__ import annotations

from dse.models.registry import MODELS, ModelConfig, build_model, load_model, register_model

__all__ = ["MODELS", "ModelConfig", "build_model", "load_model", "register_model"]
