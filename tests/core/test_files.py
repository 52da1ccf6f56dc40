"""What is written whole or not at all, and what is said where nothing can be."""

import errno
from pathlib import Path

import pytest

from fakesound.core import files
from fakesound.core.errors import UserError
from fakesound.core.files import discard, writing


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_in_folders_that_are_made_and_everyone_may_read_it(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / "x.txt"
    with writing(target) as beside:
        beside.write_text("whole")
        assert not target.exists() and beside.parent == target.parent
    assert target.read_text() == "whole" and target.stat().st_mode & 0o777 == 0o644
    assert names_in(target.parent) == ["x.txt"]


@pytest.mark.parametrize("error", [RuntimeError("bug"), OSError(errno.ENOSPC, "No space left on device")])
def test_a_write_that_fails_keeps_the_old_file_and_leaves_nothing_else(
    tmp_path: Path, error: Exception
) -> None:
    target = tmp_path / "x.txt"
    target.write_text("old")
    wanted = UserError if isinstance(error, OSError) else RuntimeError
    with (
        pytest.raises(wanted, match=r"^bug$|x\.txt cannot be written: No space left"),
        writing(target) as beside,
    ):
        beside.write_text("half of the n")
        raise error
    assert target.read_text() == "old" and names_in(tmp_path) == ["x.txt"]


def test_a_disk_that_fails_at_the_last_moment_is_a_message(tmp_path: Path, monkeypatch) -> None:
    def fails(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(files.os, "fsync", fails)
    with (
        pytest.raises(UserError, match="cannot be written: Input/output error"),
        writing(tmp_path / "x") as beside,
    ):
        beside.write_text("whole")
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("file/x", "a folder above it is a file"),
        ("file/a/x", "a folder above it is a file"),
        ("folder", "Is a directory"),
        ("x" * 300, "File name too long"),
    ],
)
def test_where_nothing_can_be_written_is_a_message(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=f"cannot be written: .*{reason}"), writing(tmp_path / name) as beside:
        beside.write_text("whole")
    assert names_in(tmp_path) == ["file", "folder"]


def test_what_is_not_there_need_not_be_deleted(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    discard(tmp_path / "file" / "x")
    discard(tmp_path / "file")
    discard(tmp_path / "file")
    with pytest.raises(UserError, match="cannot be deleted"):
        discard(tmp_path)
