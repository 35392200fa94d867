"""Replay against what was played: every transition and sequence that is kept, and no other."""

import itertools

import numpy as np
import pytest
import torch

from alda.errors import UserError
from alda.training.replay import Replay, replay_bytes
from alda.types import EnvSpec

SPEC = EnvSpec(frames=3, image_size=2, action_dim=1)
EPISODES = [9, 14, 3, 20, 1, 33, 8, 17]  # their lengths, again and again
THREE = ([7, 3, 12, 1, 9, 30], [1, 1, 2, 25, 4, 20], [16, 5, 5, 5, 22, 9])


class Players:
    """Environments that take turns; each pixel, action and reward of theirs tells which step it is from."""

    def __init__(self, *lengths):
        self.lengths, self.count = [itertools.cycle(of) for of in lengths], 0
        self.left = [0] * len(lengths)
        self.obs = [None] * len(lengths)
        self.truth = {}  # count -> obs, next_obs, terminated
        self.written = [[] for _ in lengths]  # by environment: frame, action, reward, terminated, first

    def frame(self):
        self.count += 1
        return torch.full((3, 2, 2), self.count % 251, dtype=torch.uint8)

    def play(self, replay, steps):
        for _ in range(steps):
            for i, left in enumerate(self.left):
                if left == 0:
                    self.left[i], self.obs[i] = next(self.lengths[i]), [self.frame()] * 3
                    replay.add_first(torch.stack(self.obs[i]), env=i)
                    self.written[i].append((self.count % 251, 0.0, 0.0, False, True))
            for i in range(len(self.left)):
                next_obs, self.left[i] = [*self.obs[i][1:], self.frame()], self.left[i] - 1
                terminated = self.left[i] == 0 and self.count % 2 == 0
                action, reward = float(self.count), self.count / 2
                replay.add(torch.tensor([action]), reward, terminated, torch.stack(next_obs), env=i)
                self.truth[self.count] = torch.stack(self.obs[i]), torch.stack(next_obs), terminated
                self.written[i].append((self.count % 251, action, reward, terminated, False))
                self.obs[i] = next_obs
                assert torch.equal(replay.newest_frame(i), next_obs[-1])
        return replay

    def check(self, replay, count=4_000):
        """Samples are of the newest steps played, all of them, and as they were played."""
        batch = replay.sample(count)
        for i, index in enumerate(batch.action[:, 0].int().tolist()):
            obs, next_obs, terminated = self.truth[index]
            assert torch.equal(batch.obs[i], obs)
            assert torch.equal(batch.next_obs[i], next_obs)
            assert batch.reward[i] == index / 2
            assert batch.discount[i] == pytest.approx(0.0 if terminated else 0.9)
        assert set(batch.action[:, 0].int().tolist()) == set(sorted(self.truth)[-len(replay) :])


def played(capacity, steps, *lengths):
    players = Players(*lengths)
    return players, players.play(Replay(SPEC, capacity, 0.9, num_envs=len(lengths)), steps)


@pytest.mark.parametrize(
    ("capacity", "steps", "lengths", "kept"),
    [
        (100, 31, [[1, 2, 3, 7, 12, 5, 1]], (31, 31)),
        (50, 420, [EPISODES], (40, 60)),  # the oldest give way
        (400, 60, THREE, (180, 180)),
        (60, 60, THREE, (40, 85)),
        (50, 52, [[100]], (52, 52)),  # nothing is forgotten before the replay is full: it has 59 slots
        (100, 6, [[5]], (6, 6)),  # just after an episode began
    ],
)
def test_samples_are_exactly_what_was_played_and_so_they_are_after_loading(tmp_path, capacity, steps, lengths, kept):
    players, replay = played(capacity, steps, *lengths)
    players.check(replay)
    assert kept[0] <= len(replay) <= kept[1]
    copy = Replay(SPEC, capacity, 0.9, num_envs=len(lengths))
    copy.load(tmp_path, replay.save(tmp_path))
    assert len(copy) == len(replay)
    batches = []
    for twin in (replay, copy):  # episodes in progress go on
        for i in range(len(lengths)):
            twin.add(torch.tensor([0.0]), 0.0, False, torch.ones(3, 3, 2, 2, dtype=torch.uint8), env=i)
        torch.manual_seed(0)
        batches.append(twin.sample(500))
    assert all(torch.equal(a, b) for a, b in zip(*batches, strict=True))


def test_transitions_are_sampled_uniformly():
    _, replay = played(100, 20, [10, 3, 7])
    torch.manual_seed(0)
    counts = np.bincount(replay.sample(40_000).action[:, 0].int().numpy())
    counts = counts[counts > 0]
    assert len(counts) == 20
    assert ((counts - 2_000) ** 2 / 2_000).sum() < 43.8  # 0.1 % quantile of chi-squared with 19 degrees of freedom


def test_single_frames_are_the_newest_of_next_observations():
    players, replay = played(100, 20, [10, 3, 7])
    seen = {frame for frame, *_, first in players.written[0] if not first}
    assert set(replay.sample_frames(500)[:, 0, 0, 0].tolist()) == seen


def test_saving_adds_files_never_rewrites_one_and_deletes_what_is_overwritten(tmp_path):
    players, replay = played(50, 20, EPISODES)
    replay.save(tmp_path)
    (first,) = tmp_path.iterdir()
    before = first.stat().st_mtime_ns
    players.play(replay, 20)
    replay.save(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert first.stat().st_mtime_ns == before
    players.play(replay, 200)
    copy, saved = Replay(SPEC, 50, 0.9), replay.save(tmp_path)
    replay.prune(tmp_path)
    assert not first.exists()
    copy.load(tmp_path, saved)
    players.check(copy)
    assert len(copy) == len(replay)


@pytest.mark.parametrize("capacity", [50, 500])
def test_a_replay_can_grow_when_a_run_is_made_longer_and_never_shrinks(tmp_path, capacity):
    players, replay = played(200, 120, EPISODES)
    other = Replay(SPEC, capacity, 0.9)
    other.load(tmp_path, replay.save(tmp_path))
    assert len(other) == 120
    players.play(other, 50)
    players.check(other)
    assert len(other) == 170


def test_size_is_that_of_single_frames():
    replay = Replay(EnvSpec(3, 64, 6), 1_000, 0.99)
    assert replay.bytes == replay_bytes(replay.spec, 1_000) == sum(t.nbytes for t in replay._store.values())
    assert replay.bytes < 1.1 * 1_000 * 64 * 64 * 3


def test_a_replay_too_large_for_the_machine_is_refused():
    with pytest.raises(UserError, match=r"needs 12\d\d\d\.\d GB, but cpu has .* GB free; use a smaller"):
        Replay(EnvSpec(3, 64, 6), 10**9, 0.99)


# sequences


def runs_of(written, length):
    """Every run of steps that ends with one that is not an episode's first, earlier ones of the first repeated."""
    for steps in written:
        padded = [steps[0]] * (length - 1) + steps
        for end in range(len(steps)):
            if not steps[end][-1]:
                yield tuple(padded[end : end + length])


def sampled_runs(replay, length, count=3_000):
    batch = replay.sample_sequences(count, length)
    assert batch.frame.shape == (count, length, 3, 2, 2)
    parts = (batch.frame[:, :, 0, 0, 0], batch.action[..., 0], batch.reward, batch.terminated, batch.first)
    return {tuple(zip(*(part[i].tolist() for part in parts), strict=True)) for i in range(count)}


@pytest.mark.parametrize("lengths", [THREE[:1], THREE[:2]])
def test_sequences_are_every_run_of_an_environment_and_no_other(lengths):
    players, replay = played(400, 30, *lengths)
    assert sampled_runs(replay, 5) == set(runs_of(players.written, 5))


@pytest.mark.parametrize(("lengths", "steps"), [(THREE[:1], 60), (THREE[:2], 30)])
def test_sequences_never_reach_what_was_overwritten(tmp_path, lengths, steps):
    players, replay = played(40, steps, *lengths)
    runs, every = sampled_runs(replay, 5), set(runs_of(players.written, 5))
    assert runs <= every
    assert len(runs) == len(replay) - 5 * len(lengths)  # all but those that may begin before what is kept
    assert max(every, key=lambda run: run[-1][0]) in runs
    loaded = Replay(SPEC, 40, 0.9, num_envs=len(lengths))
    loaded.load(tmp_path, replay.save(tmp_path))
    assert sampled_runs(loaded, 5) == runs


def test_sequences_longer_than_what_is_kept_are_refused():
    _, replay = played(20, 60, [100])
    with pytest.raises(UserError, match="need a larger --replay-capacity"):
        replay.sample_sequences(2, 60)
