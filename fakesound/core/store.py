"""The one store: all bulk data and checkpoints, under one fsspec URL, in places keyed by their inputs.

    {store}/{kind}/{key}/...files...      a place; `key` digests the config and inputs that determine it
    {store}/{kind}/{key}/_SUCCESS.json    written last: every file with its size and SHA-256, and metadata

A place without `_SUCCESS.json` is unfinished: its files may be reused by the step that writes it, and are
read as whole by nobody else. Files appear under their names complete or not at all (written beside,
fsynced, renamed).

Steps hand each other a `Pointer` (URI + digest of `_SUCCESS.json`), small enough for any orchestrator's
artifact store. Readers verify it: marker against pointer, each file against marker as it is opened.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from fakesound.core.errors import IntegrityError, UserError
from fakesound.core.files import UNFINISHED_SUFFIX, publish, unfinished_in, writing

MARKER_NAME = "_SUCCESS.json"
MARKER_SCHEMA = 1


class Store:
    """A folder, local or remote, that holds every place.

    Args:
        url: fsspec URL (`s3://bucket/prefix`, `file:///data/store`) or a local path.

    Raises:
        UserError: the URL's protocol is unknown or its driver is not installed.
    """

    def __init__(self, url: str) -> None:
        if "://" not in url:
            url = str(Path(url).expanduser().absolute())
        try:
            self._fs, self._root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise UserError(f"store {url!r} cannot be opened: {error}") from None
        self.url = url.rstrip("/")

    @property
    def local_root(self) -> Path | None:
        """The store as a local folder; None when it is remote."""
        return Path(self._root) if isinstance(self._fs, LocalFileSystem) else None

    def place(self, kind: str, key: str) -> "Place":
        """The place for content of `kind` determined by `key`; nothing is created yet."""
        return Place(f"{self.url}/{kind}/{key}")


class Place:
    """One keyed folder of the store."""

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self._fs, self._root = fsspec.core.url_to_fs(self.uri)
        self._is_local = isinstance(self._fs, LocalFileSystem)

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine, or of a file system mounted on it."""
        return self._is_local

    @property
    def kind(self) -> str:
        """What sort of content: the folder above the key."""
        return PurePosixPath(self._root).parent.name

    @property
    def key(self) -> str:
        """The digest that determines the content."""
        return PurePosixPath(self._root).name

    def _at(self, name: str) -> str:
        relative = PurePosixPath(name)
        if relative.is_absolute() or ".." in relative.parts:
            raise IntegrityError(f"{name!r} is not a file name inside {self.uri}")
        return f"{self._root}/{relative}"

    def exists(self, name: str) -> bool:
        """Whether a whole file of this name is there."""
        return bool(self._fs.exists(self._at(name)))

    def names(self) -> list[str]:
        """Every whole file below the place, relative and sorted; the marker and unfinished files excluded."""
        if not self._fs.exists(self._root):
            return []
        found = (PurePosixPath(path).relative_to(self._root) for path in self._fs.find(self._root))
        return sorted(str(n) for n in found if n.name != MARKER_NAME and n.suffix != UNFINISHED_SUFFIX)

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """A local path to write to: the file `name` if the block ends well, nothing if it does not."""
        target = self._at(name)
        if self._is_local:
            Path(target).parent.mkdir(parents=True, exist_ok=True)
        folder = Path(target).parent if self._is_local else Path(tempfile.gettempdir())
        with unfinished_in(folder) as beside:
            yield beside
            if self._is_local:
                publish(beside, Path(target))
            else:
                self._fs.put_file(str(beside), target)

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a whole file, or nothing."""
        with self.writing(name) as path:
            path.write_bytes(data)

    def write_json(self, name: str, value: Any) -> None:
        """Write `value` as indented JSON with sorted keys."""
        self.write_bytes(name, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())

    def read_bytes(self, name: str) -> bytes:
        """The whole file.

        Raises:
            IntegrityError: it is not there.
        """
        try:
            return self._fs.cat_file(self._at(name))
        except FileNotFoundError:
            raise IntegrityError(f"{self.uri} has no {name}") from None

    def read_json(self, name: str) -> Any:
        """The parsed JSON file.

        Raises:
            IntegrityError: it is missing or not JSON.
        """
        try:
            return json.loads(self.read_bytes(name))
        except ValueError as error:
            raise IntegrityError(f"{self.uri}/{name} is not JSON: {error}") from None

    def remove(self, name: str) -> None:
        """Delete a file of an unfinished place, if it is there."""
        if self._fs.exists(self._at(name)):
            self._fs.rm_file(self._at(name))

    def local_path(self, name: str) -> Path:
        """A local path to read `name` from; a remote file is downloaded once into the local cache."""
        if self._is_local:
            return Path(self._at(name))
        # ukey changes whenever the remote file does: a stale copy is never taken for the file.
        version = hashlib.sha256(f"{self.uri}|{self._fs.ukey(self._at(name))}".encode()).hexdigest()
        cached = Path(tempfile.gettempdir()) / "fakesound-cache" / version / name
        if not cached.exists():
            cached.parent.mkdir(parents=True, exist_ok=True)
            with unfinished_in(cached.parent) as beside:
                self._fs.get_file(self._at(name), str(beside))
                publish(beside, cached)
        return cached

    def checked_path(self, name: str) -> Path:
        """A local path to `name`, its bytes verified against the completion marker.

        Raises:
            IntegrityError: the place is unfinished, or the file is missing or altered.
        """
        listed = self.marker["files"].get(name)
        if listed is None:
            raise IntegrityError(f"{self.uri} lists no file {name}")
        path = self.local_path(name)
        if not path.exists() or sha256_of(path) != listed["sha256"]:
            raise IntegrityError(
                f"{path} is missing or altered since it was written; delete {self.uri} and run again"
            )
        return path

    def is_complete(self) -> bool:
        """Whether the step that writes this place finished it."""
        return self.exists(MARKER_NAME)

    def complete(self, metadata: Mapping[str, Any]) -> "Pointer":
        """Declare the place whole: hash every file, write the marker, return the pointer to hand on."""
        files = {}
        for name in self.names():
            path = self.local_path(name)
            files[name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        marker = {"schema": MARKER_SCHEMA, "kind": self.kind, "key": self.key, "files": files}
        self.write_json(MARKER_NAME, marker | {"metadata": dict(metadata)})
        self.__dict__.pop("marker", None)
        return self.pointer()

    @cached_property
    def marker(self) -> dict[str, Any]:
        """The parsed completion marker.

        Raises:
            IntegrityError: the place is unfinished or its marker is of another schema.
        """
        if not self.is_complete():
            raise IntegrityError(f"{self.uri} is unfinished: run the step that writes it again")
        marker = self.read_json(MARKER_NAME)
        if not isinstance(marker, dict) or marker.get("schema") != MARKER_SCHEMA:
            raise IntegrityError(
                f"{self.uri}/{MARKER_NAME} is not of schema {MARKER_SCHEMA}: delete it and run again"
            )
        return marker

    @property
    def metadata(self) -> dict[str, Any]:
        """What the writing step recorded with `complete`."""
        return self.marker["metadata"]

    def pointer(self) -> "Pointer":
        """The pointer to this finished place."""
        digest = hashlib.sha256(self.read_bytes(MARKER_NAME)).hexdigest()
        return Pointer(uri=self.uri, digest=digest)


@dataclass(frozen=True)
class Pointer:
    """What one step hands to the next: where the content is and what it must be."""

    uri: str
    digest: str

    def open(self) -> Place:
        """The place, its marker verified.

        Raises:
            IntegrityError: the place is unfinished or is not what the pointer was made for.
        """
        place = Place(self.uri)
        if not place.is_complete():
            raise IntegrityError(f"{self.uri} is unfinished or gone: run the step that writes it again")
        if place.pointer().digest != self.digest:
            raise IntegrityError(f"{self.uri} has changed since this pointer to it was written")
        return place

    def write(self, path: str | Path) -> None:
        """Write as a small JSON file, whole or not at all.

        Raises:
            UserError: it cannot be written.
        """
        with writing(path) as beside:
            beside.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: str | Path) -> "Pointer":
        """Read a pointer file, or the JSON that would be in it.

        Raises:
            UserError: it does not exist or is not a pointer.
        """
        try:
            inline = str(path).lstrip().startswith("{")
            values = json.loads(str(path) if inline else Path(path).read_text())
            return cls(uri=str(values["uri"]), digest=str(values["digest"]))
        except OSError as error:
            raise UserError(f"no pointer file {path}: {error.strerror}") from None
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path} is not a pointer file (JSON with uri and digest)") from None


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
