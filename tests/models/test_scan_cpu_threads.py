"""Kernels on torch's threads, on a pool, and on one."""

import threading

import pytest
import torch

from fakesound.models.scan import cpu_threads
from fakesound.models.scan.cpu_threads import run_on_threads


@pytest.fixture(autouse=True)
def _two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["torch's team", "pool"])
def _either(request, monkeypatch):
    if request.param == "pool":
        monkeypatch.setattr(cpu_threads, "_torch_openmp", lambda: None)


@pytest.mark.usefixtures("_either")
@pytest.mark.parametrize("num_tasks", [0, 1, 2, 7])
def test_every_task_is_done_once(num_tasks):
    done, threads = [], set()

    def kernel(offset, first, stride):
        threads.add(threading.get_ident())
        done.extend(offset + task for task in range(first, num_tasks, stride))

    run_on_threads(kernel, num_tasks, 100)
    assert sorted(done) == [100 + task for task in range(num_tasks)]
    assert threading.get_ident() in threads


@pytest.mark.usefixtures("_either")
def test_two_threads_take_part_at_the_same_time():
    meeting = threading.Barrier(2, timeout=30)
    run_on_threads(lambda first, stride: meeting.wait(), 2)
    assert meeting.n_waiting == 0 and not meeting.broken


@pytest.mark.usefixtures("_either")
@pytest.mark.parametrize("failing", [0, 1])
def test_what_a_thread_raises_is_raised(failing):
    def kernel(first, stride):
        if first == failing:
            raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        run_on_threads(kernel, 2)


def test_torch_brings_the_library_whose_threads_are_used():
    openmp = cpu_threads._torch_openmp()
    assert openmp is not None
    assert openmp.omp_get_max_threads() == torch.get_num_threads()
