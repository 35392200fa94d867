"""What the analyses of a single run share: its policy, states to look at, and where results go."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor

from alda.agents.base import Agent
from alda.agents.decoding import DecodingAgent, LatentAgent
from alda.agents.sac import SAC
from alda.analysis.libraries import optional
from alda.envs.tasks import action_repeat_of
from alda.errors import UserError
from alda.files import write_json
from alda.latents.base import LatentModel
from alda.policy import Policy
from alda.progress import wide_console

Begin = Callable[[str, int | None], Callable[..., None]]  # see progress
_CHUNK = 64  # frames that pass a network together


def in_chunks(run: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """The same as run(rows), with little memory."""
    return torch.cat([run(part) for part in rows.split(_CHUNK)])


def stacked(observations: list[UInt8[np.ndarray, "f c h w"]], policy: Policy) -> UInt8[Tensor, "n f c h w"]:
    """Observations as the agent takes them."""
    return torch.from_numpy(np.stack(observations)).to(next(policy.agent.parameters()).device)


def require_latents(policy: Policy) -> LatentAgent:
    """Return the agent. Raises UserError for a method that finds no latents in a frame."""
    if not isinstance(policy.agent, LatentAgent):
        raise UserError(f"{policy.config.method} has no latents of a single frame to look at")
    return policy.agent


def require_decoder(policy: Policy) -> DecodingAgent:
    """Return the agent. Raises UserError for a method that cannot decode latents of a frame."""
    agent = require_latents(policy)
    if not isinstance(agent, DecodingAgent):
        raise UserError(f"{policy.config.method} has no decoder, so there is nothing to see of its latents")
    return agent


def require_critic(policy: Policy) -> SAC:
    """The agent. Raises UserError for one without the parts of SAC whose Q and policy are looked at."""
    if not isinstance(policy.agent, SAC):
        raise UserError(f"{policy.config.method} has no critic like SAC's, which this looks at")
    if not policy.complete:
        raise UserError("this export has no Q-functions, which this looks at; name the run that it is from")
    return policy.agent


def memory_of(agent: Agent) -> LatentModel | None:
    """The latent model, of an agent that has one."""
    memory = getattr(getattr(agent, "representation", None), "memory", None)
    return memory if isinstance(memory, LatentModel) else None


def episode_steps(policy: Policy) -> int:
    """Agent steps of an episode that does not end early."""
    env = policy.config.env
    return -(-env.episode_length // (env.action_repeat or action_repeat_of(env.task)))


def result_files(run: Path, out: Path | None, name: str) -> tuple[Path, Path]:
    """Where the picture and the numbers of an analysis go: out, or RUN/analysis/NAME, with .png and .json."""
    optional("matplotlib.figure", "plot")  # better to know now than after playing
    picture = out or run / "analysis" / f"{name.replace(':', '_')}.png"
    if picture.suffix != ".png":
        raise UserError(f"pictures are written as .png, not as {picture.name}")
    picture.parent.mkdir(parents=True, exist_ok=True)
    return picture, picture.with_suffix(".json")


def named(analysis: str, *conditions: str) -> str:
    """The name of an analysis, with what was not as usual: results of other conditions stay beside it."""
    return "_".join([analysis, *(words for words in conditions if words not in ("train", "colors"))])


def write_result(file: Path, policy: Policy, numbers: dict[str, Any]) -> None:
    """The numbers, with what they are of."""
    config = policy.config
    subject = {"method": config.method, "task": config.env.task, "seed": config.seed, "step": policy.step}
    write_json(file, subject | numbers)


@contextmanager
def progress() -> Iterator["Begin"]:
    """A bar for each stage of an analysis: begin(words, steps) -> what to call after each step, with new words or none.

    steps: None where they cannot be counted.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=wide_console()) as bars:

        def begin(words: str, steps: int | None) -> Callable[[], None]:
            if known and bars.tasks[known[-1]].total is None:
                bars.update(known[-1], total=1, completed=1)
            known.append(bar := bars.add_task(words, total=steps))

            def step(now: str = words) -> None:
                bars.update(bar, advance=1, description=now)

            return step

        known: list[TaskID] = []
        yield begin


def rounded(array: np.ndarray | np.floating | Tensor | float) -> Any:
    """Lists of numbers with four digits, for JSON; what is no number is None."""
    if isinstance(array, Tensor):
        array = array.detach().cpu().double().numpy()
    if isinstance(array, np.ndarray) and array.ndim:
        return [rounded(row) for row in array]
    value = float(array)
    return float(f"{value:.4g}") if np.isfinite(value) else None
