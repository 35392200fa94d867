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
from toy_envs import SHAPE, Reporting, make

import alda
from alda.agents.base import Agent, AgentConfig
from alda.envs.vector import LocalPool, ProcessPool, open_pool
from alda.errors import UserError, WorkerError
from alda.training.rollout import EpisodeRequest, play_all


@pytest.fixture
def pool():
    """A pool of two processes and what it said."""
    said = []
    it = ProcessPool(make, 2, SHAPE, said.append)
    it.said = said
    yield it
    it.close()


def episode(pool, slot, shift, seed, actions, role=""):
    pool.reset(slot, shift, seed, role)
    results = [pool.result(slot)]
    for action in actions:
        pool.step(slot, np.array([action], np.float32), role)
        results.append(pool.result(slot))
    return [(r.obs.flat[0], r.reward, r.terminated, r.truncated) for r in results]


def test_a_process_plays_what_this_one_plays(pool):
    local = LocalPool(make, 2)
    for shift in ("plain", "ends"):
        for slot in (0, 1):
            assert episode(pool, slot, shift, 5, [0, 1, 2, 0]) == episode(local, slot, shift, 5, [0, 1, 2, 0])


def test_slots_move_on_side_by_side_and_roles_keep_their_episodes(pool):
    for each in (pool, LocalPool(make, 2)):
        first = episode(each, 0, "plain", 10, [0, 0], role="training")
        for slot in (0, 1):
            each.reset(slot, "plain", 100 * slot)
        seen = {}
        while len(seen) < 2:
            seen |= {slot: each.result(slot).obs.flat[0] for slot in each.ready()}
        assert seen == {0: 0, 1: 100}
        each.step(0, np.zeros(1, np.float32), "training")
        assert each.result(0).obs.flat[0] == first[-1][0] + 1


@pytest.mark.parametrize("shift", ["train", "video_hard", "distracting_cs"])
def test_processes_never_import_torch(shift):
    assert "torch" in sys.modules
    pool = ProcessPool(Reporting, 1, (3, 3, 64, 64))
    assert episode(pool, 0, shift, 0, [0])[1][1] == 0.0
    pool.close()


def test_a_slot_that_owes_a_result_is_asked_nothing(pool):
    for each in (pool, LocalPool(make, 2)):
        each.reset(0, "plain", 0, "training")
        with pytest.raises(AssertionError, match="slot 0 still owes a result"):
            each.reset(0, "plain", 0)
        each.result(0)
        each.step(0, np.zeros(1, np.float32), "training")
        with pytest.raises(AssertionError, match="slot 0 still owes a result"):
            each.step(0, np.zeros(1, np.float32), "training")


def test_a_role_has_one_environment_at_a_time(pool):
    for each in (pool, LocalPool(make, 2)):
        plain, ends = (episode(each, 0, shift, 7, [0, 0]) for shift in ("plain", "ends"))
        assert plain == [*ends[:2], (9, 4.5, False, False)]
        assert ends[2] == (9, 4.5, True, False)
        assert episode(each, 0, "plain", 7, [0])[0][0] == 7


def test_ctrl_c_is_not_for_the_processes(pool):
    assert {os.getpgid(slot.process.pid) for slot in pool._slots}.isdisjoint({os.getpgid(0)})


def test_opengl_starts_with_the_first_picture():
    env = alda.make_env("cartpole_balance")
    assert env.physics._contexts is None
    env.reset(seed=0)
    assert env.physics._contexts is not None
    env.close()


def test_a_killed_process_is_named_and_its_episode_goes_on(pool):
    whole = episode(LocalPool(make), 0, "plain", 3, [0, 1, 2])
    waiting = episode(pool, 1, "plain", 50, [0], role="training")
    pool.reset(1, "plain", 3)
    results = [pool.result(1)]
    for action in (0, 1, 2):
        if action == 1:
            os.kill(pool._slots[1].process.pid, signal.SIGKILL)
            pool._slots[1].process.wait()
        pool.step(1, np.array([action], np.float32))
        while 1 not in pool.ready():
            pass
        results.append(pool.result(1))
    assert [(r.obs.flat[0], r.reward, r.terminated, r.truncated) for r in results] == whole
    (line,) = pool.said
    assert line.startswith("environment process 1 (plain) died: killed by SIGKILL, perhaps for want of memory")
    pool.step(1, np.zeros(1, np.float32), "training")  # the other role's episode is where it was, too
    assert pool.result(1).obs.flat[0] == waiting[-1][0] + 1


def test_a_process_that_always_dies_ends_with_its_cause(pool):
    with pytest.raises(WorkerError, match=r"process 0 \(dies\) died: it ended with exit code 7; so did the 2 before"):
        episode(pool, 0, "dies", 0, [0, 0, 0])
    assert len(pool.said) == 2


def test_an_error_in_an_environment_comes_with_its_traceback(pool):
    with pytest.raises(
        WorkerError, match=r"(?s)process 0 \(raises\) failed with ValueError: the third step.*toy_envs.py"
    ):
        episode(pool, 0, "raises", 0, [0, 0, 0])
    with pytest.raises(UserError, match=r"^this cannot be played$"):
        episode(pool, 1, "refuses", 0, [0, 0, 0])


def gone(pids):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if not any(psutil.pid_exists(p) and psutil.Process(p).status() != psutil.STATUS_ZOMBIE for p in pids):
            return True
        time.sleep(0.05)
    return False


def test_closing_ends_the_processes():
    it = ProcessPool(make, 2, SHAPE)
    pids = [slot.process.pid for slot in it._slots]
    it.reset(0, "plain", 0)  # one is busy, one waits
    it.close()
    assert gone(pids)


def test_processes_end_when_the_one_that_started_them_is_killed():
    code = (
        "from alda.envs.vector import ProcessPool; from toy_envs import SHAPE, Reporting, make; import time\n"
        "it = ProcessPool(make, 2, SHAPE); it.reset(0, 'plain', 0); it.result(0)\n"
        "print(*[slot.process.pid for slot in it._slots], flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment) as parent:
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
        parent.kill()
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
    jobs = [EpisodeRequest(shift, seed, keep=True) for shift in ("train", "distracting_cs:0.2") for seed in (1, 2, 3)]
    played = []
    for processes in (0, 1, 3):
        stage = open_pool(maker, processes, (3, 3, 64, 64))
        random_state = torch.get_rng_state()
        found = dict(play_all(Gray(), stage, jobs))
        assert torch.equal(torch.get_rng_state(), random_state)
        stage.close()
        assert sorted(found) == list(range(6))
        assert [episode.length for episode in found.values()] == [6] * 6
        played.append([(found[i].total, np.stack(found[i].observations)) for i in range(6)])
    for other in played[1:]:
        for (total, seen), (same_total, same_seen) in zip(played[0], other, strict=True):
            assert total == same_total
            assert np.array_equal(seen, same_seen)
    assert len({total for total, _ in played[0]}) == 6
