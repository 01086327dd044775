"""Completion: which words, which candidates, and the keys in the list above the box."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from medusa_chat.app import path_completion
from medusa_chat.app.at_words import find_at_words, unfinished_at_word, written_at_word
from medusa_chat.app.completion import Word, common_beginning, find_candidates, find_word
from medusa_chat.app.path_completion import list_paths
from tests.app.conftest import Chat, OpenChat

VALUES: dict[str, tuple[str, ...] | str] = {"acceptance": ("exact", "typical"), "top-k": "a number"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tmp_path = tmp_path / "work"
    for name in ("src", "my folder", ".git"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("notes.txt", "novel.md", ".env", "my folder/a b.txt", "src/cafe\u0301 日本.py", "e\x1b[31m"):
        (tmp_path / name).write_text("text\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def labels(word: Word | None) -> list[str]:
    assert word is not None
    return [one.label for one in find_candidates(word, lambda: VALUES)]


def test_words_are_found_where_they_end_at_the_cursor() -> None:
    assert find_word("/mo", True) == Word("command", 0, 3, "mo")
    assert find_word("/model  qw", True) == Word("model", 8, 10, "qw")
    assert find_word("/set ac", True) == Word("option", 5, 7, "ac")
    assert find_word("/set acceptance t", True) == Word("value", 16, 17, "t", "acceptance")
    assert find_word("/export my fo", True) == Word("path", 8, 13, "my fo")
    assert find_word("see @src/a", False) == Word("file", 4, 10, "src/a")
    assert find_word('see @"my fo', False) == Word("file", 4, 11, "my fo")
    for line in ("/system @x", "/unknown x"):
        assert find_word(line, True) is None
    for line in ("a@b.c", "@done ", "", "@" + "a" * 5000):
        assert find_word(line, False) is None


def test_candidates_that_begin_so_come_first_then_the_fuzzy_ones() -> None:
    assert labels(Word("command", 0, 3, "se"))[:3] == ["set", "settings", "search"]
    assert labels(Word("command", 0, 4, "xpt")) == ["export"]
    assert labels(Word("command", 0, 4, "zzz")) == []
    assert labels(Word("option", 5, 5, "")) == ["acceptance", "top-k"]
    assert labels(Word("value", 0, 0, "", "acceptance")) == ["exact", "typical"]
    assert labels(Word("value", 0, 0, "", "top-k")) == labels(Word("value", 0, 0, "", "none")) == []
    assert "smollm2-135m" in labels(Word("model", 7, 12, "smoll"))


def test_common_beginning_is_of_those_that_begin_so() -> None:
    word = Word("command", 0, 2, "s")
    assert common_beginning(word, find_candidates(word, dict)) is None  # system, set
    word = Word("command", 0, 3, "se")
    assert common_beginning(word, find_candidates(word, dict)) is None  # set, search
    word = Word("command", 0, 3, "re")
    assert common_beginning(word, find_candidates(word, dict)) is None  # rename, retry
    word = Word("command", 0, 3, "MO")
    assert str(common_beginning(word, find_candidates(word, dict))).startswith("/model")


def test_paths_have_folders_first_and_hidden_ones_after_a_dot(folder: Path) -> None:
    assert list_paths("") == ["my folder/", "src/", "notes.txt", "novel.md"]
    assert list_paths(".") == [".git/", ".env"]
    assert list_paths("NO") == ["notes.txt", "novel.md"]
    assert list_paths("src/") == ["src/cafe\u0301 日本.py"]
    assert list_paths(f"{folder}/no") == [f"{folder}/notes.txt", f"{folder}/novel.md"]
    assert list_paths("nowhere/x") == list_paths("notes.txt/") == []


def test_home_is_a_folder_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    assert list_paths("~") == ["~/"]
    assert list_paths("~/nov") == ["~/novel.md"]


def test_long_lists_are_capped(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / f"{number:03}").touch()
    paths = list_paths(f"{tmp_path}/")
    assert len(paths) == 200
    assert paths[0].endswith("/000")


def test_names_with_spaces_are_quoted_and_read_back() -> None:
    for name in ("a.txt", "my notes.txt", "f(1).py", 'odd"name'):
        word = written_at_word(name)
        assert word is not None
        (found,) = find_at_words(f"see {word}now")
        assert found.names[0] == name
    assert written_at_word("my folder/") == '@"my folder/'
    assert unfinished_at_word('@"my folder/') == (0, "my folder/")
    assert written_at_word('both " and space') is None


async def test_list_stands_above_the_box_and_moves_nothing(open_chat: OpenChat) -> None:
    async with open_chat(size=(80, 24)) as chat:
        before = chat.view.region, chat.app.prompt.region
        await chat.press("/")
        popup, prompt = chat.app.prompt.popup, chat.app.prompt
        assert popup.is_open
        assert popup.region.bottom == prompt.region.y
        assert (chat.view.region, prompt.region) == before
        assert "go on with another model" in chat.screen()
        await chat.press("ctrl+j", "x")
        assert not popup.is_open
        await chat.press("ctrl+j", "@")
        await chat.until(lambda: popup.is_open)
        assert popup.region.bottom == prompt.region.y


async def test_list_fits_a_terminal_that_shrinks(open_chat: OpenChat) -> None:
    async with open_chat(size=(80, 24)) as chat:
        await chat.press("/")
        await chat.pilot.resize_terminal(80, 10)
        await chat.settle()
        await chat.press("down")
        assert "go on with another model" in chat.screen()
        assert chat.app.prompt.popup.region.bottom == chat.app.prompt.region.y


async def test_enter_sends_unless_an_arrow_key_chose(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        await chat.press("/", "s", "e", "enter")
        assert "There is no command /se." in chat.notices[0]
        assert chat.app.prompt.text == "/se"
        await chat.press("backspace", "down", "down", "enter")
        assert chat.app.prompt.text == "/set "
        await chat.until(lambda: "max-tokens" in chat.screen())


async def test_tab_completes_letters_typed_just_before_it(open_chat: OpenChat, folder: Path) -> None:
    async with open_chat() as chat:
        for key in (*"see", " ", "@", *"nov", "tab", *"yes"):
            chat.app.simulate_key(key)
        await chat.until(lambda: chat.app.prompt.text.endswith("yes"))
        assert chat.app.prompt.text in ("see @novyes", "see @novel.md yes")
        chat.app.prompt.exchange("")
        for key in ("@", "n", "tab"):
            chat.app.simulate_key(key)
        await chat.until(lambda: chat.app.prompt.text == "@no")
        await chat.press("tab")
        await chat.until(lambda: chat.app.prompt.text == "@notes.txt ")
        for key in ("/", "ctrl+u", *"/set", " ", "ctrl+u", *"/ret", "tab", "x"):
            chat.app.simulate_key(key)
        await chat.until(lambda: chat.app.prompt.text == "/retryx")


async def test_folders_are_gone_into(open_chat: OpenChat, folder: Path) -> None:
    async with open_chat() as chat:
        await chat.press("@", "m", "y", "tab")
        await chat.until(lambda: "my folder/a b.txt" in chat.screen())
        assert chat.app.prompt.text == '@"my folder/'
        await chat.press("tab")
        assert chat.app.prompt.text == '@"my folder/a b.txt" '
        assert not chat.app.prompt.popup.is_open


async def test_escape_closes_the_list_before_it_stops_a_reply(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        await chat.send("endless")
        await chat.until(lambda: chat.replies and "word5 " in chat.replies[0])
        await chat.press("/", "escape")
        assert not chat.app.prompt.popup.is_open
        assert chat.app.is_answering
        await chat.press("m")
        assert not chat.app.prompt.popup.is_open  # dismissed for this word
        await chat.press("escape")
        await chat.answered()
        await chat.press("ctrl+u", "/")
        assert chat.app.prompt.popup.is_open


async def test_a_click_takes_a_row(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        await chat.press("/", "r", "e")
        rows = _rows(chat)
        await chat.pilot.click(chat.app.prompt.popup, offset=(4, rows.index("retry")))
        await chat.settle()
        assert chat.app.prompt.text == "/retry"
        assert chat.app.prompt.has_focus


async def test_the_disk_is_read_in_a_thread(
    open_chat: OpenChat, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers: list[threading.Thread] = []

    def scan(path: str) -> object:
        readers.append(threading.current_thread())
        return scandir(path)

    scandir = os.scandir
    async with open_chat() as chat:
        monkeypatch.setattr(path_completion.os, "scandir", scan)
        await chat.press("@", "n", "o")
        await chat.until(lambda: "novel.md" in chat.screen())
        await chat.press("tab", "tab")
    assert readers
    assert threading.main_thread() not in readers


async def test_nothing_fits_so_there_is_no_list(open_chat: OpenChat, folder: Path) -> None:
    async with open_chat() as chat:
        await chat.press("/", "z", "z")
        assert not chat.app.prompt.popup.is_open
        chat.app.prompt.exchange("")
        await chat.press("@", "z", "z")
        await chat.until(lambda: not chat.app.prompt.popup._is_looking)
        assert not chat.app.prompt.popup.is_open


def _rows(chat: Chat) -> list[str]:
    return [one.label for one in chat.app.prompt.popup._candidates]
