"""What one autoencoder makes of states that it has not seen, in the plain task and in other worlds."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Real
from torch import Tensor

from alda.agents.alda import ALDA
from alda.analysis.latents.association import CodeView, compare_codes, relative_distance
from alda.analysis.latents.disentanglement import active_latents, discretise, infoc, infoe_regression, infom, nmi_matrix
from alda.analysis.latents.probes import fit
from alda.analysis.latents.readout import stored_range
from alda.analysis.latents.results import rounded
from alda.analysis.latents.theorem import measure as measure_theorem
from alda.representation.material import Material

BINS = 20  # of a source, in information about it
_PROBED = 2_000  # frames, evenly taken, that a probe learns from
_PERMUTATIONS = 20


def measure(agent: ALDA, material: Material, shifts: Sequence[str], *, seed: int) -> dict[str, Any]:
    """All numbers of an autoencoder, ready for JSON. shifts: names of the material's worlds after the first.

    Codes are looked at "before" retrieval, as encoded; "after" it, as the latent model leaves them; and, where it keeps
    to a range, "clamped": as encoded, but brought to the nearest end of that range where they lie outside.

    psnr: of decoded frames of the plain task, in dB. outside: share of numbers in their codes beyond the range. pose:
    share of the joints' variance that a small network tells from codes, mean over joints, none counted below 0; it has
    learned from the same kind of codes of frames of the plain task.

    worlds: the same of each world, psnr against the frame of the clean twin and psnr_seen against the frame that was
    seen. distance: to the code of the clean twin, over the distance between different states. same_value: share of
    numbers that retrieve the value that the twin retrieves.

    information: of InfoMEC and of the best latent, about joints and colours that are drawn independently. theorem1: T1
    less its null, mean and largest over latents; how many of them are rejected. No critic has learned, so nothing is
    known of the theorem's premise.
    """
    clean, *others = (CodeView(agent, frame[:, None]) for frame in material.twin)
    known = CodeView(agent, _some(material.frame)[:, None])
    known_pose = material.pose(_some(material.joints))
    probes = {when: fit(_numpy(code), known_pose, "nonlinear", seed) for when, code in _codes(agent, known).items()}
    here = _codes(agent, clean)
    truth, turning = material.pose(material.twin_joints), int(material.turns.sum())

    def look(view: CodeView) -> dict[str, Any]:
        compared, there = compare_codes(agent, clean, view), _codes(agent, view)
        told = {when: told_of_joints(truth, probes[when](_numpy(code)), turning) for when, code in there.items()}
        quality = compared["psnr"]
        return {
            "distance": {when: rounded(relative_distance(here[when], there[when])) for when in here},
            "pose": {when: rounded(share.clip(0).mean()) for when, share in told.items()},
            "psnr": {when: values["clean twin"] for when, values in quality.items()},
            "psnr_seen": quality["after"]["frame seen"],
            "outside": _mean(compared.get("outside", {}).get("shifted")),
            "same_value": _mean(compared.get("same_value")),
        }

    plain = look(clean)
    sample = CodeView(agent, material.sample[:, None])
    latents = _numpy(sample.code) if sample.nearest is None else sample.nearest.cpu().numpy()
    joints, colors = (part.double().numpy() for part in (material.sample_joints, material.sample_colors))
    return {
        "psnr": plain["psnr"]["after"],
        "pose": plain["pose"],
        "outside": plain["outside"],
        "worlds": {shift: look(view) for shift, view in zip(shifts, others, strict=True)},
        "information": information(joints, colors, latents, seed=seed),
        "theorem1": _theorem1(joints, colors, latents, seed),
    }


def told_of_joints(
    truth: Float[np.ndarray, "n p"], predicted: Float[np.ndarray, "n p"], turning: int
) -> Float[np.ndarray, " d"]:
    """R2 of every joint from its numbers as Material.pose has them: of one that turns, of the point on the circle."""
    wrong, spread = ((x**2).sum(0) for x in (truth - predicted, truth - truth.mean(0)))
    still = len(wrong) - 2 * turning
    wrong, spread = (np.concatenate([x[:still], x[still:].reshape(2, turning).sum(0)]) for x in (wrong, spread))
    return 1 - wrong / spread.clip(1e-12)


def information(
    joints: Float[np.ndarray, "n d"], colors: Float[np.ndarray, "n e"], latents: Real[np.ndarray, "n k"], *, seed: int
) -> dict[str, Any]:
    """What latents (integers: indices of stored values) say of sources: InfoM and InfoC of sources in 20 bins, InfoE as
    the R2 of a linear regression on samples held out (as in analysis/latents/disentanglement.py); and the share of what
    there is to know about a joint, or a colour, that its best latent tells, mean over joints or colours."""
    sources = np.concatenate([joints, colors], axis=1)
    labels = np.stack([discretise(column, BINS) for column in sources.T], axis=1)
    nmi = nmi_matrix(labels, latents, seed=seed)
    active = active_latents(latents)
    best = nmi.max(1)
    return {
        "infom": rounded(infom(nmi[:, active])),
        "infoc": rounded(infoc(nmi[:, active])),
        "infoe": rounded(infoe_regression(sources, latents, held_out=True, seed=seed).mean()),
        "joints": rounded(best[: joints.shape[1]].mean()),
        "colors": rounded(best[joints.shape[1] :].mean()),
        "active": int(active.sum()),
    }


def _theorem1(joints: np.ndarray, colors: np.ndarray, latents: np.ndarray, seed: int) -> dict[str, Any]:
    summary = measure_theorem(joints, colors, latents, permutations=_PERMUTATIONS, seed=seed)["summary"]
    shown = {name: rounded(summary[name]) for name in ("t1_excess", "t1_excess_largest", "mixing")}
    return shown | {"rejected": len(summary["rejected"])}


def _codes(agent: ALDA, view: CodeView) -> dict[str, Float[Tensor, "n l"]]:
    """Before retrieval, clamped (where there is a range) and after."""
    found = {"before": view.encoded}
    if (bounds := stored_range(agent)) is not None:
        found["clamped"] = view.encoded.clamp(*bounds)
    return found | {"after": view.code}


def _some(rows: Tensor) -> Tensor:
    return rows[torch.linspace(0, len(rows) - 1, min(_PROBED, len(rows))).round().long()]


def _numpy(code: Float[Tensor, "n l"]) -> Float[np.ndarray, "n l"]:
    return code.detach().cpu().double().numpy()


def _mean(shares: list[float] | None) -> float | None:
    return None if shares is None else rounded(np.mean(shares))
