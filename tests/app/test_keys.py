"""Keys: the table, the user's own, and what comes of them in a running app."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.dom import DOMNode
from textual.widgets import TextArea

from medusa_chat.app.commands import COMMANDS
from medusa_chat.app.help_screen import HelpScreen
from medusa_chat.app.key_line import KeyLine
from medusa_chat.app.keymap import checked_keymap
from medusa_chat.app.keys import (
    APP,
    CHAT,
    CONVERSATIONS,
    MESSAGES,
    TALK,
    bindings,
    footer_key,
    markdown_table,
    written,
)
from medusa_chat.errors import UsageError
from medusa_chat.settings import load_settings
from tests.app.conftest import OpenChat
from tests.app.user import User, screen_of


def test_the_table_itself_is_right() -> None:
    everything = (*APP, *TALK, *CHAT, *MESSAGES, *CONVERSATIONS)
    assert len({shortcut.id for shortcut in everything}) == len(everything)
    as_they_are = {shortcut.id: shortcut.keys for shortcut in everything}
    assert checked_keymap(as_they_are) == as_they_are


def test_the_readme_has_the_table() -> None:
    readme = (Path(__file__).parent.parent.parent / "README.md").read_text(encoding="utf-8")
    assert markdown_table() in readme


@pytest.mark.parametrize(
    ("id", "keys", "wanted"),
    [
        ("help", "F11", "f11"),
        ("help", " Ctrl+R , f11", "ctrl+r,f11"),
        ("quit", "shift+ctrl+up", "ctrl+shift+up"),
        ("stop", "alt+x", "alt+x"),
        ("chats_rename", "?", "question_mark"),
        ("chats_rename", "N", "n"),
        ("chats_open", "enter,o", "enter,o"),
        ("chats_delete", "delete,delete", "delete,delete"),
    ],
)
def test_keys_are_taken_however_they_are_written(id: str, keys: str, wanted: str) -> None:
    free = {"again": "f13", "select": "f14"}  # what has these keys otherwise
    assert checked_keymap({id: keys, **free})[id] == wanted


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"hlep": "f11"}, r"keys\.hlep is wrong: there is no such action .*\)\. Did you mean help\?$"),
        ({"\x1bx": "f11"}, r"keys\.x is wrong: there is no such action"),
        ({"help": ""}, r"keys\.help is wrong: there is no key ''; keys are written as f11, ctrl\+r"),
        ({"help": "ctrl-h"}, "there is no key 'ctrl-h'"),
        ({"help": "hyper+f1"}, r"there is no key 'hyper\+f1'"),
        ({"help": "f25"}, "there is no key 'f25'"),
        ({"help": "f11,"}, "there is no key ''"),
        ({"help": "Ctrl+M"}, r"Ctrl\+M can't be used, to a terminal it is Enter \(look in"),
        ({"help": "ctrl+i"}, r"Ctrl\+I can't be used, to a terminal it is Tab"),
        ({"help": "ctrl+j"}, "it begins a new line in the prompt"),
        ({"help": "ctrl+p"}, "it opens the command palette"),
        ({"help": "h"}, "H can't be used, the prompt needs it"),
        ({"help": "H"}, "H can't be used, the prompt needs it"),
        ({"help": "shift+h"}, "the prompt needs it"),
        ({"help": "?"}, r"\? can't be used, the prompt needs it"),
        ({"help": "space"}, "the prompt needs it"),
        ({"help": "enter"}, "the prompt needs it"),
        ({"stop": "backspace"}, "the prompt needs it"),
        ({"chats_pin": "down"}, "Down can't be used, it moves about"),
        ({"help": "f9"}, r"keys\.help is wrong: F9 is bound to drafting too; give one of them another key"),
        ({"help": "f11", "drafting": "f11"}, r"keys\.help is wrong: F11 is bound to drafting too"),
        ({"chats_pin": "r"}, r"keys\.chats_pin is wrong: R is bound to chats_rename too"),
        ({"chats_pin": "f1"}, r"keys\.chats_pin is wrong: F1 is bound to help too"),
        ({"quit": "escape"}, r"keys\.quit is wrong: Esc is bound to stop too"),
        ({"help": "f11", "theme": "ctrl+f11,f11"}, r"keys\.help is wrong: F11 is bound to theme too"),
    ],
)
def test_what_is_wrong_with_keys_is_told(keys: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        checked_keymap(keys)


def test_the_place_of_a_wrong_key_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = home / "config" / "config.toml"
    file.parent.mkdir(parents=True)
    file.write_text('[keys]\nquit = "f11"\nhelp = "ctrl+m"\n')
    with pytest.raises(UsageError, match=r"config\.toml, line 3\)\.$"):
        checked_keymap(load_settings().keys)
    monkeypatch.setenv("MEDUSA_CHAT_KEYS__HELP", "ctrl+i")
    with pytest.raises(UsageError, match=r"Tab \(look in MEDUSA_CHAT_KEYS__HELP\)\.$"):
        checked_keymap(load_settings().keys)


def test_two_actions_may_change_keys() -> None:
    assert checked_keymap({"help": "f9", "drafting": "f1"}) == {"help": "f9", "drafting": "f1"}


class Talk(Vertical):
    BINDINGS: ClassVar[list[BindingType]] = bindings(TALK)

    def compose(self) -> ComposeResult:
        yield TextArea()


class KeyedApp(App[None], inherit_bindings=False):
    """As the chat binds its keys, around a text box."""

    CSS = "KeyLine { padding: 0 1; }"

    BINDINGS: ClassVar[list[BindingType]] = bindings(APP, priority=True)

    def __init__(self, keys: dict[str, str]) -> None:
        super().__init__()
        self.done: list[str] = []
        self.clashes: list[set[Binding]] = []
        self.set_keymap(checked_keymap(keys))

    def compose(self) -> ComposeResult:
        yield Talk()
        yield KeyLine()

    def get_key_display(self, binding: Binding) -> str:
        return footer_key(binding)

    def handle_bindings_clash(self, clashed_bindings: set[Binding], node: DOMNode) -> None:
        self.clashes.append(clashed_bindings)

    def action_help(self) -> None:
        self.done.append("help")

    def action_drafting(self) -> None:
        self.done.append("drafting")

    def action_models(self) -> None:
        self.done.append("models")

    def footer(self) -> str:
        return " ".join(self.screen._compositor.render_strips()[-1].text.split())


async def test_remapped_keys_do_it_and_the_old_ones_no_more() -> None:
    app = KeyedApp({"help": "f9", "drafting": "f1", "models": "ctrl+e,f11"})
    async with app.run_test(size=(100, 10)) as pilot:
        await User(pilot).press("f9", "f1", "ctrl+e", "f11", "ctrl+l", "a")
        assert app.done == ["help", "drafting", "models", "models"]
        assert app.query_one(TextArea).text == "a"
        assert app.clashes == []
        assert "F9 Help" in app.footer()
        assert "F1 Draft" in app.footer()


async def test_the_footer_fits_a_small_terminal() -> None:
    app = KeyedApp({})
    async with app.run_test(size=(80, 24)) as pilot:
        app.query_one(TextArea).focus()
        await User(pilot).settle()
        assert app.footer() == "Esc Stop F1 Help F2/F3 Temp F9 Draft ^n New ^o Chats ^s Set ^q Quit"


async def test_a_click_on_a_key_is_that_key() -> None:
    app = KeyedApp({})
    async with app.run_test(size=(80, 24)) as pilot:
        user = User(pilot)
        await user.settle()
        for column in (user.screen().splitlines()[-1].index("Help"), 0):  # at 0 there is no key
            await pilot.click(KeyLine, offset=(column, 0))
        assert app.done == ["help"]


async def test_the_help_shows_the_users_own_keys() -> None:
    app = KeyedApp({})
    async with app.run_test(size=(80, 100)) as pilot:
        await app.push_screen(HelpScreen({"help": "f11,ctrl+f1"}))
        await User(pilot).settle()
        page = screen_of(app)
        for text in ("F11, Ctrl+F1 ", "Ctrl+J, Shift+Enter", "D, Delete", f"/{COMMANDS[-1].name}"):
            assert text in page
        assert "F1 " not in page.replace("Ctrl+F1 ", "")


async def test_the_conversations_have_their_keys_from_the_table(open_chat: OpenChat) -> None:
    async with open_chat(size=(120, 40)) as chat:
        await chat.send("hello")
        await chat.answered()
        chat.app.set_keymap(checked_keymap({"chats_pin": "x,f11"}))
        await chat.press("ctrl+o")
        await chat.until(lambda: chat.app.sidebar.titles.has_focus and chat.history.list())
        await chat.press("p")
        assert not chat.history.list()[0].pinned
        await chat.press("x")
        await chat.until(lambda: chat.history.list()[0].pinned)


def test_keys_as_people_write_them() -> None:
    assert written("ctrl+r,f12,escape,slash,ctrl+pageup") == "Ctrl+R, F12, Esc, /, Ctrl+Page up"
