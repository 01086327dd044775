"""The chat on the real default model, in its real engine."""

from __future__ import annotations

from pathlib import Path

from medusa_chat.engine.process import WORKER_COMMAND
from medusa_chat.records import LoadRequest, SamplingOptions
from medusa_chat.settings import Settings
from tests.app.conftest import OpenChat

_SECONDS_TO_LOAD = 120


async def test_the_real_model_chats(default_model_here: str, open_chat: OpenChat, tmp_path: Path) -> None:
    from medusa_chat.model.heads import MedusaHeads

    heads = tmp_path / "heads"
    heads.mkdir()
    MedusaHeads.fresh(num_heads=2, num_layers=1, hidden_size=576).save(heads)
    request = LoadRequest(default_model_here, heads=str(heads), device="cpu", dtype="float32")
    settings = Settings(sampling=SamplingOptions(temperature=0, tree_size=4))
    async with open_chat(request=request, settings=settings, command=WORKER_COMMAND, wait=False) as chat:
        await chat.send("What is the capital of France?")  # waits for the model
        await chat.answered(_SECONDS_TO_LOAD)
        assert chat.replies == ["The capital of France is Paris."]
        assert "×" in chat.captions[0]
        await chat.send("Count from one to a hundred.")
        await chat.until(lambda: chat.replies[1])
        await chat.press("escape")
        await chat.answered()
        assert chat.captions[1].startswith("■ stopped")
