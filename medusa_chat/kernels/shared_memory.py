"""Shared memory that a kernel's assembly takes beside what Triton's own tensors take.

A program gets more than 48 kB only of a kernel that was allowed more. Triton allows that when its tensors
need it, and knows nothing of the rest.
"""

from __future__ import annotations

import ctypes
from functools import cache

from triton import knobs

_STATIC, _MOST_DYNAMIC = 1, 8  # of the driver's CUfunction_attribute
_allowed: set[str] = set()


def allow_beside_tensors(kernel_name: str) -> None:
    """Kernels of this name may from their loading on use all of a processor's shared memory."""
    if not _allowed:
        knobs.runtime.kernel_load_end_hook.add(_allow)
    _allowed.add(kernel_name)


def _allow(module: int, function: int, name: str, metadata_group: object, hash: str) -> None:
    if name not in _allowed:
        return
    static = ctypes.c_int()
    _check(_driver().cuFuncGetAttribute(ctypes.byref(static), _STATIC, ctypes.c_void_p(function)))
    most = _most_for_a_program() - static.value
    _check(_driver().cuFuncSetAttribute(ctypes.c_void_p(function), _MOST_DYNAMIC, most))


@cache
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")


def _most_for_a_program() -> int:
    from triton.runtime import driver

    active = driver.active
    return int(active.utils.get_device_properties(active.get_current_device())["max_shared_mem"])


def _check(status: int) -> None:
    if status:
        raise RuntimeError(f"the CUDA driver answered {status} when asked for shared memory")
