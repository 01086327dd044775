"""Before anything large is fetched for the first time: what it is, and the user's word."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from medusa_chat.app.models.wording import short_path
from medusa_chat.checkpoints.plans import PullPlan
from medusa_chat.printable import printable
from medusa_chat.quantities import size

_FIRST_COLUMN = 10


class FirstRunScreen(ModalScreen[bool]):
    """Enter gives True: fetch it. Esc and q give False."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "dismiss(True)", "Fetch it"),
        Binding("escape,q", "dismiss(False)", "Go without"),
    ]

    def __init__(self, plan: PullPlan) -> None:
        super().__init__()
        self._plan = plan

    def compose(self) -> ComposeResult:
        with Vertical(id="first-run"):
            yield Static(_keys(), markup=False, id="first-run-keys")
            yield Static(Content("\n").join(plan_lines(self._plan)), markup=False)


def plan_lines(plan: PullPlan) -> list[Content]:
    """All that one needs to know to answer."""
    spec = plan.spec
    what = spec.name if plan.model else f"What {spec.name} drafts with"
    facts = [
        ("Model", spec.base),
        *zip(("From", ""), plan.origins, strict=False),
        ("Size", size(plan.num_bytes) if plan.num_bytes else "the hub says, when it is asked"),
        ("Licence", spec.licence or "look at its page on the hub"),
        ("Kept in", short_path(plan.folder)),
        ("Room", _room(plan)),
    ]
    lines = [Content.assemble((f"{printable(what)} is not on this machine yet.", "bold")), Content()]
    for name, fact in facts:
        lines.append(Content.assemble((name.ljust(_FIRST_COLUMN), "$foreground 60%"), printable(fact)))
    return lines


def _keys() -> Content:
    key = "bold $primary"
    return Content.assemble(("Enter", key), " fetches it · ", ("Esc", key), " goes on without a model")


def _room(plan: PullPlan) -> str:
    free = f"{size(plan.free_bytes)} free"
    if plan.room_bytes is None:
        return free
    if plan.free_bytes < plan.room_bytes:
        return f"{free}: too little, it takes {size(plan.room_bytes)} while it is made ready"
    return f"{free}, it takes {size(plan.room_bytes)} at most"
