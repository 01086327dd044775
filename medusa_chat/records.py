"""What crosses from one room to another: frozen records, no torch, no logic beyond what they hold.

The engine's child process speaks these as JSON lines (engine/process.py), so every field is plain data.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Role = Literal["system", "user", "assistant"]
AcceptanceRule = Literal["exact", "typical"]
Quantization = Literal["4bit", "8bit", "none"]
Device = Literal["auto", "cuda", "cpu"]
DType = Literal["auto", "float32", "bfloat16", "float16"]
KVPrecision = Literal["full", "8bit"]  # full: as attention computes, in 16 bits on a GPU and 32 on a CPU
LMHeadPrecision = Literal["full", "4bit"]  # of the base model; full: as its checkpoint has it
HeadFormat = Literal["medusa", "vllm", "tgi"]
FinishReason = Literal["eos", "stop", "length", "context", "cancelled"]
ContextPolicy = Literal["drop-oldest", "keep-first", "stop"]
BUILT_TREES = ("dynamic", "static")  # draft trees that the engine makes up itself
PUBLISHED_TREES = (  # with Medusa; what they are stands in decoding/published_trees.py
    "mc_sim_7b_63",
    "vicuna_7b_stage1",
    "vicuna_7b_stage1_ablation",
    "vicuna_7b_stage2",
    "vicuna_13b_stage1",
    "vicuna_13b_stage2",
    "vicuna_33b_stage1",
    "vicuna_33b_stage2",
    "zephyr_stage2",
)
MAX_TREE_SIZE = 64
MIN_CONTEXT_LENGTH = 256  # tokens that a context may be held down to
# Whose guess a token was: the number of a head, or one of these.
BASE_ORIGIN = 0  # nobody's: the base model's own, one in each step
LOOKUP_ORIGIN = -1  # drafted for no head but because the conversation said it before
EnergySource = Literal["card", "package"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingOptions:
    """How the next token is chosen. The engine reads these afresh at every step.

    temperature: 0 is greedy. top_p, top_k, min_p: 1.0, 0 and 0.0 switch each filter off.
    seed: None draws a fresh one for each reply. max_tokens: of one reply.
    acceptance: "exact" keeps the base model's distribution; "typical" is the paper's rule and is lossy.
    drafting: False decodes plainly. tree_size: nodes of the draft tree, root included; None lets the
    engine choose, from measured step times. tree: "dynamic" takes at each step the likeliest nodes, from the
    heads and from what the conversation repeats; "static" always the same ones, best on the whole; else the
    name of a published tree, or a file of paths, which has a size of its own.
    context: what is left out of a conversation that has outgrown the model's context. "drop-oldest": whole
    turns, oldest first; "keep-first": the same, but for the first question and its answer; "stop": nothing,
    the next message is refused.
    """

    temperature: float = 0.2
    top_p: float = 0.9
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    max_tokens: int = 1024
    acceptance: AcceptanceRule = "exact"
    drafting: bool = True
    tree_size: int | None = None
    tree: str = "dynamic"
    context: ContextPolicy = "drop-oldest"
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises ValueError with a sentence naming the option and its range."""
        if not 0.0 <= self.temperature <= 5.0:
            raise ValueError(f"Temperature must lie between 0 and 5, not {self.temperature:g}.")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"Top-p must be above 0 and at most 1, not {self.top_p:g}.")
        if self.top_k < 0:
            raise ValueError(f"Top-k must be 0 (off) or a positive number, not {self.top_k}.")
        if not 0.0 <= self.min_p < 1.0:
            raise ValueError(f"Min-p must be at least 0 and below 1, not {self.min_p:g}.")
        if self.max_tokens < 1:
            raise ValueError(f"The number of new tokens must be at least 1, not {self.max_tokens}.")
        if self.tree_size is not None and not 1 <= self.tree_size <= MAX_TREE_SIZE:
            raise ValueError(
                f"The tree size must lie between 1 and {MAX_TREE_SIZE} nodes, not {self.tree_size}."
            )
        if self.tree_size is not None and self.tree not in BUILT_TREES:
            raise ValueError(f"The tree {self.tree} has a size of its own: leave the tree size out.")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise ValueError(f"The seed must lie between 0 and 2^63 - 1, not {self.seed}.")


@dataclass(frozen=True, slots=True)
class StepStats:
    """One base forward. num_nodes: rows verified (1 when decoding plainly). num_tokens: tokens it emitted,
    so num_tokens - 1 drafts were accepted. seconds: wall time of the whole step. context_tokens: tokens
    in the conversation after it. The prefill of a reply is reported with num_nodes 0.

    head_depth: the deepest draft by a head, so that heads 1 to head_depth were asked. heads_kept: of the
    drafts accepted, those by heads, which come first. joules: that EngineInfo.energy_source has used since
    the prefill; None where it was not read after this step. is_plain: nothing was asked for a draft, so that
    the step took what plain decoding takes.
    """

    num_nodes: int
    num_tokens: int
    seconds: float
    context_tokens: int
    head_depth: int = 0
    heads_kept: int = 0
    joules: float | None = None
    is_plain: bool = False


@dataclass(frozen=True, slots=True)
class ReplyStarted:
    """First item of a reply. num_cached: prompt tokens whose KV rows were kept from the turn before.
    num_dropped: oldest messages left out because the conversation outgrew the context.
    """

    num_prompt_tokens: int
    num_cached: int
    num_dropped: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one step added to the reply. text may be empty while a character or stop string is incomplete.
    finish_reason is set on the last chunk only. spans: number of characters and origin of each part of the
    text, in order: the number of a head, BASE_ORIGIN or LOOKUP_ORIGIN.
    """

    text: str
    ids: tuple[int, ...]
    step: StepStats
    finish_reason: FinishReason | None = None
    spans: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """How far loading has come. fraction: 0..1, or None when it can't be known. num_bytes: of the whole
    download, while it is one.
    """

    message: str
    fraction: float | None = None
    num_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """What the user asked for, before it is resolved. model: a registry name or a folder. kv_cache: how the
    conversation's keys and values are held. context_length: tokens at most; None for the model's own, or as
    many as fit into memory. lm_head: how the base model's LM head is held.
    """

    model: str
    heads: str | None = None
    quantization: Quantization | None = None
    device: Device = "auto"
    dtype: DType = "auto"
    kv_cache: KVPrecision = "full"
    context_length: int | None = None
    lm_head: LMHeadPrecision = "full"


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What is loaded. step_seconds: tree size -> measured seconds of one whole step on this machine
    (1 is plain decoding, the reference of the speed-up). tree_size: what pays most of them on the whole; a
    dynamic draft's own size is chosen anew at every step.
    memory_bytes: weights, heads and KV cache, as allocated. remarks: sentences on what is not as one may
    think: what the heads' config.json says wrongly, a context shorter than the model's own. energy_source:
    what says how much energy it uses, the whole graphics card or the whole CPU package; None where nothing
    does.
    """

    model: str
    quantization: Quantization
    device: str
    device_name: str
    dtype: str
    context_length: int
    num_heads: int
    tree_size: int
    memory_bytes: int
    step_seconds: dict[int, float] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    energy_source: EnergySource | None = None
    kv_cache: KVPrecision = "full"
    lm_head: LMHeadPrecision = "full"
