"""What a rank says it failed of arrives as it was, whatever else is in the log."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fakesound.core.errors import IntegrityError, UserError
from fakesound.orchestration import rank_failure
from fakesound.orchestration.rank_failure import MAX_TRACE_CHARS, RankFailure, RankFailures, announce


def raised(error):
    try:
        raise error
    except Exception as caught:
        return caught


@given(st.text(), st.sampled_from(["", "[rank0]:", "2026-11-24T00:00:00Z [rank12]:"]))
def test_a_failure_survives_any_message_and_prefix(text, prefix):
    told = RankFailure.of(raised(ValueError(text)))
    line = f"{prefix}{told.to_line()}"
    assert "\n" not in line
    assert RankFailure.from_line(line) == told


@given(st.text())
def test_no_other_line_is_taken_for_one(line):
    assert RankFailure.from_line(line) is None
    assert RankFailure.from_line(f"fakesound-rank-failure {line}") is None


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (UserError("mend me"), "user", "mend me"),
        (IntegrityError("altered"), "user", "altered"),
        (ValueError("boom"), "own", "ValueError: boom"),
        (RuntimeError("shape mismatch"), "own", "RuntimeError: shape mismatch"),
        (RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer"), "peer", None),
        (torch.distributed.DistBackendError("NCCL error"), "peer", None),
        (torch.distributed.DistNetworkError("lost"), "peer", None),
        (ConnectionResetError("Connection reset by peer"), "peer", None),
    ],
)
def test_kinds(error, kind, message, monkeypatch, capsys):
    monkeypatch.setattr(rank_failure, "ENDED_WITHIN_S", 0.0)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "2")
    announce(raised(error))
    told = RankFailure.from_line(capsys.readouterr().out.rstrip("\n"))
    assert told is not None
    assert (told.kind, told.rank, told.restart) == (kind, 3, 2)
    assert message is None or told.message == message
    assert bool(told.trace) == (kind != "user")


def test_of_a_long_traceback_the_end_is_kept():
    told = RankFailure.of(raised(ValueError("x" * 2 * MAX_TRACE_CHARS + "END")))
    assert len(told.trace) == MAX_TRACE_CHARS and told.trace.endswith("END")


def tell(*failures):
    heard = RankFailures()
    for kind, message, restart, time_s in failures:
        told = RankFailure(kind=kind, message=message, restart=restart, time_s=time_s, rank=0)
        assert heard.take(told.to_line())
    return heard


def test_the_cause_is_what_failed_first_of_its_own():
    heard = tell(
        ("peer", "p", 0, 1.0), ("own", "late", 0, 3.0), ("own", "first", 0, 2.0), ("own", "x", 1, 0.0)
    )
    assert heard.cause is not None and heard.cause.message == "first"
    assert tell(("peer", "p", 0, 1.0)).cause is None
    assert not RankFailures().take("[rank0]:epoch 1")


@pytest.mark.parametrize(
    ("failures", "are_final"),
    [
        ([], False),
        ([("own", "a", 0, 1.0), ("own", "a", 0, 1.0)], False),  # two ranks, one start
        ([("own", "a", 0, 1.0), ("own", "b", 1, 1.0)], False),
        ([("own", "a", 0, 1.0), ("own", "a", 1, 1.0)], True),
        ([("peer", "a", 0, 1.0), ("peer", "a", 1, 1.0)], False),
        ([("user", "a", 0, 1.0)], True),
    ],
)
def test_what_is_final(failures, are_final):
    assert tell(*failures).are_final == are_final
