"""Origins of the text as it is shown: with characters of several tokens and with stop strings."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from medusa_chat.engine.spans import SpanQueue
from medusa_chat.engine.text import Detokenizer, StopScanner


def test_neighbours_of_one_origin_are_one_span() -> None:
    spans = SpanQueue()
    for length, origin in ((3, 0), (2, 1), (0, 2), (4, 1), (1, -1)):
        spans.add(length, origin)
    assert spans.take(0) == ()
    assert spans.take(4) == ((3, 0), (1, 1))
    assert spans.take(5) == ((5, 1),)
    assert spans.take(1) == ((1, -1),)


@pytest.mark.parametrize("stop", ["", "END", "é", "🙂 y", "nothing of this"])
@pytest.mark.parametrize("step_size", [1, 2, 5])
def test_every_character_is_that_of_the_token_that_completed_it(
    default_model: Path, stop: str, step_size: int
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(default_model)
    text = "naïve café 你好 👩‍👩‍👧 EN route 🙂 no END at all"
    ids = tokenizer.encode(text, add_special_tokens=False)
    # Each token has an origin of its own, so that every character tells which token brought it.
    expected = []
    alone = Detokenizer(tokenizer)
    for number, token in enumerate(ids):
        expected += [number] * len(alone.feed([token])[0])

    detokenizer, scanner, spans = Detokenizer(tokenizer), StopScanner((stop,)), SpanQueue()
    shown, origins = "", []
    for start in range(0, len(ids), step_size):
        pieces = detokenizer.feed(ids[start : start + step_size])
        for number, piece in enumerate(pieces, start=start):
            spans.add(len(piece), number)
        new = scanner.feed("".join(pieces))
        if not scanner.stopped and start + step_size >= len(ids):
            new += scanner.flush()
        shown += new
        taken = spans.take(len(new))
        assert sum(length for length, _ in taken) == len(new)
        origins += [origin for length, origin in taken for _ in range(length)]
        if scanner.stopped:
            break
    assert shown == (text[: text.index(stop)] if stop and stop in text else text)
    assert origins == expected[: len(shown)]
