"""A step's draft by kernels against the same by torch's operations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("triton")

from medusa_chat.decoding.device_drafts import draft_on_device
from medusa_chat.decoding.draft import Candidates, Draft, draft_best, make_pool, rank_guesses
from medusa_chat.decoding.growth import Growth
from medusa_chat.decoding.lookup import Chain
from medusa_chat.decoding.proposing import propose
from medusa_chat.decoding.tree import published_paths
from medusa_chat.kernels.linear import Tiling
from medusa_chat.kernels.packing import PackedWeight
from medusa_chat.model.block_heads import BlockHeads
from medusa_chat.model.fused import Product
from medusa_chat.model.fused_heads import FusedHeads, fused_heads
from medusa_chat.model.fused_path_heads import FusedPathHeads
from medusa_chat.model.heads import MedusaHeads
from medusa_chat.model.lasting import LastingMemory
from tests.tiny import random_heads, random_path_heads, tiny_llama

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = torch.float16  # Triton's interpreter has no product in bfloat16


class Base:
    """What heads ask of a FusedModel, which needs a GPU."""

    is_4bit = False

    def __init__(self) -> None:
        self.device = torch.device(DEVICE)
        self.lasting = LastingMemory(self.device)
        self.embedding = tiny_llama().causal_lm.get_input_embeddings().weight.to(DEVICE, DTYPE)

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        return F.embedding(ids, self.embedding)

    def draft_head(self, vocabulary: torch.Tensor | None) -> Any:
        rows = self.embedding if vocabulary is None else self.embedding[vocabulary]
        return lambda hidden: F.linear(hidden, rows)

    def cut(self, weight: PackedWeight) -> Product:
        return Product(weight, Tiling(1, 64))


@pytest.mark.parametrize("kind", ["block", "path", "path of a vocabulary"])
@pytest.mark.parametrize("chained", [True, False])
def test_the_same_nodes(kind: str, chained: bool) -> None:
    base: Any = Base()
    torch.manual_seed(3)
    heads: MedusaHeads = random_heads(tiny_llama(), 3).to(DEVICE, DTYPE)
    frame: Candidates | Growth = Candidates(published_paths(3), DEVICE, chain_length=4 if chained else 0)
    if kind != "block":
        vocabulary = torch.arange(0, 64, 2, device=DEVICE) if "vocabulary" in kind else None
        heads = random_path_heads(tiny_llama(), 3, vocabulary).to(DEVICE, DTYPE)
        frame = Growth(3, DEVICE, chain_length=4 if chained else 0)
    hidden, root = torch.randn(1, 32, device=DEVICE).to(DTYPE), torch.tensor([7], device=DEVICE)
    weighed = propose(frame, base, heads, hidden, root[0], rank_guesses)
    begun = weighed.ids[1:2].tolist()  # the likeliest guess, so that the chain begins as a path of theirs
    chain = None
    if chained:
        tokens = torch.tensor([*begun, 1, 3, 5], device=DEVICE)
        chain = Chain(tokens, torch.tensor([-0.1, -0.3, -3.0, -4.0], device=DEVICE))
    pool = make_pool(frame, weighed, chain)
    fused = heads if kind == "block" else FusedPathHeads(heads, base)  # type: ignore[arg-type]
    for num_nodes in (1, 6, 24):
        ours, expected = draft_on_device(
            frame, base, fused, hidden, root, lambda: chain, num_nodes, (1, num_nodes)
        )
        # Texts, not numbers: half precision may turn two of equal weight round.
        assert texts(ours) == texts(draft_best(pool, frame, num_nodes))
        wanted = torch.stack([*pool.expected[[0, num_nodes - 1]], ours.depths.max().float()])
        torch.testing.assert_close(expected, wanted, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("num_lm_heads", [3, 1, 0])
def test_heads_of_blocks_in_4_bits(num_layers: int, num_lm_heads: int) -> None:
    """As the heads they are made from, but for the rounding of their weights."""
    base, size = Base(), 64
    base.embedding = torch.randn(90, size, device=DEVICE).to(DTYPE)
    blocks = torch.randn(num_layers, 3, size, size) * 0.1, torch.randn(num_layers, 3, 1, size)
    own = torch.randn(num_lm_heads, 90, size) if num_lm_heads else None
    heads = BlockHeads(*blocks, own).to(DEVICE, DTYPE).requires_grad_(False)
    hidden = torch.randn(1, size, device=DEVICE).to(DTYPE)
    expected = heads.logits(hidden, base).float()  # type: ignore[arg-type]
    fused = fused_heads(heads, base)  # type: ignore[arg-type]
    assert isinstance(fused, FusedHeads)
    assert (fused.num_heads, fused.num_layers, fused.lm_head_size) == (
        3,
        num_layers,
        90 if own is not None else None,
    )
    ours = fused.logits(hidden, base).float()  # type: ignore[arg-type]
    assert ours.shape == (3, 90)
    assert float((ours - expected).norm() / expected.norm()) < 0.15


def texts(draft: Draft) -> set[tuple[int, ...]]:
    return {
        tuple(draft.ids[path[: depth + 1]].tolist())
        for path, depth in zip(draft.paths, draft.depths.tolist(), strict=True)
    }
