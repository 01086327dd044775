from __future__ import annotations

from pathlib import Path

import pytest

from medusa_chat.bench.speed import OWN_PROMPTS
from medusa_chat.errors import UsageError
from medusa_chat.prompt_file import PromptFile, UserPrompt, read_prompt_file


def read(folder: Path, content: str | bytes, name: str = "prompts.jsonl") -> PromptFile:
    file = folder / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_prompt_file(file)


@pytest.mark.parametrize(
    ("line", "prompt"),
    [
        ('{"prompt": "Hi"}', UserPrompt("Hi")),
        ('{"turns": ["Hi", "And then?"], "category": "math"}', UserPrompt("Hi", "math")),
        ('{"conversations": [{"from": "human", "value": "Hi"}, {"value": "Hello"}]}', UserPrompt("Hi")),
        ('{"conversations": [{"role": "user", "content": "Hi"}], "category": 7}', UserPrompt("Hi")),
        ('{"prompt": "", "turns": ["Hi"]}', UserPrompt("Hi")),
        ('{"prompt": "one\u2028line\u0085still"}', UserPrompt("one\u2028line\u0085still")),
        ('  {"prompt": "\\ud83d\\udc1c"}  ', UserPrompt("🐜")),
    ],
)
def test_each_form_gives_its_first_message(tmp_path: Path, line: str, prompt: UserPrompt) -> None:
    assert read(tmp_path, line) == PromptFile([prompt], [])


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        "[1]",
        '"Hi"',
        "{}",
        '{"prompt": " "}',
        '{"prompt": 7}',
        '{"turns": []}',
        '{"turns": 5}',
        '{"turns": "Hi"}',
        '{"turns": {"Hi": 1}}',
        '{"conversations": [{"from": "human"}]}',
        '{"prompt": "half a pair: \\ud83d"}',
        pytest.param("[" * 100_000, id="nested too deep"),
    ],
)
def test_broken_lines_are_named_and_left_out(tmp_path: Path, line: str) -> None:
    found = read(tmp_path, f'{{"prompt": "one"}}\n\n{line}\n{{"prompt": "two"}}\n')
    assert found == PromptFile([UserPrompt("one"), UserPrompt("two")], [3])


def test_plain_text_holds_a_prompt_a_line(tmp_path: Path) -> None:
    found = read(tmp_path, b'\xef\xbb\xbfWhat is it?\r\n\r\n{"prompt": "as it stands"}\r\n', "prompts.txt")
    assert found == PromptFile([UserPrompt("What is it?"), UserPrompt('{"prompt": "as it stands"}')], [])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds no prompts: each line needs `prompt`, `turns` or `conversations`."),
        (b"{}\n[]\n", "holds no prompts: each line needs `prompt`, `turns` or `conversations`."),
        (b'{"prompt": "caf\xe9"}', "is not UTF-8 text; convert it first."),
    ],
)
def test_a_file_that_is_no_use_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(tmp_path, content)
    assert str(caught.value) == f"{tmp_path / 'prompts.jsonl'} {said}"


def test_an_empty_text_is_told_nothing_of_json(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"prompts\.txt holds no prompts: it is empty\.$"):
        read(tmp_path, b" \n", "prompts.txt")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read_prompt_file(tmp_path / "none.jsonl")
    assert str(caught.value) == f"{tmp_path / 'none.jsonl'} can't be read: No such file or directory."
    with pytest.raises(UsageError, match=r"can't be read: Is a directory\."):
        read_prompt_file(tmp_path)


def test_the_benchmarks_own_prompts_are_sound() -> None:
    own = read_prompt_file(OWN_PROMPTS)
    assert own.bad_lines == []
    assert len({prompt.text for prompt in own.prompts}) == len(own.prompts) >= 10
    assert all(prompt.category for prompt in own.prompts)
