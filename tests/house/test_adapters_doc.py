"""docs/adapters.md names every format, and its example is an adapter."""

import importlib.util
import re
from pathlib import Path

import pytest

from fakesound.core.errors import UserError
from fakesound.core.regions import Region
from fakesound.corpora.adapters.base import Roots
from fakesound.corpora.adapters.registry import ADAPTERS

TEXT = (Path(__file__).parents[2] / "docs" / "adapters.md").read_text()


def test_every_format_has_a_row_and_every_row_a_format():
    assert re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE) == list(ADAPTERS)


def test_the_example_reads_what_it_says(tmp_path):
    [code] = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    (tmp_path / "example.py").write_text(code)
    spec = importlib.util.spec_from_file_location("example", tmp_path / "example.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "labels.txt").write_text("a ann real\nb bob fake 0.5 1.25\n")
    first, second = module.ADAPTER.read(Roots(tmp_path))
    assert (first.label, first.group, second.regions) == (0, "ann", (Region(0.5, 1.25),))
    (tmp_path / "labels.txt").write_text("a ann maybe\n")
    with pytest.raises(UserError, match=r"labels\.txt:1: unknown label 'maybe'; known: real, fake"):
        list(module.ADAPTER.read(Roots(tmp_path)))
