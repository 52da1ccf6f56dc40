import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakesound.training.prefetch import prefetched


@given(st.lists(st.none() | st.integers()), st.integers(1, 4))
def test_items_come_once_and_in_order(items, ahead):
    assert list(prefetched((item for item in items), ahead)) == items


def test_items_are_made_before_they_are_asked_for_but_not_too_many():
    made, two_more = [], threading.Event()

    def making():
        for number in range(9):
            made.append(number)
            if number == 2:
                two_more.set()
            yield number

    taken = prefetched(making(), ahead=2)
    assert next(taken) == 0
    assert two_more.wait(10)
    assert made == [0, 1, 2]
    taken.close()


def test_an_error_is_raised_where_its_item_would_have_come():
    def making():
        yield 1
        yield 2
        raise ValueError("no third one")

    taken = prefetched(making(), ahead=3)
    assert [next(taken), next(taken)] == [1, 2]
    with pytest.raises(ValueError, match="no third one"):
        next(taken)


@pytest.mark.parametrize("taken_first", [0, 2])
def test_closing_ends_the_thread_and_closes_what_makes_the_items(taken_first):
    closed_on = []

    def making():
        try:
            yield from range(100)
        finally:
            closed_on.append(threading.current_thread().name)

    taken = prefetched(making(), ahead=2)
    next(taken)
    for _ in range(taken_first):
        next(taken)
    taken.close()
    assert len(closed_on) == 1
    assert closed_on[0].startswith("prefetch")
    assert not any(thread.name == closed_on[0] for thread in threading.enumerate())
