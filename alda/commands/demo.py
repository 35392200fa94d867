"""`alda demo`: ALDA learns from pixels to stand up, in minutes on two cores, and is evaluated under another look."""

from dataclasses import replace
from pathlib import Path

from rich.table import Table

from alda.commands.picture import picture
from alda.commands.plot import plot
from alda.config import EnvConfig
from alda.errors import UserError
from alda.presets import presets
from alda.progress import lasting_console
from alda.training.logger import read_metrics
from alda.training.trainer import train

TASK, SHIFTED = "walker_stand", "color_hard"


def demo(*, out: Path = Path("demo"), steps: int = 16_000, seed: int = 0) -> None:
    """Train ALDA for some six minutes on two cores; end with a learning curve, a table, pictures and a video.

    The same command resumes an interrupted demo.

    Args:
        out: Folder for the run and its pictures.
        steps: Agent steps to train for.
        seed: Seed of everything random.
    """
    preset = presets()["alda_laptop"].config
    first = preset.agent.random_steps
    if steps <= first:
        raise UserError(f"--steps must be more than {first}, the steps taken at random")
    config = replace(
        preset,
        env=EnvConfig(task=TASK),
        seed=seed,
        steps=steps,
        run_dir=out / "run",
        shifts=("train", SHIFTED),
        eval_every=-(-steps // 4),
        eval_episodes=4,
        video_every=2**31,  # none before the last evaluation
        checkpoint_minutes=2.0,
    )
    run = train(config)
    evaluations = [row for row in read_metrics(run) if "eval/train/return" in row]
    before, after = evaluations[0], evaluations[-1]

    console = lasting_console()
    table = Table(title=f"{TASK}: mean return of {config.eval_episodes} episodes (best possible: 1000)")
    for column in ("environment", "untrained", f"after {steps:,} steps"):
        table.add_column(column, justify="left" if column == "environment" else "right")
    for shift, words in (("train", "as in training"), (SHIFTED, f"recoloured ({SHIFTED}), never seen in training")):
        table.add_row(words, *(f"{row[f'eval/{shift}/return']:.0f}" for row in (before, after)))
    console.print(table)
    plot((run,), out=out / "curve.png")
    picture(run, every=6, out=out / "reconstructions.png", seed=seed)
    videos = sorted((run / "videos").glob(f"*{SHIFTED}*"))
    lines = (
        *(f"video of a recoloured episode, with what the agent reconstructs: {video}" for video in videos[-1:]),
        "What to try next:",
        f"  alda evaluate {run} --shifts train color_hard video_easy distracting_cs:0.1",
        f"  alda inspect {run}                  # move the latents, see states under every shift, in the browser",
        "  alda train alda_laptop --env.task walker_walk   # or sac_laptop, svea_laptop, ...: alda train --help",
    )
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
