"""What the formats on disk call the tensors of block heads."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BlockNames:
    """Of K heads of L blocks. blocks: finds head and layer in the names of a block's weight and bias.
    lm_heads: finds the head, and L if the name tells it, in that of a head's own LM head. one_lm_head: of one
    for all heads.
    """

    blocks: re.Pattern[str]
    lm_heads: re.Pattern[str]
    one_lm_head: str | None
    _block: str
    _lm_head: str

    def weight(self, head: int, layer: int) -> str:
        return self._block.format(head=head, layer=layer) + ".weight"

    def bias(self, head: int, layer: int) -> str:
        return self._block.format(head=head, layer=layer) + ".bias"

    def lm_head(self, head: int, num_layers: int) -> str:
        """Of a head that has one of its own."""
        return self._lm_head.format(head=head, num_layers=num_layers)


# The reference code's, which TGI reads too.
REFERENCE = BlockNames(
    re.compile(r"(\d{1,4})\.(\d{1,4})\.linear\.(?:weight|bias)"),
    re.compile(r"(\d{1,4})\.(\d{1,4})\.weight"),
    None,
    "{head}.{layer}.linear",
    "{head}.{num_layers}.weight",
)
VLLM = BlockNames(
    re.compile(r"blocks\.(\d{1,4})\.layers\.(\d{1,4})\.(?:weight|bias)"),
    re.compile(r"lm_heads\.(\d{1,4})\.weight"),
    "lm_head.weight",
    "blocks.{head}.layers.{layer}",
    "lm_heads.{head}.weight",
)
