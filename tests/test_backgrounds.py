"""Real backgrounds: found, prepared once, never half-made; and procedural-v1: the same clips everywhere, seamless."""

import os
import subprocess
import sys

import av
import numpy as np
import pytest
import torch
from conftest import shared
from PIL import Image
from torch.nn.functional import interpolate

from alda.commands.data import prepare
from alda.envs.backgrounds import clips as clips_module
from alda.envs.backgrounds.clips import read_or_prepare, sky_clips, video_clips
from alda.envs.backgrounds.data import DAVIS_VIDEOS, VIDEO_COUNTS, Data, find_places
from alda.envs.backgrounds.procedural import LENGTH, SPLITS, ProceduralClip
from alda.envs.backgrounds.shrinking import bilinear
from alda.errors import UserError


def write_image(path, width, height, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(blocks).resize((width, height)).save(path)


def write_video(path, frames=6, side=48, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "10", "g": "1"})
        stream.width = stream.height = side
        stream.pix_fmt = "yuv420p"
        for _ in range(frames):
            picture = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8).repeat(side // 6, 0).repeat(side // 6, 1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Three videos of 4, 5 and 6 frames, four of DAVIS with two frames each, and a cache."""
    monkeypatch.setitem(VIDEO_COUNTS, "video_easy", 3)
    monkeypatch.setattr("alda.envs.backgrounds.data.DAVIS_VIDEOS", DAVIS_VIDEOS[:4])
    for i in range(3):
        write_video(tmp_path / f"videos/video_easy/video{i}.mp4", frames=4 + i, seed=i)
    for v, video in enumerate(DAVIS_VIDEOS[:4]):
        for i in range(2):
            write_image(tmp_path / f"DAVIS/JPEGImages/480p/{video}/{i:05d}.jpg", 48, 27, seed=100 * v + i)
    return Data(videos=tmp_path / "videos", davis=tmp_path / "DAVIS", cache=tmp_path / "cache")


@pytest.fixture
def no_decoding(monkeypatch):
    """From the moment this is called, decoding fails the test."""

    def forbid():
        for name in ("shrink_video", "shrink_image"):
            monkeypatch.setattr(clips_module, name, lambda *_, **__: pytest.fail("decoded again"))

    return forbid


def easy(data, size=16):
    return video_clips(data, "video_easy", size)


def by_torch(frame, size):
    x = torch.from_numpy(frame).permute(2, 0, 1)[None].contiguous() / 255
    small = interpolate(x, size=(size, size), mode="bilinear", align_corners=False)
    return (small * 255).to(torch.uint8)[0].permute(1, 2, 0).numpy()


def decoded(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def kinds(folder):
    return sorted(path.suffix for path in folder.rglob("*") if path.is_file())


# what is shown


@pytest.mark.parametrize(
    ("height", "width", "size"), [(352, 352, 64), (480, 480, 64), (218, 218, 64), (50, 90, 32), (20, 20, 32)]
)
def test_bilinear_is_that_of_torch_up_to_one_level_on_one_value_in_a_hundred(height, width, size):
    frame = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    difference = np.abs(bilinear(frame, size).astype(int) - by_torch(frame, size))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.012


def test_videos_are_those_of_the_folder_in_numeric_order_shrunk_as_torch_would(data, monkeypatch):
    monkeypatch.setitem(VIDEO_COUNTS, "video_easy", 11)
    for i in range(3, 11):
        (data.videos / f"video_easy/video{i}.mp4").symlink_to(data.videos / f"video_easy/video{i % 3}.mp4")
    clips = easy(data)
    assert [len(clip) for clip in clips] == [4 + i % 3 for i in range(11)]
    for i in (0, 1, 10):
        expected = np.stack([by_torch(frame, 16) for frame in decoded(data.videos / f"video_easy/video{i}.mp4")])
        assert np.abs(clips[i].astype(int) - expected).max() <= 1
        assert not clips[i].flags.writeable


@pytest.mark.parametrize("parent", [False, True])
def test_davis_frames_are_squeezed_as_pillow_would(data, parent):
    folder, data = data.davis, Data(davis=data.davis.parent if parent else data.davis, cache=data.cache)
    clips, every = sky_clips(data, 2, 16), sky_clips(data, None, 16)
    assert (len(clips), len(every), len(DAVIS_VIDEOS)) == (2, 4, 60)
    assert list(DAVIS_VIDEOS) == sorted(set(DAVIS_VIDEOS))
    assert clips.name != every.name  # a score on two clips is not one on all
    for i, video in enumerate(DAVIS_VIDEOS[:4]):
        frames = [Image.open(folder / f"JPEGImages/480p/{video}/{t:05d}.jpg") for t in range(2)]
        np.testing.assert_array_equal(every[i], np.stack([frame.resize((16, 16)) for frame in frames]))
    np.testing.assert_array_equal(clips[1], every[1])


def test_published_videos_are_read_and_named(tmp_path, monkeypatch):
    data = Data(videos=shared("data/video_hard").parent, cache=tmp_path)
    clips = video_clips(data, "video_hard", 64)
    assert (clips.name, len(clips)) == ("dmcgb-video_hard 48d31031", 100)  # as in records of earlier versions
    frame = decoded(data.videos / "video_hard/video1.mp4")[250]
    assert np.abs(clips[1][250].astype(int) - by_torch(frame, 64)).max() <= 1
    assert len(clips[1]) == 500


# once, and whole or not at all


def test_a_set_is_prepared_once_wherever_its_files_are(data, no_decoding):
    clips, sky = easy(data), sky_clips(data, None, 16)
    clips.prepare()
    sky.prepare()
    elsewhere = Data(videos=data.videos.rename(data.videos.with_name("moved")), davis=data.davis, cache=data.cache)
    no_decoding()
    for moved, same in ((easy(elsewhere), clips), (sky_clips(elsewhere, None, 16), sky)):
        assert moved.name == same.name
        for i in range(len(moved)):
            assert moved[i].min() < moved[i].max()
    assert kinds(data.cache) == [".npy"] * 7


def test_changed_files_and_other_sizes_are_prepared_anew(data):
    before = easy(data)
    old, name = before[0].copy(), before.name
    write_video(data.videos / "video_easy/video0.mp4", frames=4, seed=99)
    assert np.abs(old.astype(int) - easy(data)[0]).mean() > 10
    assert easy(data).name != name
    assert easy(data, 8)[0].shape == (4, 8, 8, 3)

    frame = data.davis / "JPEGImages/480p/bear/00001.jpg"
    sky = sky_clips(data, 1, 16)
    old, size = sky[0].copy(), frame.stat().st_size
    Image.effect_noise((24, 14), 99).resize((48, 27)).convert("RGB").save(frame, quality=5)
    frame.write_bytes(frame.read_bytes().ljust(size, b"\0"))
    assert sky_clips(data, 1, 16).name == sky.name  # of the same size
    assert (sky_clips(data, 1, 16)[0][1] != old[1]).any()


ONES = np.ones((2, 8, 8, 3), np.uint8)


def test_writers_of_one_file_do_not_mix_and_a_killed_one_leaves_nothing_that_is_used(tmp_path):
    program = f"""
import os, sys, numpy as np
from pathlib import Path
from alda.envs.backgrounds.clips import read_or_prepare
assert not {{"torch", "mujoco", "av", "PIL"}} & set(sys.modules)
os.replace = Path.replace = lambda *_: os.kill(os.getpid(), 9)
read_or_prepare(Path({str(tmp_path)!r}), "clip", [], lambda: np.zeros((5, 8, 8, 3), np.uint8))
"""

    def frames():
        assert subprocess.run([sys.executable, "-c", program]).returncode == -9
        assert kinds(tmp_path) == [".partial"]
        return ONES

    np.testing.assert_array_equal(read_or_prepare(tmp_path, "clip", [], frames), ONES)
    assert kinds(tmp_path) == [".npy", ".partial"]


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    for name, error in (("fsync", OSError(28, os.strerror(28))), ("fsync", KeyboardInterrupt())):
        with monkeypatch.context() as patch:  # a file gets its name when it is whole and on disk, and not before
            patch.setattr(os, name, lambda _, error=error: (_ for _ in ()).throw(error))
            with pytest.raises((UserError, KeyboardInterrupt)) as raised:
                read_or_prepare(tmp_path, "clip", [], lambda: ONES)
        assert isinstance(error, KeyboardInterrupt) or "(No space left on device); free some" in str(raised.value)
        assert kinds(tmp_path) == []
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot be written \(.*\); .* name another folder with --data.cache DIR"):
        read_or_prepare(tmp_path / "file", "clip", [], lambda: ONES)


@pytest.mark.parametrize("damage", [lambda raw: b"", lambda raw: raw[:-10], lambda raw: b"x" * len(raw)])
def test_a_damaged_array_is_made_again(tmp_path, damage):
    read_or_prepare(tmp_path, "clip", [], lambda: ONES)
    (file,) = tmp_path.rglob("*.npy")
    file.write_bytes(damage(file.read_bytes()))
    np.testing.assert_array_equal(read_or_prepare(tmp_path, "clip", [], lambda: 2 * ONES), 2 * ONES)


def test_without_pyav_only_prepared_videos_can_be_played(data, monkeypatch):
    easy(data).prepare()
    monkeypatch.setitem(sys.modules, "av", None)
    assert len(easy(data)[0]) == 4
    with pytest.raises(UserError, match=r"pip install 'alda\[video\]'"):
        easy(data, 8).prepare()


# what is refused


def test_missing_and_empty_files_are_counted_and_named(data, tmp_path):
    (data.videos / "video_easy/video1.mp4").unlink()
    (data.videos / "video_easy/video2.mp4").write_bytes(b"")
    with pytest.raises(UserError, match=r"video_easy is not complete: 2 of 3 files .*/video1.mp4, .*/video2.mp4; "):
        easy(data)
    frames = data.davis / "JPEGImages/480p"
    (frames / "bear/00000.jpg").unlink()
    (frames / "boat/00001.jpg").unlink()
    (frames / "boat/00000.jpg").unlink()
    with pytest.raises(UserError, match=r"DAVIS 2017 is not complete: 2 of 7 .*bear/00000.jpg, .*boat/00000.jpg; "):
        sky_clips(data, 1, 16)
    with pytest.raises(UserError, match="100 of 100 files are missing"):
        video_clips(data, "video_hard", 16)
    for folder in (data.videos, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=r"of Places365: expected \.jpg images"):
            find_places(folder)


@pytest.mark.parametrize("damage", ["cut", "noise", "overwritten"])
def test_broken_videos_are_named(data, damage):
    file = data.videos / "video_easy/video1.mp4"
    raw = file.read_bytes()
    middle = len(raw) * 2 // 3
    broken = {"cut": raw[:middle], "noise": b"noise" * 100, "overwritten": raw[:middle] + bytes(len(raw) - middle)}
    file.write_bytes(broken[damage])
    with pytest.raises(UserError, match=r"video1.mp4 .*copy it again"):
        easy(data)[1]
    assert kinds(data.cache) == []


def test_broken_images_are_named(data):
    file = data.davis / "JPEGImages/480p/bear/00001.jpg"
    file.write_bytes(file.read_bytes()[:400])
    with pytest.raises(UserError, match=r"bear/00001.jpg cannot be read .*copy it again"):
        sky_clips(data, 2, 16)[0]
    assert kinds(data.cache) == []


def test_the_cache_is_where_the_system_keeps_caches(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Data().cache_dir == tmp_path / "alda"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Data().cache_dir == tmp_path / ".cache" / "alda"


# alda data prepare


@pytest.fixture
def report(capsys):
    def run(**options):
        code = prepare(**options)
        return code, [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]

    return run


def test_the_command_prepares_what_is_complete(report, data, no_decoding):
    write_image(data.cache.parent / "places/a.jpg", 20, 20)
    data = Data(davis=data.davis, videos=data.videos, places=data.cache.parent / "places", cache=data.cache)
    code, lines = report(data=data, image_size=16)
    assert code == 0, lines
    assert f"found 4 clips, 8 frames; in records: {sky_clips(data, None, 32).name}" in lines
    assert f"found 3 clips, 15 frames; in records: {easy(data).name}" in lines
    assert "found no folder video_hard: this shift can only be played without --data.videos" in lines
    assert "found 1 images" in lines
    no_decoding()
    assert len(sky_clips(data, 2, 32)[1]) == 2  # as a shift asks for it
    assert len(easy(data)[2]) == 6


def test_the_command_says_what_is_generated_missing_and_broken(report, data):
    code, lines = report(data=Data(cache=data.cache))
    assert code == 0
    for name in ("davis", "video_easy", "video_hard", "places"):
        assert f"{name} not given; procedural-v1 is used" in lines
    assert any("https://davischallenge.org/davis2017/code.html" in line for line in lines)

    (data.videos / "video_easy/video2.mp4").write_bytes(b"noise" * 100)
    given = Data(videos=data.videos, places=data.cache / "none", cache=data.cache)
    code, lines = report(data=given, image_size=16)
    assert code == 1
    problems = [line for line in lines if line.startswith("problem ")]
    for problem, words in zip(problems, ("video2.mp4 cannot be decoded", "expected .jpg images"), strict=True):
        assert words in problem
    with pytest.raises(UserError, match="--image-size must be at least 1, not 0"):
        prepare(image_size=0)


# procedural-v1

CLIPS = [(split, index) for split, count in SPLITS.items() for index in range(count)]
SOME = CLIPS[::20]
PINNED = {  # split, index, frame: means of 4 x 4 squares, a row of squares per line
    ("train", 0, 0): [
        [99, 131, 72, 60, 79, 43, 59, 73, 40, 54, 74, 41],
        [83, 106, 59, 107, 134, 73, 69, 90, 49, 52, 69, 37],
        [77, 102, 54, 123, 156, 86, 90, 122, 64, 68, 93, 50],
        [95, 117, 69, 112, 143, 76, 70, 97, 53, 68, 93, 52],
    ],
    ("train", 23, 150): [
        [45, 101, 114, 39, 91, 105, 31, 89, 104, 41, 110, 128],
        [30, 81, 91, 47, 94, 105, 56, 129, 139, 51, 130, 144],
        [57, 129, 138, 67, 139, 148, 70, 160, 171, 65, 137, 146],
        [75, 139, 142, 130, 145, 125, 73, 152, 159, 116, 117, 97],
    ],
    ("test", 64, 299): [
        [155, 146, 119, 169, 160, 137, 189, 179, 150, 236, 231, 197],
        [134, 102, 63, 133, 101, 65, 105, 79, 58, 126, 98, 70],
        [103, 88, 43, 157, 126, 66, 162, 126, 65, 124, 93, 50],
        [125, 96, 48, 180, 144, 75, 200, 161, 80, 112, 85, 43],
    ],
}


def blocks(frame: np.ndarray, count: int) -> np.ndarray:
    """Means of count x count squares."""
    side = len(frame) // count
    return frame.reshape(count, side, count, side, 3).mean((1, 3), dtype=np.float64)


def change(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(float) - b).mean())


def test_a_frame_depends_on_nothing_but_split_index_size_and_number():
    once, again = ProceduralClip("train", 3, 84), ProceduralClip("train", 3, 84)
    forward = [once[i] for i in range(0, LENGTH, 50)]
    np.random.default_rng(0).standard_normal(100)
    backward = [again[i] for i in reversed(range(0, LENGTH, 50))]
    np.testing.assert_array_equal(forward, backward[::-1])
    np.testing.assert_array_equal(once[50], forward[1])
    assert (once[50].dtype, once[50].shape, len(once)) == (np.uint8, (84, 84, 3), LENGTH)
    assert once[50].flags.c_contiguous
    for i in (-1, LENGTH):
        with pytest.raises(IndexError):
            once[i]


@pytest.mark.slow
def test_no_two_clips_look_alike():
    first = np.stack([blocks(ProceduralClip(*clip, 64)[0], 16).ravel() for clip in CLIPS])
    apart = [np.abs(first[i + 1 :] - first[i]).mean(1).min() for i in range(len(first) - 1)]
    assert min(apart) > 8, min(apart)


@pytest.mark.parametrize("clip", SOME)
def test_a_clip_moves_smoothly_loops_and_has_light_and_contrast_of_videos(clip):
    frames = ProceduralClip(*clip, 64)
    near = [change(frames[i % LENGTH], frames[(i + 1) % LENGTH]) for i in range(LENGTH - 12, LENGTH + 12)]
    seam = near.pop(11)  # from the last frame to the first
    assert 0.9 * min(near) < seam < 1.1 * max(near), (min(near), seam, max(near))
    assert 0.4 < np.mean(near) < 25, np.mean(near)
    assert max(near) < 35, max(near)
    grey = np.stack([frames[i] for i in range(0, LENGTH, 20)]).mean(-1)
    assert 50 < grey.mean() < 215
    assert 12 < grey.std((1, 2)).mean() < 75
    assert np.ptp(grey.mean((1, 2))) > 8


@pytest.mark.parametrize("frame", PINNED)
def test_the_clips_of_version_1_stay_what_they_are(frame):
    split, index, i = frame
    seen = blocks(ProceduralClip(split, index, 64)[i], 4).reshape(4, 12)
    np.testing.assert_allclose(seen, PINNED[frame], atol=2)


@pytest.mark.parametrize("clip", SOME[::4])
def test_a_clip_shows_the_same_at_every_size(clip):
    small, large = ProceduralClip(*clip, 64), ProceduralClip(*clip, 128)
    for i in (0, 111, 222):
        assert change(blocks(small[i], 16), blocks(large[i], 16)) < 4, i
