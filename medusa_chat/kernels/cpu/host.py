"""What the processor that code is compiled for can do: this machine's, unless NUMBA_CPU_NAME and
NUMBA_CPU_FEATURES name another.
"""

from __future__ import annotations

import llvmlite.binding as llvm
from numba import config

_asked: str | None = config.CPU_FEATURES
_features = llvm.get_host_cpu_features().flatten() if _asked is None else _asked
_has = {feature.removeprefix("+") for feature in _features.split(",") if feature.startswith("+")}
IS_X86 = llvm.get_process_triple().startswith(("x86_64", "i686"))
HAS_AVX512 = "avx512f" in _has
# One instruction multiplies pairs of bfloat16 and adds both products to a float32.
HAS_PAIR_PRODUCTS = HAS_AVX512 and "avx512bf16" in _has
