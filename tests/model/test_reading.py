"""Tensors read one by one are what the libraries read at once, and leave nothing in memory behind them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from medusa_chat.errors import CheckpointError
from medusa_chat.model.weight_files import open_weight_file, unread_model
from tests.model.test_loading import saved

WIDE = torch.randn(10, 20)
TENSORS = {
    "half": torch.randn(100, 3).bfloat16(),
    "ints": torch.arange(5),
    "part": WIDE[2:5, ::2],
    "turned": WIDE.T,
    "one": torch.tensor(3.5),
    "none": torch.zeros(0, 4),
    "odd": torch.arange(3, dtype=torch.uint8),
}
LAYERS = {"hidden_size": 1024, "intermediate_size": 2816, "num_attention_heads": 16, "vocab_size": 1000}
LOAD = """
import resource, sys
from pathlib import Path
import torch
from medusa_chat.model.loading import load_base_model
base = load_base_model(Path(sys.argv[1]), "4bit", torch.device("cpu"), torch.bfloat16)
tensors = base.causal_lm.state_dict().values()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, sum(tensor.nbytes for tensor in tensors))
"""


def archive(file: Path) -> None:
    torch.save(TENSORS, file)


def old_pickle(file: Path) -> None:
    torch.save(TENSORS, file, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("save", [archive, old_pickle])
def test_pickles_are_read_as_torch_reads_them(save: object, tmp_path: Path) -> None:
    assert callable(save)
    save(tmp_path / "a.bin")
    file = open_weight_file(tmp_path / "a.bin")
    for name, expected in torch.load(tmp_path / "a.bin", weights_only=True).items():
        read = file.read(name)
        assert (read.dtype, read.stride()) == (expected.dtype, expected.stride())
        assert torch.equal(read, expected)
        assert (file.outline(name).shape, file.outline(name).dtype) == (read.shape, read.dtype)


def test_safetensors_are_read_as_their_library_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in TENSORS.items()}, path)
    file = open_weight_file(path)
    for name, expected in load_file(path).items():
        read = file.read(name)
        assert read.dtype == expected.dtype
        assert torch.equal(read, expected)


def test_a_tensor_that_is_written_to_changes_no_file(tmp_path: Path) -> None:
    archive(tmp_path / "a.bin")
    file = open_weight_file(tmp_path / "a.bin")
    file.read("half").zero_()
    assert torch.equal(file.read("half"), TENSORS["half"])


def test_a_pickle_without_its_values_is_no_tensor(tmp_path: Path) -> None:
    torch.save({"ghost": torch.empty(2, device="meta"), "real": torch.ones(2)}, tmp_path / "a.bin")
    assert list(open_weight_file(tmp_path / "a.bin").names) == ["real"]


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no weights: it has none of model\.safetensors"):
        unread_model(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_what_was_read_leaves_the_memory_again(name: str, tmp_path: Path) -> None:
    tensors = {str(i): torch.ones(2**21) for i in range(12)}  # 8 MB each
    save_file(tensors, tmp_path / name) if name.endswith("safetensors") else torch.save(
        tensors, tmp_path / name
    )
    del tensors
    unread = unread_model(tmp_path)
    process = psutil.Process()
    unread["0"][...].sum()  # threads and such
    before = process.memory_info().rss
    for tensor in unread.values():
        assert tensor[...].sum() == 2**21
        assert process.memory_info().rss < before + 24 * 2**20


def shards(folder: Path, suffix: str) -> Path:
    """Eight layers, 25 MB each, in several files."""
    saved(folder, "LlamaConfig", **LAYERS, num_hidden_layers=8, dtype=torch.bfloat16)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    stem, save = ("model", save_file) if suffix == "safetensors" else ("pytorch_model", torch.save)
    shard_of = {
        name: f"{stem}-0000{1 + at * 4 // len(tensors)}-of-00004.{suffix}" for at, name in enumerate(tensors)
    }
    for shard in set(shard_of.values()):
        save({name: tensor for name, tensor in tensors.items() if shard_of[name] == shard}, folder / shard)
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": shard_of}))
    return folder


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measures as Linux does")
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_loading_takes_no_more_of_the_host_for_a_larger_checkpoint(suffix: str, tmp_path: Path) -> None:
    """Beyond what the model itself takes, which on a CPU lies in the same memory."""
    folder = shards(tmp_path, suffix)
    config = json.loads((folder / "config.json").read_text())
    overheads = []
    for num_layers in (2, 8):
        (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": num_layers}))
        ended = subprocess.run([sys.executable, "-c", LOAD, str(folder)], capture_output=True, check=True)
        peak, model = map(int, ended.stdout.split())
        overheads.append(peak - model)
    assert overheads[1] - overheads[0] < 40 * 2**20  # of 154 MB more in the files
