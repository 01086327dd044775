"""Numbers as the panel, the strip and the captions write them."""

from __future__ import annotations

from medusa_chat.app.meter import PlainReference, ReplyMeter
from medusa_chat.records import Quantization, SamplingOptions

UNKNOWN = "–"
_QUANTIZATIONS: dict[Quantization, str] = {"4bit": "4-bit", "8bit": "8-bit", "none": "none"}


def number(value: float | None, digits: int = 1) -> str:
    return UNKNOWN if value is None else f"{value:,.{digits}f}"


def speedup(meter: ReplyMeter) -> str:
    return UNKNOWN if meter.speedup is None else f"×{meter.speedup:.2f}"


def plain_speed(plain: PlainReference) -> str:
    """Tokens per second of plain decoding, and where they were timed."""
    if plain.seconds is None:
        return UNKNOWN
    where = "at load" if plain.origin == "load" else "in session"
    return f"{number(1 / plain.seconds)} timed {where}"


def memory(num_bytes: int) -> str:
    """In GB of 10^9 bytes, in MB below one."""
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"


def top_k(options: SamplingOptions) -> str:
    return str(options.top_k) if options.top_k else "off"


def acceptance(options: SamplingOptions) -> str:
    return "typical (lossy)" if options.acceptance == "typical" else "exact"


def quantization(kind: Quantization) -> str:
    return _QUANTIZATIONS[kind]


def caption(meter: ReplyMeter) -> str:
    """One reply in a line: tokens · tokens/s · tokens per step · speed-up."""
    parts = [f"{meter.reply_tokens} tokens"]
    if meter.figures.tokens_per_second is not None:
        parts.append(f"{number(meter.figures.tokens_per_second)} tokens/s")
    if meter.drafted:
        parts.append(f"{number(meter.figures.tokens_per_step, 2)} per step")
    if meter.speedup is not None:
        parts.append(speedup(meter))
    return " · ".join(parts)
