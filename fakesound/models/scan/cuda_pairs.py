"""Which mamba-ssm, causal-conv1d and torch work together, judged from metadata: neither package is imported.

mamba-ssm calls causal-conv1d's compiled `causal_conv1d_fwd`, whose number of arguments has changed three
times, while mamba-ssm's metadata asks for any `causal-conv1d>=1.2.0` or for none. Since 2.2.5 it calls by
way of `causal_conv1d.cpp_functions`, which came with causal-conv1d 1.5.1. `ERAS` was read from the sources of
both packages on either side of each border.
"""

import importlib.util
import re
from importlib import metadata
from typing import NamedTuple, Self

from packaging.specifiers import SpecifierSet
from packaging.version import Version

MAMBA, CONV = "mamba-ssm", "causal-conv1d"
GOOD_PAIR = {MAMBA: "2.3.2.post1", CONV: "1.6.2.post1"}  # of torch 2.10 and CUDA 12
# mamba-ssm is installed without its dependencies, but imports these whatever part of it is used.
IMPORTS_OF_MAMBA = ("einops", "huggingface_hub", "transformers", "triton")

_INSTEAD = (
    f"install {' and '.join(f'{name}=={version}' for name, version in GOOD_PAIR.items())} with --no-deps, "
    "and requirements/cuda.txt"
)


class Era(NamedTuple):
    """Versions that agree on the number of arguments of `causal_conv1d_fwd`."""

    num_arguments: int
    mamba: SpecifierSet
    conv: SpecifierSet


ERAS = (
    Era(4, mamba=SpecifierSet("<1.1"), conv=SpecifierSet("<1.1")),
    Era(5, mamba=SpecifierSet(">=1.1,<1.2"), conv=SpecifierSet(">=1.1,<1.2")),
    Era(7, mamba=SpecifierSet(">=1.2,<2.2.5"), conv=SpecifierSet(">=1.2,<1.5.1")),
    Era(8, mamba=SpecifierSet(">=2.2.5"), conv=SpecifierSet(">=1.5.1")),
)
FORK_OF_VIM = Version("1.1.1")  # mamba-1p1p1 calls itself so, but passes seven arguments


class TorchBuild(NamedTuple):
    """What a compiled extension must have been built for: version, CUDA (None without), C++11 ABI."""

    version: str
    cuda: str | None
    cxx11_abi: bool

    @classmethod
    def installed(cls) -> Self:
        """The torch of this environment; it imports without a GPU."""
        import torch

        return cls(torch.__version__, torch.version.cuda, torch.compiled_with_cxx11_abi())


class WheelTag(NamedTuple):
    """What both projects write into the names of their wheels: `+cu12torch2.10cxx11abiTRUE`."""

    cuda_major: str
    torch: str
    cxx11_abi: bool

    @classmethod
    def find(cls, text: str) -> Self | None:
        """The tag in a version or a file name; None if there is none, as in what was compiled here."""
        found = re.search(r"cu(\d\d)\d*torch(\d+\.\d+)cxx11abi(true|false)", text, re.IGNORECASE)
        return cls(found[1], found[2], found[3].lower() == "true") if found else None


def find_problems(torch_build: TorchBuild) -> list[str]:
    """Why the CUDA kernels that are installed cannot work, each with what to do; empty if nothing is known
    against them, or none are installed.
    """
    versions = {name: version for name in GOOD_PAIR if (version := _installed_version(name))}
    if not versions:
        return []
    if len(versions) == 1:
        [(name, version)] = versions.items()
        [missing] = set(GOOD_PAIR) - set(versions)
        return [f"{name} {version} without {missing}, which the scan needs too: {_INSTEAD}"]
    found = [why_pair_fails(versions[MAMBA], versions[CONV]), _why_mamba_cannot_be_imported()]
    for name, version in versions.items():
        if tag := WheelTag.find(version) or WheelTag.find(_installed_from(name)):
            found.append(why_wheel_fails(f"{name} {version}", tag, torch_build))
    return [problem for problem in found if problem]


def why_pair_fails(mamba_version: str, conv_version: str) -> str | None:
    """What goes wrong with two versions, and what to install instead; None if they fit each other."""
    mamba, conv = Version(mamba_version), Version(conv_version)
    [passed] = [era for era in ERAS if era.mamba.contains(mamba.base_version)]
    [expected] = [era for era in ERAS if era.conv.contains(conv.base_version)]
    if passed is expected:
        return None
    if passed is ERAS[-1]:
        failure = "no module causal_conv1d.cpp_functions, so 'causal_conv1d_cuda is not available'"
    else:
        failure = (
            "causal_conv1d_fwd(): incompatible function arguments "
            f"({expected.num_arguments} arguments expected, {passed.num_arguments} passed)"
        )
    fork = " (ViM's fork of that name passes 7)" if mamba == FORK_OF_VIM else ""
    return (
        f"{MAMBA} {mamba_version}{fork} with {CONV} {conv_version}: {failure}; {_INSTEAD} "
        f"(or {CONV}{passed.conv} for this {MAMBA})"
    )


def why_wheel_fails(name: str, tag: WheelTag, torch_build: TorchBuild) -> str | None:
    """What a prebuilt wheel was built for that this torch is not; None if it fits."""
    torch_minor = ".".join(Version(torch_build.version).public.split(".")[:2])
    cuda_major = torch_build.cuda.split(".")[0] if torch_build.cuda else "none"
    differences = [
        f"{what} {built} where this torch has {has}"
        for what, built, has in (
            ("torch", tag.torch, torch_minor),
            ("CUDA", tag.cuda_major, cuda_major),
            ("C++11 ABI", tag.cxx11_abi, torch_build.cxx11_abi),
        )
        if built != has
    ]
    if not differences:
        return None
    abi = str(torch_build.cxx11_abi).upper()
    return (
        f"{name} is a wheel for {', '.join(differences)}: take the one whose name has "
        f"cu{cuda_major}torch{torch_minor}cxx11abi{abi}, or compile it"
    )


def _why_mamba_cannot_be_imported() -> str | None:
    missing = [name for name in IMPORTS_OF_MAMBA if importlib.util.find_spec(name) is None]
    if not missing:
        return None
    return f"{MAMBA} cannot be imported without {', '.join(missing)}: install requirements/cuda.txt"


def _installed_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _installed_from(name: str) -> str:
    """The record of the file it was installed from, if any: the wheels' own metadata lacks the tag."""
    return metadata.distribution(name).read_text("direct_url.json") or ""
