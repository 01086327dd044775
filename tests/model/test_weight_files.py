"""Heads in files that are broken or made to do harm: each is named in a sentence, at once; nothing runs."""

from __future__ import annotations

import json
import os
import pickle
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from medusa_chat.errors import CheckpointError, HeadsMismatch
from medusa_chat.model.head_files import load_heads, outline_heads
from medusa_chat.model.inspection import inspect_source
from medusa_chat.model.weight_files import open_weight_file
from tests.model.layouts import KnownHeads, write_a, write_b, write_c, write_d, write_e, write_tensors
from tests.tiny import tiny_llama

BASE = tiny_llama()
V, D = BASE.vocab_size, BASE.hidden_size
PICKLE, SAFETENSORS = "medusa_lm_head.pt", "medusa_lm_head.safetensors"
INDEX = "model.safetensors.index.json"


def own_lm_heads(known: KnownHeads) -> dict[str, torch.Tensor]:
    return {f"lm_heads.{head}.weight": lm_head for head, lm_head in enumerate(known.lm_heads)}


def write_d_with_own(folder: Path, known: KnownHeads) -> Path:
    return write_d(folder, known, bias=True, lm_heads=own_lm_heads(known), truncated=V)


def write_b_as(suffix: str) -> Callable[[Path, KnownHeads], Path]:
    def write(folder: Path, known: KnownHeads) -> Path:
        folder.mkdir(exist_ok=True)
        return write_b(folder, BASE.causal_lm.state_dict(), known, suffix)

    return write


# What writes it, the file that holds the heads, and what it calls a weight, a bias and an LM head of head 2.
FORMATS: dict[str, tuple[Callable[[Path, KnownHeads], Path], str, tuple[str, str, str | None]]] = {
    "A": (write_a, PICKLE, ("2.0.linear.weight", "2.0.linear.bias", "2.1.weight")),
    "B bin": (
        write_b_as("bin"),
        "pytorch_model-00002-of-00002.bin",
        ("medusa_head.2.0.linear.weight", "medusa_head.2.0.linear.bias", "medusa_head.2.1.weight"),
    ),
    "B safetensors": (
        write_b_as("safetensors"),
        "model-00002-of-00002.safetensors",
        ("medusa_head.2.0.linear.weight", "medusa_head.2.0.linear.bias", "medusa_head.2.1.weight"),
    ),
    "C": (write_c, SAFETENSORS, ("2.0.linear.weight", "2.0.linear.bias", None)),
    "D": (
        write_d_with_own,
        "model.safetensors",
        ("blocks.2.layers.0.weight", "blocks.2.layers.0.bias", "lm_heads.2.weight"),
    ),
    "E": (
        lambda folder, known: write_e(folder, known, lm_heads=True),
        SAFETENSORS,
        ("2.0.linear.weight", "2.0.linear.bias", "2.1.weight"),
    ),
}


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    if file.suffix == ".safetensors":
        return safetensors.torch.load_file(file)
    tensors: dict[str, torch.Tensor] = torch.load(file, weights_only=True)
    return tensors


def change(file: Path, name: str, new: Callable[[torch.Tensor], torch.Tensor | None]) -> None:
    tensors = read_tensors(file)
    changed = new(tensors.pop(name))
    write_tensors(file, tensors if changed is None else {**tensors, name: changed})


def refused(source: Path, sentence: str) -> None:
    """By all that read heads, in less than a second."""
    for read in (load_heads, outline_heads, inspect_source):
        started = time.process_time()  # of this process alone: other tests may run beside it
        with pytest.raises(CheckpointError, match=sentence) as error:
            read(source)
        assert time.process_time() - started < 2
        assert str(source) in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("part", [0, 1, 2], ids=["weight", "bias", "lm_head"])
def test_a_missing_tensor_or_a_wrong_shape(tmp_path: Path, form: str, part: int) -> None:
    write, file_name, names = FORMATS[form]
    name = names[part]
    if name is None:
        pytest.skip("has no LM heads")
    bare = name.removeprefix("medusa_head.")
    file = write(tmp_path, KnownHeads.random()) / file_name
    change(file, name, lambda tensor: tensor[:-1].clone())
    refused(tmp_path, f"{file_name} has heads of different shapes in .* and {bare}")
    change(file, name, lambda tensor: None)
    refused(tmp_path, f"lacks the tensor {bare}")


@pytest.mark.parametrize("form", FORMATS)
def test_values_that_are_no_numbers(tmp_path: Path, form: str) -> None:
    write, file_name, names = FORMATS[form]
    file = write(tmp_path, KnownHeads.random()) / file_name
    change(file, names[0], lambda tensor: tensor.index_fill(0, torch.tensor([5]), torch.nan))
    with pytest.raises(CheckpointError, match=f"{file} holds values that are not numbers in "):
        load_heads(tmp_path)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("length", [0, 7, 200, -1], ids=["empty", "few", "start", "all but one"])
def test_a_file_cut_short(tmp_path: Path, form: str, length: int) -> None:
    write, file_name, _ = FORMATS[form]
    file = write(tmp_path, KnownHeads.random()) / file_name
    file.write_bytes(file.read_bytes()[:length])
    refused(tmp_path, f"{file} (is damaged|holds something other than tensors)")


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, torch.complex64])
@pytest.mark.parametrize("form", ["A", "C", "D"])
def test_other_kinds_of_numbers(tmp_path: Path, form: str, dtype: torch.dtype) -> None:
    write, file_name, names = FORMATS[form]
    file = write(tmp_path, KnownHeads.random()) / file_name
    change(file, names[0], lambda tensor: tensor.to(dtype))
    kind = str(dtype).removeprefix("torch.")
    # safetensors calls complex numbers by a name that torch has not.
    refused(tmp_path, f"{names[0]} as ({kind}, not as floating-point numbers|C64, which is not read here)")


@pytest.mark.parametrize("form", FORMATS)
def test_a_head_count_that_lies_is_overruled_with_a_remark(tmp_path: Path, form: str) -> None:
    write, _, _ = FORMATS[form]
    write(tmp_path, KnownHeads.random())
    config = tmp_path / "config.json"
    key = "num_heads" if form == "D" else "medusa_num_heads"
    said = json.loads(config.read_text()) if config.exists() else {}
    config.write_text(json.dumps({**said, key: 7}))
    heads = load_heads(tmp_path)
    assert heads.num_heads == 3
    (remark,) = heads.remarks
    assert remark.startswith(f"{config} says {key} 7, but by the tensors in {tmp_path}")
    assert remark.endswith("it is 3, which is used.")


@pytest.mark.parametrize("form", [form for form in FORMATS if form != "C"])
def test_a_vocabulary_off_by_one(tmp_path: Path, form: str) -> None:
    write, _, _ = FORMATS[form]
    heads = load_heads(write(tmp_path, KnownHeads.random(vocab_size=V + 1)))
    with pytest.raises(HeadsMismatch, match=f"{tmp_path}.* have a vocabulary of 65, but tiny has 64"):
        heads.check_fits(BASE, "tiny")


def header(entries: object, values: bytes = b"") -> bytes:
    encoded = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(encoded)) + encoded + values


def entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


W, B = "0.0.linear.weight", "0.0.linear.bias"
HOSTILE_HEADERS: dict[str, bytes] = {
    "longer than any file": struct.pack("<Q", 2**62) + b"{}",
    "longer than the file": struct.pack("<Q", 500) + b"{}",
    "no JSON": header(b"{nothing"),
    "no object": header([1]),
    "values beyond the end": header({W: entry([D, D], 0, 4 * D * D)}, bytes(100)),
    "values of two in one place": header({W: entry([2, 2], 0, 16), B: entry([2], 8, 16)}, bytes(16)),
    "more than can be counted": header({W: entry([2**31, 2**31], 0, 16)}, bytes(16)),
    "fewer than none": header({W: entry([-2, -2], 0, 16)}, bytes(16)),
    "of an unknown kind": header({W: entry([2, 2], 0, 16, "Q9")}, bytes(16)),
}


@pytest.mark.parametrize("case", HOSTILE_HEADERS)
def test_a_header_that_lies(tmp_path: Path, case: str) -> None:
    (tmp_path / SAFETENSORS).write_bytes(HOSTILE_HEADERS[case])
    refused(tmp_path, f"{SAFETENSORS} is damaged")


def test_a_name_twice_does_no_harm(tmp_path: Path) -> None:
    """safetensors takes one of them."""
    twice = f'"{W}": {json.dumps(entry([2, 2], 0, 16))}'
    (tmp_path / SAFETENSORS).write_bytes(header(f"{{{twice}, {twice}}}".encode(), bytes(16)))
    assert load_heads(tmp_path).hidden_size == 2


def test_one_stray_name_does_not_ask_for_millions(tmp_path: Path) -> None:
    far = {"9999.9999.linear.weight": torch.zeros(D, D)}
    write_tensors(tmp_path / SAFETENSORS, {**KnownHeads.random().reference_names(lm_heads=True), **far})
    refused(tmp_path, r"lacks the tensor 3.0.linear.weight")


class Bomb:
    """Unpickled by force, it makes a file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self._file}",)


def archive(file: Path, pickled: bytes) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("archive/data.pkl", pickled)
        opened.writestr("archive/version", "3\n")


HOSTILE_PICKLES: dict[str, Callable[[Path], None]] = {
    "code": lambda file: torch.save({"a": Bomb(file.parent / "exploded")}, file),
    "code of old": lambda file: torch.save(
        {"a": Bomb(file.parent / "exploded")}, file, _use_new_zipfile_serialization=False
    ),
    "code alone": lambda file: file.write_bytes(pickle.dumps(Bomb(file.parent / "exploded"))) and None,
    "a zip bomb": lambda file: archive(file, b"\x80\x02" + b"N0" * 50_000_000 + b"}."),
    "without an end": lambda file: file.write_bytes(b"\x80\x02" + b"]" * 5_000_000 + b".") and None,
    "deep": lambda file: file.write_bytes(b"\x80\x02" + b"(" * 2_000_000 + b"t" * 2_000_000) and None,
    "a huge number": lambda file: file.write_bytes(b"\x80\x02\x8b\xff\xff\xff\x7f1") and None,
    "huge bytes": lambda file: file.write_bytes(b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"1.") and None,
    "safetensors": lambda file: file.write_bytes(header({W: entry([2, 2], 0, 16)}, bytes(16))) and None,
}


@pytest.mark.parametrize("case", HOSTILE_PICKLES)
def test_a_pickle_that_would_do_harm(tmp_path: Path, case: str) -> None:
    HOSTILE_PICKLES[case](tmp_path / PICKLE)
    refused(tmp_path, f"{PICKLE} (is damaged|holds something other than tensors)")
    assert not (tmp_path / "exploded").exists()


def test_a_pickle_of_old_with_as_many_tensors_as_a_large_model_is_read(tmp_path: Path) -> None:
    tensors = {f"model.layers.{n}.weight": torch.full((2,), float(n)) for n in range(1000)}
    file = tmp_path / "model.bin"
    torch.save(tensors, file, _use_new_zipfile_serialization=False)
    opened = open_weight_file(file)
    assert len(list(opened.names)) == 1000
    assert opened.read("model.layers.999.weight").tolist() == [999.0, 999.0]


@pytest.mark.parametrize("name", [PICKLE, SAFETENSORS, INDEX])
@pytest.mark.parametrize("kind", ["folder", "loop", "dangling"])
def test_what_is_no_file(tmp_path: Path, name: str, kind: str) -> None:
    place = tmp_path / name
    if kind == "folder":
        place.mkdir()
    else:
        place.symlink_to(place if kind == "loop" else tmp_path / "gone")
    what = "no file" if kind == "folder" else "a link to nowhere"
    refused(tmp_path, f"{name} can't be read: it is {what}")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are none on Windows")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / PICKLE)
    refused(tmp_path / PICKLE, "can't be read: it is no file")


INDEXES = ["../up.safetensors", "/etc/passwd", "..", "", "a\0.safetensors", "x" * 5000, 5, ["x"], INDEX]


@pytest.mark.parametrize("shard", INDEXES, ids=lambda shard: str(shard)[:20])
def test_an_index_that_leads_elsewhere(tmp_path: Path, shard: object) -> None:
    write_tensors(tmp_path.parent / "up.safetensors", KnownHeads.random().reference_names(lm_heads=True))
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {W: shard}}))
    refused(tmp_path, f"{INDEX} doesn't say which files hold the weights")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            '{"weight_map": {"a": "model-1.safetensors"}}',
            "model-1.safetensors is missing, though",
        ),
        ('{"weight_map": [1]}', "doesn't say which files"),
        ("{}", "doesn't say which files"),
        ('{"weight', "is not valid JSON"),
        ("[1]", "must hold a JSON object"),
        ("[" * 100_000, "is not valid JSON"),
    ],
)
def test_an_index_that_is_none(tmp_path: Path, content: str, sentence: str) -> None:
    (tmp_path / INDEX).write_text(content)
    refused(tmp_path, sentence)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("[]", "config.json must hold a JSON object"),
        ("{", "config.json is not valid JSON"),
        ("[" * 100_000, "config.json is not valid JSON"),
        ('{"medusa_num_heads": ' + "9" * 10_000 + "}", "config.json is not valid JSON"),
        ('{"path_probability": [1]}', "config.json has a path_probability that can't be used"),
        ('{"path_probability": {"0 0": 0.5}}', "can't be used .wrong at '0 0'"),  # without its parent
        ('{"path_probability": {"0": 1.5}}', "can't be used"),
        ('{"path_probability": {"0": NaN}}', "can't be used"),
        ('{"path_probability": {"0": 1, "0 0": 1, "0 0 0": 1, "0 0 0 0": 1}}', "can't be used"),  # of 3 heads
        ('{"path_probability": {"a": 1}}', "can't be used"),
        ('{"path_probability": {"0": null}}', "can't be used"),
    ],
)
def test_a_config_that_is_none(tmp_path: Path, content: str, sentence: str) -> None:
    write_c(tmp_path, KnownHeads.random())
    (tmp_path / "config.json").write_text(content)
    refused(tmp_path, sentence)
