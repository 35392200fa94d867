"""Augmentations against loops over pixels and samples."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from alda.augment import transforms as augment
from alda.augment.overlays import SIDE, overlay_bank
from alda.augment.transforms import (
    convolve,
    crop,
    overlay,
    random_boxes,
    random_conv,
    random_crop,
    random_mix,
    random_overlay,
    random_rotation,
    random_shift,
    rotate,
    shift,
)
from alda.envs.backgrounds.data import Data
from alda.envs.backgrounds.procedural import SPLITS, ProceduralClip
from alda.errors import UserError


def noise(*shape, seed=0):
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def index_image(batch, frames, side):
    """Red is the row, green the column: where each pixel of a result comes from can be read off it."""
    rows = torch.arange(side, dtype=torch.uint8)
    image = torch.stack([rows[:, None].expand(side, side), rows.expand(side, side), torch.zeros(side, side).byte()])
    return image.expand(batch, frames, 3, side, side).contiguous()


def bilinear(image, v, u):
    """The colours between the pixels of [..., side, side] around row v and column u; edges repeat the last pixels."""
    side, mixed = image.shape[-1], torch.zeros(image.shape[:-2])
    for row in (math.floor(v), math.floor(v) + 1):
        for column in (math.floor(u), math.floor(u) + 1):
            inside = image[..., min(max(row, 0), side - 1), min(max(column, 0), side - 1)]
            mixed += inside * (1 - abs(v - row)) * (1 - abs(u - column))
    return mixed


def test_shift_equals_a_loop_over_every_offset_and_pixel():
    pad, side = 2, 5
    offsets = [(top, left) for top in range(-pad, pad + 1) for left in range(-pad, pad + 1)]
    obs = noise(len(offsets), 2, 3, side, side)
    top, left = torch.tensor(offsets).unbind(1)
    shifted = shift(obs, top, left)
    for i, (down, right) in enumerate(offsets):
        for y in range(side):
            for x in range(side):
                source = min(max(y + down, 0), side - 1), min(max(x + right, 0), side - 1)
                assert torch.equal(shifted[i, :, :, y, x], obs[i, :, :, source[0], source[1]])
    assert torch.equal(random_shift(obs, 0), obs)


def test_every_offset_is_equally_likely_and_shared_by_the_frames():
    torch.manual_seed(0)
    shifted = random_shift(index_image(4_900, frames=2, side=7), 3)
    assert torch.equal(shifted[:, 0], shifted[:, 1])
    centre = shifted[:, 0, :2, 3, 3].long()  # 3 + offset
    counts = torch.bincount(7 * centre[:, 0] + centre[:, 1], minlength=49)
    assert len(counts) == 49
    assert ((counts - 100.0).square() / 100).sum() < 85  # chi-squared with 48 degrees of freedom, p = 0.001


def test_convolution_equals_a_loop_over_samples():
    obs, kernels = noise(3, 3, 3, 8, 8), torch.randn(3, 3, 3, 3, 3)
    got = convolve(obs, kernels)
    for i in range(3):
        padded = F.pad(obs[i].double() / 255, (1, 1, 1, 1), mode="replicate")
        assert (got[i] - 255 * F.conv2d(padded, kernels[i].double()).sigmoid()).abs().max() < 0.501


def test_random_filters_are_normal_and_differ_between_samples_alone():
    torch.manual_seed(0)
    obs = torch.zeros(500, 2, 3, 4, 4, dtype=torch.uint8)
    obs[:, :, 0, 1, 1] = 255  # its neighbours show the weights of the red channel
    out = random_conv(obs)
    assert torch.equal(out[:, 0], out[:, 1])
    assert len({tuple(sample.flatten().tolist()) for sample in out[:, 0]}) == 500
    weights = (out[:, 0, :, 0:3, 0:3].double() / 255).logit(eps=1e-4)
    assert (weights.quantile(0.16).item(), weights.quantile(0.84).item()) == pytest.approx((-1, 1), abs=0.06)


def test_an_overlay_is_half_of_each_on_every_frame():
    obs, images = noise(2, 3, 3, 4, 4), noise(2, 3, 4, 4, seed=1)
    truth = [[round(0.5 * o + 0.5 * i) for o, i in zip(frame.flatten().tolist(), image.flatten().tolist(), strict=True)]
             for stack, image in zip(obs, images, strict=True) for frame in stack]  # fmt: skip
    assert overlay(obs, images).flatten(2).flatten(0, 1).tolist() == truth


@pytest.mark.parametrize(("side", "size"), [(12, 5), (16, 16), (10, 21)])
def test_a_crop_equals_bilinear_interpolation_pixel_by_pixel(side, size):
    images = noise(3, 3, side, side)
    boxes = torch.tensor([[0.1, 0.3, 0.5, 0.6], [0.0, 0.55, 0.9, 0.45], [0.0, 0.0, 1.0, 1.0]])
    got = crop(images, boxes, torch.tensor([True, False, False]), size)
    for i, (top, left, height, width) in enumerate(boxes.tolist()):
        for y in range(size):
            for x in range(size):
                column = size - 1 - x if i == 0 else x
                v = side * (top + height * (y + 0.5) / size) - 0.5
                u = side * (left + width * (column + 0.5) / size) - 0.5
                assert (got[i, :, y, x] - bilinear(images[i], v, u)).abs().max() < 0.51


def test_boxes_have_the_areas_and_shapes_of_torchvision():
    """Its procedure for a square image, as a loop; the two samples are compared quantile by quantile."""
    torch.manual_seed(0)
    boxes = random_boxes(20_000, torch.device("cpu"))
    top, left, height, width = boxes.unbind(1)
    assert boxes.min() >= 0
    assert torch.maximum(top + height, left + width).max() <= 1 + 1e-6
    area, ratio = height * width, width / height
    assert (area.min().item(), area.max().item()) == pytest.approx((0.08, 1), abs=0.01)
    assert (ratio.min().item(), ratio.max().item()) == pytest.approx((3 / 4, 4 / 3), abs=0.013)
    seen = torch.stack([area, ratio.log(), top / (1 - height).clamp(min=1e-6), left / (1 - width).clamp(min=1e-6)])
    random, truth = torch.rand(60_000, 4, generator=torch.Generator().manual_seed(1)).double().tolist(), []
    for a, r, down, right in random:
        target, shape = 0.08 + 0.92 * a, math.exp(math.log(3 / 4) + r * math.log(16 / 9))
        if target * shape <= 1 and target / shape <= 1:
            truth.append([target, math.log(shape), down, right])
    levels = torch.linspace(0.05, 0.95, 10)
    apart = seen.quantile(levels, dim=1) - torch.tensor(truth).T.quantile(levels, dim=1)
    assert apart.abs().max() < 0.02


def test_random_crops_are_parts_of_all_images_half_of_them_mirrored():
    torch.manual_seed(0)
    bank = torch.zeros(5, 3, 32, 32, dtype=torch.uint8)
    bank[:, 0] = 50 * torch.arange(5, dtype=torch.uint8)[:, None, None]
    bank[:, 1] = 8 * torch.arange(32, dtype=torch.uint8)
    crops = random_crop(bank, 1_000, 16)
    assert torch.bincount(crops[:, 0, 8, 8].long() // 50, minlength=5).min() > 150
    mirrored = crops[:, 1, 8, 0].int() > crops[:, 1, 8, -1].int()
    assert 0.44 < mirrored.float().mean() < 0.56


def test_a_rotation_is_exact_by_quarter_turns_and_else_interpolates_beyond_repeated_edges():
    for side in (5, 16):
        obs = noise(4, 3, 3, side, side)
        turned = rotate(obs, math.pi / 2 * torch.arange(4))
        for quarter in range(4):
            assert torch.equal(turned[quarter], obs[quarter].rot90(quarter, (-2, -1)))
    side, angle = 9, 0.7
    obs = noise(1, 2, 3, side, side)
    got, middle = rotate(obs, torch.tensor([angle])), (side - 1) / 2
    for y in range(side):
        for x in range(side):
            up, right = middle - y, x - middle  # turned back, clockwise
            v = middle - (up * math.cos(angle) - right * math.sin(angle))
            u = middle + (right * math.cos(angle) + up * math.sin(angle))
            assert (got[0, :, :, y, x] - bilinear(obs[0], v, u)).abs().max() < 0.51


def test_random_rotations_turn_each_sample_by_its_own_angle_of_the_whole_circle():
    torch.manual_seed(0)
    turned = random_rotation(index_image(400, frames=2, side=65))
    assert torch.equal(turned[:, 0], turned[:, 1])
    above = turned[:, 0, :2, 32 - 10, 32].double() - 32  # where the pixel ten above the centre comes from
    angle = torch.atan2(above[:, 1], -above[:, 0])
    assert torch.histc(angle, 8, -math.pi, math.pi).min() > 25
    assert (above.norm(dim=1) - 10).abs().max() < 1


def test_a_mix_gives_a_sixth_of_the_batch_to_each_augmentation(monkeypatch):
    """Recognised by stand-ins that each write into a channel of their own."""

    def mark(frame, channel):
        def augmented(part, *_):
            part = part.clone()
            part[:, frame, channel] += 1
            return part

        return augmented

    for i, name in enumerate(("random_conv", "random_overlay", "random_rotation", "random_shift")):
        monkeypatch.setattr(augment, name, mark(i // 2, i % 2))
    bank = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    for batch in (6, 7, 12, 256):
        mixed = random_mix(torch.zeros(batch, 3, 3, 8, 8, dtype=torch.uint8), bank)
        marks = [tuple(sample[:2, :2, 0, 0].flatten().tolist()) for sample in mixed]
        kinds = [(1, 0, 0, 0), (1, 1, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 1, 1), (0, 0, 0, 1)]
        counts = [marks.count(kind) for kind in kinds]
        assert sum(counts) == batch
        assert max(counts) - min(counts) <= 1


def test_augmentations_change_every_sample_of_a_copy_and_follow_the_generator():
    obs, bank = noise(6, 3, 3, 24, 24), noise(4, 3, 64, 64, seed=1)
    before = obs.clone()
    for augmented in (
        lambda: random_shift(obs, 4),
        lambda: random_conv(obs),
        lambda: random_overlay(obs, bank),
        lambda: random_rotation(obs),
        lambda: random_mix(obs, bank),
    ):
        torch.manual_seed(3)
        once, other = augmented(), augmented()
        torch.manual_seed(3)
        assert torch.equal(augmented(), once)
        assert not torch.equal(other, once)
        assert (once != obs).flatten(1).any(1).all()
        assert (once.shape, once.dtype) == (obs.shape, torch.uint8)
    assert torch.equal(obs, before)


def test_generated_overlays_are_frames_of_clips_that_no_shift_shows_as_far_apart_as_they_can_be(monkeypatch):
    monkeypatch.setitem(SPLITS, "overlay", 2)
    bank, made_of = overlay_bank(Data(), 5)
    assert made_of == {"source": "procedural-v1 overlay", "images": 5, "size": SIDE}
    truth = [(0, 0), (0, 100), (0, 200), (1, 0), (1, 150)]
    for image, (clip, frame) in zip(bank, truth, strict=True):
        assert torch.equal(image, torch.from_numpy(ProceduralClip("overlay", clip, SIDE)[frame]).permute(2, 0, 1))


def test_photographs_are_evenly_spread_squares_prepared_once(tmp_path, monkeypatch):
    for i in range(7):
        file = tmp_path / f"places/{'ab'[i % 2]}/deep/{i}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((40, 30), 60 + i).convert("RGB").save(file)
    Image.new("L", (20, 20), 77).save(tmp_path / "places/a/deep/8.JPG", "JPEG")
    data = Data(places=tmp_path / "places", cache=tmp_path / "cache")
    bank, made_of = overlay_bank(data, 3)
    assert made_of == {"source": "places365", "images": 3, "size": SIDE}
    every = sorted(tmp_path.glob("places/*/*/*"))
    for image, i in zip(bank, (0, 2, 5), strict=True):  # in the order of their paths
        picture = Image.open(every[i]).convert("RGB")
        side, left = min(picture.size), (picture.width - min(picture.size)) // 2
        square = picture.crop((left, 0, left + side, side)).resize((SIDE, SIDE))
        assert torch.equal(image.permute(1, 2, 0), torch.from_numpy(np.array(square)))
    assert len(overlay_bank(data, 100)[0]) == 8
    assert (overlay_bank(data, 100)[0][4] == 77).all()
    monkeypatch.setattr("alda.augment.overlays.shrink_image", lambda *_, **__: pytest.fail("decoded again"))
    assert torch.equal(overlay_bank(data, 3)[0], bank)
    with pytest.raises(UserError, match="overlay-images must be at least 1"):
        overlay_bank(data, 0)
    with pytest.raises(UserError, match="not a folder of Places365"):
        overlay_bank(Data(places=tmp_path / "nothing"), 4)
