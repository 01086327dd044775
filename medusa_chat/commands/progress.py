"""Loading and pulling, shown on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from medusa_chat.records import LoadProgress


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


class _LinePrinter:
    def __init__(self) -> None:
        self._last: str | None = None

    def __call__(self, progress: LoadProgress) -> None:
        if progress.message != self._last:
            print(f"{progress.message}…", file=sys.stderr, flush=True)
            self._last = progress.message


def _ignore(progress: LoadProgress) -> None:
    pass
