"""A download is watched while pip makes and removes folders in it."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

from medusa_chat.checkpoints.wheel import largest_file


def test_the_largest_file_is_found_at_any_depth(tmp_path: Path) -> None:
    assert largest_file(tmp_path) == 0
    (tmp_path / "pip" / "unpack").mkdir(parents=True)
    (tmp_path / "pip" / "unpack" / "wheel").write_bytes(bytes(300))
    (tmp_path / "log").write_bytes(bytes(20))
    assert largest_file(tmp_path) == 300


def test_folders_may_vanish_meanwhile(tmp_path: Path) -> None:
    (tmp_path / "wheel").write_bytes(bytes(7))
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            for name in "abcdefgh":
                (tmp_path / name / "deeper").mkdir(parents=True)
            for name in "abcdefgh":
                shutil.rmtree(tmp_path / name)

    pip = threading.Thread(target=churn)
    pip.start()
    try:
        assert {largest_file(tmp_path) for _ in range(2000)} == {7}
    finally:
        stop.set()
        pip.join()
