"""Environments of other packages: any Gymnasium environment with continuous actions, as agents here see it."""

import os
import time
from collections import deque
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from alda.envs.shifts.base import Shift
from alda.envs.tasks import is_foreign
from alda.errors import UserError

_NO_SCENE = None  # of dm_control; shifts of pictures read none


class PixelEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """A Gymnasium environment in frames of one size, with actions in [-1, 1].

    Observations are stacks of frames, uint8 [F, 3, size, size], oldest first: the environment's own observation where
    that is an image (gray or RGB, of any size, channels first or last, its newest frame where it is a stack), else what
    it renders. task: its Gymnasium id, as in "CarRacing-v3" or "package:Id-v0". action_repeat, episode_length: in steps
    of the environment, which may end sooner. The other options are those of DMCEnv, and mean nothing here.
    Raises UserError where it is not installed, has no continuous actions or no picture.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012

    def __init__(
        self,
        task: str,
        shift: Shift,
        *,
        seed: int = 0,
        action_repeat: int | None = None,
        frames: int = 3,
        image_size: int = 64,
        episode_length: int = 1_000,
        render_mode: str | None = None,
        **_: Any,
    ) -> None:
        assert is_foreign(task)
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame draws without a screen
        try:
            env = gymnasium.make(task, render_mode="rgb_array")
        except (gymnasium.error.Error, ImportError, TypeError) as error:
            raise UserError(f"the environment {task} cannot be made: {error}") from error
        if not isinstance(env.action_space, gymnasium.spaces.Box) or len(env.action_space.shape) != 1:
            raise UserError(f"{task} has the actions {env.action_space}; agents here need a list of continuous ones")
        bounded = bool(np.isfinite(env.action_space.low).all() and np.isfinite(env.action_space.high).all())
        self._env = gymnasium.wrappers.RescaleAction(env, np.float32(-1), np.float32(1)) if bounded else env
        self.task, self.shift, self.render_mode = task, shift, render_mode
        self.action_repeat, self.episode_length, self.image_size = action_repeat or 1, episode_length, image_size
        fps = env.metadata.get("render_fps") or 30
        self.metadata = {**self.metadata, "render_fps": max(1, round(fps / self.action_repeat))}
        self.action_space = gymnasium.spaces.Box(-1, 1, env.action_space.shape, np.float32)
        self.observation_space = gymnasium.spaces.Box(0, 255, (frames, 3, image_size, image_size), np.uint8)
        self._frames: deque[np.ndarray] = deque(maxlen=frames)
        self._steps = 0
        self._first_seed: int | None = seed
        self.drawing_seconds = 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        seed, self._first_seed = self._first_seed if seed is None else seed, None
        super().reset(seed=seed)
        if seed is not None:
            self._shift_rng = np.random.default_rng([seed, 1])  # apart, so that every shift sees the same episode
        obs, info = self._env.reset(seed=seed, options=options)
        self._steps = 0
        self.shift.reset(_NO_SCENE, self._shift_rng)
        self._frames.extend([self._frame(obs)] * self._frames.maxlen)  # type: ignore[operator]
        return np.stack(self._frames), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        reward = 0.0
        self.shift.begin_step(_NO_SCENE)
        for _ in range(self.action_repeat):
            obs, part, terminated, truncated, info = self._env.step(np.asarray(action, np.float32))
            self._steps += 1
            reward += float(part)
            truncated = truncated or self._steps >= self.episode_length
            if terminated or truncated:
                break
        self._frames.append(self._frame(obs))
        return np.stack(self._frames), reward, bool(terminated), bool(truncated), info

    def render(self) -> UInt8[np.ndarray, "h w 3"]:
        """Return the newest frame, as the agent sees it."""
        return self._frames[-1].transpose(1, 2, 0)

    def close(self) -> None:
        self._env.close()

    @property
    def physics(self) -> Any:
        raise UserError(f"{self.task} is no task of dm_control, whose simulator this reads")

    scene = physics

    def proprioception(self) -> dict[str, float]:
        return dict(self.physics)

    def _frame(self, obs: Any) -> UInt8[np.ndarray, "3 size size"]:
        start = time.perf_counter()
        picture: Any = newest_picture(obs)
        if picture is None:
            picture = self._env.render()
        if not isinstance(picture, np.ndarray) or picture.ndim != 3:
            raise UserError(f"{self.task} neither observes nor renders pictures")
        size = (self.image_size, self.image_size)
        resized = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))
        frame = np.ascontiguousarray(self.shift.finish(resized).transpose(2, 0, 1))
        self.drawing_seconds += time.perf_counter() - start
        return frame


def newest_picture(obs: Any) -> UInt8[np.ndarray, "h w 3"] | None:
    """Return the picture in an observation, the newest of a stack; None where it is no picture."""
    if not isinstance(obs, np.ndarray) or obs.dtype != np.uint8 or obs.ndim not in (2, 3, 4) or min(obs.shape[-2:]) < 1:
        return None
    if obs.ndim == 4:
        return newest_picture(obs[-1])
    if obs.ndim == 2:
        obs = obs[..., None]
    elif obs.shape[0] < obs.shape[2]:  # channels first
        obs = obs.transpose(1, 2, 0)
    return obs[..., -1:].repeat(3, -1) if obs.shape[-1] % 3 else obs[..., -3:]
