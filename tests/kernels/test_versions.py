"""What was compiled for versions of the kernels that nobody uses any more goes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from medusa_chat.kernels.cpu import versions
from medusa_chat.kernels.cpu.versions import folder_of

DAY = 24 * 3600


def use(home: Path, version: bytes, days_ago: float) -> Path:
    folder = folder_of(version, home)
    (folder / "compiled").touch()
    os.utime(folder, 2 * (time.time() - days_ago * DAY,))
    return folder


def test_a_new_version_clears_out_those_long_unused(tmp_path: Path) -> None:
    old, recent = use(tmp_path, b"old", 31), use(tmp_path, b"recent", 29)
    somebodys = tmp_path / "somebody's"
    somebodys.mkdir()
    os.utime(somebodys, (0, 0))
    new = folder_of(b"new", tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([recent, somebodys, new])
    assert not old.exists()


def test_a_version_that_is_used_stays(tmp_path: Path) -> None:
    used = use(tmp_path, b"used", 31)
    assert folder_of(b"used", tmp_path) == used
    folder_of(b"new", tmp_path)
    assert (used / "compiled").exists()


def test_two_may_clear_out_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other has removed what this one finds."""
    use(tmp_path, b"old", 31)
    listed = list(tmp_path.iterdir())
    monkeypatch.setattr(Path, "iterdir", lambda folder: iter([tmp_path / (16 * "0"), *listed]))
    assert folder_of(b"new", tmp_path).is_dir()
    assert not listed[0].exists()


def test_a_folder_that_cant_be_made_is_left_to_numba(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert folder_of(b"new", tmp_path / "file").parent == tmp_path / "file"


def test_this_versions_folder_is_the_one_numba_is_told() -> None:
    from numba import config

    assert versions._NAME.fullmatch(Path(config.CACHE_DIR).name)
