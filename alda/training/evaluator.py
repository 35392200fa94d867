"""Evaluation of a run: seeded episodes under every shift, as numbers, videos and pictures."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from alda.agents import Agent
from alda.agents.decoding import DecodingAgent
from alda.config import Config
from alda.envs.vector import Pool
from alda.files import own_folder
from alda.pictures import write_traversal
from alda.provenance import Conditions
from alda.training.rollout import Episode, EpisodeRequest, episode_seeds, play_all
from alda.training.video import side_by_side, write_video


class Evaluator:
    """Plays seeded episodes under every shift of a config, from equal starting states under all of them.

    conditions: of each shift, recorded beside its scores. fps: of videos.
    """

    def __init__(self, config: Config, agent: Agent, pool: Pool, conditions: dict[str, Conditions], fps: int) -> None:
        self.config, self.agent, self.pool, self.conditions, self.fps = config, agent, pool, conditions, fps
        self.shift = ""  # of the episode that is being played

    def evaluate(self, when: dict[str, int], *, film: bool, before_step: Callable[[], None]) -> dict[str, Any]:
        """Play all episodes; return what to record.

        when: position of the run. film: write videos. before_step: may raise to stop.
        """
        seeds = episode_seeds(self.config.seed, when["step"], self.config.eval_episodes)
        requests = [
            EpisodeRequest(shift, seed, keep=i == 0) for shift in self.conditions for i, seed in enumerate(seeds)
        ]
        totals = np.zeros(len(requests))
        row: dict[str, Any] = {}

        def announce(request: EpisodeRequest) -> None:
            self.shift = request.shift
            before_step()

        for number, episode in play_all(self.agent, self.pool, requests, announce):
            totals[number] = episode.total
            if requests[number].keep:
                row |= self._diagnose(requests[number].shift, episode, when["step"], film=film)
        self.shift = ""
        for (shift, conditions), returns in zip(
            self.conditions.items(), totals.reshape(len(self.conditions), -1), strict=True
        ):
            row[f"eval/{shift}/return"] = float(returns.mean())
            row[f"eval/{shift}/returns"] = returns.tolist()
            row[f"eval/{shift}/world"] = conditions
        return row

    def _diagnose(self, shift: str, episode: Episode, step: int, *, film: bool) -> dict[str, float]:
        """Return numbers about how the agent sees an episode; write its video and a traversal, where they are due."""
        run_dir, seen = self.config.run_dir, torch.from_numpy(np.stack(episode.observations)).to(self.config.device)
        assert run_dir is not None
        if film:
            file = own_folder(run_dir / "videos") / f"{step:09d}_{shift}"
            write_video(file, side_by_side(self.agent, episode.observations), self.fps)
        if shift == self.config.shifts[0] and isinstance(self.agent, DecodingAgent):
            traversal = self.agent.traverse(seen).cpu().numpy()
            write_traversal(own_folder(run_dir / "traversals") / f"{step:09d}.png", traversal)
        return {f"eval/{shift}/{name}": value.item() for name, value in self.agent.diagnose(seen).items()}
