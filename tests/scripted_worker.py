"""An engine's child process that says what the test wrote for it, over the real wire.

The last word of the user's message chooses what happens, SCRIPTED_LOAD how loading goes, and
SCRIPTED_CRASHES (a folder) how often: each crash takes one file out of it. Loading goes on as long as the
file SCRIPTED_HELD is there.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from pathlib import Path

from medusa_chat.engine.worker import serve
from medusa_chat.errors import OutOfMemory, PromptTooLong
from medusa_chat.records import (
    BASE_ORIGIN,
    LOOKUP_ORIGIN,
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

PLAIN_STEP_SECONDS = 0.020
STEP_SECONDS = 0.025
NUM_HEADS = 4

MARKDOWN = """\
# Tree drafting

Medusa heads *guess* the next tokens, and the base model **verifies** them in one pass:

1. draft a tree,
2. verify every node at once,
3. keep the longest path it agrees with.

```python
def accept(path, base):
    return [token for token in path if base(token)]
```

| step | tokens |
| ---- | ------ |
| 1    | 3      |
| 2    | 2      |

> Same words, fewer steps. See <https://arxiv.org/abs/2401.10774>.
"""

HOSTILE = (
    "before \x1b[31mred\x1b[0m \x1b]0;title\x07 \x9b2J [bold]markup[/bold] [@click=app.quit]quit[/] "
    "<script>alert(1)</script> &#x202e;flip \u202eoverride\n\n<div>a block of HTML</div>\n\nafter"
)


def _crash() -> None:
    print("Traceback of no interest", file=sys.stderr)
    print("scripted: the device fell off the bus", file=sys.stderr, flush=True)
    os._exit(3)


def _crash_while_files_last() -> None:
    folder = os.environ.get("SCRIPTED_CRASHES")
    for file in sorted(Path(folder).iterdir()) if folder else []:
        file.unlink()
        _crash()


def _pieces(text: str) -> Iterator[tuple[str, int]]:
    """Words with their spaces, in steps of 1 to 4."""
    words = text.split(" ")
    sizes = cycle((2, 1, 3, 1, 2, 4, 1, 2))
    start = 0
    while start < len(words):
        size = next(sizes)
        part = words[start : start + size]
        start += size
        yield " ".join(part) + (" " if start < len(words) else ""), len(part)


def _spans(text: str) -> tuple[tuple[int, int], ...]:
    """The first word as if by head 1, the next by head 2, then looked up, and the last by the base model."""
    words = [len(word) for word in re.findall(r"\S+\s*|\s+", text)]
    origins = [number if number <= NUM_HEADS else LOOKUP_ORIGIN for number in range(1, len(words))]
    return tuple(zip(words, [*origins, BASE_ORIGIN][: len(words)], strict=True))


class ScriptedSession:
    def __init__(self, model: str) -> None:
        self.options = SamplingOptions()
        self.cancelled = False
        self._model = model
        self._context_tokens = 0
        self._context_length = 2048

    @property
    def info(self) -> EngineInfo:
        return EngineInfo(
            model=self._model,
            quantization="4bit",
            device="cpu",
            device_name="Scripted processor, 2 cores",
            dtype="bfloat16",
            context_length=self._context_length,
            num_heads=NUM_HEADS,
            tree_size=16,
            memory_bytes=312_000_000,
            step_seconds={1: PLAIN_STEP_SECONDS, 16: STEP_SECONDS},
            remarks=("config.json says 2 heads, but it is 4.",) if self._model == "mislabelled" else (),
        )

    def reply(self, messages: Sequence[Message]) -> Iterator[ReplyStarted | Chunk]:
        question = messages[-1].content
        word = question.split()[-1]
        if word == "toolong":
            raise PromptTooLong("This message alone is longer than the context of 2048 tokens. Shorten it.")
        self._context_tokens = 10 * len(messages)
        yield ReplyStarted(self._context_tokens, 0, 3 if word == "dropped" else 0)
        yield from self._steps(self._script(word, messages))

    def _script(self, word: str, messages: Sequence[Message]) -> Iterator[tuple[str, int]]:
        match word:
            case "endless":
                for number in range(100_000):
                    time.sleep(0.01)
                    yield f"word{number} ", 1
            case "temperature":
                for _ in range(100_000):
                    time.sleep(0.01)
                    yield f"T={self.options.temperature:.1f} D={self.options.drafting:d} ", 2
            case "crash":
                yield "These words arrived. ", 3
                _crash()
            case "silent-crash":
                _crash()
            case "long-code":
                yield "```python\nprint(" + "'a long line', " * 20 + "'its end')\n```", 9
            case "no-memory":
                yield "These words arrived. ", 3
                self._context_length = 1024
                raise OutOfMemory("Memory ran out. The context is 1,024 tokens from now on.")
            case "bug":
                raise RuntimeError("the shapes don't match\nCompile with -g to see more.")
            case "hostile":
                yield from _pieces(HOSTILE)
            case "roles":
                yield "roles: " + ", ".join(f"{message.role}={message.content}" for message in messages), 5
            case "empty":
                return
            case _:
                yield from _pieces(MARKDOWN)

    def _steps(self, pieces: Iterator[tuple[str, int]]) -> Iterator[Chunk]:
        finish: FinishReason = "eos"
        for text, num_tokens in pieces:
            if self.cancelled:
                finish = "cancelled"
                break
            time.sleep(float(os.environ.get("SCRIPTED_STEP_SECONDS", "0.002")))
            self._context_tokens += num_tokens
            nodes, depth = (16, NUM_HEADS) if self.options.drafting else (1, 0)
            step = StepStats(
                nodes,
                num_tokens,
                STEP_SECONDS,
                self._context_tokens,
                head_depth=depth,
                heads_kept=min(num_tokens - 1, depth),
                is_plain=nodes == 1,
            )
            yield Chunk(text, tuple(range(num_tokens)), step, spans=_spans(text))
        yield Chunk("", (), StepStats(0, 0, 0.0, self._context_tokens), finish)

    def close(self) -> None:
        pass


def open_scripted(request: LoadRequest, progress: Callable[[LoadProgress], None]) -> ScriptedSession:
    _crash_while_files_last()
    for part in range(4):
        progress(LoadProgress(f"Loading {request.model}: reading weights", part / 4))
        time.sleep(float(os.environ.get("SCRIPTED_LOAD_SECONDS", "0")) / 4)
    while (held := os.environ.get("SCRIPTED_HELD")) and Path(held).exists():
        time.sleep(0.01)
    if os.environ.get("SCRIPTED_LOAD") == "fail" or request.quantization == "8bit":
        raise OutOfMemory("The model needs 99 GB and 2 GB are free. --quant 4bit would fit.")
    return ScriptedSession(request.model)


if __name__ == "__main__":
    serve(open_scripted)
