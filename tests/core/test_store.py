import json
import os
import signal
import subprocess
import sys
import time

import pytest

from fakesound.core.errors import IntegrityError, UserError
from fakesound.core.store import MARKER_NAME, Place, Pointer, Store


@pytest.fixture
def place(tmp_path):
    return Store(str(tmp_path / "store")).place("things", "abc")


def test_a_pointer_opens_what_was_completed(place, tmp_path):
    place.write_json("a/b.json", {"x": 1})
    place.complete({"note": "whole"}).write(tmp_path / "pointer.json")
    opened = Pointer.read(tmp_path / "pointer.json").open()
    assert opened.metadata == {"note": "whole"}
    assert opened.names() == ["a/b.json"]
    assert json.loads(opened.checked_path("a/b.json").read_text()) == {"x": 1}


def test_an_unfinished_place_is_not_read_as_whole(place):
    place.write_json("a.json", 1)
    with pytest.raises(IntegrityError, match="unfinished"):
        place.checked_path("a.json")
    with pytest.raises(IntegrityError, match="unfinished"):
        Pointer(uri=place.uri, digest="0").open()


def test_a_removed_file_is_gone_and_removing_it_again_is_no_error(place):
    place.write_bytes("a/data", b"1")
    place.remove("a/data")
    place.remove("a/data")
    assert place.names() == []
    with pytest.raises(IntegrityError, match="not a file name"):
        place.remove("../data")


def test_an_altered_file_is_refused(place):
    place.write_bytes("data", b"good")
    pointer = place.complete({})
    place.local_path("data").write_bytes(b"evil")
    with pytest.raises(IntegrityError, match="altered"):
        pointer.open().checked_path("data")


def test_a_changed_marker_is_refused(place):
    place.write_bytes("data", b"one")
    pointer = place.complete({})
    place.write_bytes("data", b"two")
    Place(place.uri).complete({})
    with pytest.raises(IntegrityError, match="changed"):
        pointer.open()


def test_a_file_that_fails_half_way_leaves_nothing(place):
    with pytest.raises(RuntimeError), place.writing("data") as path:
        path.write_bytes(b"half")
        raise RuntimeError
    assert place.names() == []
    assert list(place.local_path("data").parent.iterdir()) == []


def test_a_failed_rewrite_keeps_the_old_file(place):
    place.write_bytes("data", b"old")
    with pytest.raises(RuntimeError), place.writing("data") as path:
        path.write_bytes(b"half of the n")
        raise RuntimeError
    assert place.read_bytes("data") == b"old"


def test_sigkill_in_the_middle_of_writing_shows_nobody_a_half_file(tmp_path):
    writer = (
        "import sys, time; from fakesound.core.store import Store\n"
        "with Store(sys.argv[1]).place('things', 'abc').writing('data') as path:\n"
        "    path.write_bytes(b'half'); print('writing', flush=True); time.sleep(60)\n"
    )
    url = str(tmp_path / "store")
    with subprocess.Popen([sys.executable, "-c", writer, url], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        os.kill(process.pid, signal.SIGKILL)
    place = Store(url).place("things", "abc")
    assert not place.exists("data")
    assert place.names() == []
    assert place.complete({}).open().marker["files"] == {}


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b"])
def test_names_cannot_leave_the_place(place, name):
    with pytest.raises(IntegrityError, match="not a file name"):
        place.write_bytes(name, b"")


@pytest.mark.parametrize("text", ["", "[]", '{"uri": "x"}', "\x00"])
def test_what_is_not_a_pointer_is_said_to_be_none(tmp_path, text):
    (tmp_path / "p").write_text(text)
    with pytest.raises(UserError, match="not a pointer"):
        Pointer.read(tmp_path / "p")


def test_an_unknown_protocol_is_a_user_error():
    with pytest.raises(UserError, match="cannot be opened"):
        Store("nosuch://bucket")


def test_a_remote_store_behaves_like_a_local_one(tmp_path):
    place = Store(f"memory://test-{time.monotonic_ns()}").place("things", "abc")
    place.write_bytes("deep/data", b"remote")
    with place.writing("file") as path:
        path.write_bytes(b"uploaded")
    opened = place.complete({"n": 2}).open()
    assert opened.names() == ["deep/data", "file"]
    assert opened.checked_path("deep/data").read_bytes() == b"remote"
    assert not [name for name in opened.names() if name == MARKER_NAME]


def test_a_rewritten_remote_file_is_not_read_from_a_stale_copy():
    place = Store(f"memory://test-{time.monotonic_ns()}").place("things", "abc")
    place.write_bytes("data", b"old")
    assert place.local_path("data").read_bytes() == b"old"
    place.write_bytes("data", b"renewed")
    assert place.complete({}).open().checked_path("data").read_bytes() == b"renewed"
