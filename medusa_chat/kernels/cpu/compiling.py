"""How functions are compiled: those that Python calls, kept on disk, and those that they call.

Each inner function is compiled by itself, then again within each that calls it: so few and shallow ones
compile sooner. Wrappers, by which Python or C calls a function, are as large as it, and inner ones have none:
calling them from Python ends the process.

A constant of Python's is compiled into a function that is called with it, one of numpy's is not.
"""

from functools import partial

import numpy as np
from numba import njit

inner = partial(njit, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
outer = partial(njit, error_model="numpy", no_cfunc_wrapper=True, nogil=True, cache=True)
ZERO, NO, YES = np.int64(0), np.bool_(False), np.bool_(True)
