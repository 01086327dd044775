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
from medusa_chat.app.origins import style_of
from medusa_chat.printable import printable
from medusa_chat.records import EngineInfo, LoadRequest, SamplingOptions

WIDTH = 30
_MOST_HISTOGRAM_ROWS = 6
_LEAST_HISTOGRAM_ROWS = 5  # also without heads: drafts that were looked up are longer than any head reaches
_DEFAULT_NUM_HEADS = 4
_HALF, _GAP = 14, 2  # two columns of bars side by side
_BAR_LABEL, _PERCENT = 3, 5
_BARS_OF_LENGTHS, _BARS_OF_HEADS = "Tokens a step".ljust(_HALF + _GAP), "Heads right"


class Panel(VerticalScroll):
    """Speed, drafts, sampling, model; one Static each."""

    can_focus = False

    def __init__(self) -> None:
        super().__init__()
        self._speed, self._drafts, self._sampling, self._model = (Static(markup=False) for _ in range(4))

    def compose(self) -> ComposeResult:
        yield from (self._speed, self._drafts, self._sampling, self._model)

    def toggle(self) -> None:
        """Hides it or shows it again; in a narrow terminal, where it is folded away, first shows it."""
        self.toggle_class("-open" if self.screen.has_class("-narrow") else "-closed")

    def show_reply(self, meter: ReplyMeter, options: SamplingOptions, info: EngineInfo | None) -> None:
        """Figures of the reply under way, or of the last one."""
        _fill(self._speed, speed_lines(meter, options, info))
        _fill(self._drafts, draft_lines(meter, info))

    def show_options(self, options: SamplingOptions) -> None:
        _fill(self._sampling, option_lines(options))

    def show_model(self, request: LoadRequest, info: EngineInfo | None) -> None:
        _fill(self._model, model_lines(request, info))


def _fill(cell: Static, lines: list[Content]) -> None:
    cell.styles.height = len(lines)  # lays out only where the number of lines has changed
    cell.update(Content("\n").join(lines), layout=False)


def speed_lines(meter: ReplyMeter, options: SamplingOptions, info: EngineInfo | None) -> list[Content]:
    """The line of energy is there, or not, from when the model is loaded: nothing moves in a reply."""
    limit = info.context_length if info else None
    used = figures.UNKNOWN if meter.context_tokens is None else f"{meter.context_tokens:,}"
    per_second = figures.now_and_average(meter.tokens_per_second_now, meter.figures.tokens_per_second, 1)
    lines = [
        _title("Speed"),
        _row("Speed-up", _gain(meter, options), f"bold {_trust(meter)}"),
        _row("Tokens/s", per_second, "bold"),
        _row("Plain", figures.plain_speed(meter), "$foreground 70%"),
        _row("First token", figures.first_token(meter)),
    ]
    if info and info.energy_source:
        lines.append(_row(figures.energy_label(info.energy_source), figures.energy(meter)))
    return [*lines, _row("Context", f"{used} / {limit:,}" if limit else used)]


def _gain(meter: ReplyMeter, options: SamplingOptions) -> str:
    if not options.drafting:
        return "drafting off"
    if meter.figures.steps and not meter.drafted:
        return "plain decoding"  # the engine found that drafting doesn't pay
    return figures.speedup(meter)


def _trust(meter: ReplyMeter) -> str:
    """The speed-up's colour: a warning where plain decoding was timed under another load."""
    return "$warning" if meter.drafted and meter.plain_origin in ("quieter", "busier") else "$primary"


def draft_lines(meter: ReplyMeter, info: EngineInfo | None) -> list[Content]:
    """What was drafted and what came of it: in all, by tokens of a step, by head, and step by step."""
    num_heads = info.num_heads if info else _DEFAULT_NUM_HEADS
    num_rows = min(max(num_heads + 1, _LEAST_HISTOGRAM_ROWS), _MOST_HISTOGRAM_ROWS)
    per_step = figures.now_and_average(meter.tokens_now, meter.figures.tokens_per_step, 2)
    size = str(meter.num_nodes or (info.tree_size if info else figures.UNKNOWN))
    return [
        _title("Drafts"),
        _row("Tree size", size),
        _row("Accepted", figures.accepted_drafts(meter)),
        _row("Per step", per_step, "bold"),
        Content.assemble((_BARS_OF_LENGTHS + (_BARS_OF_HEADS if num_heads else ""), "$foreground 50%")),
        *map(_beside, _length_bars(meter, num_rows), _head_bars(meter, num_heads, num_rows)),
        Content.assemble((sparkline(tuple(meter.recent), num_rows, WIDTH), "$primary 70%")),
    ]


def _length_bars(meter: ReplyMeter, num_rows: int) -> list[Content]:
    """How many of the steps brought 1, 2, … tokens; the last row takes all that brought more."""
    histogram = meter.figures.accepted_histogram
    counts = [histogram.get(length, 0) for length in range(1, num_rows)]
    counts.append(sum(count for length, count in histogram.items() if length >= num_rows))
    total = max(meter.figures.steps, 1)
    labels = [*(str(length) for length in range(1, num_rows)), f"{num_rows}+"]
    return [
        _bar(label, count / total if count else None, "$primary")
        for label, count in zip(labels, counts, strict=True)
    ]


def _head_bars(meter: ReplyMeter, num_heads: int, num_rows: int) -> list[Content]:
    """How often each head was right, of the steps that it drafted for; empty rows below the last head."""
    bars = [
        _bar(str(head), meter.figures.hit_rate(head), style_of(head))
        for head in range(1, min(num_heads, num_rows) + 1)
    ]
    return bars + [Content(" " * _HALF)] * (num_rows - len(bars))


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
        *([_row("KV cache", "8-bit")] if info.kv_cache == "8bit" else []),
        *([_row("LM head", "4-bit")] if info.lm_head == "4bit" else []),
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


def _bar(label: str, share: float | None, style: str) -> Content:
    """Half a line: a label, a bar and its share in percent; nothing but the label where there is none."""
    bar = horizontal_bar(share or 0.0, _HALF - _BAR_LABEL - _PERCENT)
    percent = "" if share is None else f"{share:.0%}"
    return Content.assemble(
        (label.ljust(_BAR_LABEL), "$foreground 70%"), (bar, style), percent.rjust(_PERCENT)
    )


def _beside(left: Content, right: Content) -> Content:
    return Content.assemble(left, " " * _GAP, right)


def _fit(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
