"""The options there are, with what each takes; and what keys do to some of them."""

from __future__ import annotations

from typing import get_args

from textual.theme import BUILTIN_THEMES

from medusa_chat.app.dial import Dial, OptionDial, Setup, TreeDial
from medusa_chat.app.scales import Choice, Numbers, Text, Trees
from medusa_chat.records import (
    BUILT_TREES,
    MAX_TREE_SIZE,
    PUBLISHED_TREES,
    AcceptanceRule,
    ContextPolicy,
    SamplingOptions,
)


def one_of(words: tuple[str, ...]) -> Choice:
    return Choice({word: word for word in words})


_TEMPERATURE = OptionDial(
    "temperature",
    "Temperature",
    "How much chance has a say: 0 always takes the likeliest word, above 1 gets wild.",
    Numbers([n / 10 for n in range(21)], "a number from 0 to 5, such as 0.7"),
)
_TOP_P = OptionDial(
    "top-p",
    "Top-p",
    "Only the likeliest words that together reach this probability.",
    Numbers([n / 20 for n in range(1, 21)], "a number above 0 and at most 1, or off", ("off", 1.0)),
)
_TOP_K = OptionDial(
    "top-k",
    "Top-k",
    "Only so many of the likeliest words.",
    Numbers((1, 5, 10, 20, 40, 60, 80, 100, 0), "a whole number, or off", ("off", 0)),
)
_ACCEPTANCE = OptionDial(
    "acceptance",
    "Accept",
    "exact: the words that the model alone would say. typical: longer steps, but lossy.",
    Choice({rule: rule for rule in get_args(AcceptanceRule)}, {"typical": "lossy"}),
)
_DRAFTING = OptionDial(
    "drafting",
    "Drafting",
    "Draft ahead and verify. Off decodes plainly, one token a step.",
    Choice({"on": True, "off": False}),
)
SAMPLING = (
    _TEMPERATURE,
    _TOP_P,
    _TOP_K,
    OptionDial(
        "min-p",
        "Min-p",
        "Only words at least this share as likely as the likeliest.",
        Numbers(
            [0.0, 0.01, 0.02, *(n / 20 for n in range(1, 11))],
            "a number from 0 to below 1, or off",
            ("off", 0.0),
        ),
    ),
    OptionDial(
        "max-tokens",
        "Max tokens",
        "The longest reply. One that reaches it can be gone on with.",
        Numbers([2**n for n in range(5, 15)], "a whole number from 1"),
    ),
    OptionDial(
        "seed",
        "Seed",
        "The same number gives the same answer again; auto draws a fresh one for each.",
        Numbers([None, *range(100)], "a whole number from 0, or auto", ("auto", None), slides=False),
    ),
    _ACCEPTANCE,
    _DRAFTING,
    TreeDial(
        "tree",
        "Draft tree",
        "dynamic: the likeliest nodes at each step. static: always the same. Or a published one.",
        Trees((*BUILT_TREES, *PUBLISHED_TREES)),
    ),
    OptionDial(
        "tree-size",
        "Tree size",
        "Nodes verified at each step; auto goes by the times measured on this machine.",
        Numbers(
            [None, *range(1, MAX_TREE_SIZE + 1)],
            f"a whole number from 1 to {MAX_TREE_SIZE}, or auto",
            ("auto", None),
        ),
    ),
    OptionDial(
        "context",
        "Context",
        "When it is full: drop-oldest forgets, keep-first spares the first turn, stop refuses.",
        one_of(get_args(ContextPolicy)),
    ),
)
SYSTEM = Dial("system", "System", "What the model is told before the conversation.", Text())
THEME = Dial("theme", "Theme", "The colours of the screen.", one_of(tuple(BUILTIN_THEMES)))


def turn_temperature(options: SamplingOptions, notches: int) -> SamplingOptions:
    """0.1 a notch, between 0 (greedy) and 2."""
    return _turned(options, _TEMPERATURE, notches)


def turn_top_p(options: SamplingOptions, notches: int) -> SamplingOptions:
    """0.05 a notch, between 0.05 and 1 (off)."""
    return _turned(options, _TOP_P, notches)


def turn_top_k(options: SamplingOptions, notches: int) -> SamplingOptions:
    """To the next larger or smaller of a few usual values; above the largest it is off."""
    return _turned(options, _TOP_K, notches)


def switch_acceptance(options: SamplingOptions) -> SamplingOptions:
    return _turned(options, _ACCEPTANCE, 1)


def switch_drafting(options: SamplingOptions) -> SamplingOptions:
    return _turned(options, _DRAFTING, 1)


def _turned(options: SamplingOptions, dial: Dial, notches: int) -> SamplingOptions:
    setup = Setup(options, None, "")
    return dial.put(setup, dial.scale.step(dial.value(setup), notches)).options
