"""`alda analyze`: the analyses of a trained run. Each writes a picture, and its numbers as JSON beside it."""

from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alda.analysis.latents.association import View, compare, draw_association
from alda.analysis.latents.disentanglement import SCORES, draw_scores, measure
from alda.analysis.latents.factor_dataset import draw_samples
from alda.analysis.latents.probes import KINDS, probe
from alda.analysis.latents.readout import (
    episode_steps,
    read_latents,
    require_critic,
    require_decoder,
    require_latents,
    stacked,
)
from alda.analysis.latents.results import DPI, print_table, result_file, rounded, write_numbers
from alda.analysis.latents.theorem import LEAST_PERMUTATIONS, draw_theorem, judge, summarise
from alda.analysis.latents.trajectory import correlations, draw_trajectory, rank_correlations, read_codes
from alda.analysis.latents.traversal import draw_traversal, effect_of, localise, traverse
from alda.analysis.libraries import sklearn
from alda.analysis.paired_rollouts import evenly_spread, read_episodes
from alda.envs import check_shift
from alda.errors import UserError
from alda.files import write_json
from alda.pictures import save_picture
from alda.policy import load
from alda.progress import progress

_STILL = 1e-6  # standard deviation, among probed or held-out states, below which a variable does not move
_JUDGED = 512  # frames for the premise of Theorem 1


def traversal(
    run: Path,
    /,
    *,
    states: int = 16,
    values: int = 20,
    shown: int = 1,
    shift: str = "train",
    seed: int = 0,
    out: Path | None = None,
) -> dict[str, Any]:
    """Vary each latent over its range and show what changes in the image, and where.

    Args:
        run: Run directory.
        states: States of one episode that effects are averaged over.
        values: Values of each latent, from the lowest to the highest of its range.
        shown: States that are drawn, one picture each.
        shift: Visual shift under which the states are seen.
        seed: Seed of the episode.
        out: PNG file to write, with the numbers beside it as JSON (None: RUN/analysis/traversal).
    """
    if not 1 <= shown <= states or values < 2 or seed < 0:
        raise UserError("--shown must be from 1 to --states, --values at least 2 and --seed not negative")
    policy = load(run)
    agent = require_decoder(policy)
    file = result_file(run, out, "traversal", shift)
    files = [file] if shown == 1 else [file.with_stem(f"{file.stem}_{i}") for i in range(shown)]
    effects = []
    with progress() as begin:
        step = begin("playing an episode", episode_steps(policy))
        (played,) = read_episodes(
            policy, (shift,), [seed], read=lambda state: (state.seen[0], state.env.scene.agent_mask()), step=step
        )
        seen, masks = zip(*evenly_spread(played, states), strict=True)
        obs, mask = stacked(seen, policy), np.stack(masks)
        latents = agent.latents(obs)
        code, span = latents.code, agent.sweep(latents, values)
        step = begin("decoding", states)
        for i in range(states):
            traversed = traverse(agent, code[i], span)
            effects.append(effect_of(traversed))
            if i < shown:
                save_picture(draw_traversal(agent, obs[i], code[i], span, traversed, mask[i]), files[i])
            step()
    numbers = localise(np.stack(effects), mask)
    write_numbers(file, policy, {"shift": shift, "states": states, "swept": rounded(span), **numbers}, files)
    return numbers


def trajectory(
    run: Path, /, *, episodes: int = 12, shift: str = "train", seed: int = 0, out: Path | None = None
) -> dict[str, Any]:
    """Plot latents over an episode above the body's state, and probe how much of the state they contain.

    Args:
        run: Run directory.
        episodes: Episodes to play; the probes are tested on the last third.
        shift: Visual shift under which they are played.
        seed: Seed of the episodes and the probes.
        out: PNG file to write, with the numbers beside it as JSON (None: RUN/analysis/trajectory).
    """
    if episodes < 3 or seed < 0:
        raise UserError("--episodes must be at least 3, to hold some out, and --seed not negative")
    policy = load(run)
    require_latents(policy)
    file = result_file(run, out, "trajectory", shift)
    sklearn()  # better to fail now than after playing
    torch.manual_seed(seed)
    codes, states = [], []
    with progress() as begin:
        step = begin("playing episodes", episodes * episode_steps(policy))
        read = partial(
            read_episodes, policy, (shift,), read=lambda state: (state.seen[0], state.env.proprioception()), step=step
        )
        # the first episode, which is drawn, is played without exploring, the others with it, for variety
        for episode in chain(read([seed]), read(range(seed + 1, seed + episodes), explore=True)):
            seen, variables = zip(*episode, strict=True)
            codes.append(read_codes(policy, seen))
            states.append(np.array([list(one.values()) for one in variables]))
        lengths = [len(episode) for episode in states]
        code, features = (np.concatenate(part) for part in zip(*codes, strict=True))
        truth = np.concatenate(states)
        held_out = np.arange(len(truth)) >= sum(lengths[: episodes - episodes // 3])
        moving = np.minimum(truth[held_out].std(0), truth[~held_out].std(0)) > _STILL
        names = [name for name, moves in zip(variables[0], moving, strict=True) if moves]
        truth, probes = truth[:, moving], {}
        step = begin("probing", 4)
        for source, x in (("code", code), ("features", features)):
            for kind in KINDS:
                probes[f"{kind} from {source}"] = probe(x, truth, held_out, kind, seed)
                step()
    pearson = correlations(code, truth)
    numbers = {
        "shift": shift,
        "episodes": episodes,
        "states": len(truth),
        "variables": names,
        "still": [name for name in variables[0] if name not in names],
        "pearson": rounded(pearson),
        "spearman": rounded(rank_correlations(code, truth)),
        "r2": {name: dict(zip(names, rounded(r2), strict=True)) for name, r2 in probes.items()},
        "r2_mean": {name: rounded(r2.mean()) for name, r2 in probes.items()},
    }
    first = slice(lengths[0])
    save_picture(draw_trajectory(code[first], truth[first], names, pearson, probes), file, dpi=DPI)
    write_numbers(file, policy, numbers, [file])
    return numbers


def association(
    run: Path,
    /,
    *,
    shift: str = "color_hard",
    episodes: int = 10,
    states: int = 20,
    seed: int = 0,
    out: Path | None = None,
) -> dict[str, Any]:
    """Measure whether retrieval brings codes of shifted images back to those of the same states unshifted.

    Args:
        run: Run directory.
        shift: Visual shift to compare with the plain task.
        episodes: Episodes to play, each under other colours, backgrounds or camera poses.
        states: States of each episode that are compared.
        seed: Seed of the episodes.
        out: PNG file to write, with the numbers beside it as JSON (None: RUN/analysis/association_SHIFT).
    """
    if episodes < 1 or states < 2 or seed < 0:
        raise UserError("--episodes must be at least 1, --states at least 2 and --seed not negative")
    policy = load(run)
    require_latents(policy)
    agent = require_critic(policy)
    check_shift(shift, policy.config.env.task)
    file = result_file(run, out, f"association_{shift}")
    with progress() as begin:
        step = begin(f"playing episodes in train and {shift}", episodes * episode_steps(policy))
        seeds = range(seed, seed + episodes)
        played = read_episodes(policy, ("train", shift), seeds, read=lambda state: state.seen, step=step)
        pairs = [pair for episode in played for pair in evenly_spread(episode, states)]
    clean, shifted = (View(agent, stacked(side, policy)) for side in zip(*pairs, strict=True))
    numbers = compare(agent, clean, shifted)
    rows = [[name, of.get("before"), of["after"]] for name, of in numbers["distance"].items()]
    title = f"{shift} against train: 0 is unnoticed, 1 is another state"
    print_table(title, ["", "before retrieval", "after"], [*rows, ["Q", None, numbers["q"]]])
    save_picture(draw_association(agent, clean, shifted, numbers, shift, policy.config.method), file, dpi=DPI)
    write_numbers(file, policy, {"shift": shift, "episodes": episodes, "pairs": len(pairs), **numbers}, [file])
    return numbers


def disentanglement(
    run: Path,
    /,
    *,
    samples: int = 10_000,
    nuisances: tuple[str, ...] = ("colors",),
    seed: int = 0,
    out: Path | None = None,
) -> dict[str, dict[str, Any]]:
    """Compute InfoMEC, DCI, MIG and SAP of the latents for joints, colours and camera known from the simulator.

    Args:
        run: Run directory.
        samples: Frames, drawn twice: with independent joints, and with joints as the policy moves them.
        nuisances: What varies besides the joints: colors, camera.
        seed: Seed of everything that is drawn.
        out: PNG file to write, with the numbers beside it as JSON (None: RUN/analysis/disentanglement).
    """
    if samples < 200 or seed < 0:
        raise UserError("--samples must be at least 200 and --seed not negative")
    policy = load(run)
    require_latents(policy)
    file = result_file(run, out, "disentanglement", *nuisances)
    sklearn()  # better to fail now than after drawing
    results = {}
    with progress() as begin:
        for states in ("independent", "visited"):
            independent = states == "independent"
            data = draw_samples(policy, samples, nuisances=nuisances, independent=independent, seed=seed, begin=begin)
            results[states] = measure(
                np.concatenate([data.joints, data.nuisance], axis=1),
                read_latents(policy, data.frame),
                names=[*data.joint_names, *data.nuisance_names],
                seed=seed,
                progress=begin(f"measuring, {states} joints", None),
            )
    rows = [[name, *(result[key] for result in results.values())] for key, name in SCORES.items()]
    print_table("disentanglement, 1 is best", ["", *(f"{states} joints" for states in results)], rows)
    save_picture(draw_scores(results, policy.config.method), file, dpi=DPI)
    write_numbers(file, policy, results, [file])
    return results


def theorem1(
    runs: tuple[Path, ...],
    /,
    *,
    samples: int = 10_000,
    permutations: int = 100,
    nuisances: tuple[str, ...] = ("colors",),
    seed: int = 0,
    out: Path | None = None,
) -> list[dict[str, Any]]:
    """Test Theorem 1 of the paper on runs: its premise, its conclusion, and whether they go together.

    Args:
        runs: Run directories, of one method or several.
        samples: Frames whose joints and nuisances are drawn independently.
        permutations: Permutations of the nuisances within equal values of a latent, for the null distribution.
        nuisances: What varies besides the joints: colors, camera.
        seed: Seed of everything that is drawn.
        out: PNG file to write, with the comparison beside it as JSON (None: in analysis/ of the first run).
    """
    if not runs or samples < 200 or seed < 0:
        raise UserError("name at least one run; --samples must be at least 200 and --seed not negative")
    if permutations < LEAST_PERMUTATIONS:
        raise UserError(f"--permutations must be at least {LEAST_PERMUTATIONS}: fewer cannot reject anything")
    policies = [load(run) for run in runs]
    for policy in policies:
        require_latents(policy)
        require_critic(policy)
    sklearn()  # better to fail now than after drawing
    several = ("comparison",) if len(runs) > 1 else ()
    file = result_file(runs[0], out, "theorem1", *nuisances, *several)
    results, failed = [], []
    with progress() as begin:
        for run, policy in zip(runs, policies, strict=True):
            twice = min(_JUDGED, samples)
            data = draw_samples(policy, samples, nuisances=nuisances, twice=twice, seed=seed, begin=begin)
            step = begin("testing latents", None)
            try:
                found = judge(policy, data, permutations=permutations, seed=seed, progress=step)
            except UserError as error:  # the others are compared all the same
                failed.append(f"{run}: {error}")
            else:
                results.append({"run": str(run), **found})
                write_numbers(result_file(run, None, "theorem1", *nuisances), policy, results[-1], [])
    if results:
        lines = [summarise(result) for result in results]
        title = "Theorem 1: premise (delta) and conclusion (T1, without its null)"
        head = [name.replace("_", " ") for name in lines[0] if name != "run"]
        print_table(title, head, [list(line.values())[1:] for line in lines])
        save_picture(draw_theorem(results), file, dpi=DPI)
        if several:
            write_json(file.with_suffix(".json"), lines)
        print(f"written to {file}")
    if failed:
        raise UserError("; ".join(failed))
    return results


ANALYSES: dict[str, Callable[..., Any]] = {
    analysis.__name__: analysis for analysis in (traversal, trajectory, association, disentanglement, theorem1)
}
