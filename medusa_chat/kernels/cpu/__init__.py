"""Kernels for the CPU, compiled by numba as they are first needed and kept on disk.

A whole forward is one call of a team of threads, without a Python or torch operation in between.
"""

from pathlib import Path

import numba

from medusa_chat.kernels.cpu.versions import folder_of
from medusa_chat.paths import cache_dir

# numba looks at a function's own file alone to tell whether what it kept is still true.
_sources = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
_home = Path(numba.config.CACHE_DIR or cache_dir() / "compiled")  # NUMBA_CACHE_DIR, if it is set
numba.config.CACHE_DIR = str(folder_of(_sources, _home))
