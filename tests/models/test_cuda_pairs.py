"""The table of pairs, and what is said of installations that are made up of metadata alone."""

import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakesound.models.scan.cuda_pairs import (
    GOOD_PAIR,
    IMPORTS_OF_MAMBA,
    TorchBuild,
    WheelTag,
    find_problems,
    why_pair_fails,
    why_wheel_fails,
)

ROOT = Path(__file__).parents[2]
TORCH = TorchBuild("2.10.0+cu128", "12.8", True)


@pytest.mark.parametrize(
    ("mamba", "conv"),
    [
        ("1.0.1", "1.0.2"),
        ("1.1.0", "1.1.0"),
        ("1.1.4", "1.1.3.post1"),
        ("1.2.0.post1", "1.2.0.post1"),
        ("2.2.4", "1.5.0.post8"),
        ("2.2.5", "1.5.1"),
        ("2.3.2.post1", "1.6.2.post1"),
        ("2.3.2.post1", "1.7.0"),
        ("2.2.4+cu12torch2.6cxx11abiFALSE", "1.5.0.post8+cu12torch2.6cxx11abiFALSE"),
    ],
)
def test_pairs_on_one_side_of_a_border_fit(mamba, conv):
    assert why_pair_fails(mamba, conv) is None


@pytest.mark.parametrize(
    ("mamba", "conv", "failure"),
    [
        ("2.2.4", "1.6.0", "8 arguments expected, 7 passed"),
        ("2.2.4", "1.5.1", "8 arguments expected, 7 passed"),
        ("1.2.0.post1", "1.1.1", "5 arguments expected, 7 passed"),
        ("1.1.4", "1.2.0.post1", "7 arguments expected, 5 passed"),
        ("1.1.4", "1.0.2", "4 arguments expected, 5 passed"),
        ("2.2.5", "1.5.0.post8", "no module causal_conv1d.cpp_functions"),
        ("2.3.2.post1", "1.4.0", "'causal_conv1d_cuda is not available'"),
    ],
)
def test_bad_pairs_are_explained_by_name_with_what_to_install(mamba, conv, failure):
    reason = why_pair_fails(mamba, conv)
    assert reason.startswith(f"mamba-ssm {mamba} with causal-conv1d {conv}: ")
    assert failure in reason
    assert ("causal_conv1d_fwd(): incompatible function arguments" in reason) == ("passed" in failure)
    assert "install mamba-ssm==2.3.2.post1 and causal-conv1d==1.6.2.post1 with --no-deps" in reason


def test_a_partner_for_the_installed_mamba_is_named_too():
    assert "(or causal-conv1d<1.5.1,>=1.2 for this mamba-ssm)" in why_pair_fails("2.2.4", "1.6.0")
    assert "ViM's fork of that name passes 7" in why_pair_fails("1.1.1", "1.2.0.post1")


@given(
    *[st.lists(st.integers(0, 9), min_size=1, max_size=4)] * 2,
    st.sampled_from(["", ".dev1", "rc1", ".post2", "+cu12"]),
)
def test_every_version_belongs_to_one_era(mamba, conv, suffix):
    mamba, conv = (".".join(map(str, numbers)) + suffix for numbers in (mamba, conv))
    reason = why_pair_fails(mamba, conv)
    assert reason is None or (mamba in reason and conv in reason)


def test_wheel_tags_are_read_from_versions_and_file_names():
    assert WheelTag.find("2.3.2.post1+cu12torch2.10cxx11abiTRUE") == ("12", "2.10", True)
    assert WheelTag.find("file:///w/mamba_ssm-2.2.2%2Bcu118torch2.1cxx11abiFALSE-cp310.whl") == (
        "11",
        "2.1",
        False,
    )
    assert WheelTag.find("causal_conv1d-1.6.2.post1-cp311-cp311-linux_x86_64.whl") is None


@pytest.mark.parametrize(
    ("tag", "difference"),
    [
        ("cu12torch2.10cxx11abiTRUE", None),
        ("cu12torch2.1cxx11abiTRUE", "torch 2.1 where this torch has 2.10"),
        ("cu13torch2.10cxx11abiTRUE", "CUDA 13 where this torch has 12"),
        ("cu118torch2.10cxx11abiFALSE", "CUDA 11 where this torch has 12, C++11 ABI False"),
    ],
)
def test_wheels_of_another_torch_or_cuda_are_told(tag, difference):
    reason = why_wheel_fails("mamba-ssm 2.3.2.post1", WheelTag.find(tag), TORCH)
    assert (reason is None) == (difference is None)
    if difference:
        assert difference in reason and "cu12torch2.10cxx11abiTRUE" in reason


def test_no_wheel_fits_a_torch_without_cuda():
    reason = why_wheel_fails(
        "x", WheelTag.find("cu12torch2.10cxx11abiTRUE"), TorchBuild("2.10.0", None, True)
    )
    assert "CUDA 12 where this torch has none" in reason


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a package's metadata where importlib finds it; `url` is where pip recorded it came from."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def put(name, version, url=None):
        folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        if url:
            (folder / "direct_url.json").write_text(f'{{"url": "{url}", "archive_info": {{}}}}')

    put.folder = tmp_path
    return put


@pytest.fixture
def dependencies(install):
    for name in IMPORTS_OF_MAMBA:
        (install.folder / f"{name}.py").touch()


def test_nothing_installed_is_no_problem(install):
    assert find_problems(TORCH) == []


@pytest.mark.usefixtures("dependencies")
def test_the_good_pair_has_no_problems(install):
    for name, version in GOOD_PAIR.items():
        install(name, version, f"file:///w/{name}-{version}+cu12torch2.10cxx11abiTRUE-cp311.whl")
    assert find_problems(TORCH) == []
    assert "mamba_ssm" not in sys.modules and "causal_conv1d" not in sys.modules


@pytest.mark.usefixtures("dependencies")
def test_every_problem_of_an_installation_is_found(install):
    install("mamba-ssm", "2.2.4", "file:///w/mamba_ssm-2.2.4+cu12torch2.6cxx11abiFALSE-cp311.whl")
    install("causal-conv1d", "1.6.0+cu11torch2.10cxx11abiTRUE")
    pair, mamba, conv = find_problems(TORCH)
    assert "8 arguments expected" in pair
    assert "torch 2.6" in mamba and "C++11 ABI False" in mamba
    assert "CUDA 11" in conv


def test_what_mamba_imports_and_nobody_installed_is_named(install, monkeypatch):
    for name, version in GOOD_PAIR.items():
        install(name, version)
    monkeypatch.setattr(
        "fakesound.models.scan.cuda_pairs.importlib.util.find_spec",
        lambda name: name != "transformers" or None,
    )
    [problem] = find_problems(TORCH)
    assert problem == "mamba-ssm cannot be imported without transformers: install requirements/cuda.txt"


@pytest.mark.parametrize("name", GOOD_PAIR)
def test_one_without_the_other_is_a_problem(name, install):
    install(name, GOOD_PAIR[name])
    [problem] = find_problems(TORCH)
    [other] = set(GOOD_PAIR) - {name}
    assert f"{name} {GOOD_PAIR[name]} without {other}" in problem


def test_the_pair_is_one_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    pins = [f"{name}=={version}" for name, version in GOOD_PAIR.items()]
    assert project["project"]["optional-dependencies"]["cuda"] == pins
    described = {
        package["name"]: package["version"] for package in project["tool"]["uv"]["dependency-metadata"]
    }
    assert described == GOOD_PAIR
    lock = (ROOT / "requirements" / "cuda.txt").read_text()
    assert all(f"\n{pin} \\\n" in f"\n{lock}" for pin in pins)
    dockerfile = (ROOT / "images" / "Dockerfile.cuda").read_text()
    for name, version in GOOD_PAIR.items():
        assert f"={name.replace('-', '_')}-{version}+cu12torch2.10cxx11abiTRUE-cp311" in dockerfile
    assert why_pair_fails(*GOOD_PAIR.values()) is None
