"""Memory of this machine, told without torch: by NVML, by nvidia-smi, by the system."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from medusa_chat import machine
from medusa_chat.machine import Memory, find_memory, gpu_bytes_of_this_process
from medusa_chat.model.loading import pick_dtype
from tests.driver import NVMLError, NVMLErrorNotSupported, fake_nvml

only_posix = pytest.mark.skipif(os.name == "nt", reason="a script stands for a program")


@pytest.fixture
def _cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch could use a GPU; nothing tells of one yet."""

    def fail() -> None:
        raise NVMLError("Driver Not Loaded")

    monkeypatch.setattr(machine, "_torch_has_cuda", lambda: True)
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(nvmlInit=fail))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def write_nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")


def test_the_hosts_memory_without_a_gpu() -> None:
    memory = find_memory("cpu")
    assert (memory.device, memory.total) == ("cpu", psutil.virtual_memory().total)
    assert 0 < memory.free <= memory.total


def test_numbers_are_as_wide_as_the_engine_would_hold_them() -> None:
    whole = pick_dtype("auto", torch.device("cpu"))
    assert find_memory("cpu").number_bytes == whole.itemsize
    assert find_memory("cpu", "float32").number_bytes == 4
    assert find_memory("cpu", "bfloat16").number_bytes == 2


def test_a_torch_without_cuda_is_told_without_importing_it() -> None:
    assert machine._torch_has_cuda() == (torch.version.cuda is not None)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_real_gpu() -> None:
    memory = find_memory()
    _, total = torch.cuda.mem_get_info()
    assert memory.name == torch.cuda.get_device_name()
    assert abs(memory.total - total) < 0.03 * total


@only_posix
@pytest.mark.usefixtures("_cuda")
def test_nvidia_smi_tells_of_the_card_that_may_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = 'echo "$*" >"$(dirname "$0")/asked"; echo "NVIDIA RTX, 4090, 24564, 22000"'
    write_nvidia_smi(tmp_path, monkeypatch, script)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0")
    assert find_memory() == Memory("cuda", "NVIDIA RTX, 4090", 24564 * 2**20, 22000 * 2**20, 2)
    assert "--id=2" in (tmp_path / "asked").read_text()
    assert find_memory("cpu").device == "cpu"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert find_memory().device == "cpu"


@only_posix
@pytest.mark.usefixtures("_cuda")
@pytest.mark.parametrize(
    "script",
    ["echo 'NVIDIA-SMI has failed'; exit 9", "echo 'NVIDIA GB10, [N/A], [N/A]'", "exec sleep 60", "exit 0"],
    ids=["fails", "shared", "hangs", "silent"],
)
def test_a_driver_that_tells_nothing_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    monkeypatch.setattr(machine, "_SECONDS_TO_ANSWER", 0.5)
    write_nvidia_smi(tmp_path, monkeypatch, script)
    assert find_memory().device == "cpu"


@pytest.mark.usefixtures("_cuda")
def test_nvml_is_asked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml())
    assert find_memory() == Memory("cuda", "card 0", 24_000, 20_000, 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-8f6c")
    assert find_memory("auto", "float32") == Memory("cuda", "card GPU-8f6c", 24_000, 20_000, 4)


@pytest.mark.usefixtures("_cuda")
def test_a_card_whose_memory_is_the_host_s_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(handle: object) -> None:
        raise NVMLErrorNotSupported("Not Supported")

    module = fake_nvml(nvmlDeviceGetMemoryInfo=fail)
    monkeypatch.setitem(sys.modules, "pynvml", module)
    assert find_memory().device == "cpu"
    assert module.num_open == 0


def test_the_bytes_of_this_process_are_those_under_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    others = [SimpleNamespace(pid=number, usedGpuMemory=number) for number in (-1, -2)]
    module = fake_nvml(nvmlDeviceGetComputeRunningProcesses=lambda handle: others)
    monkeypatch.setitem(sys.modules, "pynvml", module)
    assert gpu_bytes_of_this_process("8f6c") is None
    others.insert(1, SimpleNamespace(pid=os.getpid(), usedGpuMemory=5))
    assert gpu_bytes_of_this_process("8f6c") == 5
    assert module.num_open == 0


def test_the_list_and_the_question_import_nothing_heavy(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from medusa_chat.app.models.fetching import to_fetch\n"
        "from medusa_chat.checkpoints.catalogue import read_catalogue\n"
        "from medusa_chat.machine import find_memory\n"
        "from medusa_chat.records import LoadRequest\n"
        "assert to_fetch(LoadRequest('vicuna-7b'))\n"
        "memory = find_memory()\n"
        "print([entry.fitting(memory) for entry in read_catalogue()])\n"
        "heavy = ('torch', 'transformers', 'huggingface_hub', 'safetensors', 'numpy')\n"
        "assert not [name for name in heavy if name in sys.modules]\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "MEDUSA_CHAT_HOME"}
    environment |= {"HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hf")}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
