from __future__ import annotations

import pytest

from medusa_chat.printable import printable


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("tab\tand\nnewline stay", "tab\tand\nnewline stay"),
        ("\x1b[31mred\x1b[0m", "[31mred[0m"),
        ("\x1b]0;title\x07", "]0;title"),
        ("\x9b2Jclear \x85\x7f\x00", "2Jclear "),
        ("carriage\r\nreturn", "carriage\nreturn"),
        ("safe \u202egnp.exe\u202c \u2066x\u2069", "safe gnp.exe x"),
        ("half \ud800 a pair", "half  a pair"),
        ("é 漢字 👩‍💻 שלום", "é 漢字 👩‍💻 שלום"),
    ],
)
def test_printable(text: str, clean: str) -> None:
    assert printable(text) == clean
