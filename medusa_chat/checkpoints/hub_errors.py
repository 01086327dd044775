"""What a hub refuses or breaks off, in sentences that say what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from medusa_chat.errors import CheckpointError
from medusa_chat.registry import HubSource


@contextmanager
def plain_hub_errors(source: HubSource) -> Iterator[None]:
    """Turns the library's exceptions into CheckpointErrors; lets those of the disk pass."""
    from huggingface_hub import errors

    transport_error: type[Exception] = errors.HTTPError
    try:
        yield
    except errors.GatedRepoError:
        raise CheckpointError(_gated(source.repo)) from None
    except errors.RepositoryNotFoundError:
        raise CheckpointError(
            f"The hub has no model {source.repo}, or it is private. Check the name; for a private one "
            f"{_HOW_TO_LOG_IN}."
        ) from None
    except errors.RevisionNotFoundError:
        raise CheckpointError(
            f"{source.repo} has no revision {source.revision}. Check it, or leave the revision out."
        ) from None
    except errors.HfHubHTTPError as error:
        raise CheckpointError(_refused(source, error.response.status_code)) from None
    except transport_error as error:
        raise CheckpointError(_unreachable(source, str(error))) from None
    except ValueError:  # not JSON, say: a page to log in to the network
        raise CheckpointError(no_hub_sentence(source)) from None
    except OSError as error:
        if error.errno is not None:
            raise
        # The library's own, for a connection that ended early.
        raise CheckpointError(_unreachable(source, str(error))) from None


def no_hub_sentence(source: HubSource) -> str:
    """What to say of an answer that no hub would give."""
    return f"What answers for {source} is no hub; check HF_ENDPOINT and the network, then pull it again."


def offline_sentence(source: HubSource) -> str:
    """What to say where HF_HUB_OFFLINE forbids to ask the hub."""
    return (
        f"{source} is not whole on this machine, and HF_HUB_OFFLINE forbids fetching it. "
        "Unset HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE, or choose a model that is here."
    )


_HOW_TO_LOG_IN = "log in with `hf auth login` or set HF_TOKEN"


def _gated(repo: str) -> str:
    from huggingface_hub import constants, get_token

    page = f"{constants.ENDPOINT}/{repo}"
    if get_token() is None:
        return f"{repo} is gated: ask for access at {page}, then {_HOW_TO_LOG_IN}, and pull it again."
    return f"{repo} is gated, and your token has no access yet: ask for it at {page}, then pull it again."


def _refused(source: HubSource, status: int) -> str:
    if status in (401, 403):
        return (
            f"The hub refuses your token for {source.repo} (status {status}): {_HOW_TO_LOG_IN}, with a token "
            "that may read it."
        )
    if status == 429:
        return f"The hub asks for patience (status 429). Pull {source.repo} again in some minutes."
    return f"The hub answered with status {status} for {source}. Try again later."


def _unreachable(source: HubSource, reason: str) -> str:
    first_line = (reason.strip().splitlines() or ["no reason was given"])[0].rstrip(".")
    first_line = re.sub(r"^\[Errno -?\d+\] ", "", first_line)
    return (
        f"{source} could not be fetched ({first_line}). Check the network and pull it again: "
        "it goes on where it was."
    )
