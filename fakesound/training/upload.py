"""Checkpoints on their way to the store: to a local one at once, to a remote one while training goes on."""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

from fakesound.core.errors import UserError
from fakesound.core.progress import say
from fakesound.core.store import Place
from fakesound.training.checkpoint import Checkpoint, SealedCheckpoint, save_checkpoint, save_sealed, seal

ATTEMPTS = 5
FIRST_PAUSE_S = 1.0  # doubled after each attempt
LOST_IN_A_ROW = 3


class UploadError(UserError):
    """The store does not take checkpoints."""


class CheckpointWriter:
    """Writes the checkpoints of one training.

    A remote store gets them from a thread, one at a time, each attempted ATTEMPTS times. A checkpoint that
    could not be stored is said to be lost, and the training goes on: the next may fare better. Only
    LOST_IN_A_ROW of them, or the last one lost, end it.

    Args:
        place: of the training.
        keep: how many of the latest to keep, beside the best.
    """

    def __init__(self, place: Place, keep: int) -> None:
        self._place = place
        self._keep = keep
        self._thread = None if place.is_local else ThreadPoolExecutor(1, "upload")
        self._on_its_way: Future[Exception | None] | None = None
        self._lost: list[Exception] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self._thread.shutdown()

    def write(self, checkpoint: Checkpoint) -> None:
        """Write it, or see to it that it will be; waits for the one before.

        Raises:
            UploadError: LOST_IN_A_ROW could not be stored.
        """
        if self._thread is None:
            save_checkpoint(self._place, checkpoint, keep=self._keep)
            return
        self._wait()
        if len(self._lost) >= LOST_IN_A_ROW:
            raise self._failure()
        self._on_its_way = self._thread.submit(self._upload, seal(checkpoint))

    def finish(self) -> None:
        """Wait until the last checkpoint is stored.

        Raises:
            UploadError: it could not be.
        """
        self._wait()
        if self._lost:
            raise self._failure()

    def _wait(self) -> None:
        if self._on_its_way is None:
            return
        error = self._on_its_way.result()
        self._on_its_way = None
        self._lost = [*self._lost, error] if error is not None else []

    def _upload(self, sealed: SealedCheckpoint) -> Exception | None:
        """Store it; what kept it from being stored, if it could not be."""
        attempt, pause_s = 1, FIRST_PAUSE_S
        while True:
            try:
                save_sealed(self._place, sealed, keep=self._keep)
                return None
            except Exception as error:  # each kind of store has errors of its own
                if attempt == ATTEMPTS:
                    told = f"not stored after {ATTEMPTS} attempts: {error!r}"
                    say(f"warning: checkpoint of step {sealed.step} {told}")
                    return error
            time.sleep(pause_s)
            attempt, pause_s = attempt + 1, 2 * pause_s

    def _failure(self) -> UploadError:
        return UploadError(
            f"{len(self._lost)} checkpoint(s) in a row could not be stored in {self._place.uri}: "
            f"{self._lost[-1]!r}. Mend the store and start again: training goes on from the last one there"
        )
