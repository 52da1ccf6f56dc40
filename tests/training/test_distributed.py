"""Two processes joined by gloo; forked, since fresh interpreters would take longer than the training."""

import gc
import os
import signal
import socket
import time
import traceback
from multiprocessing import get_context

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from fakesound.core.store import Store
from fakesound.training import data, trainer
from fakesound.training.checkpoint import load_latest
from fakesound.training.ranks import Ranks
from fakesound.training.request import training_place

FORK = get_context("fork")
WORLD_SIZE = 2


def start(request, reached=None):
    """Processes that train; with `reached`, they stop in epoch 3 and say so."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]

    def work(rank):
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        torch.set_num_threads(1)
        if reached is not None:
            real = trainer.collate

            def stop_in_epoch_three(*args):
                if args[-1] == 2:
                    reached.set()
                    time.sleep(60)
                return real(*args)

            trainer.collate = stop_in_epoch_three
        destroy = torch.distributed.destroy_process_group

        def destroy_what_nothing_uses():
            assert not any(type(found) is DistributedDataParallel for found in gc.get_objects())
            destroy()

        torch.distributed.destroy_process_group = destroy_what_nothing_uses
        try:
            trainer.train(request, Ranks(rank, rank, WORLD_SIZE))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)  # without the exit handlers of pytest's process, whose threads were not forked with it

    processes = [FORK.Process(target=work, args=(rank,), daemon=True) for rank in range(WORLD_SIZE)]
    for process in processes:
        process.start()
    return processes


def finish(processes):
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * WORLD_SIZE


def checkpoint(request):
    found = load_latest(training_place(Store(request.store_url), request), request.key())
    assert found is not None
    return found


@pytest.mark.parametrize("window_clips", [2048, 13])
def test_two_processes_take_the_steps_that_one_takes(
    tiny_model_without_chance, make_request, monkeypatch, window_clips
):
    monkeypatch.setattr(data, "WINDOW_CLIPS", window_clips)
    alone = make_request("alone", epochs=2, schedule={"peak_lr": 1e-3})
    trainer.train(alone, Ranks())
    together = make_request("together", epochs=2, schedule={"peak_lr": 1e-3}, world_size=WORLD_SIZE)
    finish(start(together))
    one, two = checkpoint(alone), checkpoint(together)
    for name, tensor in one.tensors.items():
        torch.testing.assert_close(two.tensors[name], tensor, rtol=1e-4, atol=1e-6)
    for figure in ("loss", "clip_loss", "frame_loss", "gradient_norm", "score"):
        pairs = zip(one.state.records, two.state.records, strict=True)
        assert all(a[figure] == pytest.approx(b[figure], rel=1e-4) for a, b in pairs)
    assert one.state.records[-1]["validation"] == pytest.approx(two.state.records[-1]["validation"], rel=1e-4)


def test_two_processes_killed_and_resumed_equal_two_uninterrupted(tiny_model, make_request):
    whole = make_request("whole", world_size=WORLD_SIZE)
    broken = make_request("broken", world_size=WORLD_SIZE)
    finish(start(whole))
    reached = FORK.Event()
    processes = start(broken, reached)
    assert reached.wait(60)
    for process in processes:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    assert checkpoint(broken).state.epoch in (1, 2)  # the other process may be about to write the second
    finish(start(broken))
    one, two = checkpoint(whole), checkpoint(broken)
    assert one.state.random_states == two.state.random_states
    assert len({state["cpu"] for state in one.state.random_states}) == WORLD_SIZE
    for name, tensor in one.tensors.items():
        assert torch.equal(two.tensors[name], tensor), name


def test_a_training_goes_on_with_fewer_processes(tiny_model, make_request):
    request = make_request(world_size=WORLD_SIZE)
    reached = FORK.Event()
    processes = start(request, reached)
    assert reached.wait(60)
    for process in processes:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    records = []
    trainer.train(request, Ranks(), records.append)
    assert [record.epoch for record in records][-2:] == [3, 4]
    assert training_place(Store(request.store_url), request).is_complete()
