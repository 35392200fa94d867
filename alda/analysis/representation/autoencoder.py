"""ALDA's autoencoder alone: it learns by ALDA's own code from frames in the place of a replay, and is measured on
states that it has not seen, in the plain task and under every shift."""

import gc
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Real, UInt8
from torch import Tensor

from alda.agents.alda import ALDA, ALDAConfig
from alda.analysis.latents.association import CodeView, compare_codes, relative_distance
from alda.analysis.latents.disentanglement import active_latents, discretise, infoc, infoe_regression, infom, nmi_matrix
from alda.analysis.latents.probes import fit
from alda.analysis.latents.readout import stored_range
from alda.analysis.latents.results import rounded
from alda.analysis.latents.theorem import measure as measure_theorem
from alda.analysis.paired_rollouts import evenly_spread
from alda.analysis.representation.dataset import Dataset
from alda.nets.representation import to_float
from alda.training.acceleration import accelerate
from alda.types import EnvSpec

_PROBED = 2_000  # frames, evenly taken, that a probe learns from
_PERMUTATIONS = 20


def learn(config: ALDAConfig, frame: UInt8[Tensor, "n 3 h w"], *, updates: int, seed: int) -> ALDA:
    """Return an agent on the CPU of which encoder, latent model and decoder have learned from frames drawn with
    replacement.

    frame: on the device where learning takes place. Equal seeds give equal agents on equal machines, and equal first
    weights and batches for all latent models.
    """
    gc.collect()  # CUDA graphs of earlier agents, which hold memory
    torch.manual_seed(seed)
    spec = EnvSpec(frames=1, image_size=frame.shape[-1], action_dim=1)
    agent, measured = (ALDA(config, spec).to(device) for device in (frame.device, "cpu"))
    for one in (agent, measured):
        accelerate(one, "fast")
    batches = torch.Generator(frame.device).manual_seed(seed)
    for _ in range(updates):
        chosen = torch.randint(len(frame), (config.batch_size,), generator=batches, device=frame.device)
        agent.update_autoencoder(to_float(frame[chosen]))
    measured.load_state_dict(agent.state_dict())
    return measured


def measure(agent: ALDA, data: Dataset, shifts: Sequence[str], *, seed: int) -> dict[str, Any]:
    """Return all numbers of an autoencoder, ready for JSON; docs/representation.md says what they are.

    shifts: names of those in the data, without the plain task. Codes are looked at "before" retrieval, "clamped" to the
    stored range where there is one, and "after" retrieval. A probe of the pose learns from the same kind of codes, of
    frames of the plain task.
    """
    clean, *others = (CodeView(agent, frame[:, None]) for frame in data.twin)
    count = min(_PROBED, len(data.frame))
    known, joints = (torch.stack(evenly_spread(list(rows), count)) for rows in (data.frame, data.joints))
    known_codes, known_pose = _codes(agent, CodeView(agent, known[:, None])), data.pose(joints)
    probes = {when: fit(_numpy(code), known_pose, "nonlinear", seed) for when, code in known_codes.items()}
    here, truth, turning = _codes(agent, clean), data.pose(data.twin_joints), int(data.turns.sum())

    def look(view: CodeView) -> dict[str, Any]:
        compared, there = compare_codes(agent, clean, view), _codes(agent, view)
        told = {when: r2_of_joints(truth, probes[when](_numpy(code)), turning) for when, code in there.items()}
        return {
            "distance": {when: rounded(relative_distance(here[when], there[when])) for when in here},
            "pose": {when: rounded(share.clip(0).mean()) for when, share in told.items()},
            "psnr": {when: values["clean twin"] for when, values in compared["psnr"].items()},
            "psnr_seen": compared["psnr"]["after"]["frame seen"],
            "outside": rounded(np.mean(compared["outside"]["shifted"])) if "outside" in compared else None,
            "same_value": rounded(np.mean(compared["same_value"])) if "same_value" in compared else None,
        }

    plain = look(clean)
    sample = CodeView(agent, data.sample[:, None])
    latents = _numpy(sample.code if sample.nearest is None else sample.nearest)
    sources = _numpy(data.sample_joints.double()), _numpy(data.sample_colors.double())
    theorem = measure_theorem(*sources, latents, permutations=_PERMUTATIONS, seed=seed)["summary"]
    shown = {name: rounded(theorem[name]) for name in ("t1_excess", "t1_excess_largest", "mixing")}
    return {
        "psnr": plain["psnr"]["after"],
        "pose": plain["pose"],
        "outside": plain["outside"],
        "worlds": {shift: look(view) for shift, view in zip(shifts, others, strict=True)},
        "information": information(*sources, latents, seed=seed),
        "theorem1": shown | {"rejected": len(theorem["rejected"])},
    }


def r2_of_joints(
    truth: Float[np.ndarray, "n p"], predicted: Float[np.ndarray, "n p"], turning: int
) -> Float[np.ndarray, " d"]:
    """Return R2 of every joint from numbers as in Dataset.pose; of a joint that turns, of its point on the circle."""
    wrong, spread = ((x**2).sum(0) for x in (truth - predicted, truth - truth.mean(0)))
    still = len(wrong) - 2 * turning
    wrong, spread = (np.concatenate([x[:still], x[still:].reshape(2, turning).sum(0)]) for x in (wrong, spread))
    return 1 - wrong / spread.clip(1e-12)


def information(
    joints: Float[np.ndarray, "n d"], colors: Float[np.ndarray, "n e"], latents: Real[np.ndarray, "n k"], *, seed: int
) -> dict[str, Any]:
    """Return InfoM, InfoC and InfoE of latents (integers: indices of stored values) about joints and colours, and the
    share of what there is to know about a joint, or a colour, that its best latent tells, mean over joints or colours.
    """
    sources = np.concatenate([joints, colors], axis=1)
    nmi, active = nmi_matrix(discretise(sources), latents, seed=seed), active_latents(latents)
    best = nmi.max(1)
    return {
        "infom": rounded(infom(nmi[:, active])),
        "infoc": rounded(infoc(nmi[:, active])),
        "infoe": rounded(infoe_regression(sources, latents, held_out=True, seed=seed).mean()),
        "joints": rounded(best[: joints.shape[1]].mean()),
        "colors": rounded(best[joints.shape[1] :].mean()),
        "active": int(active.sum()),
    }


def _codes(agent: ALDA, view: CodeView) -> dict[str, Float[Tensor, "n l"]]:
    bounds = stored_range(agent)
    clamped = {} if bounds is None else {"clamped": view.encoded.clamp(*bounds)}
    return {"before": view.encoded, **clamped, "after": view.code}


def _numpy(x: Real[Tensor, "n l"]) -> Real[np.ndarray, "n l"]:
    """Return floats in double precision, and integers as they are."""
    x = x.detach()
    return (x.double() if x.is_floating_point() else x).numpy()
