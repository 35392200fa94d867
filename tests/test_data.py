import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time

import av
import numpy as np
import pytest
import torch
from conftest import shared
from PIL import Image
from torch.nn.functional import interpolate

from alda.envs.backgrounds import stored_clips
from alda.envs.backgrounds.data import DAVIS_VIDEOS, Data, find_davis
from alda.envs.backgrounds.data_check import check
from alda.envs.backgrounds.frame_cache import store_frames
from alda.envs.backgrounds.shrinking import bilinear
from alda.envs.backgrounds.stored_clips import davis_clips, overlay_images, video_clips
from alda.errors import UserError


def write_image(path, width, height, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(blocks).resize((width, height)).save(path)


def write_davis(folder, videos=DAVIS_VIDEOS, frames=3):
    for v, video in enumerate(videos):
        for i in range(frames):
            write_image(folder / "JPEGImages/480p" / video / f"{i:05d}.jpg", 48, 27, seed=100 * v + i)
    return folder


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


def write_videos(folder, world="video_easy", count=10):
    for i in range(count):
        write_video(folder / world / f"video{i}.mp4", frames=4 + i % 3, seed=i)
    return folder


@pytest.fixture(scope="module")
def easy(tmp_path_factory):
    return write_videos(tmp_path_factory.mktemp("videos"))


@pytest.fixture
def videos(easy, tmp_path):
    """Data with ten small videos, and a cache of its own."""
    shutil.copytree(easy, tmp_path / "videos")
    return Data(videos=tmp_path / "videos", cache=tmp_path / "cache")


@pytest.fixture
def davis(tmp_path):
    return Data(davis=write_davis(tmp_path / "DAVIS", DAVIS_VIDEOS[:3]), cache=tmp_path / "cache")


@pytest.fixture
def no_decoding(monkeypatch):
    """From the moment this is called, decoding fails the test."""

    def forbid():
        for name in ("shrink_video", "shrink_image"):
            monkeypatch.setattr(stored_clips, name, lambda *_, **__: pytest.fail("decoded again"))

    return forbid


def by_torch(frame, size):
    x = torch.from_numpy(frame).permute(2, 0, 1)[None].contiguous() / 255
    small = interpolate(x, size=(size, size), mode="bilinear", align_corners=False)
    return (small * 255).to(torch.uint8)[0].permute(1, 2, 0).numpy()


def decoded(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def files_in(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_there_are_sixty_davis_training_videos_in_alphabetical_order():
    assert len(set(DAVIS_VIDEOS)) == len(DAVIS_VIDEOS) == 60
    assert list(DAVIS_VIDEOS) == sorted(DAVIS_VIDEOS)
    assert DAVIS_VIDEOS[:2] == ("bear", "bmx-bumps")
    assert DAVIS_VIDEOS[-1] == "walking"


@pytest.mark.parametrize(
    ("height", "width", "size"), [(352, 352, 64), (480, 480, 64), (218, 218, 64), (50, 90, 32), (20, 20, 32)]
)
def test_bilinear_is_that_of_torch_up_to_one_level_on_one_value_in_a_hundred(height, width, size):
    frame = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    difference = np.abs(bilinear(frame, size).astype(int) - by_torch(frame, size))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.012


def test_videos_are_shrunk_as_torch_would(videos):
    clips = video_clips(videos, "video_easy", 16)
    assert (clips.name.split()[0], len(clips)) == ("dmcgb-video_easy", 10)
    for i in (0, 2, 9):
        expected = np.stack([by_torch(frame, 16) for frame in decoded(videos.videos / f"video_easy/video{i}.mp4")])
        assert clips[i].shape == expected.shape
        assert np.abs(clips[i].astype(int) - expected).max() <= 1
        assert not clips[i].flags.writeable


def test_videos_are_in_numeric_order(videos):
    """4, 5, 6, 4, 5, 6, ... frames were written."""
    assert [len(clip) for clip in video_clips(videos, "video_easy", 8)] == [4 + i % 3 for i in range(10)]


@pytest.mark.parametrize("parent", [False, True])
def test_davis_frames_are_squeezed_as_pillow_would(davis, parent):
    data = Data(davis=davis.davis.parent if parent else davis.davis, cache=davis.cache)
    clips = davis_clips(data, 2, 16)
    assert (clips.name.split()[0], len(clips)) == ("davis-2017", 2)
    for clip, video in zip(clips, ("bear", "bmx-bumps"), strict=True):
        frames = [Image.open(davis.davis / f"JPEGImages/480p/{video}/{i:05d}.jpg").resize((16, 16)) for i in range(3)]
        np.testing.assert_array_equal(clip, np.stack(frames))
    with pytest.raises(UserError, match="found 3 of 60; missing: boxing-fisheye, breakdance-flare"):
        davis_clips(data, None, 16)


def test_only_what_is_played_is_shrunk_and_only_once(videos, davis, no_decoding):
    clips = video_clips(videos, "video_easy", 16)
    first = clips[3].copy()
    assert clips.unstored == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    frames = davis_clips(davis, 1, 16)[0].copy()
    no_decoding()
    np.testing.assert_array_equal(clips[3], first)
    np.testing.assert_array_equal(video_clips(videos, "video_easy", 16)[3], first)
    np.testing.assert_array_equal(davis_clips(davis, 1, 16)[0], frames)


def test_the_cache_follows_the_files_to_another_folder(videos, no_decoding):
    video_clips(videos, "video_easy", 16)[0]
    elsewhere = Data(videos=videos.videos.rename(videos.videos.with_name("moved")), cache=videos.cache)
    no_decoding()
    assert len(video_clips(elsewhere, "video_easy", 16)[0]) == 4


def test_changed_sources_are_shrunk_anew(videos, davis):
    before = video_clips(videos, "video_easy", 16)[0].copy()
    write_video(videos.videos / "video_easy/video0.mp4", frames=4, seed=99)
    after = video_clips(videos, "video_easy", 16)[0]
    assert np.abs(before.astype(int) - after).mean() > 10

    frame = davis.davis / "JPEGImages/480p/bear/00001.jpg"
    old = davis_clips(davis, 1, 16)[0].copy()
    size = frame.stat().st_size
    picture = Image.effect_noise((24, 14), 99).resize((48, 27)).convert("RGB")
    picture.save(frame, quality=5)
    frame.write_bytes(frame.read_bytes().ljust(size, b"\0"))
    assert frame.stat().st_size == size
    assert (davis_clips(davis, 1, 16)[0][1] != old[1]).any()


def test_sizes_do_not_mix(videos):
    assert video_clips(videos, "video_easy", 16)[0].shape[1:] == (16, 16, 3)
    assert video_clips(videos, "video_easy", 8)[0].shape[1:] == (8, 8, 3)


def play_all(data):
    for clip in video_clips(data, "video_easy", 16):
        assert clip.min() < clip.max()


def test_processes_may_shrink_the_same_clips_at_once(videos):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=play_all, args=(videos,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(files_in(videos.cache)) == 10
    assert all(name.endswith(".npy") and not name.startswith(".") for name in files_in(videos.cache))


def test_writers_of_one_file_do_not_mix(tmp_path):
    file = tmp_path / "clip.npy"
    ours, theirs = (np.full((8, 8, 3), value, np.uint8) for value in (1, 2))

    def frames():
        yield ours
        assert (store_frames(file, [theirs] * 3, 3, 8) == 2).all()
        yield ours

    stored = store_frames(file, frames(), 2, 8)
    assert stored.shape == (2, 8, 8, 3)
    assert (stored == 1).all()
    assert files_in(tmp_path) == ["clip.npy"]


def test_a_kill_while_writing_leaves_nothing_that_is_used(tmp_path):
    file = tmp_path / "cache" / "clip.npy"
    program = f"""
import sys, time, numpy as np
from pathlib import Path
from alda.envs.backgrounds.frame_cache import store_frames
def frames():
    yield np.zeros((8, 8, 3), np.uint8)
    print("writing", flush=True)
    time.sleep(60)
store_frames(Path({str(file)!r}), frames(), 2, 8)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"writing\n"
        process.send_signal(signal.SIGKILL)
    assert not file.exists()
    (left,) = file.parent.iterdir()
    hours_ago = time.time() - 7200
    os.utime(left, (hours_ago, hours_ago))
    store_frames(file, [np.ones((8, 8, 3), np.uint8)], 1, 8)
    assert files_in(tmp_path) == ["clip.npy"]  # the remains are gone


def test_an_interrupted_or_failed_write_leaves_nothing(tmp_path):
    def frames(error):
        yield np.zeros((8, 8, 3), np.uint8)
        raise error

    for error in (KeyboardInterrupt(), UserError("a broken frame")):
        with pytest.raises(type(error)):
            store_frames(tmp_path / "clip.npy", frames(error), 2, 8)
    with pytest.raises(OSError, match=r"No space left on device\); free some space, or .* --data.cache DIR"):
        store_frames(tmp_path / "clip.npy", frames(OSError(28, os.strerror(28))), 2, 8)
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("damage", [lambda raw: b"", lambda raw: raw[:-10], lambda raw: b"x" * len(raw)])
def test_a_damaged_file_in_the_cache_is_made_again(videos, damage):
    good = video_clips(videos, "video_easy", 16)[0].copy()
    (file,) = videos.cache.rglob("*.npy")
    file.write_bytes(damage(file.read_bytes()))
    np.testing.assert_array_equal(video_clips(videos, "video_easy", 16)[0], good)


def test_a_cache_that_cannot_be_written_is_refused_at_once(videos, monkeypatch):
    videos.cache.write_text("a file, not a folder")
    with pytest.raises(UserError, match=r"cache, cannot be written \(.*\); name another with --data.cache DIR"):
        video_clips(videos, "video_easy", 16)
    videos.cache.unlink()
    monkeypatch.setattr(os, "access", lambda *_: False)  # as for anyone but root
    with pytest.raises(UserError, match="cannot be written"):
        video_clips(videos, "video_easy", 16)


def test_without_pyav_only_stored_videos_can_be_played(videos, monkeypatch):
    for _ in video_clips(videos, "video_easy", 16):
        pass
    monkeypatch.setitem(sys.modules, "av", None)
    assert len(video_clips(videos, "video_easy", 16)[0]) == 4
    with pytest.raises(UserError, match=r"pip install 'alda\[video\]'"):
        video_clips(videos, "video_easy", 8)
    next(videos.cache.rglob("video0*.npy")).write_bytes(b"")
    with pytest.raises(UserError, match=r"pip install 'alda\[video\]'"):
        video_clips(videos, "video_easy", 16)[0]


def test_half_copied_videos_are_refused_with_what_is_missing(videos):
    for i in (3, 4, 5):
        (videos.videos / f"video_easy/video{i}.mp4").unlink()
    (videos.videos / "video_easy/video7.mp4").write_bytes(b"")
    message = (
        r"expected video0.mp4 to video9.mp4, found 6 of 10; missing: video3.mp4, video4.mp4, video5.mp4, "
        r"video7.mp4 \(empty\); `alda data check`"
    )
    with pytest.raises(UserError, match=message):
        video_clips(videos, "video_easy", 16)


def test_wrong_folders_are_refused_with_what_is_there(videos, tmp_path):
    with pytest.raises(UserError, match=r"has no videos of video_hard: expected .*video_hard, found video_easy;"):
        video_clips(videos, "video_hard", 16)
    with pytest.raises(UserError, match="found no such folder"):
        video_clips(Data(videos=tmp_path / "nowhere"), "video_easy", 16)
    with pytest.raises(UserError, match="not a folder of DAVIS 2017: expected JPEGImages/480p/bear"):
        davis_clips(Data(davis=videos.videos), 2, 16)
    with pytest.raises(UserError, match=r"not a folder of Places365: expected \.jpg images"):
        overlay_images(Data(places=videos.videos))
    for name, opened in (
        ("davis", lambda: davis_clips(Data(), 2, 16)),
        ("videos", lambda: video_clips(Data(), "video_hard", 16)),
        ("places", lambda: overlay_images(Data())),
    ):
        with pytest.raises(UserError, match=f"--data.{name} DIR"):
            opened()


def test_frames_missing_in_the_number_sequence_are_named(davis):
    frames = davis.davis / "JPEGImages/480p"
    (frames / "bear/00001.jpg").unlink()
    (frames / "bmx-bumps/00000.jpg").write_bytes(b"")
    shutil.rmtree(frames / "boat")
    (frames / "boat").mkdir()
    assert find_davis(davis, 4).missing == (
        "bear/00001.jpg",
        "bmx-bumps/00000.jpg (empty)",
        "boat (empty)",
        "boxing-fisheye",
    )
    with pytest.raises(UserError, match=r"missing: bear/00001.jpg; `alda data check`"):
        davis_clips(davis, 1, 16)


def test_davis_frames_that_have_a_mask_but_no_image_are_missing(davis):
    write_image(davis.davis / "Annotations/480p/bear/00003.png", 48, 27)
    with pytest.raises(UserError, match=r"missing: bear/00003.jpg"):
        davis_clips(davis, 1, 16)


@pytest.mark.parametrize("damage", ["cut", "noise", "overwritten"])
def test_broken_videos_are_named(videos, damage):
    file = videos.videos / "video_easy/video1.mp4"
    raw = file.read_bytes()
    middle = len(raw) * 2 // 3
    broken = {"cut": raw[:middle], "noise": b"noise" * 100, "overwritten": raw[:middle] + bytes(len(raw) - middle)}
    file.write_bytes(broken[damage])
    clips = video_clips(videos, "video_easy", 16)
    assert len(clips[0]) == 4
    with pytest.raises(UserError, match=r"video1.mp4 .*copy it again"):
        clips[1]
    assert clips.unstored == [1, 2, 3, 4, 5, 6, 7, 8, 9]


def test_broken_frames_are_named(davis):
    file = davis.davis / "JPEGImages/480p/bear/00002.jpg"
    file.write_bytes(file.read_bytes()[:400])
    with pytest.raises(UserError, match=r"bear/00002.jpg cannot be read .*copy it again"):
        davis_clips(davis, 1, 16)[0]
    assert files_in(davis.cache) == []


def test_overlay_images_are_evenly_spread_squares(tmp_path, no_decoding):
    places = tmp_path / "places"
    for i in range(7):
        write_image(places / f"{'ab'[i % 2]}/deep/{i}.jpg", 40, 30, seed=i)
    data = Data(places=places, cache=tmp_path / "cache")
    images = overlay_images(data, 10, limit=3)
    assert not images.flags.writeable
    every = sorted(places.rglob("*.jpg"))
    for image, i in zip(images, (0, 2, 4), strict=True):
        square = Image.open(every[i]).crop((5, 0, 35, 30)).resize((10, 10))
        np.testing.assert_array_equal(image, np.asarray(square))
    assert len(overlay_images(data, 10)) == 7
    no_decoding()
    np.testing.assert_array_equal(overlay_images(data, 10, limit=3), images)


def test_grey_images_are_overlaid_in_colour(tmp_path):
    (tmp_path / "places").mkdir()
    Image.new("L", (20, 20), 77).save(tmp_path / "places/grey.JPG", "JPEG")
    assert (overlay_images(Data(places=tmp_path / "places", cache=tmp_path / "cache"), 8) == 77).all()


def test_the_cache_is_where_the_system_keeps_caches(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Data().cache_dir == tmp_path / "alda"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Data().cache_dir == tmp_path / ".cache" / "alda"


def test_worlds_open_clips_without_pytorch():
    program = (
        "import sys, alda.envs.backgrounds.stored_clips; assert not {'torch', 'mujoco', 'av', 'PIL'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.fixture
def report(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "400")

    def run(data, **options):
        code = check(data, **options)
        lines = (line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
        return code, [" ".join(line).strip() for line in lines]

    return run


def test_check_of_nothing_says_that_backgrounds_are_generated(report, tmp_path):
    code, lines = report(Data(cache=tmp_path))
    assert code == 0
    for name in ("davis", "video_easy", "video_hard", "places"):
        assert f"{name} not given; procedural-v1 is used" in lines
    assert any("https://davischallenge.org/davis2017/code.html" in line for line in lines)


def test_check_shrinks_what_is_complete(report, videos, tmp_path, no_decoding):
    write_image(tmp_path / "places/a.jpg", 20, 20)
    davis = write_davis(tmp_path / "DAVIS", frames=2)
    data = Data(davis=davis, videos=videos.videos, places=tmp_path / "places", cache=videos.cache)
    code, lines = report(data, size=16)
    assert code == 0, lines
    assert "found 60 of 60 clips, 120 frames" in lines
    assert f"found 10 of 10 clips, {sum(4 + i % 3 for i in range(10))} frames" in lines
    assert "absent no folder video_hard: this world can only be played without --data.videos" in lines
    assert "found 1 images, of which 1 are used" in lines
    assert f"cache {videos.cache}, {(120 * 32 * 32 * 3 + 128 * 128 * 3 + 49 * 16 * 16 * 3) / 1e6:.1f} MB" in lines
    no_decoding()
    assert report(data, size=16) == (0, lines)
    assert len(davis_clips(data, 2, 128)) == 2


def test_check_names_what_is_missing_and_broken(report, videos, davis, tmp_path):
    (videos.videos / "video_easy/video2.mp4").unlink()
    data = Data(davis=davis.davis, videos=videos.videos, places=tmp_path / "nowhere", cache=videos.cache)
    code, lines = report(data, size=16)
    assert code == 1
    assert {"found 3 of 60 clips", "found 9 of 10 clips", "missing video2.mp4"} <= set(lines)
    assert any(line.startswith("missing boxing-fisheye, ") and line.endswith(" and 47 more") for line in lines)
    assert any("found no such folder" in line for line in lines)

    (videos.videos / "video_easy/video2.mp4").write_bytes(b"noise" * 100)
    code, lines = report(Data(videos=videos.videos, cache=videos.cache), size=16)
    assert code == 1
    assert any(line.startswith("problem the video") and "video2.mp4 cannot be decoded" in line for line in lines)


def test_check_reports_a_cache_that_cannot_be_written(report, videos):
    videos.cache.write_text("a file, not a folder")
    code, lines = report(videos, size=16)
    assert code == 1
    assert any("--data.cache DIR" in line for line in lines)


def test_the_published_videos_are_read(tmp_path):
    data = Data(videos=shared("data/video_hard").parent, cache=tmp_path)
    clips = video_clips(data, "video_hard", 64)
    assert len(clips) == 100
    for i in (2, 10):
        assert clips[i].shape == (500, 64, 64, 3)
        frame = decoded(data.videos / f"video_hard/video{i}.mp4")[250]
        assert np.abs(clips[i][250].astype(int) - by_torch(frame, 64)).max() <= 1
    assert len(clips.unstored) == 98


def test_the_half_copied_published_set_is_refused(tmp_path):
    data = Data(videos=shared("data/video_easy").parent, cache=tmp_path)
    with pytest.raises(UserError, match=r"found 6 of 10; missing: video3.mp4, video4.mp4, video5.mp4, video7.mp4;"):
        video_clips(data, "video_easy", 64)
