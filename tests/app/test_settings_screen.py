"""The settings on one page: by keys, by mouse, by exact values; in the app and alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from textual import events, on
from textual.app import App
from textual.pilot import Pilot
from textual.widgets import Input

from medusa_chat.app.dial import Setup
from medusa_chat.app.dial_row import DialRow
from medusa_chat.app.dials import Dials
from medusa_chat.app.settings_screen import SettingsScreen
from medusa_chat.records import SamplingOptions
from medusa_chat.settings import Settings, load_settings
from tests.app.conftest import OpenChat
from tests.app.user import User

DEFAULTS = Setup(SamplingOptions(), None, "textual-dark")


class Alone(App[None]):
    """The screen with what the chat would do of its messages."""

    def __init__(self, setup: Setup) -> None:
        super().__init__()
        self.setup = setup
        self.saved: Path | None = None

    def on_mount(self) -> None:
        own = {"terse": SamplingOptions(max_tokens=50)}
        self.push_screen(SettingsScreen(Dials(own), self.setup, DEFAULTS))

    @on(SettingsScreen.Changed)
    def change(self, event: SettingsScreen.Changed) -> None:
        self.setup = event.setup
        self.theme = event.setup.theme

    @on(SettingsScreen.Saved)
    def save(self, event: SettingsScreen.Saved) -> None:
        self.saved = event.path


class Page(User):
    """What a user sees and does."""

    def __init__(self, app: Alone, pilot: Pilot[None]) -> None:
        super().__init__(pilot)
        self.app = app

    @property
    def options(self) -> SamplingOptions:
        return self.app.setup.options

    async def go_to(self, name: str) -> None:
        place = [dial.name for dial in Dials()].index(name)
        await self.press("home", *["down"] * place)

    async def type(self, text: str) -> None:
        await self.press("enter")
        await self.press(*text, "enter")

    def words(self) -> str:
        return " ".join(self.screen().split())

    def line(self, label: str) -> str:
        return " ".join(next(line for line in self.screen().splitlines() if label in line).split())


@asynccontextmanager
async def opened(setup: Setup = DEFAULTS, size: tuple[int, int] = (80, 24)) -> AsyncIterator[Page]:
    app = Alone(setup)
    async with app.run_test(size=size) as pilot:
        page = Page(app, pilot)
        await page.until(lambda: "❯" in page.screen())
        yield page


async def test_left_and_right_step_and_shift_steps_further() -> None:
    async with opened() as page:
        await page.go_to("temperature")
        assert "❯ Temperature ◂ 0.2" in page.line("Temperature")
        await page.press("right", "right", "left")
        assert page.options.temperature == 0.3
        await page.press("shift+right")
        assert page.options.temperature == 0.8
        assert "❯• Temperature ◂ 0.8" in page.line("Temperature")
        await page.press("shift+left", "shift+left")
        assert page.options.temperature == 0.0
        await page.go_to("acceptance")
        await page.press("space")
        assert page.options.acceptance == "typical"
        assert "◂ typical (lossy)" in page.line("Accept")
        await page.press("right")
        assert page.options == SamplingOptions(temperature=0.0)


async def test_keys_typed_in_haste_are_for_the_row_they_were_meant_for() -> None:
    async with opened() as page:
        for key in ("down", "right", "down", "left"):
            page.app.simulate_key(key)
        await page.settle()
        assert page.options == SamplingOptions(temperature=0.3, top_p=0.85)
        for key in ("end", "enter", *"dracula", "enter"):
            page.app.simulate_key(key)
        await page.settle()
        assert page.app.setup.theme == "dracula"
        assert page.options == SamplingOptions(temperature=0.3, top_p=0.85)


async def test_delete_and_backspace_reset_one_and_b_all_and_u_brings_them_back() -> None:
    changed = Setup(SamplingOptions(temperature=1.5, seed=7), "Be kind.", "nord")
    async with opened(changed) as page:
        assert "• Preset ◂ own values" in page.line("Preset")
        await page.go_to("seed")
        await page.press("delete")
        await page.go_to("system")
        await page.press("backspace")
        assert page.app.setup == Setup(SamplingOptions(temperature=1.5), None, "nord")
        before = page.app.setup
        await page.press("b")
        assert page.app.setup == DEFAULTS
        assert "U brings back" in page.screen()
        assert page.screen().count("•") == 1  # the title's, which explains it
        await page.press("u")
        assert page.app.setup == before


async def test_enter_types_an_exact_value_and_a_wrong_one_can_be_corrected() -> None:
    async with opened() as page:
        await page.go_to("top-p")
        await page.type("7")
        assert "Top-p must be above 0 and at most 1, not 7." in page.screen()
        assert page.app.screen.query_one(Input).has_focus
        await page.press("backspace", *"0.77", "enter")
        assert page.options.top_p == 0.77
        await page.press("enter", "escape")  # only out of the box
        assert not page.app.screen.query_one(Input).display
        await page.press("right")
        assert page.options.top_p == 0.8
        await page.go_to("tree")
        await page.type("zephyr_stage2")
        await page.press("down", "right")
        assert "has a size of its own" in page.screen()
        assert page.options == SamplingOptions(top_p=0.8, tree="zephyr_stage2")


async def test_letters_typed_into_the_box_do_nothing_else() -> None:
    async with opened() as page:
        await page.go_to("theme")
        await page.type("rose-pine-dawn")
        assert page.app.setup == Setup(DEFAULTS.options, None, "rose-pine-dawn")
        assert page.app.saved is None


async def test_presets_and_the_theme_are_stepped_through() -> None:
    async with opened() as page:
        await page.press("right")
        assert page.options == SamplingOptions(temperature=1.0, top_p=1.0, min_p=0.1)
        await page.press("right")
        assert page.options == SamplingOptions(max_tokens=50)
        assert "terse" in page.line("Preset")
        await page.go_to("theme")
        await page.press("right")
        assert page.app.theme == "textual-light"


async def test_the_system_prompt_has_a_box_of_several_lines() -> None:
    async with opened(Setup(DEFAULTS.options, "Be kind.", "nord")) as page:
        await page.go_to("system")
        await page.press("enter")
        await page.press(*" And brief", "enter", "b")
        page.app.post_message(events.Paste("e\x1b[2J\r\nclear"))
        await page.settle()
        await page.press("escape")
        assert page.app.setup.system == "Be kind. And brief\nbe[2J\nclear"
        assert "◂ Be kind. And brief be[2J…" in page.line("System")


async def test_the_mouse_steps_slides_and_asks() -> None:
    async with opened() as page:
        row = next(row for row in page.app.screen.query(DialRow) if row.dial.name == "temperature")
        line = next(line for line in page.screen().splitlines() if "Temperature" in line)
        left = row.region.x

        async def click(cell: int) -> None:
            await page.pilot.click(row, offset=(cell - left, 0))
            await page.settle()

        await click(line.index("▸"))
        assert page.options.temperature == 0.3
        await click(line.index("◂"))
        await click(line.index("◂"))
        assert page.options.temperature == 0.1
        await click(line.rindex("─"))
        assert page.options.temperature == 2.0
        await click(line.index("━"))
        assert page.options.temperature == 0.0
        assert "❯• Temperature" in page.line("Temperature")
        await click(line.index("0.2"))
        await page.press(*"1.25", "enter")
        assert page.options.temperature == 1.25


@pytest.mark.parametrize("size", [(40, 12), (80, 24), (120, 40)])
async def test_every_option_can_be_reached_and_is_explained(size: tuple[int, int]) -> None:
    async with opened(size=size) as page:
        for dial in Dials():
            await page.until(lambda dial=dial: f"❯ {dial.label}" in page.words())
            assert dial.help.split()[0] in page.screen()
            assert "Esc close" in page.screen()
            await page.press("down")
        await page.until(lambda: "❯ Preset" in page.words())


async def test_long_sentences_leave_the_rest_on_a_small_screen() -> None:
    async with opened(size=(40, 12)) as page:
        await page.go_to("theme")
        await page.type("x")
        assert "theme takes textual-dark" in page.screen()
        assert "❯" in page.screen()
        assert "Esc close" in page.screen()


async def test_saving_says_where_and_moves_the_defaults() -> None:
    async with opened() as page:
        await page.go_to("top-k")
        await page.press("left", "s")
        await page.app.workers.wait_for_complete()
        await page.settle()
        assert page.app.saved is not None
        assert "Saved as defaults in" in page.screen()
        assert "❯ Top-k ◂ 100" in page.line("Top-k")
        assert load_settings().sampling == SamplingOptions(top_k=100)


async def test_saving_that_fails_says_why(home: Path) -> None:
    file = home / "config" / "config.toml"
    file.parent.mkdir(parents=True)
    file.write_text("[[[")
    async with opened() as page:
        await page.press("s")
        await page.app.workers.wait_for_complete()
        await page.settle()
        assert "config.toml can't be read" in " ".join(page.screen().replace("│", " ").split())
        assert page.app.saved is None


async def test_rows_never_lay_out() -> None:
    async with opened() as page:
        await page.settle()
        screen = page.app.screen
        assert isinstance(screen, SettingsScreen)
        screen._layout_required = False
        screen.show(Setup(SamplingOptions(temperature=1.9), "x", "nord"))
        assert not screen._layout_required
        await page.settle()
        assert "1.9" in page.line("Temperature")


# In the chat


async def test_a_change_reaches_the_reply_under_way(open_chat: OpenChat) -> None:
    async with open_chat(settings=Settings(system="Be kind.")) as chat:
        await chat.send("temperature")
        await chat.until(lambda: chat.replies and "T=0.2" in chat.replies[-1])
        await chat.press("ctrl+s")
        await chat.until(lambda: "Settings" in chat.screen())
        await chat.press("down", "shift+right")
        await chat.until(lambda: "T=0.7" in chat.replies[-1])
        await chat.press("end", "right")
        await chat.until(lambda: chat.app.theme == "textual-light")
        await chat.press("escape")
        await chat.until(lambda: "Temperature 0.70" in " ".join(chat.panel().split()))
        assert chat.app.talk.conversation.system == "Be kind."
        await chat.press("escape")
        await chat.answered()


async def test_commands_and_the_page_agree(open_chat: OpenChat, home: Path) -> None:
    async with open_chat() as chat:
        for line in ("/set min-p 0.05", "/set theme textual-light", "/set system Be brief.", "/settings"):
            await chat.send(line)
        await chat.until(lambda: "0.05" in chat.screen() and "Be brief." in chat.screen())
        assert chat.app.theme == "textual-light"
        await chat.press("ctrl+s")
        await chat.until(lambda: "Ask something" in chat.screen())
        await chat.send("/set preset precise")
        await chat.until(lambda: chat.app.talk.options.temperature == 0)
        await chat.send("/save")
        await chat.until(lambda: chat.notices and "Saved as defaults in" in chat.notices[-1])
        await chat.send("/set")
        await chat.until(lambda: "min-p" in chat.notices[-1])
    kept = load_settings()
    assert (kept.sampling.temperature, kept.system, kept.theme) == (0, "Be brief.", "textual-light")


async def test_a_page_over_the_chat_keeps_the_keys(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        await chat.send("roles")
        await chat.answered()
        await chat.press("ctrl+s")
        await chat.until(lambda: "Settings" in chat.screen())
        await chat.press("ctrl+n", "ctrl+r", "f12", "ctrl+l")
        assert len(chat.app.screen_stack) == 2
        await chat.press("escape")
        assert chat.questions == ["roles"]
        assert len(chat.replies) == 1
