"""Pictures of the screen in text files, which a diff shows: its letters, and below them their styles.

pytest-textual-snapshot holds pytest below 9, and its SVGs can't be read in a diff.
"""

from __future__ import annotations

import os
from itertools import groupby
from pathlib import Path

from textual.app import App

FOLDER = Path(__file__).parent / "snapshots"
RENEW = "RENEW_SNAPSHOTS"


def picture(app: App[None]) -> str:
    """The screen's letters, then for each line how many cells have which style, then the styles."""
    strips = app.screen._compositor.render_strips()
    names: dict[str, str] = {}
    styles = []
    for strip in strips:
        cells = [(str(segment.style), segment.cell_length) for segment in strip if segment.cell_length]
        runs = [
            (names.setdefault(style, f"s{len(names)}"), sum(length for _, length in run))
            for style, run in groupby(cells, key=lambda cell: cell[0])
        ]
        styles.append(" ".join(f"{name}*{length}" for name, length in runs))
    letters = [strip.text.rstrip() for strip in strips]
    key = [f"{name}: {style}" for style, name in names.items()]
    return "\n".join((*letters, "", *styles, "", *key, ""))


def assert_pictured(app: App[None], name: str) -> None:
    """Compares with snapshots/NAME.txt; with RENEW_SNAPSHOTS=1 in the environment, writes that file."""
    file = FOLDER / f"{name}.txt"
    drawn = picture(app)
    if os.environ.get(RENEW):
        file.parent.mkdir(exist_ok=True)
        file.write_text(drawn, encoding="utf-8")
    assert file.exists(), f"There is no {file.name} yet. Look at the screen, then run with {RENEW}=1."
    assert drawn == file.read_text(encoding="utf-8"), f"The screen has changed. If it is meant: {RENEW}=1."
