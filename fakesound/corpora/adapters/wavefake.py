"""WaveFake (arXiv 2111.02813): LJSpeech and JSUT resynthesised by neural vocoders, a folder for each.

Folders are `ljspeech_melgan`, `jsut_multi_band_melgan` and the like; the family is the vocoder, the source
the utterance (`LJ001-0001_gen.wav` is made from LJ001-0001). The genuine recordings are a second folder.
"""

from collections.abc import Iterator
from pathlib import Path

from fakesound.core.errors import UserError
from fakesound.core.schemas import GENUINE
from fakesound.corpora.adapters.base import Adapter, ExternalClip, Roots
from fakesound.corpora.ingest import Candidate, scan

_CORPORA = ("ljspeech_", "jsut_", "common_voices_")


def _read(roots: Roots) -> Iterator[ExternalClip]:
    folders = sorted(path for path in roots.data.glob("*/") if path.is_dir()) if roots.data.is_dir() else []
    folders = [folder for folder in folders if folder.name.startswith(_CORPORA)]
    if not folders:
        raise UserError(f"{roots.data} has no folder such as ljspeech_melgan: is it the dataset's folder?")
    for folder in folders:
        family = folder.name
        for prefix in _CORPORA:
            family = family.removeprefix(prefix)
        yield from (_clip(candidate, folder.name, family) for candidate in scan(folder)[0])
    if roots.genuine is not None:
        yield from (_clip(candidate, GENUINE, GENUINE) for candidate in scan(roots.genuine)[0])


def _clip(candidate: Candidate, folder: str, family: str) -> ExternalClip:
    return ExternalClip(
        clip_id=f"{folder}/{candidate.source_id}",
        where=str(candidate.path),
        paths=(candidate.path,),
        label=int(family != GENUINE),
        family=family,
        source_ids=(_utterance(candidate.path),),
    )


def _utterance(path: Path) -> str:
    return path.stem.removesuffix("_gen").removesuffix("_generated")


ADAPTER = Adapter(
    name="wavefake",
    needs="a folder for each vocoder (ljspeech_melgan/, …), and LJSpeech or JSUT as a second folder "
    "(--genuine); no split: utterances are dealt to partitions by the seed",
    read=_read,
)
