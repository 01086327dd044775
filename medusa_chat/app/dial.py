"""One option: where its value stands, and how it gets another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from medusa_chat.app.presets import apply_preset, preset_in_force
from medusa_chat.app.scales import Scale
from medusa_chat.printable import printable
from medusa_chat.records import BUILT_TREES, SamplingOptions


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


class OptionDial(Dial):
    """One of SamplingOptions."""

    __slots__ = ()

    def value(self, setup: Setup) -> Any:
        return getattr(setup.options, self.name.replace("-", "_"))

    def put(self, setup: Setup, value: Any) -> Setup:
        return replace(setup, options=replace(setup.options, **{self.name.replace("-", "_"): value}))


class TreeDial(OptionDial):
    """The draft tree."""

    __slots__ = ()

    def put(self, setup: Setup, value: Any) -> Setup:
        # Any tree but the engine's own has a size of its own.
        size = setup.options.tree_size if value in BUILT_TREES else None
        return replace(setup, options=replace(setup.options, tree=value, tree_size=size))


@dataclass(frozen=True, slots=True)
class PresetDial(Dial):
    """Several of them at once."""

    presets: Mapping[str, SamplingOptions]

    def value(self, setup: Setup) -> Any:
        return preset_in_force(setup.options, self.presets) or "own values"

    def put(self, setup: Setup, value: Any) -> Setup:
        return replace(setup, options=apply_preset(setup.options, self.presets[value]))

    def reset(self, setup: Setup, defaults: Setup) -> Setup:
        return replace(setup, options=apply_preset(setup.options, defaults.options))
