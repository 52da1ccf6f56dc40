"""ViM's ImageNet checkpoints: every key accounted for, numbers as the published block computes them.

The state dict has the published names and shapes, of a narrower network than any published one.
"""

import argparse
import hashlib
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch.nn import functional

from fakesound.core.errors import IntegrityError, UserError
from fakesound.models.config import VisionMambaConfig
from fakesound.models.imagenet import (
    LEFT_OUT,
    factorised,
    load_vim_imagenet,
    resized_kernel,
    resized_positions,
)
from fakesound.models.patches import PatchAxis, to_patches
from fakesound.models.vim import VisionMamba

WIDTH, DEPTH, INNER, STATES, RANK = 32, 3, 64, 16, 2
MELS = 40
CONFIG = VisionMambaConfig(
    embed_dim=WIDTH, depth=DEPTH, patch_mels=20, patch_frames=10, max_frames=205, dropout=0.0, drop_path=0.0
)


@pytest.fixture
def published(make_published_vim):
    return make_published_vim(WIDTH, DEPTH)


@pytest.fixture
def save(tmp_path):
    def save(weights, name="vim.pth"):
        path = tmp_path / name
        torch.save({"model": weights}, path)
        return path

    return save


def network(config=CONFIG, mels=MELS):
    torch.manual_seed(1)
    return VisionMamba(config, mels)


def test_every_parameter_comes_from_its_source(published, save):
    model = network()
    drawn = {name: value.clone() for name, value in model.named_parameters()}
    start = load_vim_imagenet(save(published), model)
    have = {name: value.detach() for name, value in model.named_parameters()}
    checked = {f"{head}_head.{part}" for head in ("clip", "frame") for part in ("weight", "bias")}
    assert start.left_out == LEFT_OUT and set(start.untouched) == checked
    for name in start.untouched:
        assert torch.equal(have[name], drawn[name])

    def same(name, want):
        torch.testing.assert_close(have[name], want, atol=1e-6, rtol=1e-6, msg=name)
        checked.add(name)

    for i in range(DEPTH):
        theirs = {
            name.removeprefix(f"layers.{i}.mixer."): value
            for name, value in published.items()
            if name.startswith(f"layers.{i}.mixer.")
        }
        ours = f"blocks.{i}.layer."
        same(f"blocks.{i}.norm.weight", published[f"layers.{i}.norm.weight"])
        same(f"{ours}in_proj.weight", theirs["in_proj.weight"])
        same(f"{ours}out_proj.weight", theirs["out_proj.weight"])
        for s, b in enumerate(("", "_b")):
            for name, want in {
                "conv_weight_SDK": theirs[f"conv1d{b}.weight"][:, 0],
                "conv_bias_SD": theirs[f"conv1d{b}.bias"],
                "x_proj_SXD": theirs[f"x_proj{b}.weight"],
                "step_proj_SDR": theirs[f"dt_proj{b}.weight"],
                "step_bias_SD": theirs[f"dt_proj{b}.bias"],
                "A_log_SDN": theirs[f"A{b}_log"],
                "D_SD": theirs[f"D{b}"],
            }.items():
                assert torch.equal(have[f"{ours}{name}"][s], want)
                checked.add(f"{ours}{name}")
    same("norm.weight", published["norm_f.weight"])
    same("class_token_E", published["cls_token"].flatten())
    same("embedding.class_E", published["pos_embed"][0, 98])
    same("embedding.proj.bias", published["patch_embed.proj.bias"])
    same("embedding.proj.weight", resized_kernel(published["patch_embed.proj.weight"].sum(1), 20, 10))
    positions = published["pos_embed"][0, [*range(98), *range(99, 197)]]
    time, frequency, _ = factorised(resized_positions(positions, 21, 2))
    same("embedding.time_TE", time)
    same("embedding.frequency_HE", frequency)
    assert checked == set(have)


def vim_block(weights, hidden_BLE):
    """ViM's v2 mixer as its code reads: two scans, the second over flipped tokens with a flipped gate."""
    weights = {name: value.double() for name, value in weights.items()}

    def branch(xz_BLD, b):
        x, z = xz_BLD.chunk(2, dim=-1)
        x = functional.conv1d(
            x.transpose(1, 2),
            weights[f"conv1d{b}.weight"],
            weights[f"conv1d{b}.bias"],
            padding=3,
            groups=INNER,
        )[..., : x.shape[1]]
        u = functional.silu(x.transpose(1, 2))
        step, B, C = (u @ weights[f"x_proj{b}.weight"].T).split([RANK, STATES, STATES], dim=-1)
        step = functional.softplus(step @ weights[f"dt_proj{b}.weight"].T + weights[f"dt_proj{b}.bias"])
        A = -weights[f"A{b}_log"].exp()
        h, ys = torch.zeros(len(u), INNER, STATES, dtype=torch.float64), []
        for t in range(u.shape[1]):
            entered = (step[:, t] * u[:, t])[..., None] * B[:, t, None]
            h = torch.exp(step[:, t, :, None] * A) * h + entered
            ys.append((h * C[:, t, None]).sum(-1) + weights[f"D{b}"] * u[:, t])
        return torch.stack(ys, dim=1) * functional.silu(z)

    xz = hidden_BLE.double() @ weights["in_proj.weight"].T
    y = (branch(xz, "") + branch(xz.flip(1), "_b").flip(1)) / 2
    return y @ weights["out_proj.weight"].T


def test_a_loaded_block_computes_what_the_published_one_does(published, save):
    model = network()
    load_vim_imagenet(save(published), model)
    hidden = torch.randn(2, 17, WIDTH)
    prefix = "layers.1.mixer."
    theirs = {name.removeprefix(prefix): v for name, v in published.items() if name.startswith(prefix)}
    want = vim_block(theirs, hidden)
    with torch.no_grad():
        have = model.blocks[1].layer(hidden, torch.ones(2, 17, dtype=torch.bool))
    torch.testing.assert_close(have.double(), want, atol=1e-5 * want.abs().max().item(), rtol=0)


def test_a_spectrogram_is_answered_as_the_same_picture_in_grey(published, save):
    """Height is frequency, width is time: patch (t, h) of ours is the picture's (h, t)."""
    model = network(CONFIG.model_copy(update={"patch_mels": 16, "patch_frames": 16}), mels=48)
    load_vim_imagenet(save(published), model)
    image_BFM = torch.randn(2, 80, 48)
    grey_BCHW = image_BFM.transpose(1, 2)[:, None].expand(-1, 3, -1, -1)
    want_BEHT = functional.conv2d(
        grey_BCHW, published["patch_embed.proj.weight"], published["patch_embed.proj.bias"], stride=16
    )
    have_BTHE = model.embedding.proj(to_patches(image_BFM, PatchAxis(16, 16), PatchAxis(16, 16)))
    torch.testing.assert_close(have_BTHE.permute(0, 3, 2, 1), want_BEHT, atol=1e-4, rtol=1e-4)


def enlarged(picture_NHW, height, width):
    picture = picture_NHW[:, None]
    for size in ((height, picture.shape[3]), (height, width)):
        picture = functional.interpolate(
            picture, size=size, mode="bilinear", antialias=True, align_corners=False
        )
    return picture[:, 0]


@pytest.mark.parametrize(("mels", "frames"), [(16, 16), (20, 20), (128, 16), (40, 40), (280, 17)])
def test_a_larger_patch_of_the_same_picture_gets_the_same_response(mels, frames):
    torch.manual_seed(0)
    kernel, picture = torch.randn(3, 16, 16), torch.randn(50, 16, 16)
    want = torch.einsum("ehw,nhw->ne", kernel, picture)
    larger = enlarged(picture, mels, frames).transpose(1, 2).flatten(1)  # frames, then mels
    have = larger @ resized_kernel(kernel, mels, frames).T
    torch.testing.assert_close(have, want, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("mels", "frames"), [(128, 4), (8, 8), (280, 1), (5, 70)])
def test_a_smaller_patch_is_answered_more_nearly_than_by_a_kernel_resized_as_a_picture(mels, frames):
    torch.manual_seed(0)
    kernel = torch.randn(8, 16, 16)
    pictures = torch.eye(256).unflatten(1, (16, 16))  # of unit pictures: the mean over all white ones
    want = torch.einsum("ehw,nhw->ne", kernel, pictures)
    patches = enlarged(pictures, mels, frames).transpose(1, 2).flatten(1)
    as_picture = enlarged(kernel, mels, frames).transpose(1, 2).flatten(1)
    ours, plain, of_the_same_mean = (
        ((patches @ weights.T - want).square().sum() / want.square().sum()).item()
        for weights in (
            resized_kernel(kernel, mels, frames),
            as_picture,
            as_picture * 256 / (mels * frames),
        )
    )
    assert ours < 1  # nearer than not answering at all
    assert ours < min(plain, of_the_same_mean)


def test_positions_of_the_same_grid_stay_and_sums_survive_whole():
    torch.manual_seed(0)
    grid = torch.randn(196, 5)
    resized = resized_positions(grid, 14, 14)
    torch.testing.assert_close(resized[3, 9], grid[9 * 14 + 3])  # time is width, frequency is height
    want = functional.interpolate(
        grid.T.unflatten(1, (14, 14))[None], size=(9, 40), mode="bicubic", antialias=True, align_corners=False
    )[0]
    torch.testing.assert_close(resized_positions(grid, 40, 9), want.permute(2, 1, 0))
    time, frequency = torch.randn(7, 5), torch.randn(3, 5)
    summed = time[:, None] + frequency
    have_time, have_frequency, kept = factorised(summed)
    torch.testing.assert_close(have_time[:, None] + have_frequency, summed)
    assert kept == pytest.approx(1)


def test_the_factorisation_is_the_least_squares_one():
    torch.manual_seed(0)
    grid = torch.randn(6, 4, 3)
    time, frequency, kept = factorised(grid)
    lost = (grid - time[:, None] - frequency).square().sum()
    rows = [[*functional.one_hot(torch.tensor(t), 6), *functional.one_hot(torch.tensor(h), 4)]
            for t in range(6) for h in range(4)]  # fmt: skip
    design = torch.tensor(rows, dtype=torch.float64)
    fit = design @ (torch.linalg.pinv(design) @ grid.flatten(0, 1).double())
    assert lost.item() == pytest.approx((grid.flatten(0, 1) - fit).square().sum().item(), rel=1e-5)
    total = (grid - grid.mean((0, 1))).square().sum()
    assert kept == pytest.approx(1 - (lost / total).item(), rel=1e-5)
    assert 0.2 < kept < 0.6  # (6 + 4 - 2) of 23 dimensions of noise
    assert factorised(grid[:, :1])[2] == pytest.approx(1)


def test_files_as_training_writes_them_bare_ones_and_safetensors_are_the_same(published, save, tmp_path):
    torch.save(published, tmp_path / "bare.pth")
    safetensors.torch.save_file(published, tmp_path / "vim.safetensors")
    torch.save(
        {"model": published, "args": argparse.Namespace(lr=1e-3), "epoch": 3}, tmp_path / "training.pth"
    )
    loaded = []
    for path in (save(published), *(tmp_path / n for n in ("bare.pth", "vim.safetensors", "training.pth"))):
        model = network()
        load_vim_imagenet(path, model, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
        loaded.append(model.state_dict())
    for other in loaded[1:]:
        assert all(torch.equal(loaded[0][name], other[name]) for name in other)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"layers.1.mixer.A_b_log": None}, r"missing: layers\.1\.mixer\.A_b_log\)"),
        ({"layers.0.mixer.gamma": torch.ones(WIDTH)}, r"unknown: layers\.0\.mixer\.gamma\)"),
        ({"layers.2.mixer.D": torch.ones(INNER + 1)}, r"layers\.2\.mixer\.D is 65, not 64"),
        ({"pos_embed": torch.ones(1, 196, WIDTH)}, "pos_embed is not of a square grid"),
        ({"patch_embed.proj.weight": torch.ones(WIDTH, 1, 16, 16)}, "is 32x1x16x16, not 32x3xanyxany"),
        ({"norm_f.weight": torch.ones(WIDTH, dtype=torch.long)}, r"norm_f\.weight is of int64"),
        ({"cls_token": torch.full((1, 1, WIDTH), float("nan"))}, "cls_token holds NaN"),
        ({"cls_token": "text"}, "holds no weights"),
    ],
)
def test_whatever_does_not_fit_is_named_and_nothing_is_changed(published, save, change, complaint):
    weights = {name: value for name, value in (published | change).items() if value is not None}
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError, match=complaint):
        load_vim_imagenet(save(weights), model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_another_width_or_depth_is_told_in_the_configurations_terms(published, save):
    model = network(CONFIG.model_copy(update={"depth": 2}))
    with pytest.raises(UserError, match="set embed_dim to 32 and depth to 3"):
        load_vim_imagenet(save(published), model)


def test_a_parameter_without_a_source_is_named(published, save):
    model = network()
    model.register_parameter("scale", torch.nn.Parameter(torch.ones(1)))
    with pytest.raises(UserError, match="nothing for these parameters of the model: scale"):
        load_vim_imagenet(save(published), model)


def test_what_the_options_add_stays_as_drawn_and_the_rest_is_filled(published, save):
    options = {"clip_pooling": "attention", "sequence_head_depth": 2, "stride_frames": 5}
    model = network(CONFIG.model_copy(update=options))
    start = load_vim_imagenet(save(published), model)
    assert start.left_out == (*LEFT_OUT, "cls_token")
    assert {name.split(".")[0] for name in start.untouched} == {
        *("clip_head", "frame_head", "pool", "sequence_head"),
    }
    assert torch.equal(model.blocks[2].layer.in_proj.weight, published["layers.2.mixer.in_proj.weight"])
    grid = resized_positions(published["pos_embed"][0, [*range(98), *range(99, 197)]], 40, 2)
    torch.testing.assert_close(model.embedding.time_TE.detach(), factorised(grid)[0])


class Hostile:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self):
        return (Path.touch, (self.victim,))


def test_code_in_a_file_is_not_executed(published, tmp_path):
    for saver, name in (
        (torch.save, "zip.pth"),
        (lambda o, p: p.write_bytes(pickle.dumps(o, protocol=2)), "raw.pth"),
    ):
        path, victim = tmp_path / name, tmp_path / "victim"
        saver({"model": published, "args": Hostile(victim)}, path)
        with pytest.raises(UserError, match="cannot be read as weights"):
            load_vim_imagenet(path, network())
        assert not victim.exists()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_truncated_file_is_refused(published, tmp_path, share, suffix):
    path = tmp_path / f"vim{suffix}"
    if suffix == ".pth":
        torch.save({"model": published}, path)
    else:
        safetensors.torch.save_file(published, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(UserError, match="cannot be read as weights"):
        load_vim_imagenet(path, network())


def test_a_missing_or_other_file_is_refused(published, save, tmp_path):
    with pytest.raises(UserError, match="no weights"):
        load_vim_imagenet(tmp_path / "none.pth", network())
    with pytest.raises(IntegrityError, match="is not the file that was asked for"):
        load_vim_imagenet(save(published), network(), sha256="0" * 64)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UserError, match="holds no weights"):
        load_vim_imagenet(tmp_path / "list.pth", network())
