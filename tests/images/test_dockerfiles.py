import hashlib
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "images"
NAMES = ("Dockerfile.cpu", "Dockerfile.cuda")


@pytest.fixture(params=NAMES)
def text(request):
    return (IMAGES / request.param).read_text()


def test_images_install_the_hash_locks_and_run_as_nobody_special(text):
    installs = re.findall(r"pip install ([^&\n]*)", text.replace("\\\n", " "))
    for lock in ("bootstrap.txt", "runtime.txt"):
        assert any("--require-hashes" in one and f"requirements/{lock}" in one for one in installs)
    for one in installs:  # a lock with hashes, a wheel with a hash, or the project itself
        assert "--require-hashes" in one or "--no-deps" in one
    last_stage = text.split("\nFROM ")[-1]
    assert re.search(r"^USER 10001:10001$", last_stage, re.MULTILINE)
    assert ":latest" not in text and "://" not in text


def test_both_images_share_the_layers_of_the_locked_packages():
    stages = [
        re.search(r"^FROM \S+ AS packages\n(?:.+\n)+", (IMAGES / name).read_text(), re.MULTILINE)
        for name in NAMES
    ]
    assert stages[0][0] == stages[1][0]


def test_both_wheels_have_a_hash_and_the_image_is_checked():
    text = (IMAGES / "Dockerfile.cuda").read_text()
    for name in ("MAMBA_SSM", "CAUSAL_CONV1D"):
        assert re.search(rf"^ARG {name}_SHA256=[0-9a-f]{{64}}$", text, re.MULTILINE)
    assert re.search(r"^RUN /opt/code/bin/fakesound doctor --strict$", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("hashes", "complaint"),
    [
        ({"MAMBA_SSM_SHA256": ""}, "no wheel is installed without its hash: --build-arg MAMBA_SSM_SHA256="),
        ({"CAUSAL_CONV1D_SHA256": "0" * 64}, "conv.whl: FAILED"),
        ({"MAMBA_SSM_WHEEL": "none.whl"}, "no images/wheels/none.whl"),
    ],
)
def test_nothing_is_installed_from_a_wheel_without_the_hash_that_was_given(tmp_path, hashes, complaint):
    variables = {"PATH": "/usr/bin:/bin", "CUDA_HOME": str(tmp_path)}  # without nvcc
    for name, wheel in (("MAMBA_SSM", "mamba.whl"), ("CAUSAL_CONV1D", "conv.whl")):
        (tmp_path / wheel).write_text(name)
        variables |= {f"{name}_WHEEL": wheel, f"{name}_SHA256": hashlib.sha256(name.encode()).hexdigest()}
    found = subprocess.run(
        ["bash", str(IMAGES / "install_kernels.sh")],
        cwd=tmp_path,
        env=variables | hashes,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode != 0 and complaint in found.stdout + found.stderr
    assert "uv" not in found.stderr  # it did not come to that


def test_everything_that_is_copied_is_let_through(text):
    let_through = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    copied = [
        word for line in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE) for word in line.split()
    ]
    assert {"fakesound", "pyproject.toml"} <= set(copied)
    for path in copied:
        assert (ROOT / path).exists()
        assert any(path == allowed or path.startswith(f"{allowed}/") for allowed in let_through), path


def test_the_locators_of_the_scan_exist(text):
    import numba.core.caching

    [names] = re.findall(r"NUMBA_CACHE_LOCATOR_CLASSES=(\S+)", text)
    for name in names.split(","):
        module, _, attribute = name.rpartition(".")
        assert hasattr(import_module(module) if module else numba.core.caching, attribute), name


def test_hadolint_finds_nothing():
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed: make lint")
    found = subprocess.run(
        [hadolint, *(str(IMAGES / name) for name in NAMES)], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("name", ["install_kernels.sh", "local-base.sh"])
def test_scripts_parse(name):
    assert subprocess.run(["bash", "-n", str(IMAGES / name)], check=False).returncode == 0
