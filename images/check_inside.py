"""What `make images-check` runs inside the image: locked down, scan compiled, a clip judged.

Read from standard input, so that nothing needs to be mounted. Exit code 0 means that all of it holds.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

EXIT_OF_A_VERDICT = (0, 3)  # of `fakesound detect`: nothing found, forged


def check_confinement() -> None:
    """The user is nobody special, the file system cannot be written, and no network is there."""
    assert os.getuid() != 0, "runs as root"
    for folder in (Path("/"), Path.home(), Path(sys.prefix), Path("/opt/code")):
        try:
            tempfile.TemporaryFile(dir=folder).close()
        except OSError:
            continue
        raise AssertionError(f"{folder} can be written: run with --read-only")
    interfaces = {name for _, name in socket.if_nameindex()} - {"lo"}
    assert not interfaces, f"network: {interfaces}: run with --network none"
    print("confined: no root, no writable image, no network")


def check_compiled_scan() -> None:
    """Every compiled kernel was loaded from the image."""
    started_s = time.perf_counter()
    from fakesound.models.scan import cpu_kernels

    passed_s = time.perf_counter() - started_s
    kernels = [value for value in vars(cpu_kernels).values() if getattr(value, "signatures", None)]
    loaded = sum(sum(kernel.stats.cache_hits.values()) for kernel in kernels)
    compiled = sum(sum(kernel.stats.cache_misses.values()) for kernel in kernels)
    print(f"scan: {loaded} kernels loaded, {compiled} compiled, {passed_s:.1f} s with numba's own import")
    assert loaded > 0 and compiled == 0, "the scan was compiled at start: the image's cache was not used"


def make_inputs(folder: Path) -> tuple[Path, Path]:
    """An untrained detector and two seconds of a tone with noise: their paths."""
    import numpy as np
    import soundfile
    import torch

    from fakesound.features.config import FeatureConfig
    from fakesound.models.build import build_detector
    from fakesound.models.bundle import save_bundle
    from fakesound.models.config import VisionMambaConfig

    torch.manual_seed(0)
    front_end, model = FeatureConfig(), VisionMambaConfig(embed_dim=32, depth=2)
    save_bundle(
        folder / "detector",
        detector=build_detector(model, front_end.num_mels),
        config=model,
        num_mels=front_end.num_mels,
        front_end=front_end.model_dump(mode="json"),
        facts={"operating_point": {"clip": 0.5, "frame": 0.5}},
    )
    samples = 0.01 * np.random.default_rng(0).standard_normal(64_000)
    samples += 0.2 * np.sin(2 * np.pi * 440 * np.arange(64_000) / 32_000)
    soundfile.write(folder / "clip.wav", samples, 32_000)
    return folder / "detector", folder / "clip.wav"


def run(*command: str | Path) -> tuple[int, float]:
    """Exit code and duration in s; its output goes where ours goes."""
    print("$", *command, flush=True)
    started_s = time.perf_counter()
    code = subprocess.run(command, check=False).returncode
    return code, time.perf_counter() - started_s


def main() -> None:
    """All checks, in order."""
    check_confinement()
    code, duration_s = run("fakesound", "doctor", "--strict")
    assert code == 0, f"doctor found a fault (exit code {code})"
    print(f"doctor: {duration_s:.1f} s")
    check_compiled_scan()
    with tempfile.TemporaryDirectory() as folder:
        detector, clip = make_inputs(Path(folder))
        code, duration_s = run("fakesound", "detect", clip, "--model", detector)
        assert code in EXIT_OF_A_VERDICT, f"no verdict on a clip (exit code {code})"
        print(f"detect: {duration_s:.1f} s from start to verdict")


if __name__ == "__main__":
    main()
