"""Pickled labels are read like numpy reads them, and nothing in them is ever run."""

import builtins
import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fakesound.core.errors import UserError
from fakesound.core.regions import Region
from fakesound.corpora.adapters.base import Roots
from fakesound.corpora.adapters.label_pickle import read_label_arrays
from fakesound.corpora.adapters.registry import ADAPTERS

LABELS = {
    "CON_T_0000000": np.array(["1", "0", "0", "1"]),
    "LA_T_1": np.array(["1"] * 300),
    "empty": np.array([], dtype="U1"),
}
HEADER = (
    b"\x93NUMPY\x01\x00\x76\x00"
    + b"{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(117)
    + b"\n"
)
MARKER = Path(__file__).parent / "it-was-run"


def write_npy(path: Path, pickled: bytes) -> Path:
    path.write_bytes(HEADER + pickled)
    return path


@pytest.mark.parametrize("protocol", range(2, 5))
@pytest.mark.parametrize("kind", ["U1", "S1", "U4", "i1", "i8", ">i4", "object"])
def test_what_numpy_wrote_is_read_as_numpy_would(tmp_path: Path, protocol: int, kind: str) -> None:
    labels = {name: array.astype(kind) for name, array in LABELS.items()}
    path = write_npy(tmp_path / "x.npy", pickle.dumps(np.array(labels, dtype=object), protocol=protocol))
    expected = np.load(path, allow_pickle=True).item()
    found = read_label_arrays(path)
    assert list(found) == list(expected)
    for name in expected:
        np.testing.assert_array_equal(found[name].astype(np.str_), expected[name].astype(np.str_))


def test_the_file_that_numpy_save_writes(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", LABELS, allow_pickle=True)  # type: ignore[arg-type]
    assert read_label_arrays(tmp_path / "x.npy")["CON_T_0000000"].tolist() == ["1", "0", "0", "1"]


def test_the_module_of_older_numpys_is_known(tmp_path: Path) -> None:
    pickled = pickle.dumps(np.array(LABELS, dtype=object), protocol=3)
    older = pickled.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    assert older != pickled
    assert set(read_label_arrays(write_npy(tmp_path / "x.npy", older))) == set(LABELS)


class Reduces:
    """Pickles as a call of anything."""

    def __init__(self, *call: object) -> None:
        self.call = call

    def __reduce__(self) -> tuple:
        return self.call[0], self.call[1:]


ATTACKS = [
    (Reduces(os.system, f"touch {MARKER}"), r"posix\.system"),
    (Reduces(builtins.eval, f"open({str(MARKER)!r}, 'w')"), r"builtins\.eval"),
    (Reduces(builtins.exec, "raise SystemExit"), r"builtins\.exec"),
    (Reduces(io.FileIO, str(MARKER), "w"), r"_io\.FileIO"),
    (Reduces(np.load, str(MARKER)), r"numpy\.load"),
    (Reduces(np.ndarray, (1 << 40,)), r"calls numpy\.ndarray"),
    (Reduces(np.dtype, "U1"), r"calls numpy\.dtype"),
    (Reduces(getattr, "a", "b"), r"builtins\.getattr"),
    (Reduces(bytes, 1 << 40), r"calls builtins\.bytes"),
]


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(("attack", "named"), ATTACKS)
@pytest.mark.parametrize("inside", [False, True])
def test_a_malicious_pickle_does_nothing_and_is_named(
    tmp_path: Path, protocol: int, attack: Reduces, named: str, inside: bool
) -> None:
    content = np.array(LABELS | {"x": attack}, dtype=object) if inside else attack
    path = write_npy(tmp_path / "train_seglab_0.16.npy", pickle.dumps(content, protocol=protocol))
    if protocol == 2:
        named = named.replace("builtins", "__builtin__")
    with pytest.raises(UserError, match=rf"train_seglab_0\.16\.npy: refused: .*{named}"):
        read_label_arrays(path)
    assert not MARKER.exists()


@pytest.mark.parametrize(
    ("pickled", "reason"),
    [
        (b"", "damaged pickle"),
        (b".", "no single value"),
        (b"N.", "holds no dict"),
        (b"(lp0\ng0\na.", "holds no dict"),
        (b"cos\nsystem\n.", r"os\.system"),
        (b"(S'true'\nios\nsystem\n.", "uses INST"),
        (b"\x80\x04\x95\x00", "damaged pickle"),
        (b"\x82\x01.", "uses EXT1"),
        (b"Pident\n.", "uses PERSID"),
        (b"K\x01K\x02R.", "calls something in its own way"),
        (b"K\x01}b.", "sets the state"),
        (b"h\x05.", "damaged pickle"),
        (b"aK\x01.", "empty stack"),
        (b"K\x01K\x02a.", "no list where"),
        (b"K\x01" + b"\x85" * 2000 + b"h\x00\x93.", "damaged pickle"),
        (b"\x8c\x01a" + b"K\x01" + b"\x85" * 2000 + b"\x93.", "a global whose name is no text"),
        (b"}K\x01K\x02s.", "not names of utterances"),
        (b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.", "damaged pickle"),  # eight exabytes are promised
    ],
)
def test_other_pickles_are_refused_with_a_reason(tmp_path: Path, pickled: bytes, reason: str) -> None:
    with pytest.raises(UserError, match=rf"x\.npy: .*{reason}"):
        read_label_arrays(write_npy(tmp_path / "x.npy", pickled))


def described(shape: object, code: str, content: object) -> bytes:
    """A pickle of a dict with one array whose shape, type and bytes may contradict each other."""
    good = pickle.dumps(np.array({"u": np.array(["1", "0"])}, dtype=object), protocol=4)
    data = b"1\0\0\x000\0\0\0"
    assert (
        good.count(b"\x8c\x02U1") == 1 and good.count(b"C\x08" + data) == 1 and good.count(b"K\x02\x85") == 1
    )
    good = good[:2] + good[11:]  # without the frame, whose length would no longer agree
    good = good.replace(b"\x8c\x02U1", b"\x8c" + bytes([len(code)]) + code.encode())
    good = good.replace(b"K\x02\x85", pickle.dumps(shape, protocol=2)[2:-1] + b"\x85")
    return good.replace(b"C\x08" + data, pickle.dumps(content, protocol=3)[2:-1])


@pytest.mark.parametrize(
    ("shape", "code", "content", "reason"),
    [
        (2, "U1", b"1\0\0\0", "4 bytes are not 2 labels"),
        (1 << 60, "U1", b"1\0\0\0", "bytes are not"),
        (-1, "U1", b"", "impossible shape"),
        (0, "U0", b"", "0 bytes are not 0 labels"),
        (2, "O8", b"0" * 16, "bytes are not 2 labels"),
        (2, "f8", b"0" * 16, "bytes are not 2 labels"),
        (2, "nonsense", b"00", "unknown kind 'nonsense'"),
        (2, "U1", [1.5, 2], "uses BINFLOAT"),
        (2, "U1", [10**5000, 2], "something other than labels"),
        (2, "U1", 7, "sets the state"),
        ("x", "U1", b"", "impossible shape"),
        (1 << 63, "U1", b"1\0\0\0", "impossible shape"),
        (2, "1" * 200, b"1\0\0\0", "unknown kind"),
        (2, "(" * 200 + ",", b"1\0\0\0", "unknown kind"),
        (2, "U99999999999", b"1\0\0\0", "unknown kind"),
        (2, "O8", ["1" * 17, "0"], "something other than labels"),
    ],
)
def test_an_array_that_contradicts_itself_is_refused(
    tmp_path: Path, shape: object, code: str, content: object, reason: str
) -> None:
    path = write_npy(tmp_path / "x.npy", described(shape, code, content))
    with pytest.raises(UserError, match=reason):
        read_label_arrays(path)


def test_lists_of_one_list_that_double_at_every_level_end_at_once(tmp_path: Path) -> None:
    doubling = b"]\x94" + b"".join(b"](h" + bytes([k]) + b"h" + bytes([k]) + b"e\x94" for k in range(100))
    pickled = b"\x80\x04" + doubling + b"\x8c\x01a\x93."
    assert len(pickled) < 1000
    with pytest.raises(UserError, match="a global whose name is no text"):
        read_label_arrays(write_npy(tmp_path / "x.npy", pickled))


@pytest.mark.parametrize("shared", [np.array(["1"] * 500), ["1"] * 500])
def test_one_row_of_labels_for_a_thousand_utterances_is_refused(tmp_path: Path, shared: object) -> None:
    labels = {f"u{k}": shared for k in range(1000)}
    path = write_npy(tmp_path / "x.npy", pickle.dumps(np.array(labels, dtype=object), protocol=4))
    with pytest.raises(UserError, match="more than the file holds"):
        read_label_arrays(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a .npy file"),
        (b"\x93NUMPY\x01\x00\x04\x00{'a'", "not a .npy file"),
        (b"\x93NUMPY\x03\x00" + HEADER[8:], r"version \(3, 0\)"),
        (HEADER.replace(b"|O", b"i8"), "not one dict of label arrays"),
        (HEADER.replace(b"(), ", b"(2,)"), "not one dict of label arrays"),
    ],
)
def test_other_files_are_refused_with_a_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(UserError, match=reason):
        read_label_arrays(tmp_path / "x.npy")
    with pytest.raises(UserError, match=r"y\.npy cannot be read"):
        read_label_arrays(tmp_path / "y.npy")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    edits=st.lists(st.tuples(st.integers(0, 499), st.integers(0, 255)), min_size=1, max_size=6),
    tail=st.binary(max_size=20),
    cut=st.integers(0, 500),
)
def test_mutated_pickles_raise_nothing_but_user_errors(
    tmp_path: Path, edits: list, tail: bytes, cut: int
) -> None:
    pickled = bytearray(pickle.dumps(np.array(LABELS, dtype=object), protocol=4))
    for at, value in edits:
        pickled[at % len(pickled)] = value
    path = write_npy(tmp_path / "x.npy", bytes(pickled[:cut]) + tail if cut < 400 else bytes(pickled))
    try:
        assert isinstance(read_label_arrays(path), dict)
    except UserError as error:
        assert str(error).startswith(str(path))


def partialspoof(root: Path, labels: dict, resolution: str) -> Roots:
    (root / "segment_labels").mkdir(exist_ok=True)
    (root / "PartialSpoof.LA.cm.train.trl.txt").write_text(
        "A CON_T_0000000 - CON spoof\nA LA_T_1 - - bonafide\n"
    )
    np.save(root / "segment_labels" / f"train_seglab_{resolution}.npy", labels)  # type: ignore[arg-type]
    return Roots(root)


def test_partialspoof_falls_back_on_its_finest_segment_labels(tmp_path: Path) -> None:
    coarse = {name: np.array(["0"]) for name in LABELS}
    partialspoof(tmp_path, coarse, "0.64")
    roots = partialspoof(tmp_path, LABELS, "0.16")
    forged, genuine = ADAPTERS["partialspoof"].read(roots)
    assert forged.regions == (Region(0.16, 0.48),) and genuine.regions == ()


def test_exact_times_are_preferred(tmp_path: Path) -> None:
    roots = partialspoof(tmp_path, LABELS, "0.16")
    (tmp_path / "vad" / "train").mkdir(parents=True)
    (tmp_path / "vad" / "train" / "CON_T_0000000.vad").write_text("0 0.2 1\n0.2 0.47125 0\n")
    assert next(iter(ADAPTERS["partialspoof"].read(roots))).regions == (Region(0.2, 0.47125),)


def test_unknown_labels_and_missing_ones_are_named(tmp_path: Path) -> None:
    roots = partialspoof(tmp_path, LABELS | {"CON_T_0000000": np.array(["1", "x"])}, "0.16")
    with pytest.raises(UserError, match=r"seglab_0\.16\.npy, CON_T_0000000: unknown label 'x'"):
        list(ADAPTERS["partialspoof"].read(roots))
    roots = partialspoof(tmp_path, {"LA_T_1": LABELS["LA_T_1"]}, "0.16")
    with pytest.raises(UserError, match=r"trl\.txt:1: no vad/train/CON_T_0000000\.vad"):
        list(ADAPTERS["partialspoof"].read(roots))
