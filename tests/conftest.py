"""Fixtures that tests of several floors share."""

import importlib
import os
import shutil
from collections.abc import Callable

# Before torch is imported: bits depend on the number of threads, and resumed runs are compared bit for bit.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fakesound.attacks import registry
from fakesound.core.schemas import MANIFEST, PARTITIONS
from fakesound.core.store import Pointer, Store

RATE_HZ = 8000
PLUGIN_MODULE = """
import numpy as np
from fakesound.attacks.base import Attack

HUSH = Attack("hush", "silence", "nothing at all", lambda c, rng: np.zeros(c.length, np.float32))
NUMBER = 5
"""


def _row(index: int, samples: np.ndarray, regions: list[tuple[float, float]]) -> dict:
    forged = bool(regions)
    return {
        "clip_id": f"clip-{index:04d}",
        "path": f"audio/clip-{index:04d}.wav",
        "source_ids": [f"source-{index // 2}"],
        "source_component": f"source-{index // 2}",
        "group": f"source-{index // 2}",
        "partition": PARTITIONS[0 if index % 10 < 6 else 1 + index % 3],
        "family": "tone" if forged else "genuine",
        "mechanism": "tone" if forged else "genuine",
        "label": int(forged),
        "length_regime": "train",
        "mask_id": f"mask-{index // 2}",
        "regions": [{"onset_s": onset, "offset_s": offset} for onset, offset in regions],
        "control_regions": [],
        "duration_s": len(samples) / RATE_HZ,
        "sample_rate_hz": RATE_HZ,
        "native_sample_rate_hz": RATE_HZ,
        "native_bandwidth_hz": RATE_HZ / 2,
        "content_sha256": "0" * 64,
        "seed": index,
    }


def _make_corpus(store: Store, *, num_clips: int, key: str = "tiny") -> Pointer:
    """A corpus of noise at 8 kHz, 0.4-1.2 s a clip; every second clip holds a tone: its forged region."""
    import soundfile

    place = store.place("corpora", f"{key}-{num_clips}")
    rng = np.random.default_rng(7)
    rows = []
    for index in range(num_clips):
        samples = rng.normal(0, 0.05, int(rng.integers(3200, 9600))).astype(np.float32)
        regions = []
        if index % 2:
            onset, offset = 0.1, float(rng.uniform(0.2, 0.35))
            first, last = round(onset * RATE_HZ), round(offset * RATE_HZ)
            samples[first:last] += 0.3 * np.sin(0.8 * np.arange(last - first)).astype(np.float32)
            regions = [(onset, offset)]
        rows.append(_row(index, samples, regions))
        with place.writing(rows[-1]["path"]) as path:
            soundfile.write(path, samples, RATE_HZ, format="WAV", subtype="PCM_16")
    with place.writing("manifest.parquet") as path:
        pq.write_table(pa.Table.from_pylist(rows, schema=MANIFEST), path)
    parts = ("seen", "validation_unseen", "test_unseen", "apart")
    return place.complete({"protocol": {part: ["tone"] for part in parts}})


@pytest.fixture(scope="session")
def make_corpus() -> Callable[..., Pointer]:
    """`make_corpus(store, num_clips=...)`: a finished corpus of tiny clips in that store."""
    return _make_corpus


@pytest.fixture
def install_plugin(tmp_path, monkeypatch):
    """`install_plugin(name, version, entry points)`: a distribution on the path, as pip would leave it."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)

    def install(name, version="1.2", **entries):
        for earlier in site.glob(f"{name}-*.dist-info"):
            shutil.rmtree(earlier)
        folder = site / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        lines = [f"{family} = {target}" for family, target in entries.items()]
        (folder / "entry_points.txt").write_text("\n".join(["[fakesound.attacks]", *lines, ""]))
        (site / f"{name}_attacks.py").write_text(PLUGIN_MODULE)
        importlib.invalidate_caches()
        registry._plugins.cache_clear()

    yield install
    registry._plugins.cache_clear()


@pytest.fixture
def make_published_vim() -> Callable[[int, int], dict]:
    """`make_published_vim(width, depth)`: a state dict with the keys and shapes of ViM's ImageNet weights."""
    import torch

    def make(width: int, depth: int, states: int = 16) -> dict:
        inner, rank = 2 * width, -(-width // 16)
        mixer: dict[str, tuple[int, ...]] = {
            "in_proj.weight": (2 * inner, width),
            "out_proj.weight": (width, inner),
        }
        for b in ("", "_b"):
            mixer |= {f"conv1d{b}.weight": (inner, 1, 4), f"conv1d{b}.bias": (inner,)}
            mixer |= {f"x_proj{b}.weight": (rank + 2 * states, inner)}
            mixer |= {f"dt_proj{b}.weight": (inner, rank), f"dt_proj{b}.bias": (inner,)}
            mixer |= {f"A{b}_log": (inner, states), f"D{b}": (inner,)}
        shapes: dict[str, tuple[int, ...]] = {
            "cls_token": (1, 1, width),
            "pos_embed": (1, 197, width),
            "patch_embed.proj.weight": (width, 3, 16, 16),
            "patch_embed.proj.bias": (width,),
            "norm_f.weight": (width,),
            "head.weight": (1000, width),
            "head.bias": (1000,),
        }
        for layer in range(depth):
            shapes[f"layers.{layer}.norm.weight"] = (width,)
            shapes |= {f"layers.{layer}.mixer.{name}": shape for name, shape in mixer.items()}
        generator = torch.Generator().manual_seed(0)
        return {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}

    return make
