"""Streaming text: whole characters only, stop strings never shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from medusa_chat.engine.text import Detokenizer, StopScanner


@pytest.mark.parametrize(
    "text",
    [
        "The capital of France is Paris.",
        "naïve café – 你好，世界 🙂👩‍👩‍👧 ok",
        "def f(x):\n    return  x\n\n\n# end",
        " leading and trailing ",
        "1. one\n10. ten\n2.5 % of 1,000",
    ],
)
def test_pieces_join_to_the_whole(default_model: Path, text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(default_model)
    ids = tokenizer.encode(text, add_special_tokens=False)
    detokenizer = Detokenizer(tokenizer)
    pieces = [piece for token in ids for piece in detokenizer.feed([token])]
    assert "".join(pieces) == text == tokenizer.decode(ids)
    assert not any("\ufffd" in piece for piece in pieces)


def test_special_tokens_are_not_text(default_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(default_model)
    ids = [*tokenizer.encode("Yes.", add_special_tokens=False), tokenizer.eos_token_id]
    assert "".join(Detokenizer(tokenizer).feed(ids)) == "Yes."


def scan(stops: tuple[str, ...], *pieces: str) -> tuple[list[str], bool]:
    scanner = StopScanner(stops)
    shown = []
    for piece in pieces:
        shown.append(scanner.feed(piece))
        if scanner.stopped:
            return shown, True
    return [*shown, scanner.flush()], False


@pytest.mark.parametrize(
    ("stops", "pieces", "shown", "stopped"),
    [
        ((), ("ab", "c"), ["ab", "c", ""], False),
        (("END",), ("one EN", "D two"), ["one ", ""], True),
        (("END",), ("one EN", "TER"), ["one ", "ENTER", ""], False),
        (("END",), ("one E", "N"), ["one ", "", "EN"], False),
        (("b", "ab"), ("xab",), ["x"], True),
        (("\n\n",), ("a\n", "b\n", "\nc"), ["a", "\nb", ""], True),
        (("aab",), ("aa", "a", "ab"), ["", "a", "a"], True),
    ],
)
def test_stop_strings(
    stops: tuple[str, ...], pieces: tuple[str, ...], shown: list[str], stopped: bool
) -> None:
    assert scan(stops, *pieces) == (shown, stopped)
