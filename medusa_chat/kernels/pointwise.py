"""What lies between the products of a layer: each kernel adds up the partial sums of the one before it."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


def add_norm_reference(
    stream: torch.Tensor, partial: torch.Tensor | None, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """stream (M, D) float32, partial (S, M, D) or None, weight (D,) -> stream + Σ partial (M, D)
    float32, and its RMS norm (M, D) in the weight's dtype.
    """
    if partial is not None:
        stream = stream + partial.float().sum(0)
    normed = stream * torch.rsqrt(stream.square().mean(-1, keepdim=True) + eps) * weight.float()
    return stream, normed.to(weight.dtype)


def add_norm(
    stream: torch.Tensor, partial: torch.Tensor | None, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """As add_norm_reference, in one launch."""
    return _normed(stream, None, partial, weight, eps, len(stream))


def embed_norm_reference(
    ids: torch.Tensor, embedding: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """ids (M,), embedding (V, D) -> the tokens' rows (M, D) float32, and their norm as add_norm's."""
    return add_norm_reference(embedding[ids].float(), None, weight, eps)


def embed_norm(
    ids: torch.Tensor, embedding: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """As embed_norm_reference, in one launch."""
    return _normed(embedding, ids, None, weight, eps, len(ids))


def _normed(
    stream: torch.Tensor,
    ids: torch.Tensor | None,
    partial: torch.Tensor | None,
    weight: torch.Tensor,
    eps: float,
    num_rows: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of the stream (…, D), those named by the ids if there are any, plus Σ partial; and their norm."""
    size = stream.shape[1]
    summed = torch.empty(num_rows, size, dtype=torch.float32, device=stream.device)
    normed = torch.empty_like(summed, dtype=weight.dtype)
    block = triton.next_power_of_2(size)
    _norm_kernel[(num_rows,)](
        stream, ids, partial, weight, summed, normed, eps, num_rows, size,
        NUM_PARTS=0 if partial is None else partial.shape[0], BLOCK=block,
        num_warps=min(32, max(4, block // 128)),
    )  # fmt: skip
    return summed, normed


@triton.jit(do_not_specialize=["num_rows"])
def _norm_kernel(
    stream_ptr, ids_ptr, partial_ptr, weight_ptr, summed_ptr, normed_ptr, eps, num_rows, size,
    NUM_PARTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """ids: which rows of the stream come first, second, …; None if each is where it stands."""
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    inside = at < size
    weight = tl.load(weight_ptr + at, mask=inside, other=0.0)  # no load is moved ahead of the sum's barrier
    source = row.to(tl.int64)
    if ids_ptr is not None:
        source = tl.load(ids_ptr + row)
    x = tl.load(stream_ptr + source * size + at, mask=inside, other=0.0).to(tl.float32)
    for part in tl.static_range(NUM_PARTS):
        x += tl.load(partial_ptr + (part * num_rows + row) * size + at, mask=inside, other=0.0)
    tl.store(summed_ptr + row * size + at, x, mask=inside)
    scale = tl.rsqrt(tl.sum(x * x) / size + eps)
    normed = x * scale * weight.to(tl.float32)
    tl.store(normed_ptr + row * size + at, normed.to(weight.dtype), mask=inside)


def gate_reference(partial: torch.Tensor) -> torch.Tensor:
    """partial (S, M, 2F), the gate's F columns before the up-projection's -> SiLU(gate) · up (M, F)."""
    gate, up = partial.float().sum(0).chunk(2, -1)
    return (torch.nn.functional.silu(gate) * up).to(partial.dtype)


def gate(partial: torch.Tensor) -> torch.Tensor:
    """As gate_reference, in one launch."""
    num_parts, num_rows, doubled = partial.shape
    out = torch.empty(num_rows, doubled // 2, dtype=partial.dtype, device=partial.device)
    _gate_kernel[(num_rows, triton.cdiv(doubled // 2, 1024))](
        partial, out, num_rows, doubled // 2, NUM_PARTS=num_parts, BLOCK=1024
    )
    return out


@triton.jit(do_not_specialize=["num_rows"])
def _gate_kernel(
    partial_ptr, out_ptr, num_rows, size,
    NUM_PARTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    gate = tl.zeros((BLOCK,), tl.float32)
    up = tl.zeros((BLOCK,), tl.float32)
    for part in tl.static_range(NUM_PARTS):
        start = partial_ptr + (part * num_rows + row) * 2 * size + at
        gate += tl.load(start, mask=inside, other=0.0)
        up += tl.load(start + size, mask=inside, other=0.0)
    out = gate * tl.sigmoid(gate) * up
    tl.store(out_ptr + row * size + at, out.to(out_ptr.dtype.element_ty), mask=inside)


def add_silu_reference(x: torch.Tensor, partial: torch.Tensor) -> torch.Tensor:
    """x (M, D), partial (S, M, D) -> x + SiLU(Σ partial) in the dtype of x: a Medusa head's block."""
    return (x.float() + torch.nn.functional.silu(partial.float().sum(0))).to(x.dtype)


def add_silu(x: torch.Tensor, partial: torch.Tensor) -> torch.Tensor:
    """As add_silu_reference, in one launch. x may be one row, expanded."""
    num_parts, num_rows, size = partial.shape
    out = torch.empty(num_rows, size, dtype=x.dtype, device=x.device)
    _add_silu_kernel[(num_rows, triton.cdiv(size, 1024))](
        x, partial, out, x.stride(0), num_rows, size, NUM_PARTS=num_parts, BLOCK=1024
    )
    return out


@triton.jit
def _add_silu_kernel(
    x_ptr, partial_ptr, out_ptr, x_stride, num_rows, size,
    NUM_PARTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    total = tl.zeros((BLOCK,), tl.float32)
    for part in tl.static_range(NUM_PARTS):
        total += tl.load(partial_ptr + (part * num_rows + row) * size + at, mask=inside, other=0.0)
    x = tl.load(x_ptr + row * x_stride + at, mask=inside, other=0.0)
    out = x.to(tl.float32) + total * tl.sigmoid(total)
    tl.store(out_ptr + row * size + at, out.to(x.dtype), mask=inside)
