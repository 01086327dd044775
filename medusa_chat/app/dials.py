"""All that can be changed while the chat runs, by name: to an exact value, by steps, back to its default."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from medusa_chat.app.dial import Dial, PresetDial, Setup
from medusa_chat.app.dial_table import SAMPLING, SYSTEM, THEME, one_of
from medusa_chat.app.presets import PRESETS
from medusa_chat.errors import UsageError
from medusa_chat.printable import printable
from medusa_chat.records import SamplingOptions
from medusa_chat.settings import did_you_mean


class Dials:
    """All options by name, in the order they are shown, with the user's presets among those that come with
    the program.
    """

    def __init__(self, own_presets: Mapping[str, SamplingOptions] | None = None) -> None:
        presets = PRESETS | {printable(name): preset for name, preset in (own_presets or {}).items()}
        preset = PresetDial(
            "preset", "Preset", "A set of sampling values by name.", one_of(tuple(presets)), presets
        )
        self._by_name = {dial.name: dial for dial in (preset, *SAMPLING, SYSTEM, THEME)}

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
