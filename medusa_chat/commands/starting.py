"""What has to be done before the app is imported."""

from __future__ import annotations

import gc
import os


def prepare_app() -> None:
    """Textual reads its rate as it is imported: at 60 frames a second a key waits up to 16 ms to be drawn,
    and a higher one costs nothing while nothing changes. Collecting garbage is a tenth of the start; the app
    does it when it has the time.
    """
    os.environ.setdefault("TEXTUAL_FPS", "240")
    gc.disable()
