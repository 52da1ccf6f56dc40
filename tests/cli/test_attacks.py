import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from scipy.io import wavfile

from fakesound.attacks.registry import ATTACKS
from fakesound.cli.main import main

EXTERNAL = Path(__file__).parents[1] / "attacks" / "external.py"
RATE = 11_025


@pytest.fixture
def recording(tmp_path):
    """24-bit samples: more than 16 bits must survive."""
    rng = np.random.default_rng(0)
    samples = 0.2 * np.sin(np.arange(RATE) / 7) * (
        1 + np.sin(np.arange(RATE) / 900)
    ) + 0.01 * rng.standard_normal(RATE)
    path = tmp_path / "in.flac"
    soundfile.write(path, samples, RATE, subtype="PCM_24")
    return path


def run(*arguments):
    return CliRunner().invoke(main, ["attacks", *map(str, arguments)])


def test_list_names_every_family():
    result = run("list")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [*ATTACKS]
    assert all(line.endswith("built in") for line in lines)


def test_apply_changes_the_region_and_nothing_else(recording, tmp_path):
    out = tmp_path / "out.wav"
    result = run(
        "apply", recording, "--family", "nmf", "--region", "0.6-0.8", "--region", "0.2-0.3", "--out", out
    )
    assert result.exit_code == 0, result.output
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["0.200", "-", "0.300", "s", "nmf"],
        ["0.600", "-", "0.800", "s", "nmf"],
    ]
    before, after = soundfile.read(recording)[0], soundfile.read(out)[0]
    assert soundfile.info(out).samplerate == RATE and soundfile.info(out).subtype == "FLOAT"
    changed = np.flatnonzero(before != after) / RATE
    assert len(before) == len(after) and changed[0] > 0.17 and changed[-1] < 0.83
    assert not ((changed > 0.33) & (changed < 0.57)).any()


def test_without_a_region_one_is_drawn_from_the_seed(recording, tmp_path):
    said = {
        seed: run(
            "apply", recording, "--family", "granular", "--seed", seed, "--out", tmp_path / f"{n}.wav"
        ).stdout
        for n, seed in enumerate((1, 2))
    }
    again = run(
        "apply", recording, "--family", "granular", "--seed", 1, "--out", tmp_path / "again.wav"
    ).stdout
    assert again == said[1] != said[2]
    assert (tmp_path / "again.wav").read_bytes() == (tmp_path / "0.wav").read_bytes()


def test_apply_with_a_donor_and_with_a_command(recording, tmp_path):
    donor = tmp_path / "donor.wav"
    soundfile.write(donor, 0.1 * np.random.default_rng(1).standard_normal((16_000, 2)), 16_000)
    result = run(
        "apply", recording, "--family", "splice", "--donor", donor, "--out", tmp_path / "spliced.wav"
    )
    assert result.exit_code == 0 and "mixed down" in result.stderr
    program = " ".join(map(shlex.quote, (sys.executable, "-S", str(EXTERNAL))))
    template = f"{program} {{input}} {{output}} {{onset_s}} {{offset_s}} {{seed}}"
    result = run(
        "apply", recording, "--family", "mine", "--command", template, "--out", tmp_path / "mine.wav"
    )
    assert result.exit_code == 0 and result.stdout.rstrip().endswith("mine")
    assert (tmp_path / "mine.wav").exists()


def test_preview_writes_sound_and_picture(recording, tmp_path):
    result = run("preview", recording, "--family", "world", "--region", "0.3-0.6", "--out", tmp_path / "one")
    assert result.exit_code == 0, result.output
    assert {path.name for path in (tmp_path / "one").iterdir()} == {"before.wav", "after.wav", "preview.png"}
    assert (tmp_path / "one" / "preview.png").read_bytes()[1:4] == b"PNG"


def test_preview_of_all_families_is_one_sheet(recording, tmp_path):
    result = run("preview", recording, "--family", "all", "--region", "0.3-0.4", "--out", tmp_path / "all")
    assert result.exit_code == 0 and "splice is left out" in result.stderr
    made = {path.name for path in (tmp_path / "all").iterdir()}
    assert made == {"before.wav", "sheet.png"} | {f"{family}.wav" for family in ATTACKS if family != "splice"}
    assert (tmp_path / "all" / "sheet.png").read_bytes()[1:4] == b"PNG"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["{missing}", "--family", "nmf"], "missing.wav cannot be used: unreadable"),
        (["{recording}", "--family", "vall-e"], "no attack family 'vall-e'"),
        (["{recording}", "--family", "splice"], "needs a donor"),
        (["{recording}", "--family", "splice", "--donor", "{missing}"], "missing.wav cannot be used"),
        (["{recording}", "--family", "nmf", "--region", "half"], "like 1.2-2.5"),
        (
            ["{recording}", "--family", "nmf", "--region", "0.5-0.4"],
            "must lie within the recording, 0-1.000 s",
        ),
        (["{recording}", "--family", "nmf", "--region", "0.5-nan"], "must lie within"),
        (["{recording}", "--family", "nmf", "--region", "0.5-1.4"], "must lie within"),
        (["{recording}", "--family", "nmf", "--region", "0.1-0.4", "--region", "0.3-0.5"], "overlaps"),
        (["{recording}", "--family", "nmf", "--command", "x {{input}} {{output}}"], "family of that name"),
        (["{recording}", "--family", "mine", "--command", "x {{input}}"], "names no {output}"),
        (
            ["{recording}", "--family", "mine", "--command", "/no/such {{input}} {{output}}"],
            "cannot be started",
        ),
    ],
)
def test_mistakes_are_code_2_a_message_and_no_file(arguments, complaint, recording, tmp_path):
    names = {"recording": recording, "missing": tmp_path / "missing.wav"}
    out = tmp_path / "out.wav"
    result = run("apply", *(argument.format(**names) for argument in arguments), "--out", out)
    assert result.exit_code == 2, result.output
    assert result.stderr.splitlines()[-1].startswith("error: ") and complaint in result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"in.flac"}


def test_where_nothing_can_be_written(recording, tmp_path):
    (tmp_path / "file").touch()
    result = run("apply", recording, "--family", "nmf", "--out", tmp_path / "file" / "out.wav")
    assert result.exit_code == 2 and "cannot be written" in result.stderr
    result = run("apply", recording, "--family", "nmf", "--out", tmp_path / "out.mp3")
    assert result.exit_code == 2 and "let the name end in .wav" in result.stderr


def test_a_write_that_fails_half_way_leaves_nothing(recording, tmp_path, monkeypatch):
    def half(path, rate, samples):
        Path(path).write_bytes(b"RIFF")
        raise OSError("disk full")

    monkeypatch.setattr(wavfile, "write", half)
    result = run("apply", recording, "--family", "nmf", "--out", tmp_path / "out.wav")
    assert result.exit_code == 2 and "disk full" in result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"in.flac"}
