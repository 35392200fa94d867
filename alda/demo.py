"""A first look: ALDA learns cartpole_balance for a few minutes on a laptop's processor."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from alda.agents.alda import ALDAConfig
from alda.config import Config, EnvConfig
from alda.errors import UserError
from alda.logger import read_metrics
from alda.report import evaluate_run, picture_run
from alda.train import train

# Smaller than the paper's settings in all that costs time; the method is the same.
_AGENT = ALDAConfig(random_steps=500, batch_size=32, hidden_dim=256)


def demo(out: Path, *, steps: int, seed: int) -> None:
    """Trains, evaluates, and leaves a picture. Interrupted, it goes on where it was when called again."""
    if steps <= _AGENT.random_steps:
        raise UserError(f"--steps must be more than {_AGENT.random_steps}, the steps taken at random")
    config = Config(
        agent=_AGENT,
        env=EnvConfig(task="cartpole_balance"),
        seed=seed,
        steps=steps,
        run_dir=out / "run",
        eval_every=1_000_000,  # before and after, no more
        eval_episodes=5,
        log_every=100,
        checkpoint_minutes=2,
    )
    run = train(config)
    after = evaluate_run(run, shifts=("train", "color_hard"), episodes=10, seed=seed)["worlds"]
    before = next(row for row in read_metrics(run) if row["step"] == 0)

    table = Table(title="return of an episode (best possible: 1000)")
    for column in ("world", "untrained", f"after {steps:,} steps"):
        table.add_column(column, justify="left" if column == "world" else "right")
    for shift, world in after.items():
        table.add_row(shift, f"{before[f'eval/{shift}/return']:.0f}", f"{world['mean']:.0f}")
    console = Console()
    console.print(table)
    picture_run(run, every=6, out=out / "reconstructions.png", seed=seed)
    console.print(
        "In a few minutes the agent learns to see, which the picture shows; to balance takes longer: "
        "published runs return 797 (train) and 742 (color_hard) after 50,000 steps.",
        highlight=False,
    )
    console.print(f"curves: alda plot {run}", highlight=False)
