"""Latent traversals, and where in the image each latent shows (paper, figures 6, 8 to 11 and 14)."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor

from alda.agents.decoding import DecodingAgent, to_pixels, traversal_codes
from alda.analysis.latents.results import rounded
from alda.pictures import sheet

_NEAR = 3  # pixels around the agent that still count as it: where it moves to when a latent changes
_MOST, _LEAST = 2.0, 0.5  # times as much effect on the agent as its area would get, beyond which it is one-sided
_FAINT = 0.05  # of the strongest latent's root mean square effect: less is called none


@torch.no_grad()
def traverse(
    agent: DecodingAgent, code: Float[Tensor, " l"], values: Float[Tensor, "l v"]
) -> Float[Tensor, "l v c h w"]:
    """Decode the code with each latent in turn at each of its values, in [0, 1]."""
    return torch.stack([agent.decode(codes) for codes in traversal_codes(code, values)])


def effect_of(traversed: Float[Tensor, "l v c h w"]) -> Float[np.ndarray, "l h w"]:
    """Return how much each pixel changes from a latent's lowest value to its highest: the sum of absolute steps, mean
    over colour channels, in units of full brightness."""
    return traversed.diff(dim=1).abs().sum(1).mean(1).cpu().double().numpy()


def localise(effects: Float[np.ndarray, "n l h w"], mask: Bool[np.ndarray, "n h w"]) -> dict[str, Any]:
    """Return where effects fall, mean over N states, by latent. mask: the agent's pixels.

    effect: mean over pixels. agent_share: share of it within 3 pixels of the agent. on_agent: that share over
    agent_area, the part of the image that lies there; 1 where the effect is independent of the agent. spread: share of
    the image that the effect takes, (sum e)^2 / (pixels x sum e^2): 1 where it is even, 1 / pixels where it is in one.
    where: agent, background or both; none where the effect is faint, unknown where no state shows the agent.
    """
    from scipy.ndimage import binary_dilation

    near = np.stack([binary_dilation(one, iterations=_NEAR) for one in mask])[:, None]  # [N, 1, H, W]
    total = effects.sum((-1, -2)).clip(min=1e-12)  # [N, L]
    visible = near.any((1, 2, 3))
    share, area = np.full(effects.shape[1], np.nan), np.array(np.nan)
    if visible.any():
        share = ((effects * near).sum((-1, -2)) / total)[visible].mean(0)
        area = np.array(near[visible].mean())
    on_agent = share / area
    pixels = effects.shape[-1] * effects.shape[-2]
    spread = (total**2 / (pixels * (effects**2).sum((-1, -2))).clip(min=1e-12)).mean(0)
    where = np.where(on_agent >= _MOST, "agent", np.where(on_agent <= _LEAST, "background", "both"))
    where = np.where(np.isnan(on_agent), "unknown", where)
    size = np.sqrt((effects**2).mean((0, 2, 3)))  # unlike the mean, not small for what is strong but local
    where = np.where(size <= _FAINT * size.max(), "none", where)
    return {
        "effect": rounded(effects.mean((0, 2, 3))),
        "agent_share": rounded(share),
        "agent_area": rounded(area),
        "on_agent": rounded(on_agent),
        "spread": rounded(spread),
        "where": where.tolist(),
    }


@torch.no_grad()
def draw_traversal(
    agent: DecodingAgent,
    obs: UInt8[Tensor, "f c h w"],
    code: Float[Tensor, " l"],
    values: Float[Tensor, "l v"],
    traversed: Float[Tensor, "l v c h w"],
    mask: Bool[np.ndarray, "h w"],
) -> Image.Image:
    """Draw one state: what is seen and decoded, then a row for each latent with its effect at the end."""
    from matplotlib import colormaps

    effect = effect_of(traversed)
    found = localise(effect[None], mask[None])
    heat = (colormaps["magma"](effect / max(effect.max(), 1e-12))[..., :3] * 255).astype(np.uint8)  # [L, H, W, 3]
    blank = np.full(obs.shape[1:], 255, np.uint8)
    decoded = to_pixels(agent.decode(code[None]))[0].cpu().numpy()
    first = [obs[-1].cpu().numpy(), decoded, np.where(mask, blank, 0).astype(np.uint8)]
    rows, labels = [first + [blank] * (values.shape[1] - 2)], ["seen, decoded,\nthe agent's\npixels"]
    for i, row in enumerate(to_pixels(traversed.flatten(0, 1)).unflatten(0, values.shape).cpu().numpy()):
        rows.append([*row, heat[i].transpose(2, 0, 1)])
        times = found["on_agent"][i]
        strength = "" if times is None else f"{times:.1f} on agent"
        labels.append(f"latent {i}, now {code[i].item():.2f}\n{found['where'][i]}\n{strength}")
    titles = ["lowest", *[""] * (values.shape[1] - 2), "highest"]
    if (values == values[:1]).all():  # the same range for all latents
        titles = [f"{value:.2f}" for value in values[0].tolist()]
    return sheet(rows, [*titles, "effect"], labels, scale=1)
