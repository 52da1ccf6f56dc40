"""What a training is asked to do, and where its result belongs. Light: no torch."""

from pathlib import Path
from typing import Self

from pydantic import Field, ValidationError

from fakesound.core.config import Config, describe_validation_error, digest_of
from fakesound.core.errors import UserError
from fakesound.core.store import Place, Pointer, Store
from fakesound.models.config import ModelConfig
from fakesound.training.config import TrainingConfig

TRAINING_VERSION = 2


class TrainingRequest(Config):
    """Everything that determines a training's result, and where the data is.

    Attributes:
        features: pointer to the features.
        store_url: where the result goes.
        model: the detector's configuration.
        training: the training's.
        unseen: families or mechanisms not to train on, see `corpora.protocol.held_out`.
        world_size: processes asked for.
    """

    features: Pointer
    store_url: str
    model: ModelConfig
    training: TrainingConfig
    unseen: tuple[str, ...] = ()
    world_size: int = Field(default=1, ge=1)

    def key(self) -> str:
        """Digest of what determines the result; where things are stored does not."""
        parts = self.model_dump(mode="json", include={"model", "unseen", "world_size"})
        parts["training"] = self.training.identity()
        return digest_of([parts, self.features.digest, TRAINING_VERSION])

    def write(self, path: str | Path) -> None:
        """Write as JSON."""
        Path(path).write_text(self.model_dump_json(indent=1) + "\n")

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read what `write` wrote.

        Raises:
            UserError: the file is missing or is not such a request.
        """
        try:
            return cls.model_validate_json(Path(path).read_bytes())
        except OSError as error:
            raise UserError(f"no training request {path}: {error.strerror}") from None
        except ValidationError as error:
            raise UserError(f"{path}: {describe_validation_error(error)}") from None


def training_place(store: Store, request: TrainingRequest) -> Place:
    """Where the request's checkpoints and result belong."""
    return store.place("training", request.key())
