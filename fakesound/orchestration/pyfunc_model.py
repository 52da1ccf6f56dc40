"""The registered model as MLflow stores it: audio in, verdict and regions out.

MLflow keeps this file beside the detector's bundle ("models from code": nothing is pickled) and runs it to
load the model; fakesound itself must be installed there.
"""

import io
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from fakesound.core.errors import UserError

BUNDLE = "bundle"
RATE_PARAM = "sample_rate_hz"


class DetectorModel(PythonModel):
    """Judges recordings.

    Input: a path, the bytes of an audio file, a mono array (n,) with `params={"sample_rate_hz": …}`, a list
    of these, or a data frame with a column `audio`. Output: a list of dictionaries as `fakesound detect
    --format json` prints.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Load the bundle once."""
        from fakesound.models.bundle import load_bundle

        self._bundle = load_bundle(Path(context.artifacts[BUNDLE]))

    # mlflow takes annotations here for a schema of rows and columns, which audio is not.
    def predict(self, context, model_input, params=None):  # noqa: ANN001, ANN201  # pyright: ignore[reportIncompatibleMethodOverride]
        """See the class."""
        rate_hz = int((params or {}).get(RATE_PARAM, 0))
        return [self._judge(audio, rate_hz) for audio in _items(model_input)]

    def _judge(self, audio: Any, rate_hz: int) -> dict[str, Any]:
        from fakesound.evaluation.detect import detect_file
        from fakesound.evaluation.show import render_json

        with _as_file(audio, rate_hz) as path:
            judged = json.loads(render_json(detect_file(path, self._bundle), "mlflow"))
        return judged | {"path": str(audio) if isinstance(audio, str | Path) else None}


def _items(model_input: Any) -> list[Any]:
    if hasattr(model_input, "columns"):
        return list(model_input["audio"])
    return list(model_input) if isinstance(model_input, list | tuple) else [model_input]


@contextmanager
def _as_file(audio: Any, rate_hz: int) -> Iterator[Path]:
    if isinstance(audio, str | Path):
        yield Path(audio)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "audio"
        if isinstance(audio, bytes | bytearray):
            path.write_bytes(audio)
        elif isinstance(audio, np.ndarray) and audio.ndim == 1 and rate_hz > 0:
            buffer = io.BytesIO()
            soundfile.write(buffer, audio.astype(np.float32), rate_hz, format="WAV", subtype="FLOAT")
            path.write_bytes(buffer.getvalue())
        else:
            raise UserError("audio must be a path, bytes of a file, or a mono array (n,) with sample_rate_hz")
        yield path


set_model(DetectorModel())
