"""What each slash command does. Its table stands in commands.py."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from medusa_chat import registry
from medusa_chat.app.code_blocks import code_blocks
from medusa_chat.app.commands import parse_command
from medusa_chat.app.conversation import Turn
from medusa_chat.app.exporting import export_beside, export_to
from medusa_chat.app.turn_list import TurnList
from medusa_chat.errors import UsageError
from medusa_chat.history import History
from medusa_chat.records import Role
from medusa_chat.settings import save_defaults

if TYPE_CHECKING:
    from medusa_chat.app.app import MedusaApp


class SlashCommands:
    """command_NAME answers /NAME, with the rest of the line as its argument."""

    def __init__(self, app: MedusaApp, history: History) -> None:
        self._app = app
        self._talk = app.talk
        self._history = history

    async def obey(self, line: str) -> None:
        """Raises a MedusaError that says why a command can't be followed."""
        command, argument = parse_command(line)
        run: Callable[[str], object] = getattr(self, f"command_{command.name}")
        result = run(argument)
        if asyncio.iscoroutine(result):
            await result

    def command_model(self, name: str) -> None:
        if not name:
            self._app.models.show_list()
            return
        registry.resolve(name)  # a slip of the pen must not cost the model that is loaded
        self._app.models.load(replace(self._app.loader.request, model=name, heads=None))

    def command_models(self, _: str) -> None:
        self._app.models.show_list()

    async def command_system(self, text: str) -> None:
        if text:
            self._app.set_up(replace(self._app.setup, system=text))
        system = self._app.setup.system
        await self._talk.say(
            f"System prompt: {system}" if system else "There is no system prompt. /system TEXT sets one."
        )

    async def command_set(self, argument: str) -> None:
        dials = self._app.dials
        if argument:
            self._app.set_up(dials.obey(self._app.setup, argument))
        else:
            await self._talk.say(dials.listing(self._app.setup, self._app.defaults))

    def command_settings(self, _: str) -> None:
        self._app.action_settings()

    async def command_save(self, _: str) -> None:
        setup = self._app.setup
        path = await asyncio.to_thread(save_defaults, setup.options, setup.system, setup.theme)
        self._app.defaults = setup
        await self._talk.say(f"Saved as defaults in {path}.")

    def command_plain(self, _: str) -> None:
        self._app.action_drafting()

    async def command_again(self, _: str) -> None:
        await self._talk.action_again()

    async def command_continue(self, _: str) -> None:
        await self._talk.action_go_on()

    def command_edit(self, _: str) -> None:
        self._talk.post_message(TurnList.EditWanted(self._last("user")))

    def command_copy(self, number: str) -> None:
        reply = self._last("assistant")
        if not number:
            self._talk.post_message(TurnList.CopyWanted(reply.content, "the reply"))
            return
        blocks = code_blocks(reply.content)
        if not number.isdecimal() or not 1 <= int(number) <= len(blocks):
            raise UsageError(
                f"Blocks of code in the last reply: {len(blocks)}. /copy NUMBER copies one of them."
            )
        self._talk.post_message(TurnList.CopyWanted(blocks[int(number) - 1], f"block {number}"))

    def command_raw(self, _: str) -> None:
        self._talk.chat.toggle_raw(self._last("assistant"))

    def command_colours(self, _: str) -> None:
        self._talk.action_origins()

    def command_panel(self, _: str) -> None:
        self._app.panel.toggle()

    def command_race(self, _: str) -> None:
        self._talk.action_race()

    def _last(self, role: Role) -> Turn:
        for turn in reversed(self._talk.conversation.turns):
            if turn.role == role:
                return turn
        raise UsageError("There is none in this conversation yet.")

    def command_search(self, text: str) -> None:
        self._app.sidebar.search_for(text)

    async def command_rename(self, title: str) -> None:
        conversation_id = self._stored_id()
        if title:
            await asyncio.to_thread(self._history.rename, conversation_id, title)
            self._app.sidebar.refresh_rows()
        else:
            self._app.sidebar.rename(await asyncio.to_thread(self._history.conversation, conversation_id))

    async def command_export(self, target: str) -> None:
        await self._talk.save()
        if target:
            path = await asyncio.to_thread(export_to, self._history, self._stored_id(), target)
        else:
            path = await asyncio.to_thread(export_beside, self._history, self._stored_id(), "markdown")
        await self._talk.say(f"Exported to {path}")

    def _stored_id(self) -> int:
        conversation_id = self._talk.conversation.id
        if conversation_id is None:
            raise UsageError("There is nothing in this conversation yet.")
        return conversation_id

    async def command_new(self, _: str) -> None:
        await self._talk.begin_another()

    def command_retry(self, _: str) -> None:
        loader = self._app.loader
        if loader.phase != "down":
            raise UsageError("The model is loaded already." if loader.phase == "ready" else "It is loading.")
        self._app.models.load(loader.request)

    def command_help(self, _: str) -> None:
        self._app.action_help()

    async def command_quit(self, _: str) -> None:
        await self._app.action_quit()
