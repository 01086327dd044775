"""All that can be changed while the chat runs: by a notch of a key, or to an exact value by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

from textual.theme import BUILTIN_THEMES

from medusa_chat.app.presets import PRESETS, apply_preset, preset_in_force
from medusa_chat.app.scales import Choice, Numbers, Scale, Text, Trees
from medusa_chat.errors import UsageError
from medusa_chat.printable import printable
from medusa_chat.records import (
    BUILT_TREES,
    MAX_TREE_SIZE,
    PUBLISHED_TREES,
    AcceptanceRule,
    ContextPolicy,
    SamplingOptions,
)
from medusa_chat.settings import did_you_mean


@dataclass(frozen=True, slots=True)
class Setup:
    """What is in force: how tokens are chosen, the conversation's system prompt, the screen's theme."""

    options: SamplingOptions
    system: str | None
    theme: str


@dataclass(frozen=True, slots=True)
class Dial:
    """One option. name: as /set takes it. help: what it does, in a line."""

    name: str
    label: str
    help: str
    scale: Scale

    def value(self, setup: Setup) -> Any:
        return getattr(setup, self.name)

    def put(self, setup: Setup, value: Any) -> Setup:
        """Raises ValueError, with a sentence, for a value out of range."""
        return replace(setup, **{self.name: value})

    def reset(self, setup: Setup, defaults: Setup) -> Setup:
        return self.put(setup, self.value(defaults))

    def shown(self, setup: Setup) -> str:
        """As it can be typed."""
        return printable(self.scale.show(self.value(setup)))

    def caution(self, setup: Setup) -> str:
        """To stand behind the value, as in "typical (lossy)"; empty for most."""
        word = self.scale.caution(self.value(setup))
        return f" ({word})" if word else ""


class _OptionDial(Dial):
    """One of SamplingOptions."""

    __slots__ = ()

    def value(self, setup: Setup) -> Any:
        return getattr(setup.options, self.name.replace("-", "_"))

    def put(self, setup: Setup, value: Any) -> Setup:
        return replace(setup, options=replace(setup.options, **{self.name.replace("-", "_"): value}))


class _TreeDial(_OptionDial):
    __slots__ = ()

    def put(self, setup: Setup, value: Any) -> Setup:
        # Any tree but the engine's own has a size of its own.
        size = setup.options.tree_size if value in BUILT_TREES else None
        return replace(setup, options=replace(setup.options, tree=value, tree_size=size))


@dataclass(frozen=True, slots=True)
class _PresetDial(Dial):
    presets: Mapping[str, SamplingOptions]

    def value(self, setup: Setup) -> Any:
        return preset_in_force(setup.options, self.presets) or "own values"

    def put(self, setup: Setup, value: Any) -> Setup:
        return replace(setup, options=apply_preset(setup.options, self.presets[value]))

    def reset(self, setup: Setup, defaults: Setup) -> Setup:
        return replace(setup, options=apply_preset(setup.options, defaults.options))


def _same(words: tuple[str, ...]) -> Choice:
    return Choice({word: word for word in words})


_TEMPERATURE = _OptionDial(
    "temperature",
    "Temperature",
    "How much chance has a say: 0 always takes the likeliest word, above 1 gets wild.",
    Numbers([n / 10 for n in range(21)], "a number from 0 to 5, such as 0.7"),
)
_TOP_P = _OptionDial(
    "top-p",
    "Top-p",
    "Only the likeliest words that together reach this probability.",
    Numbers([n / 20 for n in range(1, 21)], "a number above 0 and at most 1, or off", ("off", 1.0)),
)
_TOP_K = _OptionDial(
    "top-k",
    "Top-k",
    "Only so many of the likeliest words.",
    Numbers((1, 5, 10, 20, 40, 60, 80, 100, 0), "a whole number, or off", ("off", 0)),
)
_ACCEPTANCE = _OptionDial(
    "acceptance",
    "Accept",
    "exact: the words that the model alone would say. typical: longer steps, but lossy.",
    Choice({rule: rule for rule in get_args(AcceptanceRule)}, {"typical": "lossy"}),
)
_DRAFTING = _OptionDial(
    "drafting",
    "Drafting",
    "Draft ahead and verify. Off decodes plainly, one token a step.",
    Choice({"on": True, "off": False}),
)
_SAMPLING = (
    _TEMPERATURE,
    _TOP_P,
    _TOP_K,
    _OptionDial(
        "min-p",
        "Min-p",
        "Only words at least this share as likely as the likeliest.",
        Numbers(
            [0.0, 0.01, 0.02, *(n / 20 for n in range(1, 11))],
            "a number from 0 to below 1, or off",
            ("off", 0.0),
        ),
    ),
    _OptionDial(
        "max-tokens",
        "Max tokens",
        "The longest reply. One that reaches it can be gone on with.",
        Numbers([2**n for n in range(5, 15)], "a whole number from 1"),
    ),
    _OptionDial(
        "seed",
        "Seed",
        "The same number gives the same answer again; auto draws a fresh one for each.",
        Numbers([None, *range(100)], "a whole number from 0, or auto", ("auto", None), slides=False),
    ),
    _ACCEPTANCE,
    _DRAFTING,
    _TreeDial(
        "tree",
        "Draft tree",
        "dynamic: the likeliest nodes at each step. static: always the same. Or a published one.",
        Trees((*BUILT_TREES, *PUBLISHED_TREES)),
    ),
    _OptionDial(
        "tree-size",
        "Tree size",
        "Nodes verified at each step; auto goes by the times measured on this machine.",
        Numbers(
            [None, *range(1, MAX_TREE_SIZE + 1)],
            f"a whole number from 1 to {MAX_TREE_SIZE}, or auto",
            ("auto", None),
        ),
    ),
    _OptionDial(
        "context",
        "Context",
        "When it is full: drop-oldest forgets, keep-first spares the first turn, stop refuses.",
        _same(get_args(ContextPolicy)),
    ),
)
_SYSTEM = Dial("system", "System", "What the model is told before the conversation.", Text())
_THEME = Dial("theme", "Theme", "The colours of the screen.", _same(tuple(BUILTIN_THEMES)))


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


class Dials:
    """All options by name, in the order they are shown, with the user's presets among those that come with
    the program.
    """

    def __init__(self, own_presets: Mapping[str, SamplingOptions] | None = None) -> None:
        presets = PRESETS | {printable(name): preset for name, preset in (own_presets or {}).items()}
        preset = _PresetDial(
            "preset", "Preset", "A set of sampling values by name.", _same(tuple(presets)), presets
        )
        self._by_name = {dial.name: dial for dial in (preset, *_SAMPLING, _SYSTEM, _THEME)}

    def __iter__(self) -> Iterator[Dial]:
        return iter(self._by_name.values())

    def __getitem__(self, name: str) -> Dial:
        """Raises UsageError, with the nearest name, where there is no such option."""
        if name not in self._by_name:
            hint = did_you_mean(name, self._by_name) or f" Known: {', '.join(self._by_name)}."
            raise UsageError(f"There is no option {printable(name)!r}.{hint}")
        return self._by_name[name]

    @property
    def values(self) -> dict[str, tuple[str, ...] | str]:
        """What each option takes: the words, or a text that says what may be typed."""
        return {dial.name: dial.scale.choices or dial.scale.wanted for dial in self}

    def set(self, setup: Setup, name: str, text: str) -> Setup:
        """The setup with one option as the user typed it. Raises UsageError."""
        dial = self[name]
        try:
            value = dial.scale.read(text)
        except ValueError:
            near = did_you_mean(text, dial.scale.choices)
            raise UsageError(f"{name} takes {printable(dial.scale.wanted)}.{near}") from None
        return _allowed(lambda: dial.put(setup, value))

    def obey(self, setup: Setup, argument: str) -> Setup:
        """The setup after /set with this argument, OPTION VALUE. Raises UsageError."""
        name, _, value = argument.strip().partition(" ")
        dial = self[name]
        if not value.strip():
            wanted = printable(dial.scale.wanted)
            raise UsageError(f"/set takes an option and a value; {name} takes {wanted}.")
        return self.set(setup, name, value.strip())

    def step(self, setup: Setup, name: str, notches: int) -> Setup:
        """Raises UsageError where the rest of the setup doesn't allow it, as do the next two."""
        dial = self[name]
        return _allowed(lambda: dial.put(setup, dial.scale.step(dial.value(setup), notches)))

    def slide(self, setup: Setup, name: str, share: float) -> Setup:
        """To where it is so far along, 0 to 1; an option without a slider stays."""
        dial = self[name]
        if dial.scale.share(dial.value(setup)) is None:
            return setup
        return _allowed(lambda: dial.put(setup, dial.scale.at(share)))

    def reset(self, setup: Setup, name: str, defaults: Setup) -> Setup:
        """To its default."""
        return _allowed(lambda: self[name].reset(setup, defaults))

    def listing(self, setup: Setup, defaults: Setup) -> str:
        """A line for each option, with its default where it has another value."""
        width = max(map(len, self._by_name))
        lines = []
        for dial in self:
            now, default = dial.shown(setup), dial.shown(defaults)
            note = "" if now == default else f"  (default {default})"
            lines.append(f"{dial.name.ljust(width)}  {now}{dial.caution(setup)}{note}")
        return "\n".join(lines)


def _allowed(change: Callable[[], Setup]) -> Setup:
    try:
        return change()
    except ValueError as error:
        raise UsageError(str(error)) from None
