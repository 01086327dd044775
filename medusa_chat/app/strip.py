"""The panel's most important figures in one line, for terminals too narrow for the panel."""

from __future__ import annotations

from textual.content import Content
from textual.widgets import Static

from medusa_chat.app import figures
from medusa_chat.app.meter import ReplyMeter
from medusa_chat.records import EngineInfo, SamplingOptions


class StatusStrip(Static):
    """One fixed line."""

    def __init__(self) -> None:
        super().__init__(markup=False)

    def show(self, meter: ReplyMeter, options: SamplingOptions, info: EngineInfo | None) -> None:
        parts = [
            f"{figures.number(meter.figures.tokens_per_second)} tok/s",
            f"{figures.number(meter.figures.tokens_per_step, 2)}/step",
            f"{figures.speedup(meter)} speed-up",
            f"context {figures.context_used(meter, info)}",
            f"T {options.temperature:.2g}",
            f"drafting {'on' if options.drafting else 'off'}",
        ]
        if options.acceptance == "typical":
            parts.append("lossy")
        self.update(Content(" · ".join(parts)), layout=False)
