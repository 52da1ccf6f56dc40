"""One rank of a training, as torchrun starts it: `worker PLACE_URI RUN_ID`.

Rank 0 reports each epoch to the tracking run. A rank that fails says so in a marked line of its log, which is
how the launcher comes to know it (`rank_failure`). It never outlives the torchrun that started it: its
successor may already be starting.
"""

import sys

from torch.distributed.elastic.multiprocessing.errors import record

from fakesound.core.lifetime import end_with_parent
from fakesound.core.store import Place, Store
from fakesound.orchestration.epochs import reporter
from fakesound.orchestration.process import end_with_run
from fakesound.orchestration.rank_failure import announce
from fakesound.orchestration.tracking import Tracking
from fakesound.training.ranks import Ranks
from fakesound.training.request import TrainingRequest
from fakesound.training.trainer import EpochRecord, train

REQUEST_NAME = "request.json"


@record
def main() -> None:
    """Train as one of the ranks."""
    end_with_run()
    end_with_parent()
    place_uri, run = sys.argv[1:]
    try:
        request = TrainingRequest.read(Place(place_uri).local_path(REQUEST_NAME))
        ranks = Ranks.from_env()
        # One rank speaks for all: every rank opening its own run is how tracking servers fill with rubbish.
        report = reporter(Tracking(Store(request.store_url)), run) if ranks.is_first else _keep_quiet
        train(request, ranks, report)
    except Exception as error:
        announce(error)
        raise


def _keep_quiet(record: EpochRecord) -> None:
    pass


if __name__ == "__main__":
    main()
