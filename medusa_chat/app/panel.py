"""The live panel: what drafting gains, how it gains it, and the options in force.

Every cell has a fixed size and is updated without layout, so that a long chat doesn't slow it down.
"""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from medusa_chat.app import figures
from medusa_chat.app.bars import horizontal_bar, sparkline
from medusa_chat.app.meter import ReplyMeter
from medusa_chat.printable import printable
from medusa_chat.records import EngineInfo, LoadRequest, SamplingOptions

WIDTH = 30
_MOST_HISTOGRAM_ROWS = 6
_LEAST_HISTOGRAM_ROWS = 5  # also without heads: drafts that were looked up are longer than any head reaches
_DEFAULT_NUM_HEADS = 4


class Panel(VerticalScroll):
    """Speed, accepted lengths, sampling, model; one Static each."""

    can_focus = False

    def __init__(self) -> None:
        super().__init__()
        self._speed, self._lengths, self._sampling, self._model = (Static(markup=False) for _ in range(4))

    def compose(self) -> ComposeResult:
        yield from (self._speed, self._lengths, self._sampling, self._model)

    def show_reply(self, meter: ReplyMeter, options: SamplingOptions, info: EngineInfo | None) -> None:
        """Figures of the reply under way, or of the last one."""
        _fill(self._speed, speed_lines(meter, options, info))
        _fill(self._lengths, length_lines(meter, info.num_heads if info else _DEFAULT_NUM_HEADS))

    def show_options(self, options: SamplingOptions) -> None:
        _fill(self._sampling, option_lines(options))

    def show_model(self, request: LoadRequest, info: EngineInfo | None) -> None:
        _fill(self._model, model_lines(request, info))


def _fill(cell: Static, lines: list[Content]) -> None:
    cell.styles.height = len(lines)  # lays out only where the number of lines has changed
    cell.update(Content("\n").join(lines), layout=False)


def speed_lines(meter: ReplyMeter, options: SamplingOptions, info: EngineInfo | None) -> list[Content]:
    limit = info.context_length if info else None
    used = f"{meter.context_tokens:,}" + (f" / {limit:,}" if limit else "")
    return [
        _title("Speed"),
        _row("Speed-up", _gain(meter, options), "bold $primary"),
        _row("Tokens/s", figures.number(meter.figures.tokens_per_second), "bold"),
        _row("Plain", figures.plain_speed(meter.plain), "$foreground 70%"),
        _row("Tree size", str(meter.num_nodes or (info.tree_size if info else figures.UNKNOWN))),
        _row("Context", used),
    ]


def _gain(meter: ReplyMeter, options: SamplingOptions) -> str:
    if not options.drafting:
        return "drafting off"
    if meter.figures.steps and not meter.drafted:
        return "plain decoding"  # the engine found that drafting doesn't pay
    return figures.speedup(meter)


def length_lines(meter: ReplyMeter, num_heads: int) -> list[Content]:
    """A histogram over tokens emitted per step (its last row takes all longer ones), and the steps."""
    longest = min(max(num_heads + 1, _LEAST_HISTOGRAM_ROWS), _MOST_HISTOGRAM_ROWS)
    histogram = meter.figures.accepted_histogram
    counts = [histogram.get(length, 0) for length in range(1, longest)]
    counts.append(sum(count for length, count in histogram.items() if length >= longest))
    total = max(meter.figures.steps, 1)
    return [
        _title("Tokens per step"),
        _row("Now", figures.number(meter.tokens_now, 2)),
        _row("Average", figures.number(meter.figures.tokens_per_step, 2), "bold"),
        *(_histogram_row(length, count / total) for length, count in enumerate(counts[:-1], start=1)),
        _histogram_row(longest, counts[-1] / total, or_more=True),
        Content.assemble((sparkline(tuple(meter.recent), longest, WIDTH), "$primary 70%")),
    ]


def option_lines(options: SamplingOptions) -> list[Content]:
    lossy = "$warning" if options.acceptance == "typical" else ""
    return [
        _title("Sampling"),
        _dial("Temperature", f"{options.temperature:.2f}", "F2 F3"),
        _dial("Top-p", f"{options.top_p:.2f}" if options.top_p < 1 else "off", "F4 F5"),
        _dial("Top-k", figures.top_k(options), "F6 F7"),
        _dial("Accept", figures.acceptance(options), "F8", lossy),
        _dial("Drafting", "on" if options.drafting else "off", "F9"),
    ]


def model_lines(request: LoadRequest, info: EngineInfo | None) -> list[Content]:
    name = printable(info.model if info else request.model).rstrip("/").rpartition("/")[2]
    lines = [_title("Model"), Content(_fit(name, WIDTH))]
    if info is None:
        return [*lines, *(_row(label, figures.UNKNOWN) for label in ("Heads", "Weights", "Memory", "Device"))]
    weights = f"{figures.quantization(info.quantization)}, {info.dtype}"
    return [
        *lines,
        _row("Heads", str(info.num_heads) if info.num_heads else "none"),
        _row("Weights", weights if info.quantization != "none" else info.dtype),
        _row("Memory", figures.memory(info.memory_bytes)),
        _row("Device", _fit(printable(info.device_name or info.device), WIDTH - 8)),
    ]


def _title(text: str) -> Content:
    return Content.assemble((text, "bold $foreground 50%"))


def _row(label: str, value: str, style: str = "") -> Content:
    return Content.assemble((label, "$foreground 70%"), (value.rjust(WIDTH - len(label)), style))


def _dial(label: str, value: str, keys: str, style: str = "") -> Content:
    room = WIDTH - len(label) - 6
    return Content.assemble(
        (label, "$foreground 70%"), (value.rjust(room), style), (keys.rjust(6), "$foreground 40%")
    )


def _histogram_row(length: int, share: float, *, or_more: bool = False) -> Content:
    bar = horizontal_bar(share, WIDTH - 8)
    percent = f"{share:.0%}" if share else ""
    return Content.assemble(
        (f"{length}{'+' if or_more else ' '} ", "$foreground 70%"), (bar, "$primary"), percent.rjust(5)
    )


def _fit(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
