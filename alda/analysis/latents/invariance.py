"""The paper's Theorem 1 put to trained agents: its premise, its conclusion, and whether the two go together.

    joints, colours drawn independently -> frames -> latents -> dependence given each latent        (theorem.py)
                                                 '-> Q, action under two colours -> the premise

The theorem predicts that agents whose Q changes little with the nuisance have latents that mix little, weighted by how
much Q listens to them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from alda.agents.alda import ALDA
from alda.agents.darla import DARLA
from alda.agents.sac import SAC
from alda.analysis.latents.look import (
    Begin,
    named,
    progress,
    require_critic,
    require_latents,
    result_files,
    rounded,
    write_result,
)
from alda.analysis.latents.samples import draw_samples, read_latents, still
from alda.analysis.latents.theorem import LEAST_PERMUTATIONS, delta_pi, delta_q, measure, probe, weighted
from alda.analysis.libraries import new_figure
from alda.errors import UserError
from alda.files import write_json
from alda.policy import Policy, load

_FEW = 512  # frames for the premise and the sensitivity
_SHOWN = ("t1_excess_weighted", "t1_excess", "t1_excess_largest", "mixing")


def analyze_theorem1(
    runs: Sequence[Path],
    *,
    samples: int = 10_000,
    permutations: int = 100,
    nuisances: tuple[str, ...] = ("colors",),
    seed: int = 0,
    out: Path | None = None,
) -> list[dict[str, Any]]:
    """Tests each run, writes RUN/analysis/theorem1.json, and a picture; returns the numbers. Several are compared.

    samples: frames with independent joints and nuisances, which stand still. Premise: `delta_q` and `delta_pi`, the
    change of Q and of the policy's mode when the nuisance alone changes, on 512 states. Conclusion: theorem.measure, on
    stored values where there are any, else on codes in 20 bins. Raises UserError for a method without latents, a
    damaged run, or too few samples; for an agent that cannot be judged, after the others have been.
    """
    if not runs or samples < 200 or seed < 0:
        raise UserError("name at least one run; --samples must be at least 200 and --seed not negative")
    if permutations < LEAST_PERMUTATIONS:
        raise UserError(f"--permutations must be at least {LEAST_PERMUTATIONS}: fewer cannot reject anything")
    policies = [load(run) for run in runs]
    for policy in policies:
        require_latents(policy)
        require_critic(policy)
    name = named("theorem1", *nuisances)
    picture, table = result_files(runs[0], out, name if len(runs) == 1 else f"{name}_comparison")
    results, failed = [], []
    with progress() as begin:
        for run, policy in zip(runs, policies, strict=True):
            try:
                numbers = _test(policy, samples, permutations, nuisances, seed, begin)
            except UserError as error:  # the others are compared all the same
                failed.append(f"{run}: {error}")
            else:
                results.append({"run": str(run), **numbers})
                write_result(result_files(run, None, name)[1], policy, results[-1])
    if results:
        _draw(picture, results)
        if len(runs) > 1:
            write_json(table, [_summary(result) for result in results])
        _say(results)
        print(f"written to {picture}, and {name}.json in analysis/ of every run that was tested")
    if failed:
        raise UserError("; ".join(failed))
    return results


def _test(
    policy: Policy, samples: int, permutations: int, nuisances: tuple[str, ...], seed: int, begin: Begin
) -> dict[str, Any]:
    few = min(_FEW, samples)
    drawn = draw_samples(policy, samples, nuisances=nuisances, twice=few, seed=seed, begin=begin)
    codes = read_latents(policy, drawn.frame)
    premise, sensitivity = judge(policy, drawn.frame[:few], drawn.elsewhere)
    task_hat, r2_task = probe(codes, drawn.joints, seed=seed)
    nuisance_hat, r2_nuisance = probe(codes, drawn.nuisance, seed=seed)
    numbers = measure(
        drawn.joints,
        drawn.nuisance,
        codes,
        estimates=(task_hat, nuisance_hat),
        sensitivity=sensitivity,
        permutations=permutations,
        seed=seed,
        progress=begin("testing latents", 2 * codes.shape[1]),
    )
    t1_hat = np.array(numbers["estimates"]["t1"]["largest_excess"])
    return {
        "method": policy.config.method,
        "name": policy.config.name,
        "premise": premise,
        "sensitivity": rounded(sensitivity),
        "probes": {
            **dict(zip(drawn.joint_names, rounded(r2_task), strict=True)),
            **dict(zip(drawn.nuisance_names, rounded(r2_nuisance), strict=True)),
        },
        "sources": [drawn.joint_names, drawn.nuisance_names],
        "t1_estimates_weighted": rounded(np.array(weighted(t1_hat, sensitivity))),
        **numbers,
    }


def judge(policy: Policy, frame: np.ndarray, elsewhere: np.ndarray) -> tuple[dict[str, float], Float[np.ndarray, " l"]]:
    """The premise on states that are seen under two nuisances, and how much Q listens to each latent.

    Q is that of the action that the policy takes in the first of both. Sensitivity is the mean |dQ/dz_k| times the
    standard deviation of z_k, for a latent that all frames of the stack share.
    """
    agent = require_critic(policy)
    with torch.no_grad():
        features, others = (agent.representation(still(part, policy)) for part in (frame, elsewhere))
        action, changed = (agent.actor(part).mode for part in (features, others))
        q, q_elsewhere = (agent.critic(part, action).amin(0) for part in (features, others))
    code = agent.latents(still(frame, policy)).code.detach().requires_grad_()
    q_of_code(agent, code, action, policy.spec.frames).sum().backward()
    assert code.grad is not None
    sensitivity = code.grad.abs().mean(0) * code.detach().std(0)
    premise = {
        "delta_q": delta_q(_numpy(q), _numpy(q_elsewhere)),
        "delta_pi": delta_pi(_numpy(action), _numpy(changed)),
    }
    return premise, _numpy(sensitivity)


def q_of_code(agent: SAC, code: Float[Tensor, "n l"], action: Float[Tensor, "n a"], frames: int) -> Float[Tensor, " n"]:
    """Q of stacks whose frames all have this code, as `agent.latents` gives it."""
    if isinstance(agent, ALDA | DARLA):
        one_image = isinstance(agent, ALDA) and agent.representation.frames_per_image > 1
        codes = code[:, None].expand(-1, 1 if one_image else frames, -1)
        return agent.critic(agent.representation.history(codes), action).amin(0)
    joined = torch.cat([code, action], dim=-1)
    return torch.stack([q(joined).squeeze(-1) for q in agent.critic.q]).amin(0)


def _numpy(x: Tensor) -> np.ndarray:
    return x.detach().cpu().double().numpy()


def _summary(result: dict[str, Any]) -> dict[str, Any]:
    """One line of the comparison."""
    summary = result["summary"]
    return {
        "run": result["run"],
        "method": result["method"],
        "name": result["name"],
        **{name: rounded(np.array(value)) for name, value in result["premise"].items()},
        "latents": len(result["sensitivity"]),
        "rejected": len(summary["rejected"]),
        **{name: rounded(np.array(summary[name])) for name in _SHOWN},
    }


def _say(results: list[dict[str, Any]]) -> None:
    from rich.table import Table

    from alda.progress import wide_console

    lines = [_summary(result) for result in results]
    table = Table(title="Theorem 1: premise (delta) and conclusion (T1, without its null)")
    for column in list(lines[0])[1:]:
        table.add_column(column.replace("_", " "))
    for line in lines:
        table.add_row(
            *(f"{value:.3f}" if isinstance(value, float) else str(value) for value in list(line.values())[1:])
        )
    wide_console().print(table)


def _draw(file: Path, results: list[dict[str, Any]]) -> None:
    figure = new_figure(12.0, 3 + 2.2 * len(results))
    top = 1.05 * max(0.1, *(max(result["latents"]["t1"]["largest"]) for result in results))
    grid = figure.add_gridspec(len(results), 3)
    premise = figure.add_subplot(grid[:, 2])
    for row, result in enumerate(results):
        axes, t1 = figure.add_subplot(grid[row, :2]), result["latents"]["t1"]
        rejected = set(result["summary"]["rejected"])
        place = np.arange(len(t1["largest"]))
        colours = ["tab:red" if k in rejected else "tab:blue" for k in place]
        axes.bar(place, t1["largest"], color=colours)
        axes.hlines(t1["largest_null"], place - 0.4, place + 0.4, color="black", linewidth=1)
        title = f"{result['method']} {result['name']}: {len(rejected)} of {len(place)} latents mix (red), line: null"
        axes.set(title=title, ylabel="T1, largest pair", ylim=(0, top))
        if row == len(results) - 1:
            axes.set_xlabel("latent")
        x, y = result["premise"]["delta_q"], result["summary"]["t1_excess_weighted"]
        premise.scatter([x], [y], color="black")
        premise.annotate(f" {result['method']} {result['name']}", (x, y), fontsize=8)
    premise.set(
        title="predicted: small delta Q, small T1",
        xlabel="delta Q, in s.d. of Q (premise)",
        ylabel="T1 less null, weighted by sensitivity (conclusion)",
    )
    premise.set_xscale("symlog", linthresh=0.1)  # it may be 0
    premise.margins(0.3)
    premise.set_xlim(left=0)
    figure.savefig(file, dpi=110)
