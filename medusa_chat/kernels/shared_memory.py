"""What the driver is told of a kernel's shared memory beside what Triton tells it."""

from __future__ import annotations

import ctypes
from functools import cache

from triton import knobs

_STATIC, _MOST_DYNAMIC, _CARVEOUT = 1, 8, 9  # of the driver's CUfunction_attribute
_allowed: set[str] = set()
_beside_others: set[str] = set()


def allow_beside_tensors(kernel_name: str) -> None:
    """To be called before the kernel is loaded, whose assembly takes shared memory. A program gets more than
    48 kB only of a kernel that was allowed more; Triton allows it when its own tensors need that.
    """
    knobs.runtime.kernel_load_end_hook.add(_tell)
    _allowed.add(kernel_name)


def run_beside_others(kernel_name: str) -> None:
    """To be called before the kernel is loaded, which takes little and runs beside one that takes much: a
    processor that has set its memory apart for the one takes programs of the other only when it is done.
    """
    knobs.runtime.kernel_load_end_hook.add(_tell)
    _beside_others.add(kernel_name)


def _tell(module: int, function: int, name: str, metadata_group: object, hash: str) -> None:
    if name in _allowed:
        static = ctypes.c_int()
        _check(_driver().cuFuncGetAttribute(ctypes.byref(static), _STATIC, ctypes.c_void_p(function)))
        _set(function, _MOST_DYNAMIC, _most_for_a_program() - static.value)
    if name in _beside_others:
        _set(function, _CARVEOUT, 100)  # percent


def _set(function: int, attribute: int, value: int) -> None:
    _check(_driver().cuFuncSetAttribute(ctypes.c_void_p(function), attribute, value))


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
