"""docs/adapters.md names every format, and its example is an adapter that is found where it says."""

import re
import sys
from pathlib import Path

import pytest

from fakesound.core.errors import UserError
from fakesound.core.regions import Region
from fakesound.corpora import adapters
from fakesound.corpora.adapters.base import Roots
from fakesound.corpora.adapters.registry import ADAPTERS, find_adapters

TEXT = (Path(__file__).parents[2] / "docs" / "adapters.md").read_text()


def test_every_format_has_a_row_and_every_row_a_format():
    assert sorted(re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE)) == list(ADAPTERS)


def test_the_example_is_found_beside_the_others_and_reads_what_it_says(tmp_path, monkeypatch):
    [code] = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    (tmp_path / "documented.py").write_text(code)
    monkeypatch.setattr(adapters, "__path__", [*adapters.__path__, str(tmp_path)])
    found = find_adapters()
    monkeypatch.delitem(sys.modules, f"{adapters.__name__}.documented")
    monkeypatch.delattr(adapters, "documented")
    assert list(found) == sorted([*ADAPTERS, "example"])
    (tmp_path / "labels.txt").write_text("a ann real\nb bob fake 0.5 1.25\n")
    first, second = found["example"].read(Roots(tmp_path))
    assert (first.label, first.group, second.regions) == (0, "ann", (Region(0.5, 1.25),))
    (tmp_path / "labels.txt").write_text("a ann maybe\n")
    with pytest.raises(UserError, match=r"labels\.txt:1: unknown label 'maybe'; known: real, fake"):
        list(found["example"].read(Roots(tmp_path)))
