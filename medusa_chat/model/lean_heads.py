"""Path-aware heads on the CPU, over weights rounded to 8 bits, in our own kernels."""

from __future__ import annotations

import torch
from torch import nn

from medusa_chat.kernels.cpu.decoder import multiply
from medusa_chat.kernels.cpu.drafting import DraftFrame, GatedWeights, Grown, advance, grow
from medusa_chat.kernels.cpu.packing import PanelWeight, quantize_int8, rows_dtype
from medusa_chat.model.base import BaseModel
from medusa_chat.model.heads import MedusaHeads
from medusa_chat.model.lean import LeanModel
from medusa_chat.model.path_heads import GatedLayer, PathHeads


def lean_heads(heads: MedusaHeads, base: BaseModel) -> MedusaHeads:
    """LeanPathHeads in place of PathHeads, for a base that is lean; other kinds are one small product."""
    if not isinstance(heads, PathHeads) or not isinstance(base, LeanModel):
        return heads
    return LeanPathHeads(heads, base).requires_grad_(False)


class LeanPathHeads(PathHeads):
    """As the heads it is made from, for one base model."""

    grows_at_once = True

    def __init__(self, heads: PathHeads, base: LeanModel) -> None:
        layers = [PackedGatedLayer(layer) for layer in heads.layers if isinstance(layer, GatedLayer)]
        super().__init__(layers, heads.depth.data, heads.vocabulary, heads.config)
        self._weights = [layer.weights for layer in layers]
        self._head: PanelWeight = base.draft_weight(heads.vocabulary)

    def advance(self, state: torch.Tensor, embedding: torch.Tensor, depth: int) -> torch.Tensor:
        return advance(state, embedding, self.depth[depth], self._weights)

    def shared_logits(self, rows: torch.Tensor, base: BaseModel) -> torch.Tensor:
        return multiply(rows.to(rows_dtype(rows.dtype)), self._head)

    def grow(self, base: BaseModel, hidden: torch.Tensor, root: torch.Tensor, frame: DraftFrame) -> Grown:
        """All levels of a draft (decoding/growth.py). hidden (1, D), root () int64."""
        embedding: torch.Tensor = base.causal_lm.get_input_embeddings().weight
        heads = self.depth.data, self._weights, self._head, self.vocabulary
        return grow(hidden, int(root), embedding, *heads, frame)


class PackedGatedLayer(nn.Module):
    """The weights of a GatedLayer."""

    def __init__(self, layer: GatedLayer) -> None:
        super().__init__()
        self.weights = GatedWeights(quantize_int8(layer.gate_up.detach()), quantize_int8(layer.down.detach()))

    @property
    def num_bytes(self) -> int:
        return self.weights.gate_up.num_bytes + self.weights.down.num_bytes
