"""Large pastes, folded: a text box takes a second for 2 MB, and for each key in a line of that length."""

from __future__ import annotations

from medusa_chat.quantities import lines, size

_LONGEST_UNFOLDED = 20_000
_MOST_LINES_UNFOLDED = 200


class Pastes:
    """The large texts of this session, each with the short one that stands for it in the box."""

    def __init__(self) -> None:
        self._folded: dict[str, str] = {}

    def fold(self, text: str) -> str:
        """The text with what is known of it folded; if it is too large even so, all of it is."""
        for placeholder, pasted in self._folded.items():
            text = text.replace(pasted, placeholder)
        num_lines = text.count("\n") + 1
        if len(text) <= _LONGEST_UNFOLDED and num_lines <= _MOST_LINES_UNFOLDED:
            return text
        facts = f"{lines(num_lines)}, {size(len(text.encode()))}"
        placeholder = f"[pasted {len(self._folded) + 1}: {facts}]"
        self._folded[placeholder] = text
        return placeholder

    def unfold(self, text: str) -> str:
        # The latest first: it may hold earlier ones.
        for placeholder, pasted in reversed(self._folded.items()):
            text = text.replace(placeholder, pasted)
        return text

    def within(self, text: str) -> tuple[str, ...]:
        """The pasted texts that are folded in this one."""
        return tuple(pasted for placeholder, pasted in self._folded.items() if placeholder in text)

    def before(self, left: str) -> str | None:
        """What stands for a paste at the end of a text."""
        return next((placeholder for placeholder in self._folded if left.endswith(placeholder)), None)
