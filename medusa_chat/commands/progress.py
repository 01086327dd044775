"""Loading and pulling, shown on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from medusa_chat.records import LoadProgress

if TYPE_CHECKING:
    from medusa_chat.training.loop import TrainingReport
    from medusa_chat.training.run import Listener

_SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def shown_progress(*, always: bool) -> Iterator[Callable[[LoadProgress], None]]:
    """Gives a function to report progress to: a bar on a terminal; elsewhere a line for each message if
    `always`, else nothing.
    """
    if not sys.stderr.isatty():
        yield _LinePrinter() if always else _ignore
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("Starting", total=None)
        yield lambda progress: bar.update(
            task,
            description=progress.message,
            total=None if progress.fraction is None else 1.0,
            completed=progress.fraction or 0.0,
        )


@contextmanager
def training_progress(*, shown: bool) -> Iterator[Listener]:
    """Gives a listener for training: two bars on a terminal, elsewhere a line every ten seconds. shown: or
    nothing anywhere.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from medusa_chat.training.run import Listener

    if not shown:
        yield Listener(lambda done, total: None, lambda report: None)
        return
    if not sys.stderr.isatty():
        lines = _SlowLines()
        yield Listener(
            lambda done, total: lines.print(f"dialogues {done}/{total}", last=done == total),
            lambda report: lines.print(
                f"step {report.step}/{report.num_steps} {_figures(report)}",
                last=report.step == report.num_steps,
            ),
        )
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        writing = bar.add_task("Writing dialogues", total=None, figures="")
        training = bar.add_task("Training heads", total=None, figures="")
        yield Listener(
            lambda done, total: bar.update(writing, completed=done, total=total),
            lambda report: bar.update(
                training, completed=report.step, total=report.num_steps, figures=_figures(report)
            ),
        )


def _figures(report: TrainingReport) -> str:
    accuracy = " ".join(f"{rate:.2f}" for rate in report.accuracy)
    return f"loss {report.loss:.3f}, top-1 {accuracy}"


class _SlowLines:
    def __init__(self) -> None:
        self._printed = -_SECONDS_BETWEEN_LINES

    def print(self, line: str, *, last: bool) -> None:
        now = time.monotonic()
        if last or now - self._printed >= _SECONDS_BETWEEN_LINES:
            self._printed = now
            print(line, file=sys.stderr, flush=True)


class _LinePrinter:
    def __init__(self) -> None:
        self._last: str | None = None

    def __call__(self, progress: LoadProgress) -> None:
        if progress.message != self._last:
            print(f"{progress.message}…", file=sys.stderr, flush=True)
            self._last = progress.message


def _ignore(progress: LoadProgress) -> None:
    pass
