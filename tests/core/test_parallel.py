import os
import signal
import time
from functools import partial

import pytest

from fakesound.core.errors import UserError
from fakesound.core.parallel import map_parallel


def square(item):
    return item * item


def process_of(item):
    time.sleep(0.2)  # long enough for both workers to get one
    return os.getpid()


def die_at_three(folder, item):
    """As the kernel ends a process when memory runs out."""
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / str(item)).touch()
    return item


def fail_at_three(item):
    if item == 3:
        raise ValueError("the third")
    return item


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_come_in_the_order_of_the_items(jobs):
    assert list(map_parallel(square, range(20), description="x", jobs=jobs)) == [k * k for k in range(20)]


def test_few_items_start_no_process_unless_they_are_heavy():
    light = set(map_parallel(process_of, range(2), description="x", jobs=2))
    assert light == {os.getpid()}
    heavy = set(map_parallel(process_of, range(4), description="x", jobs=2, min_items_per_process=1))
    assert len(heavy) == 2
    assert os.getpid() not in heavy


def test_a_killed_worker_is_the_users_to_mend_and_costs_no_finished_work(tmp_path):
    with pytest.raises(UserError, match=r"^doing things: .*killed.*memory.*again") as caught:
        list(
            map_parallel(
                partial(die_at_three, tmp_path),
                range(6),
                description="doing things",
                jobs=2,
                min_items_per_process=1,
            )
        )
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert not (tmp_path / "3").exists()


def test_an_error_in_a_worker_keeps_its_kind():
    with pytest.raises(ValueError, match="the third"):
        list(map_parallel(fail_at_three, range(8), description="x", jobs=2, min_items_per_process=1))
