"""The back end that needs no native part: the same classes on plain onnxruntime."""

from __future__ import annotations

from inferlite._fallback.bound import BoundCall
from inferlite._fallback.model import Model
from inferlite._fallback.session import InferenceSession

__all__ = ["BoundCall", "InferenceSession", "Model"]
