"""Pulls through the real huggingface_hub from a small hub on localhost."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants, snapshot_download
from transformers import AutoModelForCausalLM

from medusa_chat import checkpoints
from medusa_chat.checkpoints import disk, hub_cache
from medusa_chat.errors import CheckpointError
from medusa_chat.records import LoadProgress
from medusa_chat.registry import HubSource, ModelSpec, resolve
from tests.checkpoints import published
from tests.checkpoints.small_hub import TOKEN, Repo, SmallHub

NAME = "tiny/model"
SHARD = "model-00002-of-00002.safetensors"
PULLER = """
import sys
from huggingface_hub import constants
from medusa_chat import checkpoints
from medusa_chat.registry import resolve

constants.DOWNLOAD_CHUNK_SIZE = 1024

def on_progress(progress):
    print(progress.message, round(progress.fraction or 0, 3), flush=True)

print(checkpoints.pull(resolve(sys.argv[1]), on_progress), flush=True)
"""


def ignore(progress: LoadProgress) -> None:
    pass


def assert_fails(match: str, name: str = NAME) -> None:
    with pytest.raises(CheckpointError, match=match) as caught:
        checkpoints.ensure_local(resolve(name), ignore)
    assert "\n" not in str(caught.value)


def start_puller(name: str = NAME) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PULLER, name]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def partial_bytes() -> int:
    files = list(hub_cache.cache_dir().rglob("*.medusa-chat.incomplete"))
    return sum(file.stat().st_size for file in files)


@pytest.mark.parametrize(
    "files",
    [
        published.as_safetensors(),
        published.as_safetensors(num_shards=2),
        published.as_bin(),
        published.as_bin(num_shards=3),
    ],
    ids=["safetensors", "safetensors-shards", "bin", "bin-shards"],
)
def test_a_pull_ends_in_a_checkpoint_that_transformers_loads(hub: SmallHub, files: dict[str, bytes]) -> None:
    hub.repos[NAME] = Repo({**files, **published.PROGRAM})
    spec = resolve(NAME)
    assert not checkpoints.is_local(spec)
    assert checkpoints.local_bytes(spec) == 0
    seen: list[LoadProgress] = []
    folder = checkpoints.ensure_local(spec, seen.append)

    assert {file.name: file.read_bytes() for file in folder.iterdir()} == files
    assert checkpoints.is_local(spec)
    assert checkpoints.is_sound(spec)
    assert checkpoints.local_bytes(spec) == sum(map(len, files.values()))
    assert seen[0] == LoadProgress("Asking the hub for tiny/model")
    fractions = [progress.fraction for progress in seen[1:]]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)
    model = AutoModelForCausalLM.from_pretrained(folder)
    for name, tensor in published.weights().items():
        assert torch.equal(model.state_dict()[name], tensor)

    hub.down = True
    assert checkpoints.ensure_local(spec, lambda progress: pytest.fail(f"pulled again: {progress}")) == folder


def test_of_two_formats_one_is_fetched_and_no_program(hub: SmallHub) -> None:
    hub.repos[NAME] = Repo({**published.as_bin(2), **published.as_safetensors(2), **published.PROGRAM})
    folder = checkpoints.ensure_local(resolve(NAME), ignore)
    assert {file.name for file in folder.iterdir()} == set(published.as_safetensors(2))
    assert set(hub.fetched()) == set(published.as_safetensors(2))


def test_what_another_program_has_fetched_is_not_fetched_again(hub: SmallHub) -> None:
    hub.repos[NAME] = Repo(published.as_safetensors(2))
    theirs = snapshot_download(NAME, cache_dir=hub_cache.cache_dir())
    hub.down = True
    assert checkpoints.ensure_local(resolve(NAME), ignore) == Path(theirs)


@pytest.mark.parametrize("lacking", [SHARD, "tokenizer.json", "model.safetensors.index.json", "config.json"])
def test_what_another_program_has_begun_is_completed(hub: SmallHub, lacking: str) -> None:
    hub.repos[NAME] = Repo(published.as_safetensors(2))
    begun = snapshot_download(NAME, cache_dir=hub_cache.cache_dir(), ignore_patterns=[lacking])
    hub.requests.clear()
    assert not checkpoints.is_local(resolve(NAME))
    assert not checkpoints.is_sound(resolve(NAME))
    folder = checkpoints.ensure_local(resolve(NAME), ignore)
    assert folder == Path(begun)
    assert hub.fetched() == [lacking]
    assert checkpoints.is_sound(resolve(NAME))


def test_a_pull_and_the_library_share_one_copy(hub: SmallHub) -> None:
    hub.repos[NAME] = Repo(published.as_safetensors(2))
    ours = checkpoints.ensure_local(resolve(NAME), ignore)
    hub.requests.clear()
    assert Path(snapshot_download(NAME, cache_dir=hub_cache.cache_dir())) == ours
    assert hub.fetched() == []
    assert partial_bytes() == 0


def test_where_links_can_not_be_made_there_is_still_one_copy(
    hub: SmallHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True)
    files = published.as_safetensors(2)
    hub.repos[NAME] = Repo(files)
    folder = checkpoints.ensure_local(resolve(NAME), ignore)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == files
    weights = [file for file in hub_cache.repo_dir(HubSource(repo=NAME)).rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in weights) < sum(map(len, files.values())) + 100


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"XDG_CACHE_HOME": "~/caches"},
        {"HF_HOME": "$MARK/home"},
        {"HUGGINGFACE_HUB_CACHE": "~/older", "HF_HOME": "/home-of-it"},
        {"HF_HUB_CACHE": "~/$MARK", "HUGGINGFACE_HUB_CACHE": "/older", "HF_HOME": "/home-of-it"},
    ],
    ids=lambda variables: "-".join(variables) or "none",
)
def test_without_a_home_of_its_own_the_librarys_cache_is_used(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("XDG_CACHE_HOME", "HF_HOME", "HUGGINGFACE_HUB_CACHE", "HF_HUB_CACHE", "MEDUSA_CHAT_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"MARK": "mark", **variables}.items():
        monkeypatch.setenv(name, value)
    program = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    theirs = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert hub_cache.cache_dir() == Path(theirs.stdout.strip())


def test_a_pinned_commit_is_asked_for_and_found_again(hub: SmallHub) -> None:
    repo = hub.repos[NAME] = Repo(published.as_safetensors())
    spec = ModelSpec(name="tiny", base=NAME, source=HubSource(repo=NAME, revision=repo.commit))
    folder = checkpoints.ensure_local(spec, ignore)
    assert folder.name == repo.commit
    asked = [path for _, path, _ in hub.requests]
    assert all(f"/{repo.commit}" in path for path in asked), asked
    assert checkpoints.is_sound(spec)


def test_a_branch_stays_where_it_was_when_first_pulled(hub: SmallHub) -> None:
    first = hub.repos[NAME] = Repo(published.as_safetensors())
    folder = checkpoints.ensure_local(resolve(NAME), ignore)
    hub.repos[NAME] = Repo({**first.files, "generation_config.json": b"{}"})
    assert checkpoints.ensure_local(resolve(NAME), ignore) == folder


def test_a_dropped_connection_is_taken_up_again(hub: SmallHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    hub.repos[NAME] = Repo(published.as_safetensors(2))
    hub.cut[SHARD] = [5000, 3000]
    checkpoints.ensure_local(resolve(NAME), ignore)
    ranges = [asked for method, path, asked in hub.requests if method == "GET" and path.endswith(SHARD)]
    assert ranges == [None, "bytes=4096-", "bytes=6144-"]
    assert checkpoints.is_sound(resolve(NAME))


def test_a_connection_that_stays_lost_leaves_what_came(
    hub: SmallHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    hub.repos[NAME] = Repo(published.as_safetensors(2))
    hub.cut[SHARD] = [5000, *[0] * 20]
    assert_fails("tiny/model could not be fetched .* pull it again: it goes on where it was")
    assert partial_bytes() == 4096
    hub.cut.clear()
    checkpoints.ensure_local(resolve(NAME), ignore)
    assert "bytes=4096-" in [asked for _, _, asked in hub.requests]
    assert checkpoints.is_sound(resolve(NAME))


def test_a_disk_that_fills_up_on_the_way_leaves_what_came(
    hub: SmallHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repos[NAME] = Repo(published.as_safetensors(2))
    seen: list[LoadProgress] = []

    def fill_up(progress: LoadProgress) -> None:
        seen.append(progress)
        if partial_bytes() > 8000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(CheckpointError, match=r"is full. Make room.*; what was fetched stays for the next"):
        checkpoints.ensure_local(resolve(NAME), fill_up)
    assert partial_bytes() > 8000
    checkpoints.ensure_local(resolve(NAME), ignore)
    assert checkpoints.is_sound(resolve(NAME))


def test_a_killed_pull_goes_on_where_it_was(hub: SmallHub) -> None:
    files = published.as_safetensors(2)
    hub.repos[NAME] = Repo(files)
    hub.held[SHARD] = 5000
    puller = start_puller()
    wait_for(lambda: partial_bytes() >= 4096)
    puller.kill()
    puller.wait()
    assert not checkpoints.is_local(resolve(NAME))

    hub.held.clear()
    hub.requests.clear()
    seen: list[LoadProgress] = []
    folder = checkpoints.ensure_local(resolve(NAME), seen.append)
    assert [(path.split("/")[-1], asked) for method, path, asked in hub.requests if method == "GET"][1:] == [
        (SHARD, "bytes=4096-")
    ]
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == files
    started_at = next(p.fraction for p in seen if p.fraction)
    assert started_at == pytest.approx(4096 / len(files[SHARD]))
    assert partial_bytes() == 0


def test_of_two_pulls_at_once_one_works_and_the_other_waits(hub: SmallHub) -> None:
    hub.repos[NAME] = Repo(published.as_safetensors(2))
    hub.held[SHARD] = 5000
    first = start_puller()
    wait_for(lambda: partial_bytes() >= 4096)
    second = start_puller()
    assert second.stdout is not None
    assert second.stdout.readline() == "Waiting for another medusa-chat that is pulling tiny/model 0\n"
    hub.held.clear()
    first.kill()  # what it had begun is the other's now
    output, errors = second.communicate(timeout=60)
    first.wait()
    assert (second.returncode, errors) == (0, "")
    assert output.splitlines()[-1] == str(checkpoints.ensure_local(resolve(NAME), ignore))


def test_a_proxy_is_asked_in_place_of_the_hub(hub: SmallHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repos[NAME] = Repo(published.as_safetensors(2))
    for name in ("NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", constants.ENDPOINT)
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    output, errors = start_puller().communicate(timeout=60)
    assert errors == ""
    assert output.splitlines()[-1] == str(checkpoints.ensure_local(resolve(NAME), ignore))
    assert "hub.invalid" in hub.proxied


@pytest.mark.parametrize(
    "files", [published.as_safetensors(), published.as_bin()], ids=["safetensors", "bin"]
)
def test_a_download_that_is_damaged_is_thrown_away(hub: SmallHub, files: dict[str, bytes]) -> None:
    hub.repos[NAME] = Repo(files)
    (weights,) = (name for name in files if name.endswith((".safetensors", ".bin")))
    hub.harmed.add(weights)
    assert_fails("is damaged and was thrown away. Pull it again")
    assert partial_bytes() == 0
    hub.harmed.clear()
    checkpoints.ensure_local(resolve(NAME), ignore)
    assert checkpoints.is_sound(resolve(NAME))


@pytest.mark.parametrize(
    "files", [published.as_safetensors(2), published.as_bin(2)], ids=["safetensors", "bin"]
)
@pytest.mark.parametrize("length", [0, 100, -1])
def test_a_checkpoint_damaged_later_is_told_and_only_that_replaced(
    hub: SmallHub, files: dict[str, bytes], length: int
) -> None:
    hub.repos[NAME] = Repo(files)
    folder = checkpoints.ensure_local(resolve(NAME), ignore)
    shard = max(name for name in files if "00002-of" in name)
    (folder / shard).write_bytes(files[shard][:length])
    assert_fails(f"{shard} is cut short.*Run `medusa-chat pull tiny/model` to replace it")
    hub.requests.clear()
    assert checkpoints.pull(resolve(NAME), ignore) == folder
    assert hub.fetched() == [shard]
    assert (folder / shard).read_bytes() == files[shard]


def test_offline_says_so_and_asks_nobody(hub: SmallHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repos[NAME] = Repo(published.as_safetensors())
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_fails("tiny/model is not whole on this machine, and HF_HUB_OFFLINE forbids fetching it. Unset")
    assert hub.requests == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    folder = checkpoints.ensure_local(resolve(NAME), ignore)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert checkpoints.ensure_local(resolve(NAME), ignore) == folder


def test_a_gated_model_says_how_to_get_in(hub: SmallHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repos[NAME] = Repo(published.as_safetensors(), gated=True)
    assert_fails(r"tiny/model is gated: ask for access at http://\S+/tiny/model, then .*HF_TOKEN")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert_fails(r"refuses your token for tiny/model \(status 401\): log in")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    checkpoints.ensure_local(resolve(NAME), ignore)
    assert checkpoints.is_sound(resolve(NAME))
    assert hub.tokens_elsewhere == []


def test_what_the_hub_does_not_have(hub: SmallHub) -> None:
    assert_fails("The hub has no model tiny/gone, or it is private. Check the name", "tiny/gone")
    hub.repos[NAME] = Repo(published.as_safetensors())
    assert_fails("tiny/model has no revision v9. Check it", f"{NAME}@v9")
    hub.repos[NAME] = Repo({"config.json": b"{}", "model.gguf": b"GGUF", **published.PROGRAM})
    assert_fails("tiny/model holds no weights that can be loaded here")


def test_a_hub_that_fails_or_is_not_there(hub: SmallHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.portal = True
    assert_fails("What answers for tiny/model is no hub; check HF_ENDPOINT and the network")
    hub.down = True
    assert_fails("The hub answered with status 503 for tiny/model. Try again later")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # taken, but nobody listens
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
        assert_fails(r"tiny/model could not be fetched \([^\[]+\)\. Check the network and pull it again")


def test_a_hub_that_would_write_elsewhere_is_not_let(hub: SmallHub, home: Path) -> None:
    files = published.as_safetensors()
    hub.repos[NAME] = Repo({**files, "../../../../up.json": b"{}", "..\\up.json": b"{}"})
    checkpoints.ensure_local(resolve(NAME), ignore)
    assert not list(home.parent.rglob("*up.json"))
    hub.repos["tiny/evil"] = Repo(files, commit="../../../../up")
    assert_fails("What answers for tiny/evil is no hub; check HF_ENDPOINT", "tiny/evil")


def test_too_little_disk_space_is_said_before_anything_is_fetched(
    hub: SmallHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repos[NAME] = Repo({**published.as_safetensors(), "model.safetensors": b"\0" * 2_000_000})
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda folder: usage(1_000_000))
    assert_fails(r"has 0.0 GB free, but pulling tiny/model takes 0.0 GB. Make room")
    assert hub.fetched() == []


def test_heads_come_from_a_repository_of_their_own(hub: SmallHub) -> None:
    heads = HubSource(repo="tiny/heads")
    files = published.heads_as_safetensors()
    hub.repos["tiny/heads"] = Repo({**files, "medusa_lm_head.pt": b"pickle", **published.PROGRAM})
    assert not checkpoints.heads_are_here(heads)
    folder = checkpoints.ensure_heads(heads, ignore)
    assert {file.name for file in folder.iterdir()} == set(files)
    assert checkpoints.heads_are_here(heads)
    hub.down = True
    assert checkpoints.ensure_heads(heads, ignore) == folder


def test_heads_in_the_repository_of_their_base_are_fetched_with_it(hub: SmallHub) -> None:
    hub.repos[NAME] = Repo(published.as_bin(2))
    folder = checkpoints.ensure_local(resolve(NAME), ignore)
    hub.down = True
    assert checkpoints.ensure_heads(HubSource(repo=NAME), ignore) == folder
