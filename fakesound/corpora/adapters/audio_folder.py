"""Recordings in a folder, found by name."""

from collections import defaultdict
from pathlib import Path

from fakesound.corpora.ingest import scan


def audio_by_stem(folder: Path | None) -> dict[str, tuple[Path, ...]]:
    """File name without its ending -> the audio files of that name anywhere below `folder`.

    AudioCaps copies name a clip by its YouTube id, with or without a leading Y: `Y` + 11 characters is also
    found without it.

    Raises:
        UserError: the folder does not exist, is not a folder or may not be read.
    """
    found: dict[str, list[Path]] = defaultdict(list)
    for candidate in scan(folder)[0] if folder is not None else []:
        stem = candidate.path.stem
        found[stem].append(candidate.path)
        if len(stem) == 12 and stem.startswith("Y"):
            found[stem[1:]].append(candidate.path)
    return {stem: tuple(paths) for stem, paths in found.items()}
