"""Compiled code from a folder that cannot be written: an image's, or an installation of another user's.

numba looks for its cache only in folders that it can write to, so that on a read-only file system it would
compile again at every start. The images name this module in NUMBA_CACHE_LOCATOR_CLASSES.
"""

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from numba.core.caching import IndexDataCacheFile, InTreeCacheLocator
from numba.core.registry import cpu_target


class ReadOnlyCacheLocator(InTreeCacheLocator):
    """The `__pycache__` beside a module, if it holds the function compiled for this processor."""

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> Self | None:
        """None where nothing compiled from this source for this processor is there: numba then tries the
        next locator, and compiles.
        """
        if not Path(py_file).exists():
            return None
        locator = cls(py_func, py_file)
        # Named as numba.core.caching.CacheImpl names it.
        abi = getattr(sys, "abiflags", "")
        name = (
            f"{inspect.getmodulename(py_file)}.{py_func.__qualname__}-{locator.get_disambiguator()}"
            f".py{sys.version_info[0]}{sys.version_info[1]}{abi}"
        )
        index = IndexDataCacheFile(locator.get_cache_path(), name, locator.get_source_stamp())
        context: Any = cpu_target.target_context
        processor = context.codegen().magic_tuple()
        try:
            compiled_for = [key[1] for key in index._load_index()]
        except OSError:
            return None
        return locator if processor in compiled_for else None
