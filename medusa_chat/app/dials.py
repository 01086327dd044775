"""Changing SamplingOptions: by one notch of a key, or to an exact value by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from medusa_chat.errors import UsageError
from medusa_chat.records import SamplingOptions

_HIGHEST_TEMPERATURE = 2.0
_LOWEST_TOP_P = 0.05
# 0 is off, which lets most through: it stands above the largest.
_TOP_K_NOTCHES = (1, 5, 10, 20, 40, 60, 80, 100)


def turn_temperature(options: SamplingOptions, notches: int) -> SamplingOptions:
    """0.1 a notch, between 0 (greedy) and 2."""
    wanted = round(options.temperature + 0.1 * notches, 2)
    return replace(options, temperature=min(max(wanted, 0.0), _HIGHEST_TEMPERATURE))


def turn_top_p(options: SamplingOptions, notches: int) -> SamplingOptions:
    """0.05 a notch, between 0.05 and 1 (off)."""
    wanted = round(options.top_p + 0.05 * notches, 2)
    return replace(options, top_p=min(max(wanted, _LOWEST_TOP_P), 1.0))


def turn_top_k(options: SamplingOptions, notches: int) -> SamplingOptions:
    """To the next larger or smaller of a few usual values; above the largest it is off."""
    now = options.top_k or float("inf")
    if notches > 0:
        return replace(options, top_k=next((k for k in _TOP_K_NOTCHES if k > now), 0))
    return replace(options, top_k=next((k for k in reversed(_TOP_K_NOTCHES) if k < now), 1))


def switch_acceptance(options: SamplingOptions) -> SamplingOptions:
    return replace(options, acceptance="typical" if options.acceptance == "exact" else "exact")


def switch_drafting(options: SamplingOptions) -> SamplingOptions:
    return replace(options, drafting=not options.drafting)


def _rule(text: str) -> str:
    if text not in ("exact", "typical"):
        raise ValueError
    return text


def _whole_or_auto(text: str) -> int | None:
    return None if text == "auto" else int(text)


def _on_or_off(text: str) -> bool:
    return {"on": True, "off": False}[text]


# name -> how its value is read, and what to say when it can't be
_SETTABLE: dict[str, tuple[Callable[[str], Any], str]] = {
    "temperature": (float, "a number, such as 0.7"),
    "top-p": (float, "a number above 0 and at most 1"),
    "top-k": (int, "a whole number; 0 is off"),
    "min-p": (float, "a number from 0 to below 1"),
    "seed": (_whole_or_auto, "a whole number, or auto"),
    "max-tokens": (int, "a whole number"),
    "acceptance": (_rule, "exact or typical"),
    "drafting": (_on_or_off, "on or off"),
    "tree-size": (_whole_or_auto, "a whole number of nodes, or auto"),
}


def set_option(options: SamplingOptions, name: str, value: str) -> SamplingOptions:
    """The options with one of them set as the user typed it. Raises UsageError."""
    if name not in _SETTABLE:
        near = difflib.get_close_matches(name, _SETTABLE, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(_SETTABLE)}."
        raise UsageError(f"There is no option {name!r}. {hint}")
    read, wanted = _SETTABLE[name]
    try:
        read_value = read(value)
    except (ValueError, KeyError):
        raise UsageError(f"{name} takes {wanted}.") from None
    try:
        return replace(options, **{name.replace("-", "_"): read_value})
    except ValueError as error:
        raise UsageError(str(error)) from None


def option_values() -> dict[str, str]:
    """What each option takes, in words."""
    return {name: wanted for name, (_, wanted) in _SETTABLE.items()}
