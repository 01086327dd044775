"""The same command once more for each GPU there is, as `accelerate launch` would start it.

accelerate's own launcher ends a failure in a page of tracebacks; here the sentence of the process that failed
first is all a user sees.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

import torch

from medusa_chat.errors import MedusaError
from medusa_chat.records import Device

_SECONDS_TO_END = 20.0
_LOOKS_A_SECOND = 10


def num_to_launch(device: Device) -> int:
    """One for each of several GPUs (CUDA_VISIBLE_DEVICES chooses); 0: this process trains by itself."""
    if device == "cpu" or "LOCAL_RANK" in os.environ:
        return 0
    count = torch.cuda.device_count()
    return count if count > 1 else 0


def run_on_each(count: int, command: Sequence[str] = (sys.executable, *sys.orig_argv[1:])) -> int:
    """Runs `count` processes of the command; returns the exit status of the first that failed, else 0. Only
    process 0 writes to the terminal; the others' words are shown if they are the ones that fail.

    Raises MedusaError if one was ended from outside.
    """
    with tempfile.TemporaryFile() as others_words:
        shared = {**os.environ, **_environment(count)}
        processes = [
            subprocess.Popen(
                command,
                env={**shared, "RANK": str(index), "LOCAL_RANK": str(index)},
                stdout=None if index == 0 else subprocess.DEVNULL,
                stderr=None if index == 0 else others_words,
            )
            for index in range(count)
        ]
        with _ending_as_interrupted(processes):
            try:
                status = _first_failure(processes)
            except KeyboardInterrupt:  # the terminal has told the processes too
                status = 130
                _wait(processes)
        failed_by_itself = processes[0].poll() not in (None, 0)
        # Those that still run wait for the one that is gone.
        for end in (subprocess.Popen.terminate, subprocess.Popen.kill):
            for process in processes:
                end(process)
            _wait(processes)
        if status not in (0, 130) and not failed_by_itself:
            others_words.seek(0)
            sys.stderr.write(others_words.read().decode(errors="replace"))
    if status < 0:
        raise MedusaError(
            f"A training process was ended by signal {-status}, perhaps for want of memory; run the same "
            "command again to go on."
        )
    return status


@contextmanager
def _ending_as_interrupted(processes: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """A request to end this process is one to end all, as Ctrl+C would."""

    def pass_on(*_: object) -> NoReturn:
        for process in processes:
            process.send_signal(signal.SIGINT)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _environment(count: int) -> dict[str, str]:
    """As torch.distributed reads it, but for the process's own number."""
    from accelerate.utils import check_cuda_p2p_ib_support

    variables = {
        "LOCAL_WORLD_SIZE": str(count),
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(_num_threads(count))),
    }
    if not check_cuda_p2p_ib_support():  # RTX 4000: their drivers offer what they can't do
        variables |= {"NCCL_P2P_DISABLE": "1", "NCCL_IB_DISABLE": "1"}
    return variables


def _num_threads(count: int) -> int:
    """Of each process. Two of 32 threads each on 32 cores waited for each other: 50 s to read and clean 47 M
    tokens and 0.21 s for a step of 48 dialogues, against 6 s, and 0.065 s for 24, with 8 threads.
    """
    return max(1, (os.cpu_count() or 1) // (2 * count))


def _first_failure(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    """Waits until one fails or all are done."""
    while True:
        statuses = [process.poll() for process in processes]
        failed = [status for status in statuses if status]
        if failed:
            return failed[0]
        if all(status == 0 for status in statuses):
            return 0
        time.sleep(1 / _LOOKS_A_SECOND)


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Until they have ended, or for as long as that may take."""
    deadline = time.monotonic() + _SECONDS_TO_END
    while time.monotonic() < deadline and any(process.poll() is None for process in processes):
        time.sleep(1 / _LOOKS_A_SECOND)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
