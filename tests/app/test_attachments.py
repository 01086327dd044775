"""Files attached to a message: what is read, what is refused, and finding them again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from medusa_chat.app.attachments import AttachedFile, attach, display_text, read_attached
from medusa_chat.errors import UsageError
from medusa_chat.history import History
from tests.app.conftest import OpenChat


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(text: str, tokens_left: int | None = None) -> str:
    with pytest.raises(UsageError) as refused:
        attach(text, tokens_left)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_file_is_sent_in_a_fence_and_shown_as_a_line(folder: Path) -> None:
    (folder / "notes.txt").write_text("one\ntwo")
    attached = attach("Sum up @notes.txt, please.")
    assert attached.typed == "Sum up @notes.txt, please."
    assert attached.files == (AttachedFile("notes.txt", 2, "7 B"),)
    assert attached.sent == (
        "Sum up @notes.txt, please.\n\nAttached file: notes.txt (2 lines, 7 B)\n```\none\ntwo\n```"
    )
    assert display_text(attached.sent) == "Sum up @notes.txt, please.\n↳ notes.txt (2 lines, 7 B)"
    assert read_attached(attached.sent) == attached


def test_several_files_with_fences_and_blocks_of_their_own_are_found_again(folder: Path) -> None:
    (folder / "a.md").write_text("```python\nx\n```\n````\n")
    (folder / "empty").touch()
    inner = attach("see @a.md").sent
    (folder / "my log.txt").write_text(inner)
    attached = attach('@a.md and @"my log.txt" (@empty) and @a.md')
    assert [file.name for file in attached.files] == ["a.md", "my log.txt", "empty"]
    assert "`````\n```python" in attached.sent
    assert read_attached(attached.sent) == attached
    assert len(display_text(attached.sent).split("\n")) == 4


def test_text_that_only_looks_so_is_not_folded() -> None:
    for text in (
        "hello",
        "x\n\nAttached file: a (1 line, 2 B)\n```\none\ntwo\n```",
        "x\n\nAttached file: a (1 line, 2 B)\n```\none\n```\nand more",
        "x\n\nAttached file: a (9 lines, 2 B)\n```\none\n```",
    ):
        assert display_text(text) == text


def test_words_that_name_no_file_are_text(folder: Path) -> None:
    (folder / "example.org").touch()
    for text in ("me@example.org", "@property\ndef f", "@ example.org", "@...", "@", '@"'):
        assert attach(text).sent == text


def test_an_at_in_a_folded_paste_names_no_file(folder: Path) -> None:
    (folder / "work").mkdir()
    (folder / "a").touch()
    paste = "@work\ndef f(): ..."
    assert attach(f"Why? {paste} @a", pasted=(paste,)).files == (AttachedFile("a", 0, "0 B"),)
    assert paste in attach(f"Why? {paste} @a", pasted=(paste,)).sent
    assert attach(paste, pasted=(f" {paste}\n", " ")).files == ()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_unicode_is_read_whatever_its_encoding(folder: Path, encoding: str) -> None:
    text = "größe 日本 🙂\r\nline\x1b[31m\r"
    bom = "\ufeff" if encoding == "utf-16-be" else ""
    (folder / "a").write_bytes((bom + text).encode(encoding))
    assert "```\ngröße 日本 🙂\nline[31m\n```" in attach("@a").sent


@pytest.mark.parametrize("content", [b"a\0b", b"\xff\xfe\xff", b"caf\xe9", b"\xff\xfe\0\0a\0\0\0"])
def test_binary_files_are_refused(folder: Path, content: bytes) -> None:
    (folder / "a").write_bytes(content)
    assert "is not text" in refusal("@a")


def test_what_is_no_regular_file_is_refused_and_not_read(folder: Path) -> None:
    (folder / "sub").mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "gone").symlink_to(folder / "nowhere")
    assert "is a folder" in refusal("look at @sub/")
    assert "no regular file" in refusal("@pipe")
    assert "no regular file" in refusal("@/dev/zero")
    assert "can't be read" in refusal("@gone")


def test_a_huge_file_is_refused_unread(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (folder / "huge").open("wb") as stream:
        stream.truncate(10**9)
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("it was opened"))
    assert refusal("@huge") == "@huge is too large (1.0 GB): files up to 2.0 MB can be attached."


def test_what_the_context_has_no_room_for_is_refused(folder: Path) -> None:
    (folder / "a").write_text("word " * 7000)
    assert attach("@a", tokens_left=None).files
    assert attach("@a", tokens_left=11_000).files
    sentence = refusal("@a", tokens_left=1000)
    assert "about 10,0" in sentence
    assert "1,000 are left" in sentence
    assert "3.5 kB of text fit" in sentence
    assert attach("word " * 7000, tokens_left=1).files == ()  # the engine judges plain text


async def test_the_chat_shows_what_was_typed_and_the_model_reads_the_file(
    open_chat: OpenChat, folder: Path
) -> None:
    (folder / "notes.txt").write_text("the secret word\n")
    async with open_chat() as chat:
        await chat.send("Read @notes.txt")
        await chat.until(lambda: chat.questions == ["Read @notes.txt\n↳ notes.txt (1 line, 16 B)"])
        await chat.answered()
        await chat.send("roles")
        await chat.answered()
        assert "```\nthe secret word\n```" in chat.replies[1]
        await chat.press("up", "up")
        assert chat.app.prompt.text == "Read @notes.txt"


async def test_a_reopened_conversation_shows_a_line_for_each_file(open_chat: OpenChat, folder: Path) -> None:
    (folder / "a").write_text("text")
    history = History()
    history.add(history.create("smollm2-135m", None), "user", attach("see @a").sent)
    async with open_chat(history=history, resume=True) as chat:
        await chat.until(lambda: chat.questions == ["see @a\n↳ a (1 line, 4 B)"])


async def test_what_is_refused_stays_in_the_box(open_chat: OpenChat, folder: Path) -> None:
    (folder / "a.bin").write_bytes(b"\0")
    async with open_chat() as chat:
        await chat.send("What is @a.bin?")
        await chat.until(lambda: chat.notices)
        assert chat.notices[0].startswith("@a.bin is not text")
        assert chat.app.prompt.text == "What is @a.bin?"
        assert chat.questions == []
