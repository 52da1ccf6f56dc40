"""A folder of one's own: `genuine/` and `forged/`, audio at any depth below.

What lies in a folder inside `forged/` is of the family that the folder is called. Files that go by one name
(`genuine/a.wav`, `forged/melgan/a.wav`) are taken for one source.
"""

from collections.abc import Iterator
from pathlib import PurePosixPath

from fakesound.core.errors import UserError
from fakesound.core.schemas import GENUINE
from fakesound.corpora.adapters.base import Adapter, ExternalClip, Roots
from fakesound.corpora.ingest import scan

_FORGED = "forged"


def _read(roots: Roots) -> Iterator[ExternalClip]:
    folders = [folder for folder in (GENUINE, _FORGED) if (roots.data / folder).is_dir()]
    if not folders:
        raise UserError(f"{roots.data} has neither genuine/ nor forged/")
    for folder in folders:
        for candidate in scan(roots.data / folder)[0]:
            inside = PurePosixPath(candidate.source_id)
            family = inside.parts[0] if len(inside.parts) > 1 else _FORGED
            yield ExternalClip(
                clip_id=f"{folder}/{candidate.source_id}",
                where=str(candidate.path),
                paths=(candidate.path,),
                label=int(folder == _FORGED),
                family=family if folder == _FORGED else GENUINE,
                source_ids=(inside.stem,),
            )


ADAPTER = Adapter(
    name="folder",
    needs="genuine/ and forged/ (or forged/FAMILY/) with audio files; whole clips, no regions",
    read=_read,
)
