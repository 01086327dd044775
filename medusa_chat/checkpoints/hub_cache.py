"""Where files of a hub lie on this machine: in the hub library's own cache, which other programs share.

A model that any of them has fetched is not fetched again, and none is kept twice. The layout is documented:
models--OWNER--NAME holds blobs/DIGEST, refs/BRANCH (a file with a commit) and snapshots/COMMIT/FILE.
"""

from __future__ import annotations

import os
from pathlib import Path

from medusa_chat import paths
from medusa_chat.registry import HubSource

_REPO_PREFIX = "models--"


def cache_dir() -> Path:
    """The library's cache; under MEDUSA_CHAT_HOME, if that is set, since it promises to hold everything."""
    if os.environ.get("MEDUSA_CHAT_HOME"):
        return paths.cache_dir() / "hub"
    # As the library finds it, which the app's process does not import.
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("HF_HOME", os.path.join(cache, "huggingface"))
    older_name = os.environ.get("HUGGINGFACE_HUB_CACHE", os.path.join(_expanded(home), "hub"))
    return Path(_expanded(os.environ.get("HF_HUB_CACHE", older_name)))


def _expanded(path: str) -> str:
    return os.path.expandvars(os.path.expanduser(path))


def repo_dir(source: HubSource) -> Path:
    """Folder of all that was ever fetched of a repository."""
    return cache_dir() / f"{_REPO_PREFIX}{source.repo.replace('/', '--')}"


def lock_file(source: HubSource) -> Path:
    """Held while the repository is pulled by us."""
    return cache_dir() / ".locks" / repo_dir(source).name / "medusa-chat.lock"


def snapshot_dir(source: HubSource, commit: str | None = None) -> Path | None:
    """Folder of the repository's files at its revision, or at `commit`; it need not exist.

    None for a branch that was never fetched: nobody here knows which commit that is.
    """
    commit = commit or (source.revision if source.is_pinned else _commit_of_branch(source))
    return repo_dir(source) / "snapshots" / commit if commit else None


def find_source(folder: Path) -> tuple[str, str] | None:
    """Repository and commit that a folder is a snapshot of, in whichever cache; None if it is none."""
    repo_folder = folder.parent.parent.name
    if folder.parent.name != "snapshots" or not repo_folder.startswith(_REPO_PREFIX):
        return None
    return repo_folder.removeprefix(_REPO_PREFIX).replace("--", "/"), folder.name


def _commit_of_branch(source: HubSource) -> str | None:
    try:
        return (repo_dir(source) / "refs" / source.revision).read_text(encoding="ascii").strip() or None
    except (OSError, UnicodeDecodeError):
        return None
