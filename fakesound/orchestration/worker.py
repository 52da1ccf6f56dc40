"""One rank of a training, as torchrun starts it: `worker PLACE_URI RUN_ID`.

Rank 0 reports to the tracking run. A rank that fails says so in a marked line of its log, which is how the
launcher comes to know it (`rank_failure`). SIGTERM or SIGUSR1 to any rank ends all of them with
INTERRUPTED_EXIT_CODE once a checkpoint is written: start the same again, and the training goes on. A rank
never outlives the torchrun that started it: its successor may already be starting.
"""

import os
import sys
import traceback
from typing import NoReturn

from torch.distributed.elastic.multiprocessing.errors import record

from fakesound.core.lifetime import end_with_parent
from fakesound.core.progress import say
from fakesound.core.store import Place, Store
from fakesound.orchestration.epochs import TrackingReports
from fakesound.orchestration.process import end_with_run
from fakesound.orchestration.rank_failure import announce
from fakesound.orchestration.tracking import Tracking
from fakesound.orchestration.training_bar import PROGRESS_LINES, WithProgressLines
from fakesound.training.interruption import (
    INTERRUPTED_EXIT_CODE,
    InterruptedTrainingError,
    Interruption,
)
from fakesound.training.ranks import Ranks
from fakesound.training.reports import Reports
from fakesound.training.request import TrainingRequest
from fakesound.training.trainer import train

REQUEST_NAME = "request.json"


@record
def main() -> None:
    """Train as one of the ranks."""
    end_with_run()
    end_with_parent()
    place_uri, run = sys.argv[1:]
    interruption = Interruption()
    try:
        with interruption.on_signals():
            request = TrainingRequest.read(Place(place_uri).local_path(REQUEST_NAME))
            ranks = Ranks.from_env()
            if ranks.is_first:
                _train_and_tell(request, ranks, run, interruption)
            else:
                train(request, ranks, interruption=interruption)
    except InterruptedTrainingError as error:
        say(str(error))
        sys.exit(INTERRUPTED_EXIT_CODE)
    except Exception as error:
        announce(error)
        raise


def _train_and_tell(request: TrainingRequest, ranks: Ranks, run: str, interruption: Interruption) -> None:
    """One rank speaks for all: every rank opening its own run is how tracking servers fill with rubbish."""
    tracking = Tracking(Store(request.store_url))
    reports: Reports = TrackingReports(tracking, run)
    if os.environ.get(PROGRESS_LINES):
        reports = WithProgressLines(reports)
    with tracking.system_metrics(run):
        train(request, ranks, reports, interruption)


def end() -> NoReturn:
    """Train, and end this process without taking the interpreter down: that would join threads of gloo, which
    may wait for a rank that is gone, or for the lock that the joining thread holds."""
    code: object = 0
    try:
        main()
    except SystemExit as error:
        code = error.code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    end()
