"""What a model costs on this machine: `measure CONFIG_JSON NUM_MELS` prints it as JSON.

It runs in a process of its own, so that the peak of memory is this model's alone.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from fakesound.core.errors import UserError
from fakesound.core.lifetime import end_with_parent
from fakesound.core.memory import peak_mib, resident_mib
from fakesound.models.budget import CLIP_FRAMES, GIGA, count_flops, unallocated
from fakesound.models.build import build_detector
from fakesound.models.config import ModelConfig, parse_model_config
from fakesound.models.detector import Detector, count_parameters

MAX_REPEATS, MAX_TIMED_S = 9, 2.0
MINIATURE = 1 / 64


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Of one ten-second clip on one device.

    Attributes:
        ms: median milliseconds of a forward pass without gradients.
        forward_mib: peak memory of it, weights included; Python and its libraries are not.
        training_mib: the same of a step with gradients and AdamW.
    """

    ms: float
    forward_mib: float
    training_mib: float


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a model takes; operations are counted by `budget.count_flops`."""

    parameters: int
    gflops: float
    cpu: Speed
    gpu: Speed | None


def measure_apart(config: ModelConfig, num_mels: int) -> Cost:
    """Measure in a process of its own.

    Raises:
        UserError: that process failed, or was killed, as the kernel does when memory runs out.
    """
    command = [sys.executable, "-m", "fakesound.models.measure", config.model_dump_json(), str(num_mels)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode < 0:
        raise UserError(f"killed by signal {-ended.returncode}, most often because memory ran out")
    if ended.returncode:
        reason = (ended.stderr.strip() or "no reason given").splitlines()[-1]
        raise UserError(f"{config.kind} cannot be measured: {reason}")
    values = json.loads(ended.stdout)
    gpu = Speed(**values["gpu"]) if values["gpu"] else None
    return Cost(**values | {"cpu": Speed(**values["cpu"]), "gpu": gpu})


def measure(config: ModelConfig, num_mels: int) -> Cost:
    """Measure in this process."""
    return Cost(
        parameters=count_parameters(unallocated(config, num_mels)),
        gflops=count_flops(config, num_mels) / GIGA,
        cpu=_speed(config, num_mels, "cpu"),
        gpu=_speed(config, num_mels, "cuda") if torch.cuda.is_available() else None,
    )


def _speed(config: ModelConfig, num_mels: int, device: str) -> Speed:
    # A miniature first: it loads or compiles the kernels, whose memory is not the model's.
    miniature = build_detector(config.widened(MINIATURE), num_mels).to(device)
    _training_step(miniature, num_mels, device)()
    del miniature
    base_mib = resident_mib()
    detector = build_detector(config, num_mels).to(device)
    forward = partial(_forward, detector.eval(), *_clip(num_mels, device))
    forward()
    ms = _median_ms(forward, device)
    forward_mib = _peak_mib(forward, device, base_mib)
    step = _training_step(detector.train(), num_mels, device)
    step()  # the optimiser's state is there from the first step on
    return Speed(ms=ms, forward_mib=forward_mib, training_mib=_peak_mib(step, device, base_mib))


def _clip(num_mels: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    features_BFM = torch.randn(1, CLIP_FRAMES, num_mels, device=device)
    return features_BFM, torch.ones(1, CLIP_FRAMES, dtype=torch.bool, device=device)


@torch.inference_mode()
def _forward(detector: Detector, features_BFM: torch.Tensor, mask_BF: torch.Tensor) -> None:
    detector(features_BFM, mask_BF)


def _training_step(detector: Detector, num_mels: int, device: str) -> Callable[[], None]:
    features_BFM, mask_BF = _clip(num_mels, device)
    optimizer = torch.optim.AdamW(detector.parameters())

    def step() -> None:
        losses = [
            binary_cross_entropy_with_logits(logits, torch.zeros_like(logits))
            for logits in detector(features_BFM, mask_BF)
        ]
        torch.stack(losses).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _median_ms(call: Callable[[], None], device: str) -> float:
    times_s: list[float] = []
    while len(times_s) < MAX_REPEATS and sum(times_s) < MAX_TIMED_S:
        started_s = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        times_s.append(time.perf_counter() - started_s)
    return statistics.median(times_s) * 1e3


def _peak_mib(call: Callable[[], None], device: str, base_mib: float) -> float:
    if device == "cpu":
        return peak_mib(call, above_mib=base_mib)
    torch.cuda.reset_peak_memory_stats()
    call()
    return torch.cuda.max_memory_allocated() / 2**20


def main() -> None:
    """Measure the model that the arguments name."""
    end_with_parent()
    config, num_mels = sys.argv[1:]
    print(json.dumps(asdict(measure(parse_model_config(json.loads(config)), int(num_mels)))))


if __name__ == "__main__":
    main()
