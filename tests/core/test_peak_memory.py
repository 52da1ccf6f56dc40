import numpy as np

from fakesound.core.memory import peak_mib, resident_mib


def test_the_peak_is_that_of_the_call_and_not_of_what_was_before():
    np.ones(2**25)  # 256 MiB, given back at once
    held = []
    assert 60 < peak_mib(lambda: np.ones(2**23).sum()) < 80
    assert peak_mib(lambda: None) < 8
    base_mib = resident_mib()
    held.append(np.ones(2**22))
    assert 28 < peak_mib(lambda: None, above_mib=base_mib) < 48
