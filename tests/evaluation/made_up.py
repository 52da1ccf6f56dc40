"""Predictions made up with known behaviour: no audio, no model."""

import numpy as np
import pyarrow as pa

from fakesound.core.schemas import PREDICTIONS

FAMILIES = {
    "validation": ("griffin_lim", "autoregressive"),
    "validation_unseen": ("granular",),
    "easy": ("griffin_lim", "autoregressive"),
    "hard": ("griffin_lim", "autoregressive"),
    "zeroshot": ("noise_vocoder", "lpc_vocoder"),
    "splice": ("splice",),
}


def made_up_predictions(skill, *, seed=0, sources_per_split=20, splits=tuple(FAMILIES)):
    """Genuine and forged clip a source and split; `skill` separates the classes (0: chance)."""
    layout = np.random.default_rng(11)  # clips and labels: the same for every model
    noise = np.random.default_rng(seed)
    rows = []
    for split in splits:
        fade = 0.4 if split in ("zeroshot", "splice") else 1.0
        for index in range(sources_per_split):
            num_frames = int(layout.integers(80, 160))
            length = int(layout.integers(4, 60))
            onset = int(layout.integers(0, num_frames - length))
            family = FAMILIES[split][index % len(FAMILIES[split])]
            for label in (0, 1):
                frame_labels = np.zeros(num_frames, np.uint8)
                frame_labels[onset : onset + length] = label
                logits = fade * skill * (2.0 * frame_labels - 1) + noise.normal(size=num_frames)
                clip_logit = fade * skill * (2 * label - 1) + noise.normal()
                rows.append(
                    {
                        "clip_id": f"{split}-{index:03d}-{label}",
                        "label": label,
                        "score": float(1 / (1 + np.exp(-clip_logit))),
                        "hop_s": 0.01,
                        "frame_labels": frame_labels.tolist(),
                        "frame_scores": (1 / (1 + np.exp(-logits))).astype(np.float32).tolist(),
                        "split": split,
                        "family": family if label else "genuine",
                        "source": f"{split}-{index // 2:03d}",
                    }
                )
    return pa.Table.from_pylist(rows, schema=PREDICTIONS)
