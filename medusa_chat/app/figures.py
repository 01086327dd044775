"""Numbers as the panel, the strip and the captions write them."""

from __future__ import annotations

from medusa_chat.app.meter import Origin, ReplyMeter
from medusa_chat.records import EnergySource, EngineInfo, Quantization, SamplingOptions

UNKNOWN = "–"
_QUANTIZATIONS: dict[Quantization, str] = {"4bit": "4-bit", "8bit": "8-bit", "none": "none"}
_ORIGINS: dict[Origin, str] = {
    "load": "timed at load",
    "quieter": "timed when quieter",
    "busier": "timed when busier",
    "session": "timed in session",
}
_ENERGY_LABELS: dict[EnergySource, str] = {"card": "Card energy", "package": "CPU energy"}


def number(value: float | None, digits: int = 1) -> str:
    """From a thousand on without a fraction."""
    return UNKNOWN if value is None else f"{value:,.{digits if value < 1000 else 0}f}"


def speedup(meter: ReplyMeter) -> str:
    return UNKNOWN if meter.speedup is None else f"×{meter.speedup:.2f}"


def plain_speed(meter: ReplyMeter) -> str:
    """Tokens per second of plain decoding, and when they were timed."""
    seconds = meter.plain_seconds
    return UNKNOWN if seconds is None else f"{number(1 / seconds)} {_ORIGINS[meter.plain_origin]}"


def now_and_average(now: float | None, average: float | None, digits: int) -> str:
    return f"{number(now, digits)} now {number(average, digits).rjust(6)} avg"


def first_token(meter: ReplyMeter) -> str:
    return UNKNOWN if meter.first_token_seconds is None else f"{meter.first_token_seconds:.2f} s"


def energy_label(source: EnergySource) -> str:
    """Says whose energy it is: of all that runs there."""
    return _ENERGY_LABELS[source]


def energy(meter: ReplyMeter) -> str:
    joules = meter.figures.joules_per_token
    return UNKNOWN if joules is None else f"{joules:.2f} J/token"


def accepted_drafts(meter: ReplyMeter) -> str:
    """Draft nodes that became text, of all that were verified."""
    offered, accepted = meter.figures.drafts_offered, meter.figures.drafts_accepted
    return f"{accepted:,} / {offered:,} {accepted / offered:4.0%}" if offered else UNKNOWN


def context_used(meter: ReplyMeter, info: EngineInfo | None) -> str:
    """Of what the conversation may grow to."""
    if meter.context_tokens is None or info is None:
        return UNKNOWN
    return f"{meter.context_tokens / info.context_length:.0%}"


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
