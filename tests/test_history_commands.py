"""`medusa-chat history`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from medusa_chat import paths
from medusa_chat.history import History
from tests.test_cli import run

_NO_SUCH = "There is no conversation 9. `medusa-chat history list` shows those there are.\n"


@pytest.fixture
def tides() -> int:
    """A conversation, the second of two."""
    store = History()
    store.add(store.create("model-a"), "user", "What do jellyfish eat?")
    conversation = store.create("model-b", "Be brief.")
    store.add(conversation, "user", "Why are there \x1b[31mtides?")
    store.add(conversation, "assistant", "# The moon\n\nIt *pulls* the sea", partial=True)
    store.pin(conversation, True)
    return conversation


def test_list(tides: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("history", "list") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.split()[0] == "2"
    assert first.endswith("★ Why are there [31mtides?")
    assert second.endswith("  What do jellyfish eat?")
    assert run("history", "list", "--json", "--limit", "1") == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert (record["id"], record["model"], record["pinned"]) == (2, "model-b", True)


def test_list_of_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("history", "list") == 0
    assert capsys.readouterr().out == "No conversations are kept yet.\n"
    assert run("history", "list", "--json") == 0
    assert json.loads(capsys.readouterr().out) == []


def test_show_and_export(tides: int, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run("history", "show", str(tides)) == 0
    shown = capsys.readouterr().out
    head, rest = shown.split("\n\n", 1)
    assert head == "# Why are there [31mtides?"
    assert rest.partition("\n\n")[2] == (
        "## System\n\nBe brief.\n\n## You\n\nWhy are there [31mtides?\n\n"
        "## Assistant\n\n# The moon\n\nIt *pulls* the sea\n\n*(not finished)*\n"
    )
    assert run("history", "show", str(tides), "--json") == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert json.loads(out)["messages"][0]["content"] == "Why are there \x1b[31mtides?"
    for name in ("tides.md", "tides.json"):
        assert run("history", "export", str(tides), "--out", str(tmp_path / name)) == 0
        assert capsys.readouterr().out == f"The conversation is in {tmp_path / name}.\n"
    assert (tmp_path / "tides.md").read_text(encoding="utf-8") == shown
    assert (tmp_path / "tides.json").read_text(encoding="utf-8") == out
    assert run("history", "export", str(tides), "--format", "json") == 0
    assert capsys.readouterr().out == out


def test_show_tells_of_alternatives(tides: int, capsys: pytest.CaptureFixture[str]) -> None:
    store = History()
    question = store.messages(tides)[0].id
    store.add(tides, "assistant", "The sun, too.", parent_id=question)
    assert run("history", "show", str(tides)) == 0
    shown = capsys.readouterr().out
    assert "## Assistant (2 of 2)\n\nThe sun, too.\n" in shown
    assert "The moon" not in shown
    assert run("history", "show", str(tides), "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert [message["content"] for message in document["messages"]][1:] == ["The sun, too."]
    (other,) = document["alternatives"]
    assert (other["content"], other["parent_id"]) == ("# The moon\n\nIt *pulls* the sea", question)


def test_search(tides: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("history", "search", "the", "mo") == 0
    line, excerpt = capsys.readouterr().out.splitlines()
    assert line.endswith("★ Why are there [31mtides?")
    assert excerpt.strip() == "assistant: # The moon It *pulls* the sea"
    assert run("history", "search", "moon", "--json") == 0
    (hit,) = json.loads(capsys.readouterr().out)
    ((start, end),) = hit["excerpt_matches"]
    assert (hit["id"], hit["excerpt"][start:end]) == (tides, "moon")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert run("history", "search", "moon") == 0
    assert "\x1b[1mmoon\x1b[0m" in capsys.readouterr().out


@pytest.mark.parametrize("words", ['"', "moon OR", "NEAR(", "*", "a:b", "-x", "xyzzy", "\udcff"])
def test_search_for_what_is_not_there(tides: int, capsys: pytest.CaptureFixture[str], words: str) -> None:
    assert run("history", "search", "--", words) == 0
    assert capsys.readouterr().out == "Nothing matches.\n"


@pytest.mark.parametrize("command", ["show", "export"])
def test_id_that_does_not_exist(tides: int, capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert run("history", command, "9") == 1
    assert capsys.readouterr().err == _NO_SUCH
    assert run("history", command, "nine") == 2


def test_export_overwrites_nothing_and_says_where_it_cannot_write(
    tides: int, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    there = tmp_path / "there.md"
    there.write_text("mine")
    assert run("history", "export", "2", "--out", str(there)) == 1
    assert capsys.readouterr().err == f"{there} is there already: name another file.\n"
    assert there.read_text() == "mine"
    assert run("history", "export", "2", "--out", str(tmp_path / "no" / "folder.md")) == 1
    assert "can't be written (No such file or directory)." in capsys.readouterr().err


def test_damaged_and_newer_databases_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    database = paths.data_dir() / "history.db"
    store = History()
    store._open().execute("PRAGMA user_version = 99")
    store.close()
    assert run("history", "list") == 1
    assert "was written by a newer medusa-chat" in capsys.readouterr().err
    database.write_bytes(b"nothing of the kind" * 100)
    assert run("history", "search", "x") == 1
    assert "is damaged. It is kept as" in capsys.readouterr().err
    assert run("history", "list") == 0
