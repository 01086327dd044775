"""The base model: one forward of N tokens over a cache, to hidden states and to logits."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F

from medusa_chat.decoder_memory import SPARE_ROWS
from medusa_chat.model.architecture import architecture
from medusa_chat.model.attention import GROUPED_ATTENTION
from medusa_chat.model.cache import KVCache
from medusa_chat.records import KVPrecision

# On a CPU, a product of whole fours of rows gives each row the same bits however many there are; of one, two,
# three or five it takes other paths (seen in oneDNN's bfloat16 and MKL's float32). A fourth row costs 3%.
_CPU_ROWS = 4


class BaseModel:
    """A transformers causal language model behind the two verbs that decoding needs."""

    # Whether a step over it can be a CUDA graph (decoding/step_graphs.py).
    runs_in_graphs = False
    # Whether its forwards are compiled as they first run, for the CPU.
    is_compiled = False
    # Rows of a prompt in one forward.
    prefill_rows = 512

    def __init__(self, causal_lm: Any) -> None:
        self.causal_lm = causal_lm.eval()
        config = causal_lm.config.get_text_config()
        self.config = config
        self.hidden_size: int = config.hidden_size
        self.vocab_size: int = causal_lm.get_output_embeddings().weight.shape[0]
        self.dtype: torch.dtype = causal_lm.get_input_embeddings().weight.dtype
        self.device: torch.device = causal_lm.get_input_embeddings().weight.device
        limits = architecture(causal_lm.config)
        self.context_length = limits.context_length
        self._windows = limits.windows
        # transformers 5.17 calls it by the second name, 5.40 no longer will.
        arguments = inspect.signature(causal_lm.get_decoder().forward).parameters
        self._cache_argument = "cache" if "cache" in arguments else "past_key_values"
        self._softcap: float | None = getattr(config, "final_logit_softcapping", None)
        self._logit_scale = _logit_scale(config)

    @property
    def num_bytes(self) -> int:
        """Memory of the weights."""
        return int(self.causal_lm.get_memory_footprint())

    @property
    def lm_head_weight(self) -> torch.Tensor:
        """(V, D); never quantised."""
        weight: torch.Tensor = self.causal_lm.get_output_embeddings().weight
        return weight

    @property
    def fingerprint(self) -> str:
        """Tells base models apart, however quantised: the final norm's weights always stay whole, as do those
        of the embedding, for the few models whose norms have none.
        """
        embedding: torch.Tensor = self.causal_lm.get_input_embeddings().weight
        weights = (getattr(module, "weight", None) for module in self.causal_lm.get_decoder().modules())
        norms = [weight for weight in weights if weight is not None and weight.ndim == 1]
        weight = norms[-1] if norms else embedding
        return hashlib.sha256(weight.detach().float().cpu().numpy().tobytes()).hexdigest()[:16]

    @property
    def adapter(self) -> str | None:
        """Digest of the adapter that is merged into the weights, if any (model/adapter.py)."""
        return getattr(self.causal_lm, "adapter_digest", None)

    def new_cache(self, max_length: int | None = None, kv_cache: KVPrecision = "full") -> KVCache:
        """An empty cache for so many rows, or for a whole context and a tree behind it."""
        # float32 on the CPU: attention computes in it there, and would convert every row at every step.
        dtype = torch.float32 if self._reproducible else self.dtype
        max_length = max_length or self.context_length + SPARE_ROWS
        return KVCache(self.config.num_hidden_layers, max_length, dtype, kv_cache)

    def forward(
        self,
        ids: torch.Tensor,
        cache: KVCache,
        positions: torch.Tensor | None = None,
        visible: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """One forward of N rows behind the cache's T committed ones; nothing is committed.

        ids (B, N); positions (N,), by default T, T+1, …; visible (N, N) bool, which of the N rows each row
        sees besides the whole cache, by default itself and those before it. Returns hidden states (B, N, D).
        """
        num_rows = ids.shape[1]
        ids, positions, visible = self._whole_rows(ids, cache.length, positions, visible)
        output = self.causal_lm.get_decoder()(
            input_ids=ids,
            position_ids=positions.expand(ids.shape[0], -1),
            attention_mask=self._mask(positions, visible, cache.length),
            use_cache=True,
            **{self._cache_argument: cache},
        )
        return output.last_hidden_state[:, :num_rows]  # type: ignore[no-any-return]

    def hidden_states(self, ids: torch.Tensor) -> torch.Tensor:
        """Whole sequences (B, T), each row seeing itself and those before it -> hidden states (B, T, D).

        As `forward` over an empty cache gives them, but without one, so that gradients can flow back.
        """
        output = self.causal_lm.get_decoder()(input_ids=ids, use_cache=False)
        return output.last_hidden_state  # type: ignore[no-any-return]

    def undisturbed(self) -> AbstractContextManager[None]:
        """To work within, from one token that is given out to the next."""
        return nullcontext()

    def prefill(self, ids: torch.Tensor, cache: KVCache) -> torch.Tensor:
        """Commits (B, N) ids in chunks. Returns the last row's hidden state (B, D)."""
        for chunk in torch.split(ids, self.prefill_rows, dim=1):
            hidden = self.forward(chunk, cache)
            cache.keep(range(chunk.shape[1]))
        return hidden[:, -1]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(…, n, D) hidden states -> (…, n, V) logits, in the model's dtype or float32."""
        num_rows = hidden.shape[-2]
        extra = self._num_extra(num_rows)
        hidden = F.pad(hidden, (0, 0, 0, extra)) if extra else hidden
        logits = self._head_logits(hidden)[..., :num_rows, :]
        if self._logit_scale != 1.0:
            logits = logits * self._logit_scale
        if self._softcap is not None:
            logits = torch.tanh(logits / self._softcap) * self._softcap
        return logits

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """(…,) ids -> (…, D) their input embeddings."""
        embedding: torch.Tensor = self.causal_lm.get_input_embeddings().weight
        return F.embedding(ids, embedding)

    def draft_head(self, vocabulary: torch.Tensor | None) -> Callable[[torch.Tensor], torch.Tensor]:
        """A function (n, D) -> (n, V') like `logits`, but good enough for guesses. vocabulary (V',) int64:
        the tokens that are guessed among; None: all.
        """
        if vocabulary is None:
            return self.logits
        rows = self.lm_head_weight[vocabulary]  # (V', D)
        bias: torch.Tensor | None = self.causal_lm.get_output_embeddings().bias
        some = None if bias is None else bias[vocabulary]
        return lambda hidden: F.linear(hidden, rows, some)

    def _whole_rows(
        self,
        ids: torch.Tensor,
        num_cached: int,
        positions: torch.Tensor | None,
        visible: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What `forward` is given, with its defaults and the rows that reproducibility adds filled in."""
        num_rows = ids.shape[1]
        if positions is None:
            positions = torch.arange(num_cached, num_cached + num_rows, device=ids.device)
        if visible is None:
            visible = torch.ones(num_rows, num_rows, dtype=torch.bool, device=ids.device).tril()
        extra = self._num_extra(num_rows)
        if extra:
            ids = F.pad(ids, (0, extra), value=0)
            positions = torch.cat([positions, positions[-1:].expand(extra)])
            alone = torch.eye(num_rows + extra, dtype=torch.bool)
            alone[:num_rows, :num_rows] = visible
            visible = alone
        return ids, positions, visible

    def _head_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.causal_lm.get_output_embeddings()(hidden)
        return logits

    @property
    def _reproducible(self) -> bool:
        return self.device.type == "cpu" and self.config._attn_implementation == GROUPED_ATTENTION

    def _num_extra(self, num_rows: int) -> int:
        """Rows to add so that each row's bits don't depend on how many there are."""
        return -num_rows % _CPU_ROWS if self._reproducible else 0

    def _mask(
        self, positions: torch.Tensor, visible: torch.Tensor, num_cached: int
    ) -> torch.Tensor | dict[str, torch.Tensor | None] | None:
        """As transformers takes it: one mask for all layers, or for each type of layer its own."""
        masks = {
            kind: self._mask_within(window, positions, visible, num_cached)
            for kind, window in self._windows.items()
        }
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _mask_within(
        self, window: int | None, positions: torch.Tensor, visible: torch.Tensor, num_cached: int
    ) -> torch.Tensor | None:
        """Additive mask (1, 1, N, T + N), or None where our own attention needs none."""
        num_rows = len(visible)
        if num_rows == 1 and window is None and self.config._attn_implementation == GROUPED_ATTENTION:
            return None
        lowest = torch.finfo(self.dtype).min
        mask = torch.zeros(num_rows, num_cached + num_rows, dtype=self.dtype, device=self.device)
        mask[:, num_cached:].masked_fill_(~visible, lowest)
        if window is not None and window < num_cached + num_rows:
            # Rows of the cache are at the positions of their places, nodes of a tree are not.
            cached = torch.arange(num_cached, device=self.device)
            of_keys = torch.cat([cached, positions])  # (T + N,)
            mask.masked_fill_(of_keys <= positions[:, None] - window, lowest)
        return mask[None, None]


def _logit_scale(config: Any) -> float:
    """What logits are multiplied with: Cohere's logit_scale, Granite's logits_scaling divides."""
    factor = getattr(config, "logit_scale", None) or 1.0
    divisor = getattr(config, "logits_scaling", None) or 1.0
    return float(factor / divisor)
