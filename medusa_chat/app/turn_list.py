"""The turns below one another, and the keys of the one that is selected."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message

from medusa_chat.app import keys
from medusa_chat.app.code_blocks import code_blocks
from medusa_chat.app.conversation import Turn
from medusa_chat.app.keys import bindings
from medusa_chat.app.stack import Stack
from medusa_chat.app.turns import AssistantTurn, UserTurn

MessageWidget = UserTurn | AssistantTurn
_FOR_REPLIES = ("again", "raw", "copy_code")
_FOR_QUESTIONS = ("edit",)


class TurnList(Stack):
    """Ctrl+Up selects the last message; these keys then work on the selected one."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "select(-1)", show=False),
        Binding("down", "select(1)", show=False),
        *bindings(keys.MESSAGES[:1]),
        *(
            Binding(str(n), f"copy_code({n})", "Copy code", key_display="1–9", show=n == 1)
            for n in range(1, 10)
        ),
        *bindings(keys.MESSAGES[1:-1]),
        # What is typed after it is for the prompt, however fast.
        *bindings(keys.MESSAGES[-1:], priority=True),
        Binding("left", "other(-1)", "Other", key_display="← →"),
        Binding("right", "other(1)", show=False),
    ]

    class CopyWanted(Message):
        """text is to go to the clipboard; what: of it, for the sentence about it."""

        def __init__(self, text: str, what: str) -> None:
            super().__init__()
            self.text = text
            self.what = what

    class AgainWanted(Message):
        """Another reply in place of this one."""

        def __init__(self, turn: Turn) -> None:
            super().__init__()
            self.turn = turn

    class EditWanted(Message):
        """The user wants to say this otherwise."""

        def __init__(self, turn: Turn) -> None:
            super().__init__()
            self.turn = turn

    class OtherWanted(Message):
        """The alternative that stands direction (-1, 1) beside this one."""

        def __init__(self, turn: Turn, direction: int) -> None:
            super().__init__()
            self.turn = turn
            self.direction = direction

    @property
    def messages(self) -> list[MessageWidget]:
        """Those that are mounted."""
        return [child for child in self.children if isinstance(child, UserTurn | AssistantTurn)]

    @property
    def selected(self) -> MessageWidget | None:
        """The one that has the keys."""
        focused = self.screen.focused
        return focused if isinstance(focused, UserTurn | AssistantTurn) else None

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only what can be done with the selected message is in the footer."""
        match self.selected:
            case UserTurn() as question:
                return action not in _FOR_REPLIES and (action != "other" or question.has_others)
            case AssistantTurn() as reply:
                if action == "copy_code":
                    return "```" in (reply.turn.content if reply.turn else "")
                return action not in _FOR_QUESTIONS and (action != "other" or reply.has_others)
        return False

    def select_last(self) -> bool:
        """Gives the last message the keys; False where there is none."""
        messages = self.messages
        if messages:
            self._select(messages[-1])
        return bool(messages)

    def action_select(self, step: int) -> None:
        """Past the last one lies the prompt."""
        messages = self.messages
        if self.selected not in messages:
            return
        place = messages.index(self.selected) + step
        if place >= len(messages):
            self.action_leave()
        elif place >= 0:
            self._select(messages[place])

    def _select(self, message: MessageWidget) -> None:
        # At once: a widget's own focus() would let keys go astray that are typed after it.
        self.screen.set_focus(message)

    def action_copy(self) -> None:
        if (turn := self._selected_turn) is not None:
            self.post_message(self.CopyWanted(turn.content, "the message"))

    def action_copy_code(self, number: int) -> None:
        """The block of code of this number, from 1."""
        if (turn := self._selected_turn) is not None:
            blocks = code_blocks(turn.content)
            if number <= len(blocks):
                self.post_message(self.CopyWanted(blocks[number - 1], f"block {number}"))

    def action_again(self) -> None:
        if (turn := self._selected_turn) is not None:
            self.post_message(self.AgainWanted(turn))

    def action_edit(self) -> None:
        if (turn := self._selected_turn) is not None:
            self.post_message(self.EditWanted(turn))

    def action_other(self, direction: int) -> None:
        if (turn := self._selected_turn) is not None:
            self.post_message(self.OtherWanted(turn, direction))

    def action_raw(self) -> None:
        if isinstance(self.selected, AssistantTurn):
            self.selected.toggle_raw()

    def action_fold(self) -> None:
        if self.selected is not None:
            self.selected.toggle_fold()

    def action_leave(self) -> None:
        """Back to the prompt."""
        self.screen.focus_next("Prompt")

    @property
    def _selected_turn(self) -> Turn | None:
        return self.selected.turn if self.selected else None
