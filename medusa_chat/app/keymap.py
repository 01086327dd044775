"""The user's own keys: [keys] of config.toml, checked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from textual.binding import Binding
from textual.keys import KEY_NAME_REPLACEMENTS, key_to_character

from medusa_chat.app.keys import APP, CHAT, CONVERSATIONS, MESSAGES, TALK, Shortcut, written
from medusa_chat.errors import UsageError
from medusa_chat.printable import printable
from medusa_chat.settings import did_you_mean, place_of

_ROOMS = (APP, (*TALK, *CHAT), (*CHAT, *MESSAGES), CONVERSATIONS)
_WITHOUT_A_BOX = (*MESSAGES, *CONVERSATIONS)  # where letters can be keys
_BY_ID = {shortcut.id: shortcut for room in _ROOMS for shortcut in room}
_MODIFIERS = {"alt", "ctrl", "shift", "super"}
_MOVES = {"up", "down", "left", "right", "home", "end", "pageup", "pagedown", "tab", "shift+tab"}
_EDITS = {"enter", "shift+enter", "backspace", "delete", "space"}
_NAMED = {*_MOVES, *_EDITS, "escape", "insert", *(f"f{n}" for n in range(1, 25))}
_TAKEN = {
    "ctrl+m": "to a terminal it is Enter",
    "ctrl+i": "to a terminal it is Tab",
    "ctrl+h": "to a terminal it is Backspace",
    "ctrl+left_square_bracket": "to a terminal it is Esc",
    "ctrl+c": "it copies",
    "ctrl+p": "it opens the command palette",
    **dict.fromkeys(_MOVES, "it moves about"),
}


def checked_keymap(configured: Mapping[str, str]) -> dict[str, str]:
    """For App.set_keymap: the same ids, with keys as Textual names them.

    Raises UsageError naming id, key and place: an id that there isn't, a key that there isn't or that has
    another use, or one that two actions would share.
    """
    keymap: dict[str, str] = {}
    for id, keys in configured.items():
        if id not in _BY_ID:
            raise UsageError(f"{_wrong(id, 'there is no such action')}{did_you_mean(id, _BY_ID)}")
        keymap[id] = ",".join(_checked(key, id) for key in keys.split(","))
    for room in _ROOMS[1:]:
        _check_each_once((*APP, *room), keymap)
    return keymap


def _checked(written_key: str, id: str) -> str:
    key = _normal(written_key.strip().lower())
    if key is None:
        what = f"there is no key {printable(written_key.strip())!r}; keys are written as f11, ctrl+r, alt+up"
        raise UsageError(_wrong(id, what))
    reason = _TAKEN.get(key)
    if reason is None and _BY_ID[id] not in _WITHOUT_A_BOX:
        reason = _use_in_prompt(key)
    if reason is not None:
        raise UsageError(_wrong(id, f"{written(key)} can't be used, {reason}"))
    return key


def _normal(key: str) -> str | None:
    """As Textual names it, or None for what is no key."""
    *modifiers, base = key.split("+")
    is_known = base in _NAMED or base in KEY_NAME_REPLACEMENTS.values() or key_to_character(base) is not None
    if not is_known or not _MODIFIERS.issuperset(modifiers):
        return None
    (binding,) = Binding.make_bindings([(base, "")])
    return "+".join((*sorted(modifiers), binding.key))


def _use_in_prompt(key: str) -> str | None:
    if key == "ctrl+j":
        return "it begins a new line in the prompt"
    *modifiers, base = key.split("+")
    types = base not in _NAMED and not {"alt", "ctrl", "super"}.intersection(modifiers)
    return "the prompt needs it" if types or key in _EDITS else None


def _check_each_once(shortcuts: Sequence[Shortcut], keymap: Mapping[str, str]) -> None:
    owners: dict[str, list[str]] = defaultdict(list)
    for shortcut in shortcuts:
        for key in _each(keymap.get(shortcut.id, shortcut.keys)):
            owners[key].append(shortcut.id)
    for key, ids in owners.items():
        if len(ids) > 1:
            mine = next(id for id in ids if id in keymap)
            others = " and ".join(id for id in ids if id != mine)
            what = f"{written(key)} is bound to {others} too; give one of them another key"
            raise UsageError(_wrong(mine, what))


def _each(keys: str) -> Iterator[str]:
    yield from dict.fromkeys(keys.split(","))


def _wrong(id: str, what: str) -> str:
    return f"Setting keys.{printable(id)} is wrong: {what} (look in {place_of(['keys', id])})."
