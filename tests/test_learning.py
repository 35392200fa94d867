"""Every method learns a small task from pixels: steer a dot to the centre of the image."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from alda.agents import AGENTS, make_agent
from alda.evaluate import play
from alda.fast import accelerate
from alda.replay import Replay
from alda.types import EnvSpec

LENGTH = 20


@dataclass
class SteerTheDot:
    """Two actions move a bright square; the reward is how near it is to the centre, at most 1 a step."""

    size: int
    frames: int = 3

    def reset(self, seed):
        self.position, self.t = np.random.default_rng(seed).uniform(-1, 1, 2), 0
        self.stack = [self.picture()] * self.frames
        return np.stack(self.stack), {}

    def step(self, action):
        self.position, self.t = np.clip(self.position + 0.2 * np.asarray(action), -1, 1), self.t + 1
        self.stack = [*self.stack[1:], self.picture()]
        reward = 1 - float(np.abs(self.position).mean())
        return np.stack(self.stack), reward, False, self.t == LENGTH, {}

    def picture(self):
        image = np.full((3, self.size, self.size), 40, np.uint8)
        dot = self.size // 4
        x, y = ((self.position + 1) / 2 * (self.size - dot)).astype(int)
        image[0, y : y + dot, x : x + dot] = 255
        return image


SIZES = {"alda": 32, "sac": 48}


def returns(agent, env):
    return np.mean([play(agent, env, 10_000 + seed).total for seed in range(20)])


@pytest.mark.slow
@pytest.mark.parametrize("method", AGENTS)
def test_learns_to_steer_a_dot(method):
    torch.manual_seed(0)
    env = SteerTheDot(SIZES[method])
    spec = EnvSpec(frames=3, image_size=env.size, action_dim=2)
    config = AGENTS[method][0](batch_size=32, hidden_dim=128, embed_dim=64, random_steps=200)
    agent = accelerate(make_agent(config, spec), "fast")
    replay = Replay(spec, 2_000, 0.9)
    before = returns(agent, env)
    done, episode = True, 0
    for step in range(700):
        if done:
            obs, _ = env.reset(episode)
            replay.add_first(torch.from_numpy(obs))
            episode += 1
        if step < config.random_steps:
            action = torch.rand(2) * 2 - 1
        else:
            action = agent.act(torch.from_numpy(obs)[None], None, explore=True)[0][0]
        for _ in range(agent.updates_due(step)):
            agent.update(replay, step)
        obs, reward, terminated, done, _ = env.step(action.numpy())
        replay.add(action, reward, terminated, torch.from_numpy(obs))
    after = returns(agent, env)
    print(f"{method}: {before:.1f} -> {after:.1f} of {LENGTH}")
    assert after > 15  # a policy that stays where it is gets 10, the best 18.5 or so
