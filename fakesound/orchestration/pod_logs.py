"""The logs of many pods at once, as they grow."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread

from fakesound.orchestration.cluster import Cluster, ClusterUnreachableError, Pod

MARGIN_S = 5  # clocks differ, and the API takes whole seconds


@dataclass(kw_only=True)
class _Followed:
    """How far one pod's log has been read.

    Attributes:
        thread: that reads it.
        is_whole: whether it was read to its end after its container had ended.
        last_stamp: the time of its last line, as written there.
        last_s: when that line came, by this process's clock.
    """

    thread: Thread | None = None
    is_whole: bool = False
    last_stamp: str = ""
    last_s: float = 0.0


class PodLogs:
    """Reads each pod's log in a thread of its own. A log that breaks off is read on from where it did.

    Args:
        cluster: where the pods are.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._lines: SimpleQueue[tuple[int, str]] = SimpleQueue()
        self._followed: dict[str, _Followed] = {}

    def follow(self, pods: list[Pod]) -> None:
        """Read on whatever of these pods' logs is not being read."""
        for pod in pods:
            log = self._followed.setdefault(pod.uid, _Followed())
            busy = log.thread is not None and log.thread.is_alive()
            if pod.has_log and not log.is_whole and not busy:
                log.thread = Thread(target=self._read, args=(pod, log), daemon=True)
                log.thread.start()

    def lines(self, for_s: float) -> Iterator[tuple[int, str]]:
        """(replica, line) as they come, for so many seconds."""
        until_s = time.monotonic() + for_s
        while (left_s := until_s - time.monotonic()) > 0:
            try:
                yield self._lines.get(timeout=left_s)
            except Empty:
                return

    def rest(self, pods: list[Pod], within_s: float) -> Iterator[tuple[int, str]]:
        """What is left of the logs of pods, those that have ended, waiting so long for it at most."""
        ended = [pod for pod in pods if pod.phase in ("Succeeded", "Failed")]
        until_s = time.monotonic() + within_s
        while time.monotonic() < until_s and not all(self._followed[pod.uid].is_whole for pod in ended):
            yield from self.lines(0.1)
            self.follow(ended)
        yield from self.lines(0.1)

    def _read(self, pod: Pod, log: _Followed) -> None:
        since_s = math.ceil(time.monotonic() - log.last_s) + MARGIN_S if log.last_stamp else None
        try:
            for stamped in self._cluster.log_lines(pod, since_s):
                stamp, _, line = stamped.partition(" ")
                if stamp > log.last_stamp:
                    log.last_stamp, log.last_s = stamp, time.monotonic()
                    self._lines.put((pod.replica, line))
        except ClusterUnreachableError:
            return
        log.is_whole = pod.phase != "Running"
