import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakesound.core.config import Config, digest_of
from fakesound.core.errors import UserError


class Inner(Config):
    rate_hz: int = 8000


class Outer(Config):
    inner: Inner = Inner()
    share: float = 0.5


def test_unknown_keys_are_named():
    with pytest.raises(UserError, match=r"inner\.rate"):
        Outer.parse({"inner": {"rate": 1}})


def test_wrong_types_are_named_with_what_was_given():
    with pytest.raises(UserError, match=r"share: .*got 'much'"):
        Outer.parse({"share": "much"})


def test_the_digest_is_of_the_meaning():
    assert Outer.parse({}).digest() == Outer.parse({"inner": {"rate_hz": 8000}, "share": 0.5}).digest()
    assert Outer().digest() != Outer(share=0.25).digest()


@given(st.dictionaries(st.text(), st.integers() | st.text()))
def test_the_digest_ignores_the_order_of_keys(values):
    assert digest_of(values) == digest_of(dict(reversed(values.items())))
