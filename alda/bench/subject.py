"""What is measured: a method at one speed, and the small training run that stands for a long one."""

from dataclasses import dataclass, replace
from pathlib import Path

from alda.agents import AgentConfig
from alda.config import Config, EnvConfig
from alda.envs.tasks import action_repeat_of
from alda.training.acceleration import Speed

PAPER_LAP = 10_000  # agent steps between evaluations of 2 worlds x 10 episodes x 250 steps, so half as many
_MOST_EPISODES = 20  # of an evaluation, as many as there


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    rounds: int
    """Blocks of updates, and as many of environment steps."""
    seconds: float
    """That a block of updates takes at least; one of environment steps takes a third."""
    lap: int
    """Agent steps between two evaluations of the training run."""
    laps: int
    """Laps that are measured. One more comes before them: it compiles, and acts at random at first."""

    @property
    def steps(self) -> int:
        """Agent steps of the whole training run."""
        return self.lap * (1 + self.laps)

    @property
    def evaluation(self) -> tuple[int, int]:
        """Episodes, and agent steps of each; together half a lap, in about as many episodes as steps."""
        steps = self.lap // 2
        episodes = max(n for n in range(1, _MOST_EPISODES + 1) if steps % n == 0 and n * n <= steps)
        return episodes, steps // episodes


@dataclass(frozen=True)
class Subject:
    method: str
    """Its name in the tables."""
    agent: AgentConfig
    speed: Speed
    env: EnvConfig
    device: str
    plan: Plan
    threads: int | None = None

    def __str__(self) -> str:
        return f"{self.method} {self.speed}"

    def config(self) -> Config:
        """Of a run with episodes of full length."""
        config = Config(agent=self.agent, env=self.env, device=self.device, speed=self.speed, threads=self.threads)
        return config.resolved()

    def training(self, run_dir: Path) -> Config:
        """Of a short run in the paper's proportions. Evaluation stays in one world, as making others takes as long
        as a few hundred steps; plain plays it in one process, fast in as many as a run has by default."""
        episodes, length = self.plan.evaluation
        repeat = self.env.action_repeat or action_repeat_of(self.env.task)
        config = Config(
            agent=self.agent,
            env=replace(self.env, episode_length=length * repeat),
            device=self.device,
            speed=self.speed,
            threads=self.threads,
            run_dir=run_dir,
            steps=self.plan.steps,
            shifts=("train",),
            eval_every=self.plan.lap,
            eval_episodes=episodes,
            eval_workers=0 if self.speed == "plain" else None,
            log_every=self.plan.lap,
            video_every=0,
        )
        return config.resolved()
