"""What has to be done before the app, and what it stands on, is imported."""

from __future__ import annotations

import gc
import os


def prepare_app() -> None:
    """Textual reads its rate as it is imported: at 60 frames a second a key waits up to 16 ms to be drawn,
    and a higher one costs nothing while nothing changes. Pydantic asks every package that is installed for
    plugins, of which none concerns this program. Collecting garbage is a tenth of the start; the app does it
    when it has the time.
    """
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    os.environ.setdefault("TEXTUAL_FPS", "240")
    gc.disable()
