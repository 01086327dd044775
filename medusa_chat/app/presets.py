"""Named sets of sampling values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from medusa_chat.records import SamplingOptions

PRESETS = {
    # Always the likeliest word: for facts, code and sums. Drafts are then accepted most often as well.
    "precise": SamplingOptions(temperature=0.0),
    # The defaults: a little chance, and none for the unlikely tenth, which small models stumble over.
    "balanced": SamplingOptions(),
    # The model's own distribution; min-p cuts what is ten times less likely than the best, which keeps sense
    # where top-p, at this heat, would let in too much where many words fit and too little where few do.
    "creative": SamplingOptions(temperature=1.0, top_p=1.0, min_p=0.1),
}
_ALWAYS_SET = ("temperature", "top_p", "top_k", "min_p")
_BUILTIN = SamplingOptions()


def apply_preset(options: SamplingOptions, preset: SamplingOptions) -> SamplingOptions:
    """Takes over what shapes the distribution, and of the rest what differs from the built-in defaults.

    Raises ValueError, as SamplingOptions does, if both together make no sense.
    """
    taken = {
        field.name: value
        for field in dataclasses.fields(SamplingOptions)
        if (value := getattr(preset, field.name)) != getattr(_BUILTIN, field.name)
        or field.name in _ALWAYS_SET
    }
    return dataclasses.replace(options, **taken)


def preset_in_force(options: SamplingOptions, presets: Mapping[str, SamplingOptions]) -> str | None:
    """The name of that whose values the options have; of several the last, which is the user's."""
    return next((name for name in reversed(tuple(presets)) if _holds(options, presets[name])), None)


def _holds(options: SamplingOptions, preset: SamplingOptions) -> bool:
    try:
        return apply_preset(options, preset) == options
    except ValueError:
        return False
