"""Each latent led through its range, and where in the picture that shows (paper, figures 6, 8 to 11 and 14)."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from alda.agents.decoding import DecodingAgent, to_pixels, traversal_codes
from alda.analysis.latents.look import (
    episode_steps,
    named,
    progress,
    require_decoder,
    result_files,
    rounded,
    stacked,
    write_result,
)
from alda.analysis.paired_rollouts import twins
from alda.errors import UserError
from alda.pictures import sheet
from alda.policy import load

_NEAR = 3  # pixels around the agent that still count as it: where it moves to when a latent changes
_MOST, _LEAST = 2.0, 0.5  # times as much effect on the agent as its area would get, beyond which it is one-sided
_FAINT = 0.05  # of the strongest latent's root mean square effect: less is called none


def analyze_traversal(
    run: Path,
    *,
    states: int = 16,
    values: int = 20,
    shown: int = 1,
    shift: str = "train",
    seed: int = 0,
    out: Path | None = None,
) -> dict[str, Any]:
    """Writes a picture with a row for each latent, and numbers for how strong and how local its effect is.

    states: of one episode, evenly spread; the numbers are means over them. values: of each latent, from the lowest to
    the highest of its range. shown: states that are drawn, each into a file of its own. shift: the world they are seen
    in. Returns the numbers. Raises UserError for a method without latents that it can decode.
    """
    if not 1 <= shown <= states or values < 2 or seed < 0:
        raise UserError("--shown must be from 1 to --states, --values at least 2 and --seed not negative")
    policy = load(run)
    agent = require_decoder(policy)
    picture, table = result_files(run, out, named("traversal", shift))
    with progress() as begin:
        step, seen, masks = begin("playing an episode", episode_steps(policy)), [], []
        for twin in twins(policy, (shift,), [seed]):
            seen.append(twin.seen[0])
            masks.append(twin.env.scene.agent_mask())
            step()
        chosen = np.linspace(0, len(seen) - 1, states).round().astype(int)
        obs, mask = stacked([seen[t] for t in chosen], policy), np.stack([masks[t] for t in chosen])

        step, effects, drawn = begin("decoding", states), [], []
        code, sweep = ranges(agent, obs, values)
        for number in range(states):
            led = lead(agent, code[number], sweep)
            effects.append(effect_of(led))
            if number < shown:
                file = picture if shown == 1 else picture.with_stem(f"{picture.stem}_{number}")
                drawn.append(file)
                _draw(file, agent, obs[number], code[number], led, sweep, effects[-1], mask[number])
            step()
    numbers = localise(np.stack(effects), mask)
    write_result(table, policy, {"shift": shift, "states": states, "swept": rounded(sweep), **numbers})
    print(f"written to {table.parent}: {', '.join(file.name for file in (*drawn, table))}")
    return numbers


@torch.no_grad()
def ranges(agent: DecodingAgent, obs: UInt8[Tensor, "n f c h w"], count: int) -> tuple[Tensor, Tensor]:
    """Codes of observations [N, L], and `count` values over the range of each latent [L, V]."""
    latents = agent.latents(obs)
    return latents.code, agent.sweep(latents, count)


@torch.no_grad()
def lead(agent: DecodingAgent, code: Float[Tensor, " l"], sweep: Float[Tensor, "l v"]) -> Float[Tensor, "l v c h w"]:
    """What is decoded when each latent in turn takes each value, in [0, 1]."""
    return torch.stack([agent.decode(codes) for codes in traversal_codes(code, sweep)])


def effect_of(led: Float[Tensor, "l v c h w"]) -> Float[np.ndarray, "l h w"]:
    """How much each pixel changes on the way from a latent's lowest value to its highest: the sum of the absolute
    steps, in units of its full brightness, mean over colour channels."""
    return led.diff(dim=1).abs().sum(1).mean(1).cpu().double().numpy()


def localise(effects: Float[np.ndarray, "n l h w"], mask: Bool[np.ndarray, "n h w"]) -> dict[str, Any]:
    """Where effects fall, mean over N states, by latent.

    effect: mean over pixels. agent_share: share of it within `_NEAR` pixels of the agent. on_agent: that share over
    the part of the picture that lies there, agent_area; 1 where the effect knows nothing of the agent. spread: share
    of the picture that the effect takes, (sum e)^2 / (pixels x sum e^2): 1 where it is even, 1 / pixels where it is in
    one. where: agent, background or both; none where it is faint, unknown where no state
    shows the agent.
    """
    from scipy.ndimage import binary_dilation

    near = np.stack([binary_dilation(one, iterations=_NEAR) for one in mask])[:, None]  # [N, 1, H, W]
    total = effects.sum((-1, -2)).clip(min=1e-12)  # [N, L]
    there = near.any((1, 2, 3))  # states in which the agent is in the picture
    if there.any():
        share = ((effects * near).sum((-1, -2)) / total)[there].mean(0)
        area = np.array(near[there].mean())
    else:
        share, area = np.full(effects.shape[1], np.nan), np.array(np.nan)
    on_agent = share / area
    pixels = effects.shape[-1] * effects.shape[-2]
    spread = (total**2 / (pixels * (effects**2).sum((-1, -2))).clip(min=1e-12)).mean(0)
    strength = effects.mean((0, 2, 3))
    where = np.where(on_agent >= _MOST, "agent", np.where(on_agent <= _LEAST, "background", "both"))
    where = np.where(np.isnan(on_agent), "unknown", where)
    size = np.sqrt((effects**2).mean((0, 2, 3)))  # unlike the mean, not small for what is strong but local
    where = np.where(size <= _FAINT * size.max(), "none", where)
    return {
        "effect": rounded(strength),
        "agent_share": rounded(share),
        "agent_area": rounded(area),
        "on_agent": rounded(on_agent),
        "spread": rounded(spread),
        "where": where.tolist(),
    }


def _draw(
    file: Path,
    agent: DecodingAgent,
    obs: UInt8[Tensor, "f c h w"],
    code: Float[Tensor, " l"],
    led: Float[Tensor, "l v c h w"],
    sweep: Float[Tensor, "l v"],
    effect: Float[np.ndarray, "l h w"],
    mask: Bool[np.ndarray, "h w"],
) -> None:
    from matplotlib import colormaps

    numbers = localise(effect[None], mask[None])
    heat = (colormaps["magma"](effect / max(effect.max(), 1e-12))[..., :3] * 255).astype(np.uint8)  # [L, H, W, 3]
    blank = np.full(obs.shape[1:], 255, np.uint8)
    with torch.no_grad():
        decoded = agent.decode(code[None])
    first = [obs[-1].cpu().numpy(), to_pixels(decoded)[0].cpu().numpy(), np.where(mask, blank, 0).astype(np.uint8)]
    rows, labels = [first + [blank] * (led.shape[1] - 2)], ["seen, decoded,\nthe agent's\npixels"]
    for i, row in enumerate(to_pixels(led.flatten(0, 1)).unflatten(0, led.shape[:2]).cpu().numpy()):
        rows.append([*row, heat[i].transpose(2, 0, 1)])
        now = f"now {code[i].item():.2f}"
        times = numbers["on_agent"][i]
        strength = "" if times is None else f"{times:.1f} on agent"
        labels.append(f"latent {i}, {now}\n{numbers['where'][i]}\n{strength}")
    same = bool((sweep == sweep[:1]).all())
    ends = (
        [f"{value:.2f}" for value in sweep[0].tolist()] if same else ["lowest", *[""] * (sweep.shape[1] - 2), "highest"]
    )
    sheet(rows, [*ends, "effect"], labels, scale=1).save(file)
