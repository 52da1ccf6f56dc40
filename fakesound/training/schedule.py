"""The learning rate as a function of the step alone: nothing to save, nothing to restore."""

import math

from fakesound.training.config import ScheduleConfig


def lr_at(step: int, total_steps: int, config: ScheduleConfig) -> float:
    """Learning rate of step `step` (0-based) of `total_steps`.

    With W = round(warmup_share * total), C = round(cooldown_share * total), K = total - W - C:

    step < W:          start + (peak - start) * step / W                              linear warm-up
    step < W + K:      floor + (peak - floor) * (1 + cos(pi * x)) / 2                 cosine
    otherwise:         floor                                                          cool-down

    with x = (step - W) / K, and with R = cosine_cycles the fractional part of R * (step - W) / K: each cycle
    starts from the peak again (Loshchilov & Hutter, "SGDR", ICLR 2017, with T_mult = 1).

    Raises:
        ValueError: `step` is negative or `total_steps` not positive.
    """
    if step < 0 or total_steps <= 0:
        raise ValueError(f"no step {step} of {total_steps}")
    warmup_steps = round(config.warmup_share * total_steps)
    cosine_steps = total_steps - warmup_steps - round(config.cooldown_share * total_steps)
    if step < warmup_steps:
        return config.warmup_start_lr + (config.peak_lr - config.warmup_start_lr) * step / warmup_steps
    if step < warmup_steps + cosine_steps:
        # Whole numbers until the division: the start of a cycle is its start whatever the rounding.
        progress = (step - warmup_steps) * config.cosine_cycles % cosine_steps / cosine_steps
        return config.floor_lr + (config.peak_lr - config.floor_lr) * (1 + math.cos(math.pi * progress)) / 2
    return config.floor_lr
