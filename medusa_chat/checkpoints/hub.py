"""From a repository on a hub to a snapshot in the hub library's cache that is whole."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medusa_chat.checkpoints import hub_cache, resuming
from medusa_chat.checkpoints.disk import check_room, plain_disk_errors
from medusa_chat.checkpoints.hub_errors import no_hub_sentence, offline_sentence, plain_hub_errors
from medusa_chat.checkpoints.hub_files import Wanted, choose_files
from medusa_chat.checkpoints.one_at_a_time import only_one
from medusa_chat.checkpoints.soundness import is_cut_short
from medusa_chat.errors import CheckpointError
from medusa_chat.records import LoadProgress
from medusa_chat.registry import HubSource

OnProgress = Callable[[LoadProgress], None]
# What a hub says becomes names of files.
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_WEIGHTS = (".safetensors", ".bin", ".pt")
_CHUNK_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class _RemoteFile:
    """sha256: of a large one; small ones are left to the library. size: bytes."""

    name: str
    size: int
    sha256: str | None


@dataclass(frozen=True, slots=True)
class _Listing:
    """What is needed of a repository at one commit."""

    commit: str
    files: Sequence[_RemoteFile]


def pull_repo(source: HubSource, wanted: Wanted, on_progress: OnProgress) -> Path:
    """The folder of the repository's files, those fetched that are missing or damaged. Safe to interrupt, and
    to run twice at once.

    Raises CheckpointError.
    """
    from huggingface_hub import constants

    if constants.is_offline_mode():
        raise CheckpointError(offline_sentence(source))
    _adjust_library()
    cache = hub_cache.cache_dir()
    lock = hub_cache.lock_file(source)
    with (
        plain_disk_errors(cache, "what was fetched stays for the next try"),
        plain_hub_errors(source),
    ):
        lock.parent.mkdir(parents=True, exist_ok=True)
        with only_one(lock, source.repo, on_progress):
            on_progress(LoadProgress(f"Asking the hub for {source.repo}"))
            listing = _list(source, wanted)
            snapshot = hub_cache.snapshot_dir(source, listing.commit)
            assert snapshot is not None  # the commit is known
            missing = [file for file in listing.files if not _is_sound(snapshot / file.name, file)]
            check_room(cache, sum(_bytes_to_come(source, file) for file in missing), source.repo)
            _fetch_all(source, listing.commit, missing, on_progress)
            _note_branch(source, listing)
            return snapshot


def _adjust_library() -> None:
    """Its bars and warnings would go through ours; and a slow line takes long for chunks as large as its own:
    until one is whole nothing moves, and a kill loses it.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import disable_progress_bars, logging

    logging.set_verbosity_error()
    disable_progress_bars()
    constants.DOWNLOAD_CHUNK_SIZE = min(constants.DOWNLOAD_CHUNK_SIZE, _CHUNK_BYTES)


def _list(source: HubSource, wanted: Wanted) -> _Listing:
    from huggingface_hub import HfApi

    info = HfApi().model_info(source.repo, revision=source.revision, files_metadata=True)
    entries = {entry.rfilename: entry for entry in info.siblings or []}
    names = choose_files(entries, wanted)
    if not _COMMIT.fullmatch(info.sha or ""):
        raise CheckpointError(no_hub_sentence(source))
    if not names:
        raise CheckpointError(
            f"{source} holds no weights that can be loaded here (safetensors, or .bin and .pt of PyTorch); "
            "choose another repository."
        )
    files = []
    for name in names:
        lfs = entries[name].lfs
        digest = lfs.sha256 if lfs and _SHA256.fullmatch(lfs.sha256) else None
        files.append(_RemoteFile(name, entries[name].size or 0, digest))
    return _Listing(info.sha, files)


def _is_sound(local: Path, file: _RemoteFile) -> bool:
    """Whether the file is here; one that is damaged is thrown away, and where the link to it leads."""
    if not local.is_file():
        return False
    is_whole = file.size in (0, local.stat().st_size)
    if is_whole and not (local.suffix in _WEIGHTS and is_cut_short(local)):
        return True
    local.resolve().unlink()
    local.unlink(missing_ok=True)
    return False


def _bytes_to_come(source: HubSource, file: _RemoteFile) -> int:
    if file.sha256 is None:
        return file.size
    blob = _blob(source, file.sha256)
    return 0 if blob.is_file() else file.size - resuming.bytes_here(blob)


def _blob(source: HubSource, digest: str) -> Path:
    return hub_cache.repo_dir(source) / "blobs" / digest


def _fetch_all(source: HubSource, commit: str, files: Sequence[_RemoteFile], on_progress: OnProgress) -> None:
    from huggingface_hub import hf_hub_download, hf_hub_url

    total = max(1, sum(file.size for file in files))
    done = 0

    def report(size: int) -> None:
        fraction = min((done + size) / total, 1.0)
        on_progress(LoadProgress(f"Downloading {source.repo}", fraction, total))

    for file in files:
        report(0)
        blob = _blob(source, file.sha256) if file.sha256 is not None else None
        if blob is not None and not blob.is_file():
            url = hf_hub_url(source.repo, file.name, revision=commit)
            resuming.fetch(url, blob, file.size, report)
        # Links to what was fetched, or fetches it.
        local = hf_hub_download(source.repo, file.name, revision=commit, cache_dir=hub_cache.cache_dir())
        if blob is not None and not Path(local).is_symlink():
            blob.unlink(missing_ok=True)  # a system without links got a copy
        done += file.size


def _note_branch(source: HubSource, listing: _Listing) -> None:
    """So that the snapshot is found by the branch's name; a side effect of asking for a file that is here."""
    from huggingface_hub import hf_hub_download

    if not source.is_pinned:
        first = listing.files[0].name
        hf_hub_download(source.repo, first, revision=source.revision, cache_dir=hub_cache.cache_dir())
