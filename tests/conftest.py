"""What every test gets: a home of its own, and on request the real default model."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

# Without a GPU Triton interprets its kernels, if told so before they are defined.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")  # as cli.py sets it

from medusa_chat import checkpoints, paths
from medusa_chat.registry import resolve
from medusa_chat.settings import Settings

# Taken before any fixture moves the home away.
_OUTER_ENVIRONMENT = {key: value for key, value in os.environ.items() if key.startswith("MEDUSA_CHAT_")}
# What is compiled for the CPU is compiled once, not for each test's home.
os.environ.setdefault("NUMBA_CACHE_DIR", str(paths.cache_dir() / "compiled"))
DEFAULT_MODEL = Settings.model_fields["model"].default


@pytest.fixture(scope="session", autouse=True)
def _no_users_home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """For fixtures that outlive one test; each test then gets its own `home`."""
    for key in _OUTER_ENVIRONMENT:
        del os.environ[key]
    os.environ["MEDUSA_CHAT_HOME"] = str(tmp_path_factory.mktemp("home"))
    # Nothing in a test may ask the public hub.
    os.environ["HF_ENDPOINT"] = constants.ENDPOINT = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in place of the user's config, data and cache."""
    folder = tmp_path / "home"
    monkeypatch.setenv("MEDUSA_CHAT_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def default_model() -> Path:
    """Folder of the real default model, pulled once into the cache that lives across test runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MEDUSA_CHAT_HOME")
        for key, value in _OUTER_ENVIRONMENT.items():
            patch.setenv(key, value)
        return checkpoints.ensure_local(resolve(DEFAULT_MODEL), lambda progress: None)


@pytest.fixture
def default_model_here(home: Path, default_model: Path) -> str:
    """The default model's name, with its checkpoint linked into this test's home."""
    folder = paths.checkpoints_dir()
    folder.mkdir(parents=True)
    try:
        (folder / DEFAULT_MODEL).symlink_to(default_model, target_is_directory=True)
    except OSError:  # Windows without the right to make links
        shutil.copytree(default_model, folder / DEFAULT_MODEL)
    return DEFAULT_MODEL
