"""What training takes of the memory: judged before it starts, refused with what would fit, and kept to."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from medusa_chat.bench.random_model import random_model
from medusa_chat.bench.shapes import SHAPES
from medusa_chat.errors import OutOfMemory
from medusa_chat.model.base import BaseModel
from medusa_chat.records import Quantization
from medusa_chat.training import medusa1, memory
from medusa_chat.training.dialogues import Dialogues, DialogueWriter
from medusa_chat.training.fresh import fresh_heads
from medusa_chat.training.medusa1 import Medusa1, medusa1_loop
from medusa_chat.training.medusa2 import Medusa2, medusa2_loop
from medusa_chat.training.memory import Need, check_fits, medusa1_need, medusa2_need, medusa2_needs
from medusa_chat.training.recipe import SELF_DISTILLED, HeadKind, Recipe
from tests.tiny import tiny_llama
from tests.training.chatty import periodic_dialogues
from tests.training.test_run import RECIPE, train

GIB = 2**30
NEED = Need(fixed=4 * GIB, per_token=2**20, per_pair=2**10)


def test_a_need_grows_with_dialogues_and_their_length() -> None:
    assert NEED.of_dialogues(3, 1024) == 4 * GIB + 3 * 1024 * (2**20 + 1024 * 2**10)
    assert NEED.of_dialogues(3, 1024) == 10 * GIB
    assert NEED.at_once(1024, int(10.1 / memory._USABLE * GIB)) == 3
    assert NEED.at_once(1024, 2 * GIB) == 0


@pytest.mark.parametrize(
    ("free", "quantised", "said"),
    [
        (5.4, False, "--sequence-length 512 would fit."),
        (4.55, True, "--sequence-length 64 would fit."),
        (4.0, False, "--quant 4bit would leave more."),
        (4.0, True, "smaller heads (--layers, --head-width) take less."),
    ],
)
def test_what_would_fit_is_said(free: float, quantised: bool, said: str) -> None:
    with pytest.raises(OutOfMemory) as caught:
        check_fits(NEED, 1024, int(free * GIB), quantised=quantised)
    expected = f"Training takes about 6.0 GB beside the model, and {free:.1f} GB are free; {said}"
    assert str(caught.value) == expected
    check_fits(NEED, 1024, int(6.1 / memory._USABLE * GIB), quantised=quantised)


@pytest.mark.parametrize("second", [False, True])
def test_too_little_memory_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: bool
) -> None:
    monkeypatch.setattr(DialogueWriter, "write", lambda *_: pytest.fail("began"))
    monkeypatch.setattr("medusa_chat.training.run.free_bytes", lambda device: 2**20)
    with pytest.raises(OutOfMemory, match=r"and 0\.0 GB are free; --quant 4bit would leave more\."):
        train(tmp_path, RECIPE, adapter_recipe=SELF_DISTILLED if second else None)


@pytest.mark.parametrize("kind", ["block", "mlp", "path"])
def test_what_heads_need_grows_with_them(kind: HeadKind) -> None:
    base = tiny_llama()

    def need(num_heads: int, num_layers: int, width: float) -> Need:
        recipe = Recipe(head_kind=kind, num_heads=num_heads, num_layers=num_layers, head_width=width)
        return medusa1_need(base, fresh_heads(base, recipe))

    small, larger = need(2, 1, 1.0), need(6, 2, 2.0)
    assert larger.per_token > small.per_token
    assert larger.fixed > small.fixed
    assert small.per_pair == 0
    assert medusa1_need(tiny_llama(attention="eager"), fresh_heads(base, Recipe())).per_pair > 0


def test_an_adapter_needs_more_and_is_off_again_afterwards() -> None:
    base = tiny_llama()
    names = [name for name, _ in base.causal_lm.named_parameters()]
    heads = fresh_heads(base, RECIPE)
    assert medusa2_needs(base, heads, SELF_DISTILLED).per_token > medusa1_need(base, heads).per_token
    assert [name for name, _ in base.causal_lm.named_parameters()] == names


@pytest.mark.parametrize("kind", ["block", "path"])
def test_with_little_memory_a_batch_is_learnt_from_in_parts(
    monkeypatch: pytest.MonkeyPatch, kind: HeadKind
) -> None:
    base, data = tiny_llama(), periodic_dialogues(7, 24, 5)
    data.answer[3, 12:] = False  # the parts don't count alike
    recipe = replace(RECIPE, head_kind=kind, batch_size=7)
    batch = torch.arange(7)

    def learnt(free: float) -> tuple[int, float, list[torch.Tensor]]:
        monkeypatch.setattr(medusa1, "free_bytes", lambda device: free)
        heads = fresh_heads(base, recipe)
        one = Medusa1(base, heads, data, recipe)
        loss = sum(float(one.learn(part, batch, 0.0)) for part in torch.split(batch, one.at_once))
        return one.at_once, loss, [weight.grad for weight in heads.parameters() if weight.grad is not None]

    whole_count, whole_loss, whole = learnt(2**40)
    need = medusa1_need(base, fresh_heads(base, recipe))
    in_parts_count, in_parts_loss, in_parts = learnt(need.of_dialogues(2, 24) / memory._USABLE + 1)
    assert (in_parts_count, learnt(0)[0]) == (2, 1)
    assert whole_count >= 7
    assert in_parts_loss == pytest.approx(whole_loss)
    assert len(whole) == len(in_parts) > 0
    for gradient, expected in zip(in_parts, whole, strict=True):
        torch.testing.assert_close(gradient, expected)


def random_dialogues(base: BaseModel, count: int, length: int) -> Dialogues:
    """All of it answer."""
    ids = torch.randint(base.vocab_size, (count, length), dtype=torch.int32)
    answer = torch.ones(count, length, dtype=torch.bool)
    answer[:, 0] = False
    return Dialogues(ids, answer, torch.arange(count) % 2 == 0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    ("shape", "quantization", "second", "kind"),
    [
        ("llama-2-7b", "4bit", False, "path"),
        ("llama-2-7b", "4bit", False, "block"),
        ("llama-2-7b", "4bit", True, "path"),
        ("llama-3-8b", "4bit", False, "path"),
        ("tinyllama", "none", False, "path"),
        ("tinyllama", "none", True, "path"),
    ],
)
def test_a_model_trains_in_24_gb_and_in_what_was_estimated(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    shape: str,
    quantization: Quantization,
    second: bool,
    kind: HeadKind,
) -> None:
    """Dialogues of 2048 tokens, eight in a batch, in the memory of a 24 GB card."""
    device, length = torch.device("cuda", 0), 2048
    gc.collect()  # the models of earlier tests
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(24e9 / torch.cuda.mem_get_info()[1])
    base = random_model(SHAPES[shape], quantization, device, torch.bfloat16, length)
    held = torch.cuda.memory_allocated()
    recipe = Recipe(batch_size=8, epochs=1, head_kind=kind)
    data = random_dialogues(base, 8, length)
    heads = fresh_heads(base, recipe)
    with pytest.MonkeyPatch.context() as patch:
        for module in ("medusa1", "medusa2"):
            patch.setattr(
                f"medusa_chat.training.{module}.free_bytes",
                lambda _: int(23e9) - torch.cuda.memory_allocated(),
            )
        learner: Medusa1 | Medusa2
        if second:
            learner = Medusa2(base, heads, data, recipe, SELF_DISTILLED)
            loop = medusa2_loop(learner, tmp_path)
            recomputes = base.causal_lm.is_gradient_checkpointing
            need = medusa2_need(base, heads, learner.adapter, remembers_all=not recomputes)
        else:
            loop = medusa1_loop(base, heads, data, recipe, tmp_path)
            assert isinstance(loop._learner, Medusa1)
            learner, need = loop._learner, medusa1_need(base, heads)
        torch.cuda.reset_peak_memory_stats()
        loop.run(lambda report: None)
    peak = torch.cuda.max_memory_allocated()
    estimated = need.of_dialogues(min(8, learner.at_once), length)
    with capsys.disabled():
        print(
            f"\n{shape} {quantization} {kind} {type(learner).__name__}: model {held / 1e9:.1f} GB, "
            f"{learner.at_once} dialogues at once, peak {peak / 1e9:.1f} GB; beside the model "
            f"{(peak - held) / 1e9:.2f} GB, estimated {estimated / 1e9:.2f} GB"
        )
    torch.cuda.set_per_process_memory_fraction(1.0)
    assert peak < 24e9
    assert 0.9 < estimated / (peak - held) < 1.6
