"""Augmentations against loops over pixels and samples."""

import math

import pytest
import torch
import torch.nn.functional as F
from conftest import shared
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
from alda.envs.backgrounds import data_check
from alda.envs.backgrounds.data import Data
from alda.envs.backgrounds.procedural import SPLITS, ProceduralClip
from alda.errors import UserError


def noise(*shape, seed=0):
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def index_image(batch, frames=3, side=64):
    """Red is the row, green the column: where each pixel of a result comes from can be read off it."""
    rows = torch.arange(side, dtype=torch.uint8)
    image = torch.stack([rows[:, None].expand(side, side), rows.expand(side, side), torch.zeros(side, side).byte()])
    return image.expand(batch, frames, 3, side, side).contiguous()


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


def test_a_shift_is_padding_by_edges_and_cutting_out():
    obs, pad = noise(3, 3, 3, 84, 84), 4
    padded = F.pad(obs.flatten(1, 2).float(), (pad,) * 4, mode="replicate").byte().unflatten(1, (3, 3))
    top, left = torch.tensor([0, 3, 8]), torch.tensor([8, 0, 5])
    shifted = shift(obs, top - pad, left - pad)
    for i in range(3):
        assert torch.equal(shifted[i], padded[i, :, :, top[i] : top[i] + 84, left[i] : left[i] + 84])


def test_every_offset_is_equally_likely_and_shared_by_the_frames():
    torch.manual_seed(0)
    obs = index_image(4_900, frames=2, side=7)
    shifted = random_shift(obs, 3)
    assert torch.equal(shifted[:, 0], shifted[:, 1])
    centre = shifted[:, 0, :2, 3, 3].long()  # 3 + offset
    counts = torch.bincount(7 * centre[:, 0] + centre[:, 1], minlength=49)
    assert len(counts) == 49
    assert ((counts - 100.0).square() / 100).sum() < 85  # chi-squared with 48 degrees of freedom, p = 0.001


def test_no_shift_leaves_the_image():
    obs = noise(2, 3, 3, 64, 64)
    assert torch.equal(random_shift(obs, 0), obs)


@pytest.mark.parametrize("side", [8, 84])
def test_convolution_equals_a_loop_over_samples(side):
    obs, kernels = noise(3, 3, 3, side, side), torch.randn(3, 3, 3, 3, 3)
    got = convolve(obs, kernels)
    for i in range(3):
        padded = F.pad(obs[i].double() / 255, (1, 1, 1, 1), mode="replicate")
        truth = 255 * F.conv2d(padded, kernels[i].double()).sigmoid()
        assert (got[i] - truth).abs().max() < 0.501


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
    got = overlay(obs, images)
    for i in range(2):
        for frame in range(3):
            for c in range(3):
                for y in range(4):
                    for x in range(4):
                        truth = round(0.5 * obs[i, frame, c, y, x].item() + 0.5 * images[i, c, y, x].item())
                        assert got[i, frame, c, y, x].item() == truth
    assert torch.equal(overlay(obs, images, 0.0), obs)
    assert torch.equal(overlay(obs, images, 1.0), images[:, None].expand_as(obs))


def test_the_whole_box_is_the_image_and_a_mirrored_one_its_mirror_image():
    images = noise(2, 3, 16, 16)
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 2)
    got = crop(images, whole, torch.tensor([False, True]), 16)
    assert torch.equal(got[0], images[0])
    assert torch.equal(got[1], images[1].flip(-1))


@pytest.mark.parametrize(("side", "size"), [(12, 5), (16, 16), (10, 21)])
def test_a_crop_equals_bilinear_interpolation_pixel_by_pixel(side, size):
    images = noise(2, 3, side, side)
    boxes = torch.tensor([[0.1, 0.3, 0.5, 0.6], [0.0, 0.55, 0.9, 0.45]])
    got = crop(images, boxes, torch.tensor([True, False]), size)
    for i, (top, left, height, width) in enumerate(boxes.tolist()):
        for y in range(size):
            for x in range(size):
                column = size - 1 - x if i == 0 else x
                v = side * (top + height * (y + 0.5) / size) - 0.5
                u = side * (left + width * (column + 0.5) / size) - 0.5
                truth = torch.zeros(3)
                for row in (math.floor(v), math.floor(v) + 1):
                    for col in (math.floor(u), math.floor(u) + 1):
                        inside = images[i, :, min(max(row, 0), side - 1), min(max(col, 0), side - 1)]
                        truth += inside * (1 - abs(v - row)) * (1 - abs(u - col))
                assert (got[i, :, y, x] - truth).abs().max() < 0.51


def test_boxes_have_the_areas_and_shapes_of_torchvision():
    """Its procedure for a square image, as a loop; the two samples are compared quantile by quantile."""
    torch.manual_seed(0)
    boxes = random_boxes(20_000, torch.device("cpu"))
    top, left, height, width = boxes.unbind(1)
    assert boxes.min() >= 0
    assert (top + height).max() <= 1 + 1e-6
    assert (left + width).max() <= 1 + 1e-6
    area, ratio = height * width, width / height
    assert 0.08 - 1e-6 <= area.min() < 0.09
    assert 0.99 < area.max() <= 1 + 1e-6
    assert 3 / 4 - 1e-4 <= ratio.min() < 0.76
    assert 1.32 < ratio.max() <= 4 / 3 + 1e-4
    seen = torch.stack([area, ratio.log(), top / (1 - height).clamp(min=1e-6), left / (1 - width).clamp(min=1e-6)])

    random = torch.rand(200_000, 4, generator=torch.Generator().manual_seed(1)).double().tolist()
    truth = []
    for a, r, down, right in random:
        target, shape = 0.08 + 0.92 * a, math.exp(math.log(3 / 4) + r * math.log(16 / 9))
        if target * shape <= 1 and target / shape <= 1:
            truth.append([target, math.log(shape), down, right])
        if len(truth) == 20_000:
            break
    levels = torch.linspace(0.05, 0.95, 10)
    apart = seen.quantile(levels, dim=1) - torch.tensor(truth).T.quantile(levels, dim=1)
    assert apart.abs().max() < 0.02


def test_random_crops_are_parts_of_all_images_half_of_them_mirrored():
    torch.manual_seed(0)
    bank = torch.zeros(5, 3, 32, 32, dtype=torch.uint8)
    bank[:, 0] = 50 * torch.arange(5, dtype=torch.uint8)[:, None, None]
    bank[:, 1] = 8 * torch.arange(32, dtype=torch.uint8)
    crops = random_crop(bank, 1_000, 16)
    counts = torch.bincount(crops[:, 0, 8, 8].long() // 50, minlength=5)
    assert counts.min() > 150
    mirrored = crops[:, 1, 8, 0].int() > crops[:, 1, 8, -1].int()
    assert 0.44 < mirrored.float().mean() < 0.56


@pytest.mark.parametrize("side", [5, 64, 84])
def test_quarter_turns_are_exact(side):
    obs = noise(4, 3, 3, side, side)
    turned = rotate(obs, math.pi / 2 * torch.arange(4))
    for quarter in range(4):
        assert torch.equal(turned[quarter], obs[quarter].rot90(quarter, (-2, -1)))


def test_a_rotation_equals_bilinear_interpolation_beyond_repeated_edges():
    side, angle = 9, 0.7
    obs = noise(1, 2, 3, side, side)
    got, middle = rotate(obs, torch.tensor([angle])), (side - 1) / 2
    for y in range(side):
        for x in range(side):
            up, right = middle - y, x - middle  # turned back, clockwise
            v = middle - (up * math.cos(angle) - right * math.sin(angle))
            u = middle + (right * math.cos(angle) + up * math.sin(angle))
            truth = torch.zeros(2, 3)
            for row in (math.floor(v), math.floor(v) + 1):
                for col in (math.floor(u), math.floor(u) + 1):
                    inside = obs[0, :, :, min(max(row, 0), side - 1), min(max(col, 0), side - 1)]
                    truth += inside * (1 - abs(v - row)) * (1 - abs(u - col))
            assert (got[0, :, :, y, x] - truth).abs().max() < 0.51


def test_random_rotations_turn_each_sample_by_its_own_angle_of_the_whole_circle():
    torch.manual_seed(0)
    obs = index_image(400, frames=2, side=65)
    turned = random_rotation(obs)
    assert torch.equal(turned[:, 0], turned[:, 1])
    above = turned[:, 0, :2, 32 - 10, 32].double() - 32  # where the pixel ten above the centre comes from
    angle = torch.atan2(above[:, 1], -above[:, 0])
    counts = torch.histc(angle, 8, -math.pi, math.pi)
    assert counts.min() > 25
    assert (above.norm(dim=1) - 10).abs().max() < 1


def test_a_mix_gives_a_sixth_of_the_batch_to_each_augmentation(monkeypatch):
    """Recognised by stand-ins that each write into a channel of their own."""

    def mark(frame, channel):
        def augmented(part, *_):
            part = part.clone()
            part[:, frame, channel] += 1
            return part

        return augmented

    for name, place in {
        "random_conv": (0, 0), "random_overlay": (0, 1), "random_rotation": (1, 0), "random_shift": (1, 1),
    }.items():  # fmt: skip
        monkeypatch.setattr(augment, name, mark(*place))
    bank = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    for batch in (6, 7, 12, 256):
        mixed = random_mix(torch.zeros(batch, 3, 3, 8, 8, dtype=torch.uint8), bank)
        marks = [tuple(sample[:2, :2, 0, 0].flatten().tolist()) for sample in mixed]
        kinds = [(1, 0, 0, 0), (1, 1, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 1, 1), (0, 0, 0, 1)]
        counts = [marks.count(kind) for kind in kinds]
        assert sum(counts) == batch
        assert max(counts) - min(counts) <= 1


def test_a_mix_leaves_its_input_and_changes_every_sample():
    torch.manual_seed(0)
    obs, bank = noise(12, 3, 3, 84, 84), noise(4, 3, 128, 128, seed=1)
    before = obs.clone()
    mixed = random_mix(obs, bank)
    assert torch.equal(obs, before)
    assert (mixed != obs).flatten(1).any(1).all()


@pytest.mark.parametrize("side", [64, 84])
def test_augmentations_keep_shape_and_follow_the_generator(side):
    obs, bank = noise(6, 3, 3, side, side), noise(4, 3, 128, 128, seed=1)
    for augmented in (
        lambda: random_shift(obs, 4),
        lambda: random_conv(obs),
        lambda: random_overlay(obs, bank),
        lambda: random_rotation(obs),
        lambda: random_mix(obs, bank),
    ):
        torch.manual_seed(3)
        once = augmented()
        other = augmented()
        torch.manual_seed(3)
        assert torch.equal(augmented(), once)
        assert not torch.equal(other, once)
        assert (once.shape, once.dtype) == (obs.shape, torch.uint8)


def test_generated_overlays_are_frames_of_clips_that_no_world_shows():
    bank, made_of = overlay_bank(Data(), 4)
    assert made_of == {"source": "procedural-v1 overlay", "images": 4, "size": 128}
    assert (bank.shape, bank.dtype) == ((4, 3, SIDE, SIDE), torch.uint8)
    for i in range(4):
        clip = ProceduralClip("overlay", i, SIDE)
        assert torch.equal(bank[i], torch.from_numpy(clip[0]).permute(2, 0, 1))


def test_generated_overlays_are_as_far_apart_as_they_can_be(monkeypatch):
    monkeypatch.setitem(SPLITS, "overlay", 2)
    bank, _ = overlay_bank(Data(), 5)
    truth = [(0, 0), (0, 100), (0, 200), (1, 0), (1, 150)]
    for image, (clip, frame) in zip(bank, truth, strict=True):
        assert torch.equal(image, torch.from_numpy(ProceduralClip("overlay", clip, SIDE)[frame]).permute(2, 0, 1))


def test_overlays_of_a_folder_of_photographs(tmp_path):
    colors = [(200, 30, 30), (30, 200, 30), (30, 30, 200)]
    for i, color in enumerate(colors):
        (tmp_path / "places" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), color).save(tmp_path / "places" / "ab"[i % 2] / f"{i}.jpg")
    data = Data(places=tmp_path / "places", cache=tmp_path / "cache")
    bank, made_of = overlay_bank(data, 100)
    assert made_of == {"source": "places365", "images": 3, "size": 128}
    for image, i in zip(bank, (0, 2, 1), strict=True):  # in the order of their paths
        assert image.float().mean((1, 2)).tolist() == pytest.approx(colors[i], abs=4)  # JPEG
    assert len(overlay_bank(data, 2)[0]) == 2


def test_overlays_of_real_photographs(tmp_path):
    """Stills of recorded videos stand in for them."""
    av = pytest.importorskip("av")
    for i in range(3):
        with av.open(str(shared(f"data/video_hard/video{i}.mp4"))) as video:
            next(video.decode(video=0)).to_image().save(tmp_path / f"{i}.jpg")
    bank, made_of = overlay_bank(Data(places=tmp_path, cache=tmp_path / "cache"), 10)
    assert made_of["images"] == 3
    assert (bank.float().std((1, 2, 3)) > 5).all()
    assert len({image.numpy().tobytes() for image in bank}) == 3


def test_no_overlays_and_a_wrong_folder_are_refused(tmp_path):
    with pytest.raises(UserError, match="overlay-images must be at least 1"):
        overlay_bank(Data(), 0)
    with pytest.raises(UserError, match="not a folder of Places365"):
        overlay_bank(Data(places=tmp_path), 4)


def test_data_check_counts_the_images_that_agents_use(tmp_path, monkeypatch):
    from alda.agents.svea import SVEAConfig

    Image.new("RGB", (20, 20)).save(tmp_path / "a.jpg")
    asked = []
    monkeypatch.setattr(data_check, "overlay_images", lambda data, limit: asked.append(limit) or [0])
    data_check.check(Data(places=tmp_path, cache=tmp_path / "cache"))
    assert asked == [SVEAConfig().overlay_images]
