"""What the user wants of models: a list to choose from, a question before anything is fetched."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from medusa_chat.app.models import wording
from medusa_chat.app.models.fetching import ToFetch
from medusa_chat.app.models.first_run import FirstRunScreen
from medusa_chat.app.models.pull_bar import PullBar
from medusa_chat.app.models.pulls import Pull, Pulls
from medusa_chat.app.models.screen import InUse, ModelsScreen
from medusa_chat.checkpoints.plans import PullPlan
from medusa_chat.records import LoadRequest, Quantization

if TYPE_CHECKING:
    from medusa_chat.app.app import MedusaApp


class ModelDesk:
    """to_fetch: tells what a request would have fetched, which the user is asked about first. quantization:
    what the settings want of any model.
    """

    def __init__(self, app: MedusaApp, to_fetch: ToFetch, quantization: Quantization | None) -> None:
        self._app = app
        self._loader = app.loader
        self._to_fetch = to_fetch
        self._quantization = quantization
        self._awaited: LoadRequest | None = None  # to be loaded once it is fetched
        self.pulls = Pulls(app)
        self.bar = PullBar(self.pulls)

    def begin(self) -> None:
        """When the screen is there."""
        self._app.talk.mount(self.bar, after=self._loader)
        self.pulls.changed.subscribe(self._app, self._follow)
        request = self._loader.request
        plan = self._to_fetch(request)
        if plan is None:
            self._load(request)
        else:
            self._loader.do_without(request)
            self._ask(plan, request)

    async def close(self) -> None:
        """When it goes."""
        await self.pulls.close()

    def load(self, request: LoadRequest) -> None:
        """Loads it; what must be fetched for that is asked about, and fetched, before."""
        plan = self._to_fetch(request)
        if plan is None:
            self._load(request)
        else:
            self._ask(plan, request)

    def _ask(self, plan: PullPlan, request: LoadRequest) -> None:
        self._app.push_screen(FirstRunScreen(plan), lambda agreed: self._answer(request, bool(agreed)))

    def _load(self, request: LoadRequest) -> None:
        self._awaited = None
        self._app.talk.stop()
        self._loader.load(request)

    async def _answer(self, request: LoadRequest, agreed: bool) -> None:
        running = self.pulls.running
        if not agreed:
            if self._loader.phase == "down":
                await self._app.talk.say("No model is loaded: Ctrl+L lists what there is, /retry asks again.")
        elif running is not None:
            await self._app.talk.say(f"{running.model} is being fetched: Ctrl+L shows it and can cancel it.")
        else:
            if self._loader.phase == "down":
                self._awaited = request
                self._loader.expect(request)
            self.pulls.start(request.model, request.heads)

    def show_list(self) -> None:
        """Opens the list of models, or closes it."""
        if isinstance(self._app.screen, ModelsScreen):
            self._app.screen.dismiss()
            return
        if self._app.screen.is_modal:
            return
        request = replace(self._loader.request, quantization=self._quantization)
        info = self._loader.info
        in_use = InUse(request, info.memory_bytes if info else 0, self._loader.phase != "down")
        self._app.push_screen(ModelsScreen(self.pulls, in_use))

    def use(self, model: str, quantization: Quantization | None) -> None:
        """What was chosen from the list, which is here."""
        now = self._loader.request
        heads = now.heads if model == now.model else None
        request = replace(now, model=model, heads=heads, quantization=quantization or self._quantization)
        if request != now or self._loader.phase == "down":
            self._load(request)

    async def _follow(self, pull: Pull) -> None:
        """Loads what was waited for; of anything else it is enough to say that it is here."""
        if pull.outcome == "running":
            return
        request = self._awaited
        if request is not None and (request.model, request.heads) == (pull.model, pull.heads):
            await self._end_waiting(request, pull)
        elif not isinstance(self._app.screen, ModelsScreen):
            go_on = f" /model {pull.model} goes on with it." if pull.outcome == "done" else ""
            await self._app.talk.say(wording.outcome(pull) + go_on, is_error=pull.outcome == "failed")

    async def _end_waiting(self, request: LoadRequest, pull: Pull) -> None:
        self._awaited = None
        if pull.outcome == "done":
            self._loader.load(request)
            return
        self._loader.do_without(request)
        await self._app.talk.say(
            f"{wording.outcome(pull)} /retry goes on with it, Ctrl+L lists the models.",
            is_error=pull.outcome == "failed",
        )
