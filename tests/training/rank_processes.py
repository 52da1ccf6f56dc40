"""Ranks as processes: forked from a server that has imported torch and run nothing, so that no thread or lock
of the tests' own process is in them, and they start at once."""

import gc
import os
import socket
import time
import traceback
from dataclasses import dataclass
from multiprocessing import get_context
from unittest import mock

import tiny
import torch
from torch.nn.parallel import DistributedDataParallel

from fakesound.training import data
from fakesound.training.interruption import (
    INTERRUPTED_EXIT_CODE,
    InterruptedTrainingError,
    Interruption,
)
from fakesound.training.ranks import Ranks
from fakesound.training.request import TrainingRequest
from fakesound.training.step import Stepper
from fakesound.training.trainer import train

LATE_IMPORTS = ["torch._dynamo"]  # which an optimiser imports at its first step
SERVER = get_context("forkserver")
SERVER.set_forkserver_preload(["fakesound.training.trainer", *LATE_IMPORTS])
TIMEOUT_S = 60
BUILD = "fakesound.training.trainer.build_detector"


@dataclass(frozen=True)
class Fault:
    """A signal that a rank sends itself before a step (0-based)."""

    rank: int
    step: int
    signal: int


def start(request, world_size=1, *, fault=None, window_clips=data.WINDOW_CLIPS, build=tiny.build_by_chance):
    """Processes that train, and an event that is set once any of them is in its third step."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    reached = SERVER.Event()
    shared = {
        "text": request.model_dump_json(),
        "port": port,
        "fault": fault,
        "window_clips": window_clips,
        "build": build,
        "reached": reached,
    }
    processes = [
        SERVER.Process(
            target=_work,
            kwargs={"ranks": Ranks(rank, rank, world_size), **shared},
            daemon=True,
        )
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    return processes, reached


def exit_codes(processes):
    """How the processes ended; those that do not end by themselves are killed, which shows."""
    until_s = time.monotonic() + TIMEOUT_S
    for process in processes:
        process.join(max(0.0, until_s - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode for process in processes]


def run(request, world_size=1, **options):
    processes, _reached = start(request, world_size, **options)  # kept until they have opened it
    return exit_codes(processes)


def _work(*, text, ranks, port, fault, window_clips, build, reached):
    code = 1
    try:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        torch.set_num_threads(1)
        interruption = Interruption()
        with (
            mock.patch(BUILD, build),
            mock.patch.object(data, "WINDOW_CLIPS", window_clips),
            mock.patch.object(Stepper, "take", _take(Stepper.take, fault, reached)),
            mock.patch.object(torch.distributed, "destroy_process_group", _destroy_what_nothing_uses),
            interruption.on_signals(),
        ):
            train(TrainingRequest.model_validate_json(text), ranks, interruption=interruption)
        code = 0
    except InterruptedTrainingError:
        code = INTERRUPTED_EXIT_CODE
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)  # as orchestration.worker does


def _destroy_what_nothing_uses(destroy=torch.distributed.destroy_process_group):
    """A reducer that outlives the process group may wait for ever for gloo's threads."""
    assert not any(type(found) is DistributedDataParallel for found in gc.get_objects())
    destroy()


def _take(real, fault, reached):
    def take(self, number, batches):
        if number == 2:
            reached.set()
        if fault is not None and (self.ranks.rank, number) == (fault.rank, fault.step):
            os.kill(os.getpid(), fault.signal)
        return real(self, number, batches)

    return take
