"""One rank of a training, as torchrun starts it: `worker PLACE_URI RUN_ID`.

Rank 0 reports each epoch to the tracking run. A rank that fails leaves its traceback in torch elastic's error
file, which is how the launcher comes to know it.
"""

import sys

from torch.distributed.elastic.multiprocessing.errors import record

from fakesound.core.errors import UserError
from fakesound.core.store import Place, Store
from fakesound.orchestration.epochs import reporter
from fakesound.orchestration.process import end_with_run
from fakesound.orchestration.tracking import Tracking
from fakesound.training.ranks import Ranks
from fakesound.training.request import TrainingRequest
from fakesound.training.trainer import EpochRecord, train

REQUEST_NAME = "request.json"


@record
def main() -> None:
    """Train as one of the ranks."""
    end_with_run()
    place_uri, run = sys.argv[1:]
    request = TrainingRequest.read(Place(place_uri).local_path(REQUEST_NAME))
    ranks = Ranks.from_env()
    # One rank speaks for all: every rank opening its own run is how tracking servers fill with rubbish.
    report = reporter(Tracking(Store(request.store_url)), run) if ranks.is_first else _keep_quiet
    try:
        train(request, ranks, report)
    except UserError as error:  # subclasses too: the launcher knows it by this name
        raise UserError(str(error)) from None


def _keep_quiet(record: EpochRecord) -> None:
    pass


if __name__ == "__main__":
    main()
