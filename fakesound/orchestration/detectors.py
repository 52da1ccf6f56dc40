"""The detector inside a finished training."""

import shutil
import tempfile
from pathlib import Path

from fakesound.core.store import Place
from fakesound.models.bundle import DESCRIPTION_NAME, WEIGHTS_NAME, Bundle, load_bundle

DETECTOR_FOLDER = "detector"


def read_detector(training: Place) -> Bundle:
    """The best detector of a finished training, its bytes verified."""
    with tempfile.TemporaryDirectory() as folder:
        copy_detector(training, Path(folder))
        return load_bundle(Path(folder))


def copy_detector(training: Place, folder: Path) -> None:
    """Copy the bundle into a local folder; a remote store's files lie in no common one."""
    for name in (DESCRIPTION_NAME, WEIGHTS_NAME):
        shutil.copyfile(training.checked_path(f"{DETECTOR_FOLDER}/{name}"), folder / name)
