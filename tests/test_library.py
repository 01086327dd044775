"""`from medusa_chat import load`: the package in somebody else's program."""

from __future__ import annotations

import gc
import re
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from medusa_chat import load
from medusa_chat.errors import HeadsMismatch, UsageError
from medusa_chat.model.path_heads import PathHeads
from medusa_chat.records import Chunk, Message, SamplingOptions
from tests.training.chatty import chatty_model, save_chatty_model

README = Path(__file__).parent.parent / "README.md"


@pytest.fixture
def chatty(tmp_path: Path) -> Path:
    save_chatty_model(tmp_path / "model")
    base = chatty_model().base
    torch.manual_seed(3)
    PathHeads.fresh(2, 1, 32, base.hidden_size).save(tmp_path / "heads")
    return tmp_path


def test_a_folder_and_a_model_in_memory_answer_alike(chatty: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(chatty / "model")
    own = AutoModelForCausalLM.from_pretrained(chatty / "model", dtype=torch.float32)
    own.requires_grad_(True)
    sessions = [
        load(chatty / "model", chatty / "heads", device="cpu", dtype="float32"),
        load(own, chatty / "heads", tokenizer=tokenizer),
        load(chatty / "model", device="cpu", dtype="float32"),
    ]
    replies = []
    for session in sessions:
        session.options = SamplingOptions(temperature=0.0, max_tokens=30)
        chunks = [item for item in session.reply([Message("user", "What is it")]) if isinstance(item, Chunk)]
        replies.append([token for chunk in chunks for token in chunk.ids])
    assert len(replies[0]) > 5
    assert replies[0] == replies[1] == replies[2]
    assert [session.info.num_heads for session in sessions] == [2, 2, 0]
    assert sessions[1].info.quantization == "none"


def test_what_can_t_be_is_said_in_a_sentence(chatty: Path) -> None:
    with pytest.raises(UsageError, match=r"needs its tokenizer: load\(model, tokenizer=…\)\."):
        load(chatty_model().base.causal_lm)
    PathHeads.fresh(2, 1, 32, 48).save(chatty / "heads")
    with pytest.raises(HeadsMismatch, match="hidden size of 48"):
        load(chatty / "model", chatty / "heads", device="cpu")


def test_a_session_ends_with_its_block(chatty: Path) -> None:
    with load(chatty / "model", device="cpu", dtype="float32") as session:
        assert session.info.num_heads == 0
        model = weakref.ref(session._base)
    gc.collect()
    assert model() is None


def readme_examples() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_the_readme_s_session_does_what_it_says(
    default_model_here: str, capsys: pytest.CaptureFixture[str]
) -> None:
    exec(compile(readme_examples()[0], "README.md", "exec"), {})
    assert "Paris" in capsys.readouterr().out


def test_the_readme_s_generate_does_what_it_says(chatty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (chatty / "my").mkdir()
    (chatty / "model").rename(chatty / "my" / "model")
    (chatty / "heads").rename(chatty / "my" / "heads")
    monkeypatch.chdir(chatty)
    names: dict[str, Any] = {}
    exec(compile(readme_examples()[1], "README.md", "exec"), names)
    assert torch.equal(names["output"], names["model"].generate(**names["inputs"], max_new_tokens=64))
    assert names["output"].shape[1] > 10
