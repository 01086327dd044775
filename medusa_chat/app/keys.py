"""Which key does what: the one table that the app's bindings, the help and the README come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from textual.binding import Binding, BindingType


@dataclass(frozen=True, slots=True)
class Shortcut:
    """An action and its keys, separated by commas, as Textual names them.

    id: as in config.toml under [keys]. label: in a word, for the footer, where it stands if in_footer.
    help: in a line.
    """

    id: str
    keys: str
    action: str
    label: str
    help: str
    in_footer: bool = False
    group: Binding.Group | None = None


_TEMPERATURE = Binding.Group("Temp", compact=True)
_FIRST_OF_GROUP = "temperature_down"

APP = (
    Shortcut("help", "f1", "help", "Help", "keys and commands on one page", True),
    Shortcut("temperature_down", "f2", "temperature(-1)", "Cooler", "temperature down", True, _TEMPERATURE),
    Shortcut("temperature_up", "f3", "temperature(1)", "Warmer", "temperature up", True, _TEMPERATURE),
    Shortcut("top_p_down", "f4", "top_p(-1)", "Lower top-p", "top-p down"),
    Shortcut("top_p_up", "f5", "top_p(1)", "Raise top-p", "top-p up"),
    Shortcut("top_k_down", "f6", "top_k(-1)", "Lower top-k", "top-k down"),
    Shortcut("top_k_up", "f7", "top_k(1)", "Raise top-k", "top-k up"),
    Shortcut("acceptance", "f8", "acceptance", "Accept", "acceptance: exact or typical (lossy)"),
    Shortcut("drafting", "f9", "drafting", "Draft", "drafting on or off", True),
    Shortcut("new", "ctrl+n", "new", "New", "new conversation", True),
    Shortcut("conversations", "ctrl+o", "conversations", "Chats", "conversations beside the chat", True),
    Shortcut("models", "ctrl+l", "models", "Models", "models: choose, fetch"),
    Shortcut("settings", "ctrl+s", "settings", "Set", "settings", True),
    Shortcut("theme", "ctrl+t", "light_or_dark", "Theme", "light or dark"),
    Shortcut("quit", "ctrl+q", "quit", "Quit", "quit", True),
)
TALK = (Shortcut("stop", "escape", "stop", "Stop", "stop the reply, keep what is there", True),)
# Also of the chat, whatever in it has the focus.
CHAT = (
    Shortcut("select", "ctrl+up", "select_message", "Select", "select a message"),
    Shortcut("again", "ctrl+r", "again", "Again", "another answer; the one before is kept"),
    Shortcut("go_on", "ctrl+g", "go_on", "Go on", "go on with a stopped reply"),
    Shortcut("origins", "f10", "origins", "Colours", "colour replies by who guessed each token"),
    Shortcut("race", "f12", "race", "Race", "plain decoding against Medusa, side by side"),
)
MESSAGES = (
    Shortcut("message_copy", "c", "copy", "Copy", "copy it", True),
    Shortcut("message_again", "r", "again", "Again", "another answer in its place; it is kept", True),
    Shortcut("message_edit", "e", "edit", "Edit", "say it otherwise, and go on from there; it is kept", True),
    Shortcut("message_raw", "v", "raw", "Raw", "its Markdown as it was written, or rendered", True),
    Shortcut("message_fold", "space", "fold", "Fold", "its first lines only, or all of it", True),
    Shortcut("message_leave", "escape,enter", "leave", "Back", "back to the prompt", True),
)
TITLES = (
    Shortcut("chats_open", "enter", "select", "Open", "go on with the conversation", True),
    Shortcut("chats_search", "slash", "search", "Search", "search titles and all that was said", True),
)
SIDEBAR = (
    Shortcut("chats_rename", "r", "rename", "Rename", "give it a title", True),
    Shortcut("chats_pin", "p", "pin", "Pin", "pin it to the top, or unpin it", True),
    Shortcut("chats_delete", "d,delete", "delete", "Delete", "delete it", True),
    Shortcut("chats_undo", "u", "undo", "Undo", "bring back what was deleted", True),
    Shortcut("chats_export", "e", "export('markdown')", "Export", "export it to Markdown", True),
    Shortcut("chats_json", "j", "export('json')", "JSON", "export it to JSON", True),
    Shortcut("chats_back", "escape", "back", "Back", "back to the prompt", True),
)
CONVERSATIONS = (*TITLES, *SIDEBAR)
# The prompt's own, which stay what they are.
_FIXED = (
    ("enter", "send"),
    ("ctrl+j,shift+enter", "new line"),
    ("up,down", "what was sent before"),
    ("tab", "complete a command, a model or a file"),
    ("@file", "attach a text file"),
    ("pageup,pagedown", "scroll the chat"),
)
_FIXED_OF_MESSAGES = (
    ("up,down", "the message above or below"),
    ("left,right", "another answer, another wording, and what followed it"),
    ("1,…,9", "copy a block of code of it"),
)
_NAMES = {"escape": "Esc", "pageup": "Page up", "pagedown": "Page down", "slash": "/", "question_mark": "?"}


def bindings(shortcuts: Sequence[Shortcut], *, priority: bool = False) -> list[BindingType]:
    """For a BINDINGS. priority: also while something else has the focus that has a use for the key."""
    return [
        Binding(
            shortcut.keys,
            shortcut.action,
            shortcut.label,
            show=shortcut.in_footer,
            key_display=_in_footer(shortcut.keys.partition(",")[0], shortcut.id),
            priority=priority,
            id=shortcut.id,
            group=shortcut.group,
        )
        for shortcut in shortcuts
    ]


def footer_key(binding: Binding) -> str:
    """A binding's key as the footer shows it, also one of the user's own: ^n, F2, Esc."""
    return binding.key_display or _in_footer(binding.key, binding.id)


def written(keys: str) -> str:
    """Keys as people write them: Ctrl+R, F12."""
    return ", ".join(_name(key.strip()) for key in keys.split(","))


def chat_rows(keymap: Mapping[str, str]) -> list[tuple[str, str]]:
    """Keys and what they do in the chat. keymap: id -> keys in place of the table's own."""
    return [*_fixed(_FIXED), *_rows((*TALK, *CHAT, *APP), keymap)]


def message_rows(keymap: Mapping[str, str]) -> list[tuple[str, str]]:
    """The same for the message that is selected."""
    return [*_fixed(_FIXED_OF_MESSAGES), *_rows(MESSAGES, keymap)]


def conversation_rows(keymap: Mapping[str, str]) -> list[tuple[str, str]]:
    """The same for the list of conversations."""
    return _rows(CONVERSATIONS, keymap)


def markdown_table() -> str:
    """Of all that can be given other keys; the README has it."""
    everything = (*TALK, *CHAT, *APP, *MESSAGES, *CONVERSATIONS)
    rows = [f"| `{s.id}` | {written(s.keys)} | {s.help} |" for s in everything]
    return "\n".join(("| id | keys | |", "|---|---|---|", *rows))


def _fixed(rows: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(written(keys), help) for keys, help in rows]


def _rows(shortcuts: Sequence[Shortcut], keymap: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(written(keymap.get(s.id, s.keys)), s.help) for s in shortcuts]


def _in_footer(key: str, id: str | None) -> str:
    short = _name(key)
    if short.startswith("Ctrl+"):
        short = f"^{short[5:].lower()}"
    return f"{short}/" if id == _FIRST_OF_GROUP else short


def _name(key: str) -> str:
    return "+".join(_NAMES.get(part, part.capitalize()) for part in key.split("+"))
