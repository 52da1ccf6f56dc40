"""`fakesound corpus import | describe | check | convert`, and the features of what comes out."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from fakesound.cli.main import main
from fakesound.core.store import Pointer, Store
from fakesound.features.config import FeatureConfig
from fakesound.features.extract import extract_features


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(0)
    for kind in ("genuine", "forged/tts"):
        (root / kind).mkdir(parents=True)
        for k in range(6):
            soundfile.write(root / kind / f"{k}.wav", 0.1 * rng.standard_normal(8_000 + 99 * k), 16_000)
    (root / "genuine" / "bad.wav").write_text("not a sound")
    return root


def run(*arguments: object) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_from_a_folder_to_features(folder: Path, tmp_path: Path) -> None:
    manifest, pointer = tmp_path / "m.parquet", tmp_path / "corpus.json"
    said = run("corpus", "import", "--format", "folder", "--root", folder, "--out", manifest)
    assert "12 clips; 0 without audio, 1 unusable" in said and "m.rejects.csv" in said
    picture = tmp_path / "lengths.png"
    assert "tts" in run("corpus", "describe", manifest, "--plot", picture) and picture.exists()
    assert "every file is whole" in run("corpus", "check", manifest)
    run("corpus", "convert", manifest, "--store", tmp_path / "store", "--out", pointer)
    assert "every file is whole" in run("corpus", "check", pointer)
    said = run("corpus", "describe", pointer)
    assert "tts" in said and said.splitlines()[-1] == "rejects: 0"
    config = FeatureConfig(num_mels=8, n_fft=512)
    features = extract_features(Pointer.read(pointer), config, Store(str(tmp_path / "store"))).open()
    assert features.metadata["num_clips"] == 12
    assert features.metadata["protocol"]["views"] == ["validation", "test", "test_seen"]


def test_describe_lists_what_build_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for k in range(8):
        soundfile.write(tmp_path / "in" / f"{k}.wav", 0.1 * rng.standard_normal(16_000), 16_000)
    (tmp_path / "in" / "bad.wav").write_text("not a sound")
    pointer = tmp_path / "corpus.json"
    recordings = ("--recordings", tmp_path / "in", "--store", tmp_path / "store")
    said = run("corpus", "build", *recordings, "--out", pointer, "--config", "folder")
    assert "rejects: 1; `fakesound corpus describe POINTER_FILE` lists them by reason" in said
    listed = run("corpus", "describe", pointer).splitlines()[-3:]
    assert listed[:2] == ["rejects: 1", "     1  not audio"] and listed[2].startswith(
        "        'bad.wav': not audio:"
    )


def test_check_names_files_altered_since_they_were_imported(folder: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(folder, tmp_path / "own")
    manifest = tmp_path / "m.parquet"
    run("corpus", "import", "--format", "folder", "--root", tmp_path / "own", "--out", manifest)
    (tmp_path / "own" / "genuine" / "0.wav").unlink()
    (tmp_path / "own" / "genuine" / "1.wav").write_bytes(b"other")
    result = CliRunner().invoke(main, ["corpus", "check", str(manifest)])
    assert result.exit_code == 2
    assert "2 of 12 files are missing or altered since they were imported" in result.stderr
    assert "0.wav" in result.stderr and "1.wav" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["import", "--format", "nonsense", "--root", ".", "--out", "m.parquet"], "no format 'nonsense'"),
        (
            ["import", "--format", "folder", "--root", "nowhere", "--out", "m.parquet"],
            "neither genuine/ nor forged/",
        ),
        (["import", "--format", "table", "--root", "nowhere.csv", "--out", "m.parquet"], "is not a file"),
        (["describe", "nowhere"], "cannot be read"),
        (["check", "nowhere"], "cannot be read"),
        (["convert", "nowhere", "--out", "p"], "cannot be read"),
    ],
)
def test_mistakes_are_messages(arguments: list[str], complaint: str) -> None:
    result = CliRunner().invoke(main, ["corpus", *arguments])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ") and complaint in result.stderr
