"""Sampling options as they are kept with a conversation: as JSON, and only what differs from the defaults."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from medusa_chat.printable import printable
from medusa_chat.records import SamplingOptions

_SAMPLING = TypeAdapter(SamplingOptions)
_MOST_SHOWN = 60


def options_to_json(options: SamplingOptions, defaults: SamplingOptions) -> str:
    """An object of what differs; "{}" where nothing does, so that the conversation follows the defaults."""
    usual = _SAMPLING.dump_python(defaults, mode="json")
    values = _SAMPLING.dump_python(options, mode="json")
    return json.dumps({key: value for key, value in values.items() if value != usual[key]})


def options_from_json(text: str, defaults: SamplingOptions) -> tuple[SamplingOptions, str | None]:
    """The options, and a sentence if some of them are not known here or not valid: those are ignored."""
    try:
        stored = json.loads(text)
    except (ValueError, RecursionError):
        stored = None
    if not isinstance(stored, dict):
        return defaults, "The options kept with this conversation can't be read; the defaults are used."
    usual = _SAMPLING.dump_python(defaults)
    good: dict[str, Any] = {}
    for key, value in stored.items():
        if key in usual:
            with suppress(ValidationError):
                good[key] = getattr(_SAMPLING.validate_python({key: value}), key)
    try:
        options = replace(defaults, **good)
    except ValueError:  # each is valid, but not together with the others
        options, good = defaults, {}
    ignored = [key for key in stored if key not in good]
    return options, _remark(ignored) if ignored else None


def _remark(keys: list[str]) -> str:
    names = printable(", ".join(keys))
    names = names if len(names) <= _MOST_SHOWN else f"{names[: _MOST_SHOWN - 1]}…"
    return f"Of the options kept with this conversation these are not usable here and were ignored: {names}."
