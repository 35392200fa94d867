import numpy as np
import pytest
import torch

from alda.errors import UserError
from alda.training.replay import Replay, replay_bytes
from alda.types import EnvSpec

SPEC = EnvSpec(frames=3, image_size=2, action_dim=1)


class Counting:
    """An environment whose every pixel, action and reward tell which step they are from."""

    def __init__(self, lengths, frames=3, seed=0):
        self.lengths, self.frames = np.random.default_rng(seed).permutation(lengths).tolist(), frames
        self.count, self.truth = 0, {}  # truth: index of next frame -> (obs, next_obs, reward, terminated)

    def frame(self):
        self.count += 1
        return torch.full((3, 2, 2), self.count % 251, dtype=torch.uint8)

    def play(self, replay):
        for number, length in enumerate(self.lengths):
            obs = [self.frame()] * self.frames
            replay.add_first(torch.stack(obs))
            for t in range(length):
                next_obs = [*obs[1:], self.frame()]
                terminated = number % 2 == 0 and t == length - 1
                replay.add(torch.tensor([float(self.count)]), self.count / 2, terminated, torch.stack(next_obs))
                self.truth[self.count] = (torch.stack(obs), torch.stack(next_obs), terminated)
                obs = next_obs


def check(batch, truth):
    for i, index in enumerate(batch.action[:, 0].int().tolist()):
        obs, next_obs, terminated = truth[index]
        assert torch.equal(batch.obs[i], obs)
        assert torch.equal(batch.next_obs[i], next_obs)
        assert batch.reward[i] == index / 2
        assert batch.discount[i] == pytest.approx(0.0 if terminated else 0.9)


def test_sampling_gives_exactly_what_was_played():
    env, replay = Counting([1, 2, 3, 7, 12, 5, 1]), Replay(SPEC, 100, 0.9)
    env.play(replay)
    assert len(replay) == 31
    batch = replay.sample(2_000)
    check(batch, env.truth)
    assert set(batch.action[:, 0].int().tolist()) == set(env.truth)  # every transition, and no other


def test_stack_at_the_start_of_an_episode_repeats_its_first_frame():
    env, replay = Counting([4]), Replay(SPEC, 10, 0.9)
    env.play(replay)
    batch = replay.sample(200)
    first = batch.obs[batch.action[:, 0] == 2][0]
    assert torch.equal(first, first[:1].expand(3, -1, -1, -1))


def test_the_oldest_transitions_give_way_to_new_ones():
    env, replay = Counting([9, 14, 3, 20, 1, 33, 8, 17] * 4), Replay(SPEC, 50, 0.9)
    env.play(replay)
    batch = replay.sample(5_000)
    check(batch, env.truth)
    kept = sorted(env.truth)[-len(replay) :]
    assert set(batch.action[:, 0].int().tolist()) == set(kept)
    assert 40 <= len(replay) <= 60


def test_transitions_are_sampled_uniformly():
    env, replay = Counting([10, 3, 7]), Replay(SPEC, 100, 0.9)
    env.play(replay)
    torch.manual_seed(0)
    counts = np.bincount(replay.sample(40_000).action[:, 0].int().numpy())
    counts = counts[counts > 0]
    assert len(counts) == 20
    chi_squared = ((counts - 2_000) ** 2 / 2_000).sum()
    assert chi_squared < 43.8  # 0.1 % quantile of chi-squared with 19 degrees of freedom


@pytest.mark.parametrize("capacity", [60, 400])
def test_environments_that_take_turns_are_kept_apart(tmp_path, capacity):
    """Three that write step by step, with episodes of their own lengths; some are lost when the ring is small."""
    lengths = [[7, 3, 12, 1, 9, 30], [1, 1, 2, 25, 4, 20], [16, 5, 5, 5, 22, 9]]
    replay, truth, count = Replay(SPEC, capacity, 0.9, num_envs=3), {}, 0
    obs, left, index = [None] * 3, [0] * 3, [-1] * 3

    def frame():
        return torch.full((3, 2, 2), count % 251, dtype=torch.uint8)

    for _ in range(60):
        for i in range(3):
            if left[i] == 0:
                index[i] = (index[i] + 1) % 6
                left[i], count = lengths[i][index[i]], count + 1
                obs[i] = [frame()] * 3
                replay.add_first(torch.stack(obs[i]), env=i)
        for i in range(3):
            left[i], count = left[i] - 1, count + 1
            next_obs = [*obs[i][1:], frame()]
            replay.add(torch.tensor([float(count)]), count / 2, left[i] == 0, torch.stack(next_obs), env=i)
            truth[count] = (torch.stack(obs[i]), torch.stack(next_obs), left[i] == 0)
            obs[i] = next_obs
            assert torch.equal(replay.newest_frame(i), next_obs[-1])
    batch = replay.sample(4_000)
    check(batch, truth)
    kept = sorted(truth)[-len(replay) :]
    assert set(batch.action[:, 0].int().tolist()) == set(kept)
    assert len(replay) == 180 if capacity == 400 else 40 <= len(replay) <= 85

    copy = Replay(SPEC, capacity, 0.9, num_envs=3)
    copy.load(tmp_path, replay.save(tmp_path))
    check(copy.sample(2_000), truth)
    for i in range(3):
        for twin in (replay, copy):  # episodes in progress go on
            twin.add(torch.tensor([0.0]), 0.0, False, torch.ones(3, 3, 2, 2, dtype=torch.uint8), env=i)
    for twin in (replay, copy):
        torch.manual_seed(0)
        twin.last = twin.sample(500)
    assert all(torch.equal(a, b) for a, b in zip(replay.last, copy.last, strict=True))


def test_sampling_just_after_an_episode_began_never_touches_it():
    env, replay = Counting([5, 5]), Replay(SPEC, 100, 0.9)
    env.play(replay)
    replay.add_first(torch.zeros(3, 3, 2, 2, dtype=torch.uint8))
    check(replay.sample(500), env.truth)


@pytest.mark.parametrize("lengths", [[5, 9, 2], [9, 14, 3, 20, 1, 33, 8, 17] * 4])
def test_a_saved_replay_samples_the_same(tmp_path, lengths):
    env, replay = Counting(lengths), Replay(SPEC, 50, 0.9)
    first, rest = lengths[: len(lengths) // 2], lengths[len(lengths) // 2 :]
    env.lengths = first
    env.play(replay)
    replay.save(tmp_path)
    env.lengths = rest
    env.play(replay)
    saved = replay.save(tmp_path)
    replay.prune(tmp_path)

    copy = Replay(SPEC, 50, 0.9)
    copy.load(tmp_path, saved)
    assert len(copy) == len(replay)
    for twin in (replay, copy):  # the episode in progress goes on
        twin.add(torch.tensor([0.0]), 0.0, False, torch.ones(3, 3, 2, 2, dtype=torch.uint8))
    batches = []
    for twin in (replay, copy):
        torch.manual_seed(0)
        batches.append(twin.sample(500))
    assert all(torch.equal(a, b) for a, b in zip(*batches, strict=True))


def test_a_replay_can_grow_when_a_run_is_made_longer(tmp_path):
    env, small, large = Counting([9, 14, 3, 20, 1, 33, 8, 17] * 4), Replay(SPEC, 50, 0.9), Replay(SPEC, 500, 0.9)
    env.play(small)
    large.load(tmp_path, small.save(tmp_path))
    env.play(large)
    check(large.sample(5_000), env.truth)
    assert len(large) == 420 + len(small)


def test_nothing_is_forgotten_before_the_replay_is_full():
    env, replay = Counting([52]), Replay(SPEC, 50, 0.9)  # 59 slots
    env.play(replay)
    assert len(replay) == 52
    env.play(replay)
    check(replay.sample(2_000), env.truth)


def test_saving_adds_files_and_never_rewrites_one(tmp_path):
    env, replay = Counting([5]), Replay(SPEC, 50, 0.9)
    env.play(replay)
    replay.save(tmp_path)
    (first,) = tmp_path.iterdir()
    before = first.stat().st_mtime_ns
    env.play(replay)
    replay.save(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert first.stat().st_mtime_ns == before


def test_a_replay_can_be_saved_after_it_wrapped_and_loaded(tmp_path):
    env, replay, copy = Counting([9, 14, 3, 20, 1, 33, 8, 17] * 4), Replay(SPEC, 50, 0.9), Replay(SPEC, 50, 0.9)
    env.play(replay)
    copy.load(tmp_path, replay.save(tmp_path))
    check(copy.sample(2_000), env.truth)
    assert len(copy) == len(replay)


def test_a_saved_replay_is_never_squeezed_into_a_smaller_one(tmp_path):
    env, large, small = Counting([30, 40, 50]), Replay(SPEC, 200, 0.9), Replay(SPEC, 50, 0.9)
    env.play(large)
    small.load(tmp_path, large.save(tmp_path))
    assert len(small) == 120
    check(small.sample(2_000), env.truth)


def test_size_is_that_of_single_frames():
    replay = Replay(EnvSpec(3, 64, 6), 1_000, 0.99)
    assert replay.bytes == replay_bytes(replay.spec, 1_000) == sum(t.nbytes for t in replay._store.values())
    assert replay.bytes < 1.1 * 1_000 * 64 * 64 * 3


def test_a_replay_too_large_for_the_machine_is_refused():
    with pytest.raises(UserError, match=r"needs 12\d\d\d\.\d GB, but cpu has .* GB free; use a smaller"):
        Replay(EnvSpec(3, 64, 6), 10**9, 0.99)


def play_in_turns(replay, lengths, steps):
    """Environments write step by step; what each wrote, in order: (frame, action, reward, terminated, first)."""
    written, left, count = [[] for _ in lengths], [0] * len(lengths), 0
    episodes = [iter(ends) for ends in lengths]
    for _ in range(steps):
        for i, ends in enumerate(episodes):
            if left[i] == 0:
                left[i], count = next(ends), count + 1
                replay.add_first(torch.full((3, 3, 2, 2), count, dtype=torch.uint8), env=i)
                written[i].append((count, 0.0, 0.0, False, True))
        for i in range(len(lengths)):
            left[i], count = left[i] - 1, count + 1
            terminated = left[i] == 0 and count % 2 == 0
            obs = torch.full((3, 3, 2, 2), count, dtype=torch.uint8)
            replay.add(torch.tensor([float(count)]), count / 2, terminated, obs, env=i)
            written[i].append((count, float(count), count / 2, terminated, False))
    return written


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


EPISODES = [[[7, 3, 12, 1, 9, 30]], [[7, 3, 12, 1, 30], [1, 1, 2, 25, 9]]]


@pytest.mark.parametrize("lengths", EPISODES)
def test_sequences_are_every_run_of_an_environment_and_no_other(lengths):
    replay = Replay(SPEC, 400, 0.9, num_envs=len(lengths))
    written = play_in_turns(replay, lengths, 30)
    assert sampled_runs(replay, 5) == set(runs_of(written, 5))


@pytest.mark.parametrize("lengths", EPISODES)
def test_sequences_never_reach_what_was_overwritten(tmp_path, lengths):
    replay = Replay(SPEC, 40, 0.9, num_envs=len(lengths))
    written = play_in_turns(replay, lengths, 30 if len(lengths) > 1 else 60)
    runs, every = sampled_runs(replay, 5), set(runs_of(written, 5))
    assert runs <= every
    assert len(runs) == len(replay) - 5 * len(lengths)  # all but those that may begin before what is kept
    assert max(every, key=lambda run: run[-1][0]) in runs
    loaded = Replay(SPEC, 40, 0.9, num_envs=len(lengths))
    loaded.load(tmp_path, replay.save(tmp_path))
    assert sampled_runs(loaded, 5) == runs


def test_sequences_longer_than_what_is_kept_are_refused():
    replay = Replay(SPEC, 20, 0.9)
    play_in_turns(replay, [[100]], 60)
    with pytest.raises(UserError, match="need a larger --replay-capacity"):
        replay.sample_sequences(2, 60)
