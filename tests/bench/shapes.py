"""Shapes small enough for tests, one for each thing a shape can vary in."""

from __future__ import annotations

from medusa_chat.bench.shapes import Shape

GROUPED = Shape("grouped", "llama", 64, 128, 2, 4, 2, 16, 128)
TIED_WITH_BIAS = Shape("tied-with-bias", "qwen2", 64, 192, 2, 4, 4, 16, 96, qkv_bias=True, tied=True)
