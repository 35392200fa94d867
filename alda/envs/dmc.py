"""A dm_control suite task as a Gymnasium environment whose observations are stacked frames."""

import time
from collections import deque
from typing import Any, cast, get_args

import gymnasium
import numpy as np
from jaxtyping import UInt8

from alda.envs.rendering import Profile, default_profile, load_suite
from alda.envs.scene import Scene, Visuals
from alda.envs.shifts.base import Shift
from alda.envs.tasks import action_repeat_of, split_task, unknown
from alda.errors import UserError

EPISODE_LENGTH = 1_000  # control steps
_NO_LIMIT = 1e6  # seconds: dm_control never ends an episode by time, this class does
_CLOSED = "after it was closed"
_UNBOUNDED = 1e9  # dm_control gives unlimited actuators +-1e10


class DMCEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """One task under one visual shift.

    Observations are uint8 [F, 3, H, W] in RGB, oldest frame first; the first frame is repeated at reset. Actions are
    float32 [A] in [-1, 1], scaled to the task's own bounds. An agent step takes `action_repeat` control steps with the
    same action and sums their rewards. `truncated` comes after 1,000 control steps; `terminated` only where the task
    itself ends.

    Physics and frames depend on (task, shift, seed, actions, profile, visuals) and nothing else; equal seeds give equal
    physics under every shift. `scene` is what it is drawn from; `drawing_seconds` is the time that drawing has taken.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (Gymnasium's interface)

    def __init__(
        self,
        task: str,
        shift: Shift,
        *,
        seed: int = 0,
        action_repeat: int | None = None,
        frames: int = 3,
        image_size: int = 64,
        episode_length: int = EPISODE_LENGTH,
        profile: str | None = None,
        visuals: str = "classic",
        render_mode: str | None = None,
    ) -> None:
        domain, name = split_task(task)
        repeat = action_repeat_of(task) if action_repeat is None else action_repeat
        counts = {"action_repeat": repeat, "frames": frames, "image_size": image_size, "episode_length": episode_length}
        for option, value in counts.items():
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                raise UserError(f"{option} must be a whole number, at least 1, not {value!r}")
        for what, chosen, known in (("rendering profile", profile or "exact", Profile), ("visuals", visuals, Visuals)):
            if chosen not in get_args(known):
                raise UserError(unknown(what, chosen, get_args(known)))
        if seed < 0:
            raise UserError(f"the seed must not be negative, as {seed} is")
        self.task, self.shift, self.render_mode = task, shift, render_mode
        self.action_repeat, self.episode_length = repeat, episode_length
        self._env = load_suite().load(domain, name, task_kwargs={"random": seed % 2**32, "time_limit": _NO_LIMIT})
        agent_steps_per_second = 1 / (self._env.control_timestep() * self.action_repeat)
        self.metadata = {**self.metadata, "render_fps": max(1, round(agent_steps_per_second))}
        self.profile = cast(Profile, profile or default_profile())
        self.scene = Scene(
            self.physics, domain, image_size=image_size, profile=self.profile, visuals=cast(Visuals, visuals)
        )

        spec = self._env.action_spec()
        bounded = not np.any(np.abs(spec.minimum) > _UNBOUNDED)
        self._bounds: Any = (spec.minimum, spec.maximum) if bounded else (-1.0, 1.0)
        self.action_space = gymnasium.spaces.Box(-1, 1, spec.shape, np.float32)
        self.observation_space = gymnasium.spaces.Box(0, 255, (frames, 3, image_size, image_size), np.uint8)
        self._frames: deque[np.ndarray] = deque(maxlen=frames)
        self._control_steps = 0
        self._no_step = "before the first reset"  # why there can be no step; empty within an episode
        self.drawing_seconds = 0.0
        self._seed(seed)

    @property
    def physics(self) -> Any:
        """The live simulation of dm_control, for looking at or setting its state."""
        return self._env.physics

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        if self._no_step == _CLOSED:
            raise UserError(f"this environment cannot be reset {_CLOSED}; make another")
        if seed is not None:
            self._seed(seed)
        self._env.reset()
        self._control_steps, self._no_step = 0, ""
        self.shift.reset(self.scene, self._shift_rng)
        self._frames.extend([self.frame()] * self._frames.maxlen)  # type: ignore[operator]
        return np.stack(self._frames), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if self._no_step:
            raise UserError(f"this environment cannot take a step {self._no_step}; reset it first")
        action = np.asarray(action, np.float64)
        if action.shape != self.action_space.shape or not np.all(np.abs(action) <= 1 + 1e-6):
            raise ValueError(f"actions are {self.action_space.shape} numbers in [-1, 1], not {action}")
        low, high = self._bounds
        control = low + (action + 1) * (high - low) / 2
        reward, terminated = 0.0, False
        self.shift.begin_step(self.scene)
        for _ in range(min(self.action_repeat, self.episode_length - self._control_steps)):
            result = self._env.step(control)
            self.shift.step(self.scene)
            self._control_steps += 1
            reward += float(result.reward)
            terminated = result.last()
            if terminated:
                break
        self._frames.append(self.frame())
        truncated = not terminated and self._control_steps >= self.episode_length
        if terminated or truncated:
            self._no_step = "after the end of an episode"
        return np.stack(self._frames), reward, terminated, truncated, {}

    def frame(self) -> UInt8[np.ndarray, "3 h w"]:
        """Draw the present state as the agent sees it."""
        return np.ascontiguousarray(self.render().transpose(2, 0, 1))

    def proprioception(self) -> dict[str, float]:
        """Return the task's own state observation by name: "velocity 3", or "torso xz" for an orientation."""
        numbers: dict[str, float] = {}
        for key, value in self._env.task.get_observation(self.physics).items():
            flat = np.ravel(value).tolist()
            names = [f"{key} {i}" for i in range(len(flat))] if len(flat) > 1 else [key]
            if key == "orientations":  # of walker: two entries of every body's rotation matrix
                bodies = (self.physics.model.id2name(body, "body") for body in range(1, len(flat) // 2 + 1))
                names = [f"{body} {axes}" for body in bodies for axes in ("xx", "xz")]
            numbers |= dict(zip(names, flat, strict=True))
        return numbers

    def render(self) -> UInt8[np.ndarray, "h w 3"]:
        """Draw the present state."""
        start = time.perf_counter()
        self.shift.draw(self.scene)
        picture = self.shift.finish(self.scene.picture())
        self.drawing_seconds += time.perf_counter() - start
        return picture

    def close(self) -> None:
        self._no_step = _CLOSED
        self.physics.free()

    def _seed(self, seed: int) -> None:
        self._env.task.random.seed(seed % 2**32)
        self._shift_rng = np.random.default_rng([seed, 1])  # apart, so that every shift sees the same physics
