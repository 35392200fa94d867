"""Disentanglement of a trained agent's latents, on sources that the simulator knows."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from alda.analysis.latents.disentangle import measure
from alda.analysis.latents.look import named, progress, require_latents, result_files, write_result
from alda.analysis.latents.samples import draw_samples, read_latents
from alda.analysis.libraries import new_figure, sklearn
from alda.errors import UserError
from alda.policy import load
from alda.progress import wide_console

_SCORES = {
    "infom": "InfoM",
    "infoc": "InfoC",
    "infoe_held_out": "InfoE, held out",
    "mig": "MIG",
    "sap": "SAP",
    "dci_disentanglement": "DCI D",
    "dci_completeness": "DCI C",
    "dci_informativeness": "DCI I",
}


def analyze_disentanglement(
    run: Path,
    *,
    samples: int = 10_000,
    nuisances: tuple[str, ...] = ("colors",),
    seed: int = 0,
    out: Path | None = None,
) -> dict[str, dict[str, Any]]:
    """Measures a run's latents twice, writes both as JSON and a picture, and returns them.

    "independent": joints are drawn one by one, so every score can reach 1. "visited": joints of states that the policy
    visits, which depend on each other; that dependence is stated (`source_nmi`), and `one_to_one` says what a perfect
    code would get there. Sources are joints and nuisances. Raises UserError for a method without latents, for too few
    samples, and without scikit-learn.
    """
    if samples < 200 or seed < 0:
        raise UserError("--samples must be at least 200 and --seed not negative")
    policy = load(run)
    require_latents(policy)
    picture, table = result_files(run, out, named("disentanglement", *nuisances))
    sklearn()
    results = {}
    with progress() as begin:
        for states in ("independent", "visited"):
            independent = states == "independent"
            drawn = draw_samples(policy, samples, nuisances=nuisances, independent=independent, seed=seed, begin=begin)
            results[states] = asdict(
                measure(
                    np.concatenate([drawn.joints, drawn.nuisance], axis=1),
                    read_latents(policy, drawn.frame),
                    names=[*drawn.joint_names, *drawn.nuisance_names],
                    seed=seed,
                    progress=begin(f"measuring, {states} joints", None),
                )
            )
    _draw(picture, results, policy.config.method)
    write_result(table, policy, results)
    _say(results)
    print(f"written to {picture.parent}: {picture.name}, {table.name}")
    return results


def _say(results: dict[str, dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table(title="disentanglement, 1 is best")
    for column in ("", *(f"{states} joints" for states in results)):
        table.add_column(column, justify="right" if column else "left")
    for key, name in _SCORES.items():
        table.add_row(name, *(f"{result[key]:.3f}" for result in results.values()))
    wide_console().print(table)


def _draw(file: Path, results: dict[str, dict[str, Any]], method: str) -> None:
    figure = new_figure(15.0, 5.5)
    panels = figure.subplots(1, len(results) + 1)
    for axes, (states, result) in zip(panels, results.items(), strict=False):
        nmi = np.array(result["nmi"])
        shown = axes.imshow(nmi, vmin=0, vmax=max(0.2, nmi.max()), cmap="viridis", aspect="auto")
        axes.set(title=f"{method}: I(source; latent) / H(source)\n{states} joints", xlabel="latent")
        axes.set_yticks(range(len(nmi)), result["sources"], fontsize=8)
        figure.colorbar(shown, ax=axes)
    place = np.arange(len(_SCORES))
    for i, (states, result) in enumerate(results.items()):
        values = [result[key] for key in _SCORES]
        panels[-1].barh(place + 0.4 * i - 0.2, values, 0.4, label=f"{states} joints")
    panels[-1].set_yticks(place, list(_SCORES.values()))
    panels[-1].invert_yaxis()
    panels[-1].set(title="scores, 1 is best", xlim=(min(0, *panels[-1].get_xlim()), 1))
    panels[-1].legend(fontsize=8)
    figure.savefig(file, dpi=110)
