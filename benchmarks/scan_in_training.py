"""Time and peak memory of one training step of ViM-tiny (24 layers, 192 wide) on each scan that runs here.

    python benchmarks/scan_in_training.py --json step.json [--batch 1] [--tokens 800] [--repeats 3]

One step is forward, the gradients of both losses and AdamW, on clips of ten seconds. `selective_scan_ref` is
the same model on mamba-ssm's reference scan (see scan.py) and torch's own depthwise conv1d, which is what
ViM's code falls back to without CUDA. Implementations take turns after a warm-up; each is first checked to
give the reference's logits.
"""

import argparse
import json
import platform
import statistics
from functools import partial
from pathlib import Path
from unittest import mock

import torch
from scan import channels_first, peak_mib, selective_scan_ref, timed_ms
from torch import Tensor
from torch.nn import functional

from fakesound.models import vim
from fakesound.models.build import build_detector
from fakesound.models.config import VisionMambaConfig
from fakesound.models.detector import Detector
from fakesound.models.scan import ScanInputs, causal_conv_silu, selective_scan

NUM_MELS, NUM_FRAMES, TOKENS_IN_FREQUENCY = 128, 1000, 8
BACKENDS = ("reference", "portable", "numba")


def peer_scan(inputs: ScanInputs, z_BLD: Tensor, mask_BL: Tensor) -> Tensor:
    u, delta, A, B, C, D, bias = inputs
    sequences = [channels_first(tensor) for tensor in (u, delta, B, C, z_BLD)]
    u, delta, B, C, z = sequences
    return selective_scan_ref(u, delta, A, B, C, D, bias, z, mask_BL).transpose(1, 2)


def peer_conv(x_BLD: Tensor, weight_SDK: Tensor, bias_SD: Tensor) -> Tensor:
    x_BDL, reach = x_BLD.transpose(1, 2), weight_SDK.shape[2] - 1
    views = []
    for s, (weight, bias) in enumerate(zip(weight_SDK, bias_SD, strict=True)):
        seen = x_BDL.flip(2) if s == 1 else x_BDL
        y = functional.conv1d(functional.pad(seen, (reach, 0)), weight[:, None], bias, groups=len(weight))
        views.append((y.flip(2) if s == 1 else y).transpose(1, 2))
    return functional.silu(torch.stack(views))


SCANS = {"selective_scan_ref": (peer_scan, peer_conv)} | {
    name: (partial(selective_scan, backend=name), partial(causal_conv_silu, backend=name))
    for name in BACKENDS
}


def on_scan(name: str) -> mock._patch_dict:  # pyright: ignore[reportPrivateUsage]
    scan, convolve = SCANS[name]
    return mock.patch.multiple(vim, selective_scan=scan, causal_conv_silu=convolve)  # pyright: ignore


def step(
    name: str, detector: Detector, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, ...]
) -> list[Tensor]:
    features, mask, labels = batch
    with on_scan(name):
        clip_logits, frame_logits = detector(features, mask)
        loss = functional.binary_cross_entropy_with_logits(clip_logits, labels.amax(1))
        loss = loss + functional.binary_cross_entropy_with_logits(frame_logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [loss.detach()]


def check_equal(detector: Detector, batch: tuple[Tensor, ...]) -> None:
    logits = {}
    for name in SCANS:
        with on_scan(name), torch.no_grad():
            logits[name] = detector(batch[0], batch[1]).frame_logits_BF
    for name, value in logits.items():
        torch.testing.assert_close(value, logits["reference"], atol=1e-4, rtol=1e-4, msg=name)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True, help="where to write the list of rows")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--tokens", type=int, choices=[400, 800, 1600, 2000], default=800)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    config = VisionMambaConfig.of_size(
        "tiny",
        patch_mels=NUM_MELS // TOKENS_IN_FREQUENCY,
        patch_frames=NUM_FRAMES * TOKENS_IN_FREQUENCY // arguments.tokens,
        dropout=0.0,
        drop_path=0.0,
    )
    torch.manual_seed(0)
    detector = build_detector(config, NUM_MELS)
    labels = torch.zeros(arguments.batch, NUM_FRAMES)
    labels[:, 200:500] = 1
    mask = torch.ones(arguments.batch, NUM_FRAMES, dtype=torch.bool)
    batch = (torch.randn(arguments.batch, NUM_FRAMES, NUM_MELS), mask, labels)
    optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-4)
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {config}")
    check_equal(detector, batch)
    calls = {name: partial(step, name, detector, optimizer, batch) for name in SCANS}
    peaks = {name: peak_mib(call, "cpu") for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(arguments.repeats):
        for name, call in calls.items():
            times[name].append(timed_ms(call, "cpu"))
    rows = []
    for name in calls:
        rows.append(
            {
                "implementation": name,
                "pass": "training_step",
                "batch": arguments.batch,
                "tokens": arguments.tokens,
                "median_ms": round(statistics.median(times[name]), 1),
                "peak_mib": round(peaks[name], 1),
            }
        )
        print(rows[-1], flush=True)
    arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
