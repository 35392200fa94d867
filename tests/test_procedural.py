"""procedural-v1: the same clips everywhere, all different, moving, seamless and alike at every size."""

import numpy as np
import pytest

from alda.envs.backgrounds.procedural import LENGTH, SPLITS, ProceduralClip

CLIPS = [(split, index) for split, count in SPLITS.items() for index in range(count)]
SOME = CLIPS[::9]
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
    once, again = ProceduralClip("train", 3, 64), ProceduralClip("train", 3, 64)
    forward = [once[i] for i in range(0, LENGTH, 50)]
    np.random.default_rng(0).standard_normal(100)
    backward = [again[i] for i in reversed(range(0, LENGTH, 50))]
    np.testing.assert_array_equal(forward, backward[::-1])
    np.testing.assert_array_equal(once[50], forward[1])


@pytest.mark.parametrize("size", [64, 84, 128])
def test_frames_are_contiguous_bytes(size):
    clip = ProceduralClip("test", 109, size)
    frame = clip[LENGTH - 1]
    assert (frame.dtype, frame.shape, len(clip)) == (np.uint8, (size, size, 3), LENGTH)
    assert frame.flags.c_contiguous
    assert frame.flags.owndata


@pytest.mark.parametrize(
    ("split", "index", "size"), [("val", 0, 64), ("train", 60, 64), ("test", -1, 64), ("test", 0, 32)]
)
def test_a_clip_that_does_not_exist_is_refused(split, index, size):
    with pytest.raises(ValueError, match="procedural-v1"):
        ProceduralClip(split, index, size)


@pytest.mark.parametrize("i", [-1, LENGTH])
def test_a_frame_outside_the_clip_is_refused(i):
    with pytest.raises(IndexError, match="300 frames"):
        ProceduralClip("train", 0, 64)[i]


@pytest.mark.slow
def test_no_two_clips_look_alike():
    first = np.stack([blocks(ProceduralClip(*clip, 64)[0], 16).ravel() for clip in CLIPS])
    apart = [np.abs(first[i + 1 :] - first[i]).mean(1).min() for i in range(len(first) - 1)]
    assert min(apart) > 8, min(apart)


@pytest.mark.parametrize("clip", SOME)
def test_a_clip_moves_smoothly_and_loops(clip):
    frames = ProceduralClip(*clip, 64)
    near = [change(frames[i % LENGTH], frames[(i + 1) % LENGTH]) for i in range(LENGTH - 25, LENGTH + 25)]
    seam = near.pop(24)  # from the last frame to the first
    assert 0.9 * min(near) < seam < 1.1 * max(near), (min(near), seam, max(near))
    assert 0.4 < np.mean(near) < 25, np.mean(near)
    assert max(near) < 35, max(near)


@pytest.mark.parametrize("frame", PINNED)
def test_the_clips_of_version_1_stay_what_they_are(frame):
    split, index, i = frame
    seen = blocks(ProceduralClip(split, index, 64)[i], 4).reshape(4, 12)
    np.testing.assert_allclose(seen, PINNED[frame], atol=2)


def test_light_and_contrast_are_those_of_videos():
    for clip in SOME:
        frames = ProceduralClip(*clip, 64)
        grey = np.stack([frames[i] for i in range(0, LENGTH, 20)]).mean(-1)
        assert 50 < grey.mean() < 215, clip
        assert 12 < grey.std((1, 2)).mean() < 75, clip
        assert np.ptp(grey.mean((1, 2))) > 8, clip


@pytest.mark.parametrize("clip", SOME)
def test_a_clip_shows_the_same_at_every_size(clip):
    small, large = ProceduralClip(*clip, 64), ProceduralClip(*clip, 128)
    for i in (0, 111, 222):
        assert change(blocks(small[i], 16), blocks(large[i], 16)) < 4, i
