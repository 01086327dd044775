"""What the screen looks like: sizes, themes, keys, commands, scrolling."""

from __future__ import annotations

import pytest

from medusa_chat.app.commands import COMMANDS
from medusa_chat.settings import Settings
from tests.app.conftest import OpenChat


async def test_the_screen_is_there_before_the_model(
    open_chat: OpenChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRIPTED_LOAD_SECONDS", "30")
    async with open_chat(wait=False) as chat:
        await chat.until(lambda: "reading weights" in chat.screen(), seconds=5)
        assert "25%" in chat.screen() or "0%" in chat.screen()
        assert "Ask something" in chat.screen()
        assert not chat.app.is_ready


async def test_panel_shows_the_figures_of_the_reply(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        await chat.send("hello")
        await chat.answered()
        for fact in ("×", "Tree size", "16", "/ 2,048", "312 MB", "4-bit, bfloat16", "Scripted processor"):
            assert fact in chat.panel()
        room = [line[88:118].rstrip() for line in chat.screen().splitlines()[:35]]
        assert [line for line in room if line] == [line.rstrip() for line in chat.panel().splitlines()]


async def test_panel_shows_heads_at_work(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        await chat.send("hello")
        await chat.answered()
        rows = [line[88:118] for line in chat.screen().splitlines()]
        (heads,) = (number for number, row in enumerate(rows) if "Heads right" in row)
        # The script's steps bring 2, 1, 3, 1, 2, 4, 1, 2 tokens: head 1 is right in five of eight.
        shares = [row[16:].split()[-1] for row in rows[heads + 1 : heads + 5]]
        numbers = [int(share.removesuffix("%")) for share in shares]
        assert 50 < numbers[0] < 75
        assert numbers == sorted(numbers, reverse=True)
        panel = " ".join(chat.panel().split())
        for label in ("First token 0.", "Accepted", "now", "avg"):
            assert label in panel
        assert "energy" not in panel  # nobody tells the script's


async def test_panel_never_lays_out(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        await chat.send("hello")
        await chat.answered()
        await chat.settle()
        app = chat.app
        app.screen._layout_required = False
        app._show_figures()
        app._show_options()
        assert not app.screen._layout_required


async def test_narrow_terminal_has_a_strip_instead_of_the_panel(open_chat: OpenChat) -> None:
    async with open_chat(size=(80, 24)) as chat:
        await chat.send("hello")
        await chat.answered()
        screen = chat.screen()
        assert not chat.app.panel.display
        for fact in ("tok/s", "/step", "×", "context 5%", "T 0.2", "drafting on"):
            assert fact in screen
        await chat.pilot.resize_terminal(120, 40)
        await chat.until(lambda: "Sampling" in chat.screen())


async def test_the_panel_can_be_seen_in_a_narrow_terminal_and_hidden_in_a_wide_one(
    open_chat: OpenChat,
) -> None:
    async with open_chat(size=(99, 24)) as chat:
        assert "Heads right" not in chat.screen()
        await chat.send("/panel")
        await chat.until(lambda: "Heads right" in chat.screen())
        await chat.send("/panel")
        await chat.until(lambda: "Heads right" not in chat.screen())
        await chat.pilot.resize_terminal(100, 24)
        await chat.until(lambda: "Heads right" in chat.screen())
        await chat.send("/panel")
        await chat.until(lambda: "Heads right" not in chat.screen())


async def test_what_is_used_of_the_context_is_not_known_before_it_is_counted(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        await chat.send("hello")
        await chat.answered()
        assert " – / 2,048" not in chat.panel()
    async with open_chat(resume=True) as chat:
        await chat.until(lambda: chat.replies)
        assert " – / 2,048" in chat.panel()


async def test_esc_is_in_the_footer_while_there_is_something_to_stop_or_to_leave(
    open_chat: OpenChat,
) -> None:
    async with open_chat() as chat:
        await chat.until(lambda: "F1 Help" in chat.screen())
        assert "Esc Stop" not in chat.screen()
        await chat.send("endless")
        await chat.until(lambda: "Esc Stop" in chat.screen())
        await chat.press("escape")
        await chat.answered()
        await chat.until(lambda: "Esc Stop" not in chat.screen())
        await chat.send("/edit")
        await chat.until(lambda: "Esc Stop" in chat.screen())
        await chat.press("escape")
        await chat.until(lambda: "Esc Stop" not in chat.screen())
        assert chat.app.prompt.text == ""


async def test_the_help_goes_on_below_itself(open_chat: OpenChat) -> None:
    async with open_chat(size=(60, 60)) as chat:
        await chat.press("f1")
        await chat.until(lambda: "plain decoding against" in chat.screen())
        lines = [line.strip(" │").split("│")[0] for line in chat.screen().splitlines()]
        (begun,) = (number for number, line in enumerate(lines) if line.startswith("F12 "))
        assert lines[begun + 1].strip().startswith("side by side")
        assert chat.screen().splitlines()[begun + 1].index("side by side") > 20


async def test_the_palette_does_what_the_commands_do(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        await chat.send("hello")
        await chat.answered()
        await chat.press("ctrl+p")
        await chat.until(lambda: "Search for commands" in chat.screen())
        await chat.press(*"colours")
        await chat.until(lambda: "colour replies by who guessed each token" in chat.screen())
        await chat.press("enter", "enter")
        await chat.until(lambda: "**verifies**" in chat.screen())


async def test_every_command_can_be_chosen_in_the_palette(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        titles = {command.title.lower() for command in chat.app.get_system_commands(chat.app.screen)}
        assert titles == {command.name for command in COMMANDS} | {"conversations", "theme", "screenshot"}
        await chat.press("ctrl+s")
        assert {command.title for command in chat.app.get_system_commands(chat.app.screen)} == {
            "Theme",
            "Screenshot",
        }


async def test_long_lines_of_code_are_seen_whole(open_chat: OpenChat) -> None:
    async with open_chat(size=(80, 24)) as chat:
        await chat.send("long-code")
        await chat.answered()
        await chat.until(lambda: "'its end'" in chat.screen())


async def test_tiny_terminal_says_so_and_comes_back(open_chat: OpenChat) -> None:
    async with open_chat(size=(20, 5)) as chat:
        assert " ".join(chat.screen().split()) == "Please make the terminal larger."
        for number, size in enumerate([(1, 1), (20, 5)], start=1):
            await chat.pilot.resize_terminal(*size)
            await chat.pilot.resize_terminal(100, 30)
            await chat.until(lambda: "Please make" not in chat.screen() and chat.app.prompt.has_focus)
            await chat.send("roles")
            await chat.answered()
            assert len(chat.replies) == number


async def test_keys_turn_the_dials_while_the_prompt_has_the_focus(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        await chat.press("f2", "f4", "f7", "f6", "f6", "f8", "f9")
        panel = " ".join(chat.panel().split())
        assert "Temperature 0.10" in panel
        assert "Top-p 0.85" in panel
        assert "Top-k 80" in panel
        assert "typical (lossy)" in panel
        assert "Drafting off" in panel
        assert chat.app.prompt.text == ""


async def test_theme_can_be_set_and_switched(open_chat: OpenChat) -> None:
    async with open_chat(settings=Settings(theme="textual-light")) as chat:
        assert not chat.app.current_theme.dark
        await chat.press("ctrl+t")
        assert chat.app.current_theme.dark
    async with open_chat(settings=Settings(theme="no such")) as chat:
        assert "There is no theme 'no such'" in chat.notices[0]


async def test_the_view_follows_a_reply_until_the_user_scrolls(open_chat: OpenChat) -> None:
    async with open_chat(size=(80, 16)) as chat:
        for _ in range(2):
            await chat.send("hello")
            await chat.answered()
        await chat.until(lambda: chat.view.scroll_y == chat.view.max_scroll_y > 0)
        await chat.send("endless")
        await chat.until(lambda: "word9 " in chat.replies[-1])
        await chat.press("pageup")
        await chat.settle()
        there, bottom = chat.view.scroll_y, chat.view.max_scroll_y
        assert there < bottom
        await chat.until(lambda: chat.view.max_scroll_y > bottom)
        assert chat.view.scroll_y == there
        while chat.view.scroll_y < chat.view.max_scroll_y:
            await chat.press("pagedown")
        bottom = chat.view.max_scroll_y
        await chat.until(lambda: chat.view.max_scroll_y > bottom)
        await chat.until(lambda: chat.view.scroll_y == chat.view.max_scroll_y)


_REFUSED = {
    "/modle x": "Did you mean /model?",
    "/xyzzy": "/help lists them.",
    "/": "/help lists them.",
    "/set temperature": "/set takes an option and a value",
    "/set temperature hot": "temperature takes a number",
    "/set temperature 9": "Temperature must lie between 0 and 5",
    "/set tempertaure 1": "Did you mean temperature?",
    "/set acceptance never": "acceptance takes exact or typical",
    "/model smolm": "Did you mean smollm2-135m",
    "/retry": "The model is loaded already.",
}


async def test_commands_that_cannot_be_followed_stay_in_the_box(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        for number, (line, sentence) in enumerate(_REFUSED.items(), start=1):
            await chat.send(line)
            await chat.until(lambda number=number: len(chat.notices) == number)
            assert sentence in chat.notices[-1]
            assert chat.app.prompt.text == line
            chat.app.prompt.text = ""
        assert chat.app.is_ready


async def test_commands_that_can(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        for line in ("/set temperature 0.75", "/set top-k 7", "/plain"):
            await chat.send(line)
        await chat.until(lambda: "Drafting off" in " ".join(chat.panel().split()))
        assert "Temperature 0.75 F2 F3" in " ".join(chat.panel().split())
        assert "Top-k 7 F6" in " ".join(chat.panel().split())
        await chat.send("/help")
        await chat.until(lambda: "Commands" in chat.screen())
        await chat.press("escape")
        await chat.until(lambda: "Commands" not in chat.screen())
        await chat.send("/quit")
        await chat.until(lambda: not chat.app.is_running)
