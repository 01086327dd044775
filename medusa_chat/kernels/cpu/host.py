"""What this machine's processor can do, by the compiler's knowledge of it."""

from __future__ import annotations

import llvmlite.binding as llvm

_features = llvm.get_host_cpu_features()
IS_X86 = llvm.get_process_triple().startswith(("x86_64", "i686"))
HAS_AVX512 = bool(_features.get("avx512f"))
# One instruction multiplies pairs of bfloat16 and adds both products to a float32.
HAS_PAIR_PRODUCTS = HAS_AVX512 and bool(_features.get("avx512bf16"))
