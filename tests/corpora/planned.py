"""Recordings that exist only as far as a plan looks at them."""

from pathlib import Path

import numpy as np

from fakesound.corpora.cluster import Fingerprint
from fakesound.corpora.ingest import Recording, Stretch


def made_up_recording(
    source_id: str, duration_s: float, spread_db: float = 3.0, path: Path = Path("nowhere")
) -> Recording:
    return Recording(
        source_id=source_id,
        heard=(source_id,),
        path=path,
        group=source_id,
        pcm_sha256="",
        sample_rate_hz=8_000,
        bandwidth_hz=3_500.0,
        level_spread_db=spread_db,
        stretches=(Stretch(0, int(8_000 * duration_s)),),
        fingerprint=Fingerprint(np.zeros((0, 128), np.float32), np.zeros(0, np.int64), 0),
    )
