"""Files that appear under their names whole or not at all: written beside, fsynced, renamed."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fakesound.core.errors import UserError

UNFINISHED_SUFFIX = ".unfinished"


@contextmanager
def writing(target: str | Path) -> Iterator[Path]:
    """A path to write to: the file `target` if the block ends well, nothing if it does not.

    Folders above it are made. The path ends in `.unfinished`, so a library that takes a format from a name's
    ending has to be told the format.

    Raises:
        UserError: it cannot be written.
    """
    target = Path(target).absolute()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with unfinished_in(target.parent) as beside:
            yield beside
            publish(beside, target)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{target} cannot be written: what should be a folder above it is a file") from None
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror or error}") from None


def discard(target: str | Path) -> None:
    """Delete a file, if there is one.

    Raises:
        UserError: it cannot be deleted.
    """
    try:
        Path(target).unlink()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise UserError(f"{target} is out of date and cannot be deleted: {error.strerror}") from None


@contextmanager
def unfinished_in(folder: Path) -> Iterator[Path]:
    """A new file in `folder` that no reader takes for a whole one; deleted unless it was published."""
    handle, name = tempfile.mkstemp(suffix=UNFINISHED_SUFFIX, dir=folder)
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def publish(beside: Path, target: Path) -> None:
    """Give a finished file its name so that it survives a crash: fsync it, rename it, fsync the folder."""
    with beside.open("rb+") as stream:
        os.fsync(stream.fileno())
    beside.chmod(0o644)  # mkstemp's 0600 would keep other accounts of a shared store from reading
    beside.replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
