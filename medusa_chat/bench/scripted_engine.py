"""An engine's child process without a model: it says a long text at a set speed, over the real wire.

Run as `python -m medusa_chat.bench.scripted_engine`. The last word of the user's message chooses what it
says: "fence" a block of code that goes on after 2,000 lines, "work" what it computes as fast as it can, with
and without saying it, "flood" megabytes as fast as they are taken, anything else prose with lists, tables and
code that doesn't end.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice
from pathlib import Path

from medusa_chat.engine.worker import serve
from medusa_chat.records import (
    Chunk,
    EngineInfo,
    FinishReason,
    LoadProgress,
    LoadRequest,
    Message,
    ReplyStarted,
    SamplingOptions,
    StepStats,
)

MODULE = "medusa_chat.bench.scripted_engine"
TOKENS_PER_SECOND = 200
FENCE_LINES = 2000
BEGUN = "Here it begins."
FENCE_REACHED = f"# beyond {FENCE_LINES} lines"
WORK_ROUNDS = 64
FLOOD_BYTES = 10 * 2**20
SPEED_FILE = "BENCH_SPEED_FILE"  # names where the tokens a second of "work" are written, round by round
_TOKEN_LETTERS = 4
_WORK_TOKENS = 50
_WORK_TO_BEGIN = 100  # tokens, not timed: the chat draws what it is told a while later, and then goes on
_WORK_A_TOKEN = 12_000  # rounds of hashing: 3 to 5 ms of one core
_FLOOD_PIECE = 2**14

_PROSE = """
## Draft number {number}

Medusa heads *guess* the next tokens, and the base model **verifies** them in one pass. What it agrees with is
kept, as `accept` below decides; the rest is forgotten, so the words are those that plain decoding gives.

1. Draft a tree of continuations from what the heads say.
2. Verify every node of it at once.
3. Keep the longest path that the base model agrees with.

```python
def accept(path: list[int], base: Callable[[int], bool]) -> list[int]:
    kept = [token for token in path if base(token)]
    return kept or [fallback({number})]  # never fewer than one
```

| step | nodes | tokens |
| ---- | ----- | ------ |
| 1    | 16    | 3      |
| 2    | 24    | 2      |

> Same words, fewer steps.

"""
_CODE = """\
def step_{number}(tree: Tree, cache: Cache) -> list[int]:
    \"\"\"Verifies the nodes of one draft.\"\"\"
    logits = model.forward(tree.ids, cache.length + tree.depth, mask="tree")
    path = [node for node in tree.paths if node.id == logits[node.parent].argmax()]
    cache.keep(len(path) + {number})
    return path or [int(logits[0].argmax())]

"""


def long_answer(number: int) -> str:
    """A reply of some blocks, as they were in a conversation of earlier."""
    return _PROSE.format(number=number)


class ScriptedSession:
    """What a worker drives."""

    info: EngineInfo

    def __init__(self, model: str) -> None:
        self.options = SamplingOptions()
        self.cancelled = False
        self.info = EngineInfo(
            model=model,
            quantization="none",
            device="cpu",
            device_name="scripted",
            dtype="float32",
            context_length=1_000_000,
            num_heads=4,
            tree_size=16,
            memory_bytes=0,
            step_seconds={1: 1 / TOKENS_PER_SECOND},
        )

    def reply(self, messages: Sequence[Message]) -> Iterator[ReplyStarted | Chunk]:
        words = messages[-1].content.split()
        yield ReplyStarted(len(messages), 0, 0)
        pieces = {"fence": _fence, "work": _work, "flood": _flood}.get(words[-1] if words else "", _prose)()
        finish: FinishReason = "eos"
        context = len(messages)
        for text in pieces:
            if self.cancelled:
                finish = "cancelled"
                break
            context += 1
            yield Chunk(text, (1,), StepStats(16, 1, 1 / TOKENS_PER_SECOND, context))
        yield Chunk("", (), StepStats(0, 0, 0.0, context), finish)

    def close(self) -> None:
        """There is nothing to free."""


def _prose() -> Iterator[str]:
    yield f"{BEGUN}\n"
    yield from _timed(_tokens(_PROSE))


def _fence() -> Iterator[str]:
    lines = islice((line for n in count() for line in _CODE.format(number=n).splitlines(True)), FENCE_LINES)
    yield f"{BEGUN}\n\n```python\n{''.join(lines)}"
    yield from _timed(_tokens(f"{FENCE_REACHED}\n{_CODE}"))


def _work() -> Iterator[str]:
    """Rounds of a fixed amount of computing a token, the same tokens once kept to itself and once said: what
    saying them to the chat takes shows in the time. Many short rounds, since a machine that is shared is half
    as fast for a second now and then.
    """
    rounds = []
    for number in range(WORK_ROUNDS):
        speeds = {}
        for is_said in (False, True) if number % 2 else (True, False):
            tokens = _tokens(_PROSE)
            yield from _computed(islice(tokens, _WORK_TO_BEGIN), is_said)
            started = time.perf_counter()
            yield from _computed(islice(tokens, _WORK_TOKENS), is_said)
            speeds["said" if is_said else "kept"] = _WORK_TOKENS / (time.perf_counter() - started)
        rounds.append(speeds)
    if path := os.environ.get(SPEED_FILE):
        Path(path).write_text(json.dumps(rounds), encoding="utf-8")


def _computed(tokens: Iterator[str], is_said: bool) -> Iterator[str]:
    for token in tokens:
        _compute()
        if is_said:
            yield token


def _flood() -> Iterator[str]:
    num_bytes = 0
    for number in count():
        piece = _PROSE.format(number=number) * (_FLOOD_PIECE // len(_PROSE))
        num_bytes += len(piece)
        yield piece
        if num_bytes >= FLOOD_BYTES:
            return


def _compute() -> None:
    # Not a loop in Python: where its numbers lie in memory made turns differ by a tenth.
    hashlib.pbkdf2_hmac("sha256", b"", b"", _WORK_A_TOKEN)


def _tokens(text: str) -> Iterator[str]:
    for number in count():
        part = text.format(number=number)
        yield from (part[start : start + _TOKEN_LETTERS] for start in range(0, len(part), _TOKEN_LETTERS))


def _timed(tokens: Iterator[str]) -> Iterator[str]:
    """Keeps to the speed on the whole: a late token is followed by those that are due."""
    started = time.perf_counter()
    for number, token in enumerate(tokens):
        time.sleep(max(started + number / TOKENS_PER_SECOND - time.perf_counter(), 0))
        yield token


def open_scripted(request: LoadRequest, on_progress: Callable[[LoadProgress], None]) -> ScriptedSession:
    """As engine.session.open_session."""
    return ScriptedSession(request.model)


if __name__ == "__main__":
    serve(open_scripted)
