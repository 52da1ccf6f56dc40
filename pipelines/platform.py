"""Where a run happens: all in which a laptop and a cluster differ. `RunConfig` says what is computed."""

from components.image import IMAGE
from fakesound.core.config import Config


class PlatformConfig(Config):
    """Parameters of the pipeline that depend on the place, not on the result wanted.

    Attributes:
        store: URL of the one store.
        image: of every step; the local runner uses none.
        launcher: local or volcano.
        sweeper: optuna or katib.
    """

    store: str
    image: str = IMAGE
    launcher: str = "local"
    sweeper: str = "optuna"

    def arguments(self) -> dict[str, str]:
        """As arguments of the pipeline."""
        return self.model_dump()
