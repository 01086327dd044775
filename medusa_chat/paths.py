"""Where config, data and cache live, by the platform's own conventions.

MEDUSA_CHAT_HOME puts all three under one folder (portable installs, tests).
"""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

_APP = "medusa-chat"


def _under_home(name: str) -> Path | None:
    home = os.environ.get("MEDUSA_CHAT_HOME")
    return Path(home).expanduser() / name if home else None


def config_dir() -> Path:
    """Folder of config.toml and the user's own models.toml."""
    return _under_home("config") or platformdirs.user_config_path(_APP)


def data_dir() -> Path:
    """Folder of the conversation database."""
    return _under_home("data") or platformdirs.user_data_path(_APP)


def cache_dir() -> Path:
    """Folder of downloaded and converted checkpoints; safe to delete."""
    return _under_home("cache") or platformdirs.user_cache_path(_APP)


def checkpoints_dir() -> Path:
    """Folder with one sub-folder for each converted base model."""
    return cache_dir() / "checkpoints"
