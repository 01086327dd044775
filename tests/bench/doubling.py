"""A Triton kernel to compile in a test: Triton reads a kernel's source from its file."""

import triton.language as tl
from triton.runtime.jit import JITFunction


@JITFunction  # also where Triton is told to interpret
def double(x, out, size, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, 2 * tl.load(x + at, mask=at < size), mask=at < size)
