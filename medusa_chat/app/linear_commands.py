"""What the slash commands do in the chat for screen readers. Their table stands in commands.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from medusa_chat import registry
from medusa_chat.app.commands import COMMANDS, parse_command
from medusa_chat.app.conversation import Conversation
from medusa_chat.app.dial_table import switch_drafting
from medusa_chat.app.exporting import export_beside, export_to
from medusa_chat.errors import UsageError
from medusa_chat.settings import save_defaults

if TYPE_CHECKING:
    from medusa_chat.app.linear import LinearChat


class LinearCommands:
    """command_NAME answers /NAME, with the rest of the line as its argument; a few need the screen."""

    def __init__(self, chat: LinearChat) -> None:
        self._chat = chat

    def obey(self, line: str) -> None:
        """Raises a MedusaError that says why a command can't be followed."""
        command, argument = parse_command(line)
        run: Callable[[str], object] | None = getattr(self, f"command_{command.name}", None)
        if run is None:
            raise UsageError(f"/{command.name} needs the screen: start without --screen-reader.")
        run(argument)

    def command_help(self, _: str) -> None:
        for command in COMMANDS:
            if hasattr(self, f"command_{command.name}"):
                self._chat.say(
                    " ".join(filter(None, (f"/{command.name}", command.argument))) + f": {command.help}."
                )
        self._chat.say("Ctrl+C stops an answer and keeps it. Ctrl+D leaves.")

    def command_model(self, name: str) -> None:
        if not name:
            raise UsageError(f"/model takes a name: {', '.join(registry.load_registry())}; or a folder.")
        registry.resolve(name)
        self._chat.load(replace(self._chat.request, model=name, heads=None))

    def command_retry(self, _: str) -> None:
        self._chat.load(self._chat.request)

    def command_system(self, text: str) -> None:
        conversation = self._chat.conversation
        conversation.system = text or conversation.system
        self._chat.say(
            f"System prompt: {conversation.system}" if conversation.system else "There is no system prompt."
        )

    def command_set(self, argument: str) -> None:
        chat = self._chat
        if not argument:
            chat.say(chat.dials.listing(chat.setup, chat.defaults))
            return
        chat.set_up(chat.dials.obey(chat.setup, argument))
        chat.say(f"Set: {argument}.")

    def command_save(self, _: str) -> None:
        setup = self._chat.setup
        path = save_defaults(setup.options, setup.system, setup.theme)
        self._chat.defaults = setup
        self._chat.say(f"Saved as defaults in {path}.")

    def command_again(self, _: str) -> None:
        turns = self._chat.conversation.turns
        if not turns:
            raise UsageError("There is nothing to answer again yet.")
        if turns[-1].role == "assistant":
            self._chat.conversation.go_before(turns[-1])
        self._chat.answer()

    def command_continue(self, _: str) -> None:
        turns = self._chat.conversation.turns
        if not turns or turns[-1].role != "assistant":
            raise UsageError("There is no reply to go on with.")
        self._chat.answer(turns[-1])

    def command_plain(self, _: str) -> None:
        self._chat.options = switch_drafting(self._chat.options)
        self._chat.say(f"Drafting is {'on' if self._chat.options.drafting else 'off'}.")

    def command_search(self, text: str) -> None:
        hits = self._chat.history.search(text)
        for hit in hits:
            excerpt = f": {hit.message.text}" if hit.message else ""
            self._chat.say(f"{hit.conversation.title or 'Without a title'}{excerpt}")
        self._chat.say(f"{len(hits)} conversations found.")

    def command_rename(self, title: str) -> None:
        if not title:
            raise UsageError("/rename takes a title.")
        self._chat.history.rename(self._stored_id(), title)
        self._chat.say("Renamed.")

    def command_export(self, target: str) -> None:
        conversation_id = self._stored_id()
        history = self._chat.history
        path = (
            export_to(history, conversation_id, target)
            if target
            else export_beside(history, conversation_id, "markdown")
        )
        self._chat.say(f"Exported to {path}")

    def command_new(self, _: str) -> None:
        self._chat.begin(Conversation(self._chat.conversation.system))
        self._chat.say("A new conversation.")

    def command_quit(self, _: str) -> None:
        self._chat.is_left = True

    def _stored_id(self) -> int:
        self._chat.save_now()
        conversation_id = self._chat.conversation.id
        if conversation_id is None:
            raise UsageError("There is nothing in this conversation yet.")
        return conversation_id
