"""The list of models: reading it, choosing, fetching first, cancelling, going on; in an app of its own and in
the chat.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from textual import on
from textual.app import App
from textual.pilot import Pilot

from medusa_chat import app as app_room
from medusa_chat import checkpoints
from medusa_chat.app.app import MedusaApp
from medusa_chat.app.models import screen as screen_module
from medusa_chat.app.models.pulls import Pull, Pulls, Speedometer
from medusa_chat.app.models.screen import InUse, ModelsScreen
from medusa_chat.app.models.wording import duration, pull_line
from medusa_chat.checkpoints import hub_cache
from medusa_chat.machine import Memory
from medusa_chat.records import LoadProgress, LoadRequest
from medusa_chat.registry import resolve
from tests.app.conftest import OpenChat
from tests.app.user import User
from tests.checkpoints import published
from tests.checkpoints.small_hub import Repo, SmallHub

NAME, WEIGHTS = "tiny/model", "model.safetensors"
DEFAULT = "smollm2-135m"
MEMORY = Memory("cuda", "GPU of the test", 20_000_000_000, 15_000_000_000, 2)
only_posix = pytest.mark.skipif(os.name == "nt", reason="interrupts by signal")


@pytest.fixture(autouse=True)
def _known_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen_module, "find_memory", lambda device, dtype: MEMORY)


class Room(App[None]):
    """Nothing but the list, and what it said."""

    CSS_PATH = Path(app_room.__file__).with_name("app.tcss")
    VERTICAL_BREAKPOINTS = MedusaApp.VERTICAL_BREAKPOINTS

    def __init__(self) -> None:
        super().__init__()
        self.pulls = Pulls(self)
        self.chosen: list[tuple[str, str | None]] = []
        self.told: list[Pull] = []

    def on_mount(self) -> None:
        self.pulls.changed.subscribe(self, self.told.append)

    async def on_unmount(self) -> None:
        await self.pulls.close()

    def open(self, request: LoadRequest | None = None, held: int = 0) -> ModelsScreen:
        models = ModelsScreen(self.pulls, InUse(request or LoadRequest(DEFAULT), held))
        self.push_screen(models)
        return models

    @on(ModelsScreen.Chosen)
    def keep(self, event: ModelsScreen.Chosen) -> None:
        self.chosen.append((event.name, event.quantization))


class Visit(User):
    """What a user sees of the list and does to it."""

    def __init__(self, app: Room, pilot: Pilot[None]) -> None:
        super().__init__(pilot)
        self.app = app

    async def open(self, request: LoadRequest | None = None, held: int = 0) -> None:
        self.app.open(request, held)
        await self.until(lambda: "GPU of the test" in self.screen() and "vicuna-7b" in self.screen())

    async def type(self, text: str) -> None:
        models = self.app.screen
        assert isinstance(models, ModelsScreen)
        models.filter_box.value = text
        await self.settle()

    @property
    def is_open(self) -> bool:
        return isinstance(self.app.screen, ModelsScreen)


@asynccontextmanager
async def visited(size: tuple[int, int] = (100, 40)) -> AsyncIterator[Visit]:
    app = Room()
    async with app.run_test(size=size) as pilot:
        yield Visit(app, pilot)


def row_of(visit: Visit, name: str) -> str:
    return next(line for line in visit.screen().splitlines() if f" {name} " in line)


# Reading it


async def test_a_row_tells_size_heads_and_the_widest_weights_that_fit() -> None:
    async with visited((80, 24)) as visit:
        await visit.open()
        assert row_of(visit, DEFAULT).split() == ["●", DEFAULT, "135", "M", "no", "shipped", "whole"]
        assert row_of(visit, "vicuna-13b").split()[-1] == "4-bit"  # at 8 bits 13.0 GB, and 3.6 beside them
        assert row_of(visit, "vicuna-33b").split()[-1] == "no"
        assert "15.0 GB of 20.0 GB free on GPU of the test" in visit.screen()
        for line in visit.screen().splitlines():
            assert len(line) <= 80
        await visit.until(lambda: "Enter Use" in visit.screen())


async def test_what_the_loaded_model_holds_is_free_for_another() -> None:
    async with visited() as visit:
        await visit.open()
        assert row_of(visit, "vicuna-7b").split()[-1] == "8-bit"
    async with visited() as visit:
        await visit.open(held=2_000_000_000)
        assert row_of(visit, "vicuna-7b").split()[-1] == "whole"


async def test_memory_is_planned_with_the_kv_cache_that_the_user_has() -> None:
    request = LoadRequest(DEFAULT, kv_cache="8bit")
    async with visited() as visit:
        await visit.open(request, held=1_000_000_000)
        assert row_of(visit, "vicuna-13b").split()[-1] == "8-bit"
        await visit.type("13b")
        assert "with 2,048 tokens in 8 bits" in visit.screen()
    async with visited() as visit:
        await visit.open(held=1_000_000_000)
        assert row_of(visit, "vicuna-13b").split()[-1] == "4-bit"


async def test_a_row_of_a_model_that_is_here(default_model_here: str) -> None:
    async with visited() as visit:
        await visit.open()
        assert "MB" in row_of(visit, default_model_here)
        assert "here, " in visit.screen()


async def test_details_say_what_would_fit() -> None:
    async with visited((80, 24)) as visit:
        await visit.open()
        await visit.type("13b")
        for fact in (
            "lmsys/vicuna-13b-v1.3 · LLaMA, non-commercial · 2,048 tokens of context",
            "4-bit: fits",
            "27.9 GB to fetch from the hub, lmsys/vicuna-13b-v1.3",
            "fetched too, from FasterDecoding/medusa-vicuna-13b-v1.3",
            "known from public documents only",
        ):
            assert fact in visit.screen()
        await visit.press("tab")
        assert "8-bit: too large, 4-bit would fit" in visit.screen()
        await visit.type("33b-medusa2")
        assert "4-bit: too large, as it is at any quantisation" in visit.screen()


async def test_typing_filters_and_arrows_walk() -> None:
    async with visited() as visit:
        await visit.open()
        await visit.press(*"vicuna-7")
        assert "zephyr-7b" not in visit.screen()
        assert "lmsys/vicuna-7b-v1.3 ·" in visit.screen()
        await visit.press("down")
        assert "FasterDecoding/medusa-v1.0-vicuna-7b-v1.5 ·" in visit.screen()
        await visit.type("no such thing")
        assert "No model here is called so" in visit.screen()


async def test_a_broken_models_toml_is_told_in_place(home: Path) -> None:
    (home / "config").mkdir(parents=True)
    (home / "config" / "models.toml").write_text("[mine]\nbase = 3\n")
    async with visited() as visit:
        visit.app.open()
        await visit.until(lambda: "Model 'mine' in" in visit.screen())


async def test_a_models_name_is_no_markup(home: Path, tmp_path: Path) -> None:
    (home / "config").mkdir(parents=True)
    text = f'[mine]\nbase = "[bold]b[/] \\u001b[31m"\nfolder = {str(tmp_path)!r}\n'
    (home / "config" / "models.toml").write_text(text)
    async with visited() as visit:
        await visit.open()
        await visit.type("mine")
        assert "[bold]b[/] [31m" in visit.screen()


# Choosing


async def test_enter_chooses_what_is_here_with_the_quantisation_picked(default_model_here: str) -> None:
    async with visited() as visit:
        await visit.open()
        await visit.press("enter")
        await visit.until(lambda: not visit.is_open)
        await visit.open()
        await visit.press("tab", "enter")  # from none, its own, to the next
        await visit.until(lambda: not visit.is_open)
    assert visit.app.chosen == [(default_model_here, None), (default_model_here, "4bit")]
    assert visit.app.told == []


async def test_a_folder_is_taken_by_its_path(tmp_path: Path) -> None:
    for name, content in published.as_safetensors().items():
        (tmp_path / name).write_bytes(content)
    async with visited() as visit:
        await visit.open()
        await visit.type(str(tmp_path))
        await visit.press("enter")
        await visit.until(lambda: visit.app.chosen)
    assert visit.app.chosen == [(str(tmp_path), None)]


async def test_what_is_neither_name_nor_folder_is_told_in_place(tmp_path: Path) -> None:
    async with visited() as visit:
        await visit.open()
        await visit.type("zephir")
        await visit.press("enter")
        await visit.until(lambda: "There is no model 'zephir' here" in visit.screen())
        await visit.type(str(tmp_path))
        await visit.press("enter")
        await visit.until(lambda: "holds no config.json" in visit.screen())


# Fetching first


async def test_what_is_on_the_hub_is_fetched_then_chosen(hub: SmallHub) -> None:
    hub.repos[NAME] = Repo(published.as_one_large_file(3 * 2**20))
    async with visited() as visit:
        await visit.open()
        await visit.type(NAME)
        await visit.press("enter")
        await visit.until(lambda: visit.app.chosen)
        assert not visit.is_open
    assert visit.app.chosen == [(NAME, None)]
    assert checkpoints.is_sound(resolve(NAME))
    assert visit.app.told[0].progress.message == "Starting"
    assert visit.app.told[-1].outcome == "done"


@only_posix
async def test_a_cancelled_download_goes_on_later(hub: SmallHub) -> None:
    hub.repos[NAME] = Repo(published.as_one_large_file(4 * 2**20))
    hub.held[WEIGHTS] = 3 * 2**20
    async with visited() as visit:
        await visit.open()
        await visit.type(NAME)
        await visit.press("enter")
        await visit.until(lambda: "MB of 4" in visit.screen())
        assert "Cancel download" in visit.screen()
        await visit.press("ctrl+x")
        await visit.until(lambda: "is cancelled" in visit.screen())
        assert "Cancel download" not in visit.screen()
        assert any(hub_cache.cache_dir().rglob("*.medusa-chat.incomplete"))
        assert visit.app.chosen == []
        hub.held.clear()
        hub.requests.clear()
        await visit.press("enter")
        await visit.until(lambda: visit.app.chosen)
    assert [asked for _, _, asked in hub.requests if asked] != []


@only_posix
async def test_a_hidden_download_goes_on_and_is_seen_again(hub: SmallHub) -> None:
    hub.repos[NAME] = Repo(published.as_one_large_file(4 * 2**20))
    hub.held[WEIGHTS] = 3 * 2**20
    async with visited() as visit:
        await visit.open()
        await visit.type(NAME)
        await visit.press("enter")
        await visit.until(lambda: "MB of 4" in visit.screen())
        await visit.press("escape")
        await visit.until(lambda: not visit.is_open)
        assert visit.app.pulls.running is not None
        await visit.open()
        assert "MB of 4" in visit.screen()
        await visit.type("zephyr")
        await visit.press("enter")
        assert f"{NAME} is being fetched: wait for it, or cancel it" in visit.screen()
        visit.app.pulls.cancel()
        await visit.until(lambda: visit.app.pulls.running is None)
        assert visit.app.chosen == []


@only_posix
async def test_leaving_the_app_ends_the_download(hub: SmallHub) -> None:
    hub.repos[NAME] = Repo(published.as_one_large_file(4 * 2**20))
    hub.held[WEIGHTS] = 3 * 2**20
    async with visited() as visit:
        visit.app.pulls.start(NAME)
        await visit.until(lambda: visit.app.told and visit.app.told[-1].progress.fraction)
        process = visit.app.pulls._process
        assert process is not None
        assert process._process is not None
    assert process._process.returncode is not None


@pytest.mark.parametrize(
    ("prepare", "sentence"),
    [
        (lambda hub: setattr(hub.repos[NAME], "gated", True), "tiny/model is gated: ask for access"),
        (lambda hub: hub.repos.clear(), "The hub has no model tiny/model, or it is private."),
        (lambda hub: setattr(hub, "down", True), "status 503 for tiny/model. Try again later."),
    ],
    ids=["gated", "gone", "down"],
)
async def test_a_download_that_fails_says_why_in_place(
    hub: SmallHub, prepare: Callable[[SmallHub], object], sentence: str
) -> None:
    hub.repos[NAME] = Repo(published.as_safetensors())
    prepare(hub)
    async with visited() as visit:
        await visit.open()
        await visit.type(NAME)
        await visit.press("enter")
        await visit.until(lambda: sentence in visit.screen())
        assert visit.app.chosen == []
        assert visit.is_open


# In the chat


async def test_switching_the_model_keeps_the_conversation(
    open_chat: OpenChat, default_model_here: str, tmp_path: Path
) -> None:
    for name, content in published.as_safetensors().items():
        (tmp_path / name).write_bytes(content)
    async with open_chat() as chat:
        await chat.send("roles")
        await chat.answered()
        await chat.press("ctrl+l")
        await chat.until(lambda: f"● {default_model_here}" in chat.screen())
        models = chat.app.screen
        assert isinstance(models, ModelsScreen)
        models.filter_box.value = str(tmp_path)
        await chat.settle()
        await chat.press("enter")
        await chat.until(lambda: chat.app.is_ready and chat.app.loader.request.model == str(tmp_path))
        await chat.send("roles")
        await chat.answered()
        assert chat.replies[1] == f"roles: user=roles, assistant={chat.replies[0]}, user=roles"


@pytest.mark.parametrize("line", ["/models", "/model"])
async def test_commands_open_the_list_and_ctrl_l_closes_it(open_chat: OpenChat, line: str) -> None:
    async with open_chat() as chat:
        await chat.send(line)
        await chat.until(lambda: "GPU of the test" in chat.screen())
        await chat.press("ctrl+l")
        assert not isinstance(chat.app.screen, ModelsScreen)


async def test_choosing_what_is_loaded_loads_nothing(open_chat: OpenChat, default_model_here: str) -> None:
    async with open_chat() as chat:
        await chat.press("ctrl+l")
        await chat.until(lambda: f"● {default_model_here}" in chat.screen())
        await chat.press("enter")
        assert chat.app.is_ready
        await chat.press("ctrl+l")
        await chat.until(lambda: f"● {default_model_here}" in chat.screen())
        await chat.press("tab", "enter")
        await chat.until(lambda: chat.app.loader.request.quantization == "4bit")
        await chat.ready()


@only_posix
async def test_the_chat_goes_on_beside_a_download_and_is_told_its_end(
    open_chat: OpenChat, hub: SmallHub
) -> None:
    hub.repos[NAME] = Repo(published.as_one_large_file(4 * 2**20))
    hub.held[WEIGHTS] = 3 * 2**20
    async with open_chat() as chat:
        chat.app.models.pulls.start(NAME)
        await chat.until(lambda: "MB of 4" in chat.screen(), seconds=60)
        await chat.send("roles")
        await chat.answered()
        hub.held.clear()
        hub.release.set()
        await chat.until(lambda: chat.notices, seconds=60)
        assert chat.notices == [f"{NAME} is here now. /model {NAME} goes on with it."]
        assert chat.app.loader.request.model == DEFAULT
        assert not chat.app.models.bar.display


# In words


def test_the_rate_is_that_of_the_last_seconds() -> None:
    meter = Speedometer()
    message = "Downloading"
    assert meter.rate(LoadProgress("Asking"), 0.0) is None
    assert (
        meter.rate(LoadProgress(message, 0.5, 1000), 1.0) is None
    )  # what was here before counts for nothing
    assert meter.rate(LoadProgress(message, 0.6, 1000), 2.0) == pytest.approx(100)
    assert meter.rate(LoadProgress(message, 0.61, 1000), 12.0) == pytest.approx(1)
    assert meter.rate(LoadProgress("Downloading heads", 0.1, 1000), 13.0) is None


def test_a_download_in_one_line() -> None:
    pull = Pull(NAME, None, LoadProgress("Downloading tiny/model", 0.25, 8_000_000_000), 50_000_000)
    line = pull_line(pull).plain
    assert " 25% · 2.0 GB of 8.0 GB · 50 MB/s · 2 min left  Downloading tiny/model" in line
    assert pull_line(Pull(NAME, None, LoadProgress("Asking the \x1b[31mhub"))).plain == "Asking the [31mhub"
    assert [duration(seconds) for seconds in (9, 90, 9000)] == ["9 s", "2 min", "2.5 h"]
