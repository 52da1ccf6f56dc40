"""Starting a Vision Mamba from weights that ViM's authors trained on ImageNet (github.com/hustvl/Vim).

What the blocks hold is taken over as it is. The rest was made for colour images of 224 x 224 pixels and is
fitted to a spectrogram, read as an image whose height is frequency (row 0 the lowest band) and whose width is
time:

- The patch kernel is *summed* over red, green and blue: the response to a one-channel image is then the
  published network's to the same image in grey. (A mean would answer with a third of it, against position
  embeddings that keep their size.)
- The kernel is resized by the pseudo-inverse (FlexiViT, arXiv 2212.08013): a patch of another size that shows
  the same thing, larger, gets the same response; where ours is smaller, the nearest to it in the mean square.
- Position embeddings are interpolated (bicubic) to our grid. The class token's stands in the *middle* of the
  published ones, where ViM inserts the token.

What is lost: our positions are a vector of time plus one of frequency, so that the part of a published
position that belongs to neither alone is dropped; `ImageNetStart` says how much that is. A model that pools
its patches has no class token: the published one and its position are then not used. And ViM goes through
an image row by row, while our tokens run along frequency first: the recurrences meet their neighbours in
another order than they were trained on, unless a patch covers all frequencies.

Shapes: E width of the model, D inner channels, N state, R rank of the step size, K taps, S directions, T x H
the grid of patches in time x frequency, P values of one patch.
"""

import argparse
import hashlib
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional

from fakesound.core.errors import IntegrityError, UserError
from fakesound.models.vim import BidirectionalMixer, VisionMamba

SAFETENSORS_SUFFIX = ".safetensors"
WEIGHTS_KEY = "model"
COLOURS = 3
LEFT_OUT = ("head.weight", "head.bias")
"""Published keys without a counterpart here: the thousand classes."""
WITHOUT_SOURCE = ("clip_head.", "frame_head.", "pool.", "sequence_head.")
"""Beginnings of the names of parameters without a published one: they stay as they were drawn."""
NAMES_SHOWN = 12

# Ours -> theirs, for what the two directions own and we hold stacked; the second direction's names follow.
_STACKED = {
    "conv_weight_SDK": ("conv1d.weight", "conv1d_b.weight"),
    "conv_bias_SD": ("conv1d.bias", "conv1d_b.bias"),
    "x_proj_SXD": ("x_proj.weight", "x_proj_b.weight"),
    "step_proj_SDR": ("dt_proj.weight", "dt_proj_b.weight"),
    "step_bias_SD": ("dt_proj.bias", "dt_proj_b.bias"),
    "A_log_SDN": ("A_log", "A_b_log"),
    "D_SD": ("D", "D_b"),
}


class ImageNetStart(NamedTuple):
    """How a checkpoint was taken over.

    `position_variance_kept` is the share of the interpolated position embeddings' variance that a vector of
    time plus one of frequency holds: 1 is all of it. `left_out` names published keys that were not used,
    `untouched` parameters that stay as they were.
    """

    left_out: tuple[str, ...]
    untouched: tuple[str, ...]
    position_variance_kept: float


def load_vim_imagenet(path: str | Path, network: VisionMamba, *, sha256: str | None = None) -> ImageNetStart:
    """Fill `network` with a published ViM checkpoint of its width and depth, whatever its patch and grid.

    Every published key is used or is in LEFT_OUT, and every parameter is filled or named in WITHOUT_SOURCE.

    Args:
        path: a torch pickle as ViM's training writes it (weights under "model") or bare, or a file whose name
            ends in .safetensors. Nothing in it is ever executed.
        network: changed in place, and only if everything fits.
        sha256: what the file must hash to; None takes any.

    Raises:
        IntegrityError: the file is another than `sha256` says.
        UserError: it cannot be read, holds something else than tensors, or its keys or shapes are not those
            of such a network; the message names them.
    """
    published = _read(Path(path), sha256)
    _check_size(published, network, path)
    _check_keys(published, network, path)
    filled, kept = _fitted(published, network)
    parameters = dict(network.named_parameters())
    untouched = [name for name in parameters if name not in filled]
    if unknown := [name for name in untouched if not name.startswith(WITHOUT_SOURCE)]:
        raise UserError(f"ImageNet weights have nothing for these parameters of the model: {_named(unknown)}")
    with torch.no_grad():
        for name, tensor in filled.items():
            parameters[name].copy_(tensor)
    left_out = [name for name in LEFT_OUT if name in published]
    if network.class_token_E is None:
        left_out.append("cls_token")
    return ImageNetStart(tuple(left_out), tuple(untouched), kept)


def _read(path: Path, sha256: str | None) -> dict[str, Tensor]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"no weights {path}: {error.strerror}") from None
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise IntegrityError(f"{path} is not the file that was asked for: its SHA-256 is not {sha256}")
    try:
        if path.suffix == SAFETENSORS_SUFFIX:
            weights: Any = safetensors.torch.load(data)
        else:
            # Beside the weights, ViM's training saves its command line.
            with torch.serialization.safe_globals([argparse.Namespace]):
                saved: Any = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            weights = saved.get(WEIGHTS_KEY, saved) if isinstance(saved, Mapping) else saved
    except Exception as error:  # a damaged file can make a parser raise anything
        raise UserError(
            f"{path} cannot be read as weights: it is damaged, or holds more than tensors, which is never "
            f"executed here (if you trust the file, save its weights alone): {_first_line(error)}"
        ) from None
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise UserError(f"{path} holds no weights: tensors by name were expected, alone or under 'model'")
    return {str(name): tensor for name, tensor in weights.items()}


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def _check_size(published: Mapping[str, Tensor], network: VisionMamba, path: str | Path) -> None:
    """A mistake in width or depth would otherwise be told as hundreds of keys."""
    depth = len({key.split(".")[1] for key in published if key.startswith("layers.") and key.count(".") > 1})
    norm = published.get("norm_f.weight")
    width = norm.shape[0] if norm is not None and norm.ndim == 1 else None
    ours = len(network.norm.weight), len(network.blocks)
    if depth and width and (width, depth) != ours:
        raise UserError(
            f"{path} has {depth} layers of width {width}, the model {ours[1]} of width {ours[0]}: "
            f"set embed_dim to {width} and depth to {depth}"
        )


def _check_keys(published: Mapping[str, Tensor], network: VisionMamba, path: str | Path) -> None:
    expected = _expected_shapes(network)
    missing = [key for key in expected if key not in published]
    unknown = [key for key in published if key not in expected and key not in LEFT_OUT]
    misfits = [(key, _misfit(published[key], expected[key])) for key in expected if key in published]
    unfit = [f"{key} {misfit}" for key, misfit in misfits if misfit]
    if "pos_embed" in published and not unfit and _side(published["pos_embed"].shape[1]) is None:
        unfit.append("pos_embed is not of a square grid and one class token")
    complaints = {"missing": missing, "unknown": unknown, "unfit": unfit}
    if told := [f"{what}: {_named(names)}" for what, names in complaints.items() if names]:
        raise UserError(f"{path} is no ViM checkpoint for this model ({'; '.join(told)})")


def _named(names: list[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


def _misfit(tensor: Tensor, shape: tuple[int | None, ...]) -> str | None:
    """What is wrong with a tensor, to be read after its name."""
    if not (tensor.is_floating_point() and tensor.layout == torch.strided):
        return f"is of {str(tensor.dtype).removeprefix('torch.')}, not of dense floating-point numbers"
    fits = len(shape) == tensor.ndim and all(
        wanted in (None, size) for size, wanted in zip(tensor.shape, shape, strict=True)
    )
    if not fits:
        return f"is {_written(tensor.shape)}, not {_written(shape)}"
    return None if tensor.isfinite().all() else "holds NaN or infinity"


def _written(shape: Sequence[int | None]) -> str:
    return "x".join("any" if size is None else str(size) for size in shape) or "a scalar"


def _side(num_positions: int) -> int | None:
    """Of the square grid that, with one class token, has so many positions."""
    side = math.isqrt(max(0, num_positions - 1))
    return side if side and side * side == num_positions - 1 else None


def _expected_shapes(network: VisionMamba) -> dict[str, tuple[int | None, ...]]:
    """Published keys and their shapes; None stands for any size."""
    width = len(network.norm.weight)
    shapes: dict[str, tuple[int | None, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, None, width),
        "patch_embed.proj.weight": (width, COLOURS, None, None),
        "patch_embed.proj.bias": (width,),
        "norm_f.weight": (width,),
    }
    for index, block in enumerate(network.blocks):
        mixer = block.layer
        assert isinstance(mixer, BidirectionalMixer)
        prefix = f"layers.{index}."
        shapes[f"{prefix}norm.weight"] = (width,)
        for name in ("in_proj", "out_proj"):
            shapes[f"{prefix}mixer.{name}.weight"] = tuple(getattr(mixer, name).weight.shape)
        for ours, theirs in _STACKED.items():
            _, *shape = getattr(mixer, ours).shape
            if ours == "conv_weight_SDK":
                shape.insert(1, 1)  # theirs is a grouped convolution of one input channel each
            shapes |= {f"{prefix}mixer.{key}": tuple(shape) for key in theirs}
    return shapes


def _fitted(published: Mapping[str, Tensor], network: VisionMamba) -> tuple[dict[str, Tensor], float]:
    """Our parameters by name, and the share of the positions' variance that is kept."""
    embedding = network.embedding
    pos_embed_LE = published["pos_embed"][0].float()
    middle = (len(pos_embed_LE) - 1) // 2
    grid_LE = torch.cat([pos_embed_LE[:middle], pos_embed_LE[middle + 1 :]])
    grid_THE = resized_positions(grid_LE, len(embedding.time_TE), len(embedding.frequency_HE))
    time_TE, frequency_HE, kept = factorised(grid_THE)
    kernel = published["patch_embed.proj.weight"].sum(1)
    filled = {
        "embedding.proj.weight": resized_kernel(kernel, embedding.frequency.length, embedding.time.length),
        "embedding.proj.bias": published["patch_embed.proj.bias"],
        "embedding.time_TE": time_TE,
        "embedding.frequency_HE": frequency_HE,
        "norm.weight": published["norm_f.weight"],
    }
    if network.class_token_E is not None:
        filled["embedding.class_E"] = pos_embed_LE[middle]
        filled["class_token_E"] = published["cls_token"][0, 0]
    for index in range(len(network.blocks)):
        theirs, ours = f"layers.{index}", f"blocks.{index}"
        filled[f"{ours}.norm.weight"] = published[f"{theirs}.norm.weight"]
        for name in ("in_proj.weight", "out_proj.weight"):
            filled[f"{ours}.layer.{name}"] = published[f"{theirs}.mixer.{name}"]
        for name, keys in _STACKED.items():
            stacked = torch.stack([published[f"{theirs}.mixer.{key}"] for key in keys])
            filled[f"{ours}.layer.{name}"] = stacked.squeeze(2) if name == "conv_weight_SDK" else stacked
    return filled, kept


def resized_kernel(kernel_EHW: Tensor, patch_mels: int, patch_frames: int) -> Tensor:
    """Kernels over height x width as weights (E, P) over our patch, P running over frames, then mels.

    With B the bilinear resizing of a patch (antialiased, as in FlexiViT), the new weights are the
    least-squares solution of <B x, w'> = <x, w> over all patches x: pinv(B^T) w. B is one matrix for each
    axis.
    """
    height, width = kernel_EHW.shape[1:]
    over_mels = torch.linalg.pinv(_resizing(height, patch_mels).T)
    over_frames = torch.linalg.pinv(_resizing(width, patch_frames).T)
    weights = torch.einsum("ehw,mh,fw->efm", kernel_EHW.double(), over_mels, over_frames)
    return weights.flatten(1).float()


def _resizing(size: int, new_size: int, mode: str = "bilinear") -> Tensor:
    """(new_size, size): what resizing does to a signal of `size` samples.

    One axis at a time, since torch (2.10) resizes two of them wrongly where one becomes a single sample.
    """
    identity = torch.eye(size, dtype=torch.float64)[None, None]
    return functional.interpolate(
        identity, size=(new_size, size), mode=mode, align_corners=False, antialias=True
    )[0, 0]


def resized_positions(grid_LE: Tensor, num_times: int, grid_height: int) -> Tensor:
    """Positions of a square image, row by row, on our grid (T, H, E)."""
    side = math.isqrt(len(grid_LE))
    image_HTE = grid_LE.double().unflatten(0, (side, side))
    over_height, over_times = (_resizing(side, length, "bicubic") for length in (grid_height, num_times))
    return torch.einsum("hte,ih,jt->jie", image_HTE, over_height, over_times).float()


def factorised(grid_THE: Tensor) -> tuple[Tensor, Tensor, float]:
    """The least-squares sum of a vector of time (T, E) and one of frequency (H, E), and the share of the
    grid's variance that it keeps.

    These are the means over the other axis; the mean over both goes with time.
    """
    mean_E = grid_THE.mean((0, 1))
    time_TE = grid_THE.mean(1)
    frequency_HE = grid_THE.mean(0) - mean_E
    lost = (grid_THE - time_TE[:, None] - frequency_HE).square().sum()
    total = (grid_THE - mean_E).square().sum()
    return time_TE, frequency_HE, 1.0 if total == 0 else 1 - (lost / total).item()
