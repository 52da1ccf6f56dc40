"""Protocol files are hostile until parsed: lines, fields, numbers, regions and paths, each checked.

Whatever is not understood is a `UserError` that names file and line.
"""

import csv
import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple, NoReturn, TypeVar

from fakesound.core.errors import UserError
from fakesound.core.regions import Region

Value = TypeVar("Value")

NOT_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # would steer a terminal, or cannot be written
_NUMBER = re.compile(r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_SEARCH_DEPTH = 3
_SHOWN = 60


class Line(NamedTuple):
    """One line that is not blank, and where it stands."""

    where: str
    text: str

    def fields(self, *counts: int) -> list[str]:
        """The fields between blanks; there are as many as one of `counts`, if any are given.

        Raises:
            UserError: there are more or fewer.
        """
        found = self.text.split()
        if counts and len(found) not in counts:
            wanted = " or ".join(str(count) for count in counts)
            refuse(self.where, f"{len(found)} columns instead of {wanted}: {shown(self.text)}")
        return found


def refuse(where: str, problem: str) -> NoReturn:
    """Raise the error that says where a file cannot be understood."""
    raise UserError(f"{where}: {problem}")


def shown(text: str) -> str:
    """`text` as a message may show it: quoted, short, without control characters."""
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")


def is_file(path: Path) -> bool:
    """Whether there is such a file; a name that the system does not take is none."""
    try:
        return path.is_file()
    except OSError:
        return False


def read_text(path: Path) -> str:
    """The whole file as UTF-8, a byte order mark dropped.

    Raises:
        UserError: it cannot be read, or is not UTF-8 (names the line).
    """
    try:
        if not path.is_file():  # a named pipe would block for ever
            raise UserError(f"{path} is not a file")
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        refuse(f"{path}:{line}", "not UTF-8; save the file as UTF-8 text")
    if "\0" in text:
        refuse(f"{path}:{text.count(chr(10), 0, text.index(chr(0))) + 1}", "a NUL character: not a text file")
    return text


def read_lines(path: Path) -> list[Line]:
    """The lines that are not blank; any of the three line endings will do.

    Raises:
        UserError: as `read_text`, or there is no such line.
    """
    texts = read_text(path).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    found = [Line(f"{path}:{number}", text) for number, text in enumerate(texts, start=1) if text.strip()]
    if not found:
        raise UserError(f"{path} is empty")
    return found


def read_table(
    path: Path, required: Iterable[str], *, delimiter: str = ",", quoted: bool = True
) -> Iterator[tuple[str, dict[str, str]]]:
    """Rows of a delimited file with a header, by column name, each with where it stands.

    Raises:
        UserError: as `read_text`; a required column is missing, two have one name, or a row has more or
            fewer fields than the header.
    """
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    reader = csv.reader(
        io.StringIO(read_text(path), newline=""), delimiter=delimiter, quoting=quoting, strict=True
    )
    header: list[str] = []
    try:
        for row in reader:
            where = f"{path}:{reader.line_num}"
            if not any(field.strip() for field in row):
                continue
            if not header:
                header = _checked_header(where, row, required)
            elif len(row) != len(header):
                refuse(where, f"{len(row)} columns instead of {len(header)}")
            else:
                yield where, dict(zip(header, (field.strip() for field in row), strict=True))
    except csv.Error as error:
        refuse(f"{path}:{reader.line_num}", f"not a delimited table: {error}")
    if not header:
        raise UserError(f"{path} is empty")


def _checked_header(where: str, row: list[str], required: Iterable[str]) -> list[str]:
    header = [field.strip() for field in row]
    missing = [name for name in required if name not in header]
    if missing:
        refuse(where, f"no column {', '.join(missing)}; there are {shown(', '.join(header))}")
    if len(set(header)) != len(header):
        refuse(where, f"two columns of one name: {shown(', '.join(header))}")
    return header


def parse_number(text: str, where: str) -> float:
    """A finite number >= 0 in decimal notation.

    Raises:
        UserError: it is not one.
    """
    value = float(text) if _NUMBER.fullmatch(text) and text.isascii() else math.inf
    if not math.isfinite(value):
        refuse(where, f"{shown(text)} is not a number of seconds")
    return value


def parse_region(onset: str, offset: str, where: str) -> Region:
    """A stretch of time.

    Raises:
        UserError: a number is bad, or the stretch does not end after it starts.
    """
    region = Region(parse_number(onset, where), parse_number(offset, where))
    if not region.onset_s < region.offset_s:
        refuse(where, f"the region {shown(onset)} to {shown(offset)} does not end after it starts")
    return region


def forged_region(
    onset: str, offset: str, what: str, forged: Mapping[str, bool], where: str
) -> Region | None:
    """A labelled stretch: its region if it is forged, else None.

    Args:
        onset: s.
        offset: s.
        what: its label.
        forged: whether each known label means forged.
        where: for messages.

    Raises:
        UserError: a number is bad, the label is another one, or the region does not end after it starts.
    """
    if parse_word(what, forged, where):
        return parse_region(onset, offset, where)
    parse_number(onset, where)
    parse_number(offset, where)
    return None


def forged_segment(text: str, forged: Mapping[str, bool], where: str) -> Region | None:
    """As `forged_region`, of the form `onset-offset-label`."""
    parts = text.split("-")
    if len(parts) != 3:
        refuse(where, f"{shown(text)} is not a segment start-end-label with label {' or '.join(forged)}")
    onset, offset, what = parts
    return forged_region(onset, offset, what, forged, where)


def parse_word(text: str, meanings: Mapping[str, Value], where: str) -> Value:
    """What one of a few known words means.

    Raises:
        UserError: the word is another one.
    """
    if text not in meanings:
        refuse(where, f"unknown label {shown(text)}; known: {', '.join(filter(None, meanings))}")
    return meanings[text]


def path_within(root: Path, relative: str, where: str) -> Path:
    """`relative` below `root`, never beside or above it.

    Raises:
        UserError: it is empty, absolute, leads upwards, or cannot be a path.
    """
    parts = PurePosixPath(relative)
    windows = PureWindowsPath(relative)
    upwards = ".." in parts.parts or ".." in windows.parts
    if not parts.parts or parts.is_absolute() or windows.drive or windows.root or upwards:
        refuse(where, f"{shown(relative)} is not a path inside {root}")
    if NOT_TEXT.search(relative) or len(relative) > 1000:
        refuse(where, f"{shown(relative)} is not a path")
    return root / parts


def find_file(root: Path, name: str) -> Path | None:
    """The file called `name` in `root` or up to three folders below it; None if there is none.

    Raises:
        UserError: `root` is not a folder, or two such files lie equally deep.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder")
    for depth in range(_SEARCH_DEPTH + 1):
        found = sorted(root.glob("*/" * depth + name))
        if len(found) > 1:
            raise UserError(f"{found[0]} and {found[1]}: two files {name}; give the folder of one of them")
        if found:
            return found[0]
    return None


def find_splits(root: Path, names: Mapping[str, str]) -> list[tuple[str, Path]]:
    """(partition, file) for each of the dataset's protocol files that is there.

    Args:
        root: the dataset.
        names: file name -> partition.

    Raises:
        UserError: none of them is there; as `find_file`.
    """
    found = [(partition, find_file(root, name)) for name, partition in names.items()]
    present = [(partition, path) for partition, path in found if path is not None]
    if not present:
        raise UserError(f"{root} holds none of {', '.join(names)}: is it the dataset's folder?")
    return present
