import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner

from fakesound.cli import doctor as doctor_module
from fakesound.cli.main import main
from fakesound.features.config import FeatureConfig
from fakesound.models.build import build_detector
from fakesound.models.bundle import save_bundle
from fakesound.models.config import FCNResNetConfig
from fakesound.models.scan import _choose

MODEL = FCNResNetConfig(widths=(4,), depths=(1,), time_strides=(1,))
FRONT_END = FeatureConfig(num_mels=16, n_fft=512)


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("FAKESOUND_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def recording(tmp_path):
    path = tmp_path / "clip.wav"
    samples = 0.1 * np.random.default_rng(0).standard_normal(32_000)
    soundfile.write(path, samples, 32_000)
    return str(path)


def bundle(folder, threshold):
    torch.manual_seed(0)
    save_bundle(
        folder,
        detector=build_detector(MODEL, FRONT_END.num_mels),
        config=MODEL,
        num_mels=FRONT_END.num_mels,
        front_end=FRONT_END.model_dump(mode="json"),
        facts={"operating_point": {"clip": threshold, "frame": threshold}},
    )
    return str(folder)


def run(*arguments):
    return CliRunner().invoke(main, arguments)


@pytest.mark.parametrize(("threshold", "code"), [(0.0, 3), (1.0, 0)])
def test_the_exit_code_is_the_verdict(threshold, code, recording, tmp_path):
    model = bundle(tmp_path / "model", threshold)
    result = run("detect", recording, "--model", model)
    assert result.exit_code == code, result.output
    assert f"model: {model}" in result.stderr
    assert "model:" not in result.stdout


@pytest.mark.parametrize("form", ["json", "audacity", "text"])
def test_formats_and_plot(form, recording, tmp_path):
    model = bundle(tmp_path / "model", 0.0)
    picture = tmp_path / {"json": "out.png", "audacity": "deep/out.png", "text": "out"}[form]
    result = run("detect", recording, "--model", model, "--format", form, "--plot", str(picture))
    assert result.exit_code == 3
    assert result.stdout.startswith({"json": "{", "audacity": "0.0", "text": recording}[form])
    assert picture.read_bytes()[1:4] == b"PNG"


def damaged(tmp_path):
    path = tmp_path / "text.wav"
    path.write_text("not audio")
    return str(path)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["{missing}"], "no file"),
        (["{recording}"], "make run"),
        (["{recording}", "--model", "{empty}"], "no detector"),
        (["{recording}", "--model", "nowhere"], "no detector"),
        (["{recording}", "--model", "models:/fakesound@champion"], "no registry"),
        (["{damaged}", "--model", "{model}"], "could not be judged"),
        (["{recording}", "--model", "{model}", "--plot", "{damaged}/x.png"], "x.png cannot be written"),
        (["{recording}", "--model", "{model}", "--plot", "{empty}/x.nonsense"], "cannot be written"),
    ],
)
def test_what_cannot_be_judged_is_code_2_and_a_message(arguments, complaint, recording, tmp_path):
    (tmp_path / "empty").mkdir()
    names = {
        "missing": str(tmp_path / "missing"),
        "empty": str(tmp_path / "empty"),
        "recording": recording,
        "damaged": damaged(tmp_path),
        "model": bundle(tmp_path / "model", 0.5),
    }
    result = run("detect", *(argument.format(**names) for argument in arguments))
    assert result.exit_code == 2, result.output
    assert complaint in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["corpus", "build", "--recordings", "nowhere", "--out", "p"],
        ["corpus", "build", "--set", "corpus.nonsense=1", "--out", "p"],
        ["corpus", "check", "nowhere"],
        ["features", "--corpus", "nowhere", "--out", "p"],
        ["sweep", "--features", "nowhere"],
        ["train", "--features", "nowhere"],
        ["train"],
        ["train", "--resume", "0123", "--role", "baseline"],
        [
            "evaluate",
            "--features",
            "no",
            "--detector",
            "no",
            "--baseline",
            "no",
            "--out",
            "p",
            "--report",
            "r",
        ],
        ["register", "--features", "no", "--training", "no", "--evaluation", "no"],
    ],
)
def test_every_command_turns_a_users_mistake_into_a_message(arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")


def test_help_is_fast_since_nothing_heavy_is_imported():
    heavy = ("torch", "mlflow", "scipy", "kfp")
    code = f"import sys, fakesound.cli.main; print(*[m for m in {heavy} if m in sys.modules])"
    started_s = time.monotonic()
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""
    assert time.monotonic() - started_s < 5


def test_doctor_names_everything_and_the_backend():
    result = run("doctor")
    assert result.exit_code == 0
    for name in (
        "cpu",
        "gpu",
        "torch",
        "triton",
        "mamba-ssm",
        "causal-conv1d",
        "kfp",
        "torchx",
        "mlflow",
        "cuda kernels",
        "backend",
    ):
        assert name in result.output


def test_doctor_survives_missing_and_broken_packages(monkeypatch):
    def version(name):
        if name == "torch":
            raise RuntimeError("broken\nmetadata")
        raise doctor_module.metadata.PackageNotFoundError(name)

    def broken():
        raise ImportError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(doctor_module.metadata, "version", version)
    monkeypatch.setattr(doctor_module, "_choice", broken)
    report = doctor_module.diagnose()
    assert "broken: RuntimeError: broken" in report
    assert "not installed" in report
    assert "broken: ImportError: libcuda" in report
    assert "Traceback" not in report


def test_doctor_on_a_machine_with_cuda_but_without_the_kernels(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda k: "Imaginary 9000")
    _choose.cache_clear()
    report = doctor_module.diagnose()
    _choose.cache_clear()  # what was chosen for the imaginary GPU must not outlive it
    assert "Imaginary 9000" in report
    assert "mamba-ssm" in report.splitlines()[-1]


def test_doctor_explains_a_bad_pair_and_is_strict_about_it_when_asked(monkeypatch):
    problem = "mamba-ssm 2.2.4 with causal-conv1d 1.6.0: 8 arguments expected"
    monkeypatch.setattr("fakesound.models.scan.cuda_pairs.find_problems", lambda torch_build: [problem])
    lenient, strict = run("doctor"), run("doctor", "--strict")
    assert problem in lenient.stdout and lenient.exit_code == 0
    assert problem in strict.stdout and strict.exit_code == 2
    assert strict.stderr == f"error: {problem}\n"


def test_doctor_is_strict_without_complaint_where_nothing_is_wrong():
    assert run("doctor", "--strict").exit_code == 0
