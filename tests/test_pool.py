import os
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import psutil
import pytest
import torch
from torch import nn
from toy_envs import Counting, reporting

import alda
from alda.agents.base import Agent, AgentConfig
from alda.envs.vector import Pool
from alda.errors import UserError, WorkerError
from alda.training.rollout import EpisodeRequest, play_all


@pytest.fixture(scope="module")
def pools():
    """Two processes, and this process."""
    both = Pool(Counting, 2), Pool(Counting)
    yield both
    for pool in both:
        pool.close()


def episode(pool, slot, shift, seed, actions, role=""):
    pool.reset(slot, shift, seed, role)
    results = [pool.result(slot)]
    for action in actions:
        pool.step(slot, np.array([action], np.float32), role)
        results.append(pool.result(slot))
    return [(r.obs.flat[0], r.reward, r.terminated, r.truncated, r.drawing) for r in results]


def test_every_pool_plays_the_episode_of_its_seed_and_actions(pools):
    expected = [5, 6, 8, 11, 12, 13]
    for pool, slot in ((pools[0], 0), (pools[0], 1), (pools[1], 0)):
        played = episode(pool, slot, "plain", 5, [0, 1, 2, 0, 0])
        assert [step[0] for step in played] == expected
        assert [step[1] for step in played] == [0.0, *(n / 2 for n in expected[1:])]
        assert [step[2:4] for step in played] == [(False, False)] * 5 + [(False, True)]
        assert [step[4] for step in played] == [0.0] + [100.0] * 5


def test_a_role_keeps_its_episode_and_has_one_environment_at_a_time(pools):
    for pool in pools:
        waiting = episode(pool, 0, "plain", 10, [0, 0], role="training")
        assert episode(pool, 0, "ends", 7, [0, 0])[2][2]
        assert not episode(pool, 0, "plain", 7, [0, 0])[2][2]
        pool.step(0, np.zeros(1, np.float32), "training")
        assert pool.result(0).obs.flat[0] == waiting[-1][0] + 1
    assert Counting.alive == 2  # of this process: one for each role


def test_slots_move_on_side_by_side(pools):
    pool, _ = pools
    assert pool.beside
    for slot in (0, 1):
        pool.reset(slot, "plain", 100 * slot)
    with pytest.raises(AssertionError, match="slot 0 still owes a result"):
        pool.step(0, np.zeros(1, np.float32))
    seen = {}
    while len(seen) < 2:
        seen |= {slot: pool.result(slot).obs.flat[0] for slot in pool.ready()}
    assert seen == {0: 0, 1: 100}
    pool.reset(1, "plain", 3)
    assert pool.ready() == [1]  # and not the one that was asked nothing


def test_processes_never_import_torch():
    assert "torch" in sys.modules
    pool = Pool(reporting, 1)
    for shift in ("color_hard", "video_hard", "distracting_cs"):
        assert not episode(pool, 0, shift, 0, [0])[1][2]
    pool.close()


def test_a_process_that_dies_or_fails_is_named_with_its_cause():
    for shift, error, message in (
        ("dies", WorkerError, r"^environment process 1 died: it ended with exit code 7$"),
        ("raises", WorkerError, r"(?s)process 1 failed with ValueError: the third step.*toy_envs.py"),
        ("refuses", UserError, r"^this cannot be played$"),
        ("killed", WorkerError, r"process 1 died: killed by SIGKILL, perhaps for want of memory"),
    ):
        pool = Pool(Counting, 2)
        if shift == "killed":
            os.kill(pool._slots[1].process.pid, signal.SIGKILL)
        with pytest.raises(error, match=message):
            episode(pool, 1, shift, 0, [0, 0, 0])
        pool.close()


def gone(pids):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if not any(psutil.pid_exists(p) and psutil.Process(p).status() != psutil.STATUS_ZOMBIE for p in pids):
            return True
        time.sleep(0.05)
    return False


def test_closing_ends_the_processes():
    pool = Pool(Counting, 2)
    pids = [slot.process.pid for slot in pool._slots]
    pool.reset(0, "plain", 0)  # one is busy, one waits
    pool.close()
    assert gone(pids)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_processes_end_with_the_one_that_started_them(number):
    """Ctrl-C reaches only the one that started them, and they are quiet about it."""
    code = (
        "from alda.envs.vector import Pool; from toy_envs import Counting; import signal, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "pool = Pool(Counting, 2); pool.reset(0, 'plain', 0); pool.result(0)\n"
        "print(*[slot.process.pid for slot in pool._slots], flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command, pipes = [sys.executable, "-c", code], {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, env=environment, process_group=0) as parent:
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
        os.killpg(parent.pid, number)
        assert parent.stderr.read().count(b"Traceback") == (number == signal.SIGINT)
    assert gone(pids)


class Gray(Agent):
    """Acts on the mean of what it sees, on how long it has played, and on a random number."""

    def __init__(self):
        super().__init__(AgentConfig())
        self.weight = nn.Parameter(torch.tensor([0.01]))

    def initial_state(self, num_envs):
        return torch.zeros(num_envs)

    def act(self, obs, state, *, explore):
        value = torch.cos(obs.float().mean((1, 2, 3, 4)) * self.weight + state + 0.1 * torch.rand(1))
        return value[:, None].detach(), state + 1

    def update(self, replay, step):
        raise AssertionError("evaluation never learns")


def test_many_at_once_give_the_same_episodes_as_one_by_one():
    maker = partial(alda.make_env, "cartpole_balance", episode_length=24, profile="fast")
    jobs = [EpisodeRequest(shift, seed, keep=True) for shift in ("train", "distracting_color:0.2") for seed in (1, 2)]
    played = []
    for processes in (0, 2):
        pool = Pool(maker, processes)
        random_state = torch.get_rng_state()
        found = dict(play_all(Gray(), pool, jobs))
        assert torch.equal(torch.get_rng_state(), random_state)
        pool.close()
        assert sorted(found) == list(range(4))
        assert [episode.length for episode in found.values()] == [6] * 4
        played.append([(found[i].total, np.stack(found[i].observations)) for i in range(4)])
    for (total, seen), (same_total, same_seen) in zip(*played, strict=True):
        assert total == same_total
        assert np.array_equal(seen, same_seen)
    assert len({total for total, _ in played[0]}) == 4
