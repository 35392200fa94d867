"""An environment of another package: a dot that moves, states as observations, wide pictures, actions from 0 to 2."""

import gymnasium
import numpy as np


class Dot(gymnasium.Env):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012
    observation_space = gymnasium.spaces.Box(0, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Box(0, 2, (2,), np.float32)

    def __init__(self, render_mode=None, pixels=False):
        self.render_mode, self.pixels = render_mode, pixels
        if pixels:
            self.observation_space = gymnasium.spaces.Box(0, 255, (3, 48, 96), np.uint8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.np_random.uniform(0.4, 0.6, 2).astype(np.float32)
        return self._obs(), {}

    def step(self, action):
        self.action = action
        self.place = np.clip(self.place + 0.05 * (action - 1), 0, 1).astype(np.float32)
        return self._obs(), float(self.place.sum()), bool(self.place.max() == 0), False, {}

    def render(self):
        image = np.full((48, 96, 3), 60, np.uint8)
        row, column = (self.place * (40, 88)).astype(int)
        image[row : row + 8, column : column + 8] = (255, 120, 0)
        return image

    def _obs(self):
        return self.render().transpose(2, 0, 1) if self.pixels else self.place


gymnasium.register("ToyDot-v0", Dot, max_episode_steps=12)
gymnasium.register("ToyDotPixels-v0", Dot, max_episode_steps=12, kwargs={"pixels": True})
gymnasium.register("ToyDiscrete-v0", lambda **_: gymnasium.make("CartPole-v1").unwrapped)
