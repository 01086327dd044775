"""What the formats on disk call the tensors of block heads."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BlockNames:
    """Of K heads of L blocks. pattern: finds head and layer in the name of a block's weight."""

    pattern: re.Pattern[str]
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
    re.compile(r"(\d+)\.(\d+)\.linear\.weight"), "{head}.{layer}.linear", "{head}.{num_layers}.weight"
)
VLLM = BlockNames(
    re.compile(r"blocks\.(\d+)\.layers\.(\d+)\.weight"),
    "blocks.{head}.layers.{layer}",
    "lm_heads.{head}.weight",
)
