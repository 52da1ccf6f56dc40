"""Compiled code is taken from a folder that cannot be written, if it is this source's for this processor."""

import importlib.util

import numba
import pytest
from numba.core.caching import InTreeCacheLocator, UserWideCacheLocator
from numba.core.codegen import CPUCodegen

from fakesound.core.numba_cache import ReadOnlyCacheLocator

SOURCE = "def double(x):\n    return {} * x\n"


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Imports the module that has `source`, from a folder that numba can write to only at first."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    path = tmp_path / "shipped.py"

    def load(factor):
        path.write_text(SOURCE.format(factor))
        spec = importlib.util.spec_from_file_location("shipped", path)
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        return loaded

    return load


@pytest.fixture
def read_only(monkeypatch):
    """No folder can be written any more, and the locators are those of the images."""

    def refuse(self):
        raise PermissionError(self.get_cache_path())

    def make():
        for locator in (InTreeCacheLocator, UserWideCacheLocator):
            monkeypatch.setattr(locator, "ensure_cache_path", refuse)
        ours = f"{ReadOnlyCacheLocator.__module__}.{ReadOnlyCacheLocator.__name__}"
        monkeypatch.setattr(
            numba.config, "CACHE_LOCATOR_CLASSES", f"{ours},InTreeCacheLocator,UserWideCacheLocator"
        )

    return make


def compile_(function):
    return numba.njit("int64(int64)", cache=True)(function)


def test_what_was_compiled_before_is_loaded(module, read_only):
    compile_(module(2).double)
    read_only()
    again = compile_(module(2).double)
    assert again(21) == 42
    assert sum(again.stats.cache_hits.values()) == 1 and not again.stats.cache_misses


def test_nothing_is_taken_of_another_source_or_from_nowhere(module, read_only):
    compile_(module(2).double)
    read_only()
    with pytest.raises(RuntimeError, match="no locator available"):
        compile_(module(3).double)
    assert ReadOnlyCacheLocator.from_function(len, "<string>") is None


def test_nothing_is_taken_that_was_compiled_for_another_processor(module, read_only, monkeypatch):
    compile_(module(2).double)
    read_only()
    monkeypatch.setattr(CPUCodegen, "magic_tuple", lambda self: ("triple", "another", "features"))
    with pytest.raises(RuntimeError, match="no locator available"):
        compile_(module(2).double)
