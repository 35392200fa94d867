"""Costs of the environments, each against the straightforward way, in one run: python benchmarks/environments.py

The straightforward ways are those of the benchmarks' own code: recompile the model for other colours, write and upload
an 800 x 800 sky at every second control step, decode a video in full size at every reset, draw with the simulator's own
quality, play evaluation episodes one after the other. Times are medians; a noisy machine moves them more than ratios.
"""

import json
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from alda.agents import make_agent
from alda.agents.alda import ALDAConfig
from alda.config import spec_of
from alda.envs import make_env
from alda.envs.backgrounds.procedural import ProceduralClip
from alda.envs.rendering import renderer_name
from alda.envs.shifts.color import draw_table
from alda.envs.shifts.video import green_screen
from alda.envs.vector import Pool, default_workers
from alda.provenance import describe_machine
from alda.training.rollout import EpisodeRequest, episode_seeds, play_all


@dataclass(frozen=True)
class Row:
    """One comparison, in milliseconds unless the name says otherwise."""

    name: str
    straightforward: float
    ours: float
    target: str

    @property
    def ratio(self) -> float:
        return self.straightforward / self.ours


def median_ms(call: Callable[[], Any], repeats: int) -> float:
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times))


def color_reset(task: str) -> Row:
    """Reset in other colours and draw: the model compiled again from edited XML, or edited in place."""
    import importlib

    domain = task.rsplit("_", 1)[0]
    suite = importlib.import_module(f"dm_control.suite.{domain}")
    table, plain, shifted = draw_table("color_hard"), make_env(task), make_env(task, shift="color_hard")
    settings = iter(table)

    def recompile() -> None:
        xml, assets = suite.get_model_and_assets()
        edited = {**assets, **_edited(assets, next(settings))}
        plain.physics.reload_from_xml_string(xml, assets=edited)
        plain._env.reset()
        plain.physics.render(64, 64, camera_id=0)

    row = Row(f"{task}: colour reset", median_ms(recompile, 7), median_ms(shifted.reset, 15), "4 times faster")
    plain.close()
    shifted.close()
    return row


def _edited(assets: dict[str, Any], setting: dict[str, list[float]]) -> dict[str, bytes]:
    files = {}
    for name in ("./common/materials.xml", "./common/skybox.xml"):
        tree = ET.fromstring(assets[name])
        for texture in tree.iter("texture"):
            for key, attribute in (("grid_rgb1", "rgb1"), ("grid_rgb2", "rgb2"), ("skybox_rgb", "rgb1")):
                if texture.get("name") == key.split("_")[0]:
                    texture.set(attribute, " ".join(map(str, setting[key])))
        for material in tree.iter("material"):
            if material.get("name") == "self":
                material.set("rgba", " ".join(map(str, [*setting["self_rgb"], 1])))
        files[name] = ET.tostring(tree)
    return files


def agent_step(task: str, shift: str, profile: str, *, reference: bool = False, steps: int = 60) -> float:
    env = make_env(task, shift=shift, profile=profile, reference=reference)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    taken = median_ms(lambda: env.step(rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)), steps)
    env.close()
    return taken


def distracting_step(task: str, profile: str) -> list[Row]:
    """Compare an agent step under all distractions with a plain one, and with the reference's way of uploading."""
    plain, ours = (agent_step(task, shift, profile) for shift in ("train", "distracting_cs:0.1"))
    reference = agent_step(task, "distracting_cs:0.1", profile, reference=True)
    return [
        Row(f"{task}, {profile}: plain step / distracting step", plain, ours, "at least 0.67 (1.5 times the cost)"),
        Row(f"{task}, {profile}: distracting step", reference, ours, "faster"),
    ]


def compositing(task: str) -> Row:
    """Put a video behind a drawn picture: by the reference's formula in float, and by ours."""
    env = make_env(task, shift="video_hard")
    env.reset(seed=0)
    drawn, behind = env.scene.picture(), ProceduralClip("test", 10, 256)[0]
    row = Row(
        f"{task}: video compositing of a frame",
        median_ms(lambda: _composite_plainly(drawn, behind), 50),
        median_ms(lambda: env.shift.finish(drawn), 200),
        "under 0.5 ms",
    )
    assert green_screen(drawn).mean() > 0.5
    env.close()
    return row


def _composite_plainly(drawn: np.ndarray, behind: np.ndarray) -> np.ndarray:
    """Compute hue, saturation and value of every pixel in turn; scale the background at every frame."""
    import colorsys

    from PIL import Image

    side = len(drawn)
    scaled = np.asarray(Image.fromarray(behind).resize((side, side), Image.Resampling.BILINEAR))
    composed = drawn.copy()
    for y in range(side):
        for x in range(side):
            h, s, v = colorsys.rgb_to_hsv(*(drawn[y, x] / 255))
            if 100 <= 360 * h <= 185 and 255 * s >= 80 and 255 * v >= 70:
                composed[y, x] = scaled[y, x]
    return composed


def video_reset() -> Row:
    """Get at the video of an episode: decoded in full size at every reset, or prepared once and mapped."""
    import av

    from alda.envs.backgrounds.clips import video_clips
    from alda.envs.backgrounds.data import Data

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "video_easy").mkdir()
        frames = [ProceduralClip("test", 0, 256)[i] for i in range(120)]
        for number in range(10):
            with av.open(str(root / "video_easy" / f"video{number}.mp4"), "w") as container:
                stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
                stream.width, stream.height, stream.pix_fmt = 480, 480, "yuv420p"
                for frame in frames if number == 1 else frames[:5]:
                    larger = av.VideoFrame.from_ndarray(frame).reformat(480, 480)
                    container.mux(stream.encode(larger))
                container.mux(stream.encode())

        def decode() -> np.ndarray:
            with av.open(str(root / "video_easy" / "video1.mp4")) as container:
                return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])

        clips = video_clips(Data(videos=root, cache=root / "cache"), "video_easy", 64)
        return Row(
            "video of 120 frames, 480x480: at a reset", median_ms(decode, 5), median_ms(lambda: clips[1], 50), "once"
        )


def rendering(task: str) -> tuple[Row, float, float]:
    """Draw frames in exact and near quality; return how they differ: mean of 255, share of pixels by more than 8."""
    times, frames = {}, {}
    for profile in ("exact", "near"):
        env = make_env(task, profile=profile)
        env.reset(seed=0)
        times[profile] = median_ms(env.render, 60)
        rng = np.random.default_rng(0)
        seen = []
        for _ in range(30):
            seen.append(env.render().astype(int))
            env.step(rng.uniform(-1, 1, env.action_space.shape).astype(np.float32))
        frames[profile] = np.stack(seen)
        env.close()
    apart = np.abs(frames["exact"] - frames["near"])
    row = Row(
        f"{task}: exact frame / near frame", times["exact"], times["near"], "4 times faster on software rendering"
    )
    return row, float(apart.mean()), float((apart.max(-1) > 8).mean())


def evaluation(task: str, episodes: int) -> Row:
    """Play episodes of an untrained ALDA under three shifts, in this process and in parallel ones; seconds."""
    env = make_env(task)
    agent = make_agent(ALDAConfig(), spec_of(env))
    env.close()
    shifts = ("train", "color_hard", "distracting_cs")
    jobs = [EpisodeRequest(shift, seed) for shift in shifts for seed in episode_seeds(0, 0, episodes)]
    seconds, totals = [], []
    for processes in (0, default_workers()):
        start = time.perf_counter()
        pool = Pool(partial(make_env, task), processes)
        totals.append({number: episode.total for number, episode in play_all(agent, pool, jobs)})
        pool.close()
        seconds.append(time.perf_counter() - start)
    assert totals[0] == totals[1], "parallel episodes must be the same"
    name = f"{task}: evaluation, 3 shifts x {episodes} episodes, {default_workers()} processes (seconds)"
    return Row(name, *seconds, "faster")


def main(task: str = "walker_walk", episodes: int = 10, out: Path | None = None) -> None:
    """Measure and print a table.

    Args:
        task: dm_control task.
        episodes: of the evaluation, under each of three shifts (0: skip it, which takes minutes).
        out: JSON file to write as well.
    """
    console = Console()
    console.print(f"{task}, {renderer_name()}", highlight=False)
    near, mean, share = rendering(task)
    rows = [color_reset(task), *distracting_step(task, "near"), *distracting_step(task, "exact")]
    rows += [compositing(task), video_reset(), near]
    if episodes:
        rows.append(evaluation(task, episodes))
    table = Table("", "before", "ours", "ratio", "target", title="milliseconds, straightforward way and ours", box=None)
    for row in rows:
        table.add_row(row.name, f"{row.straightforward:.3g}", f"{row.ours:.3g}", f"{row.ratio:.2f}", row.target)
    console.print(table)
    console.print(f"near differs from exact by {mean:.2f} of 255 on average, {share:.1%} of pixels by more than 8")
    if out is not None:
        record = {"rows": [{**vars(row), "ratio": row.ratio} for row in rows], "near": {"mean": mean, "share": share}}
        out.write_text(json.dumps({**record, "machine": describe_machine("cpu")}, indent=2))


if __name__ == "__main__":
    tyro.cli(main)
