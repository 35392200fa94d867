"""The main numbers of each analysis of a run, as small tables, from the JSON that it wrote."""

from collections.abc import Callable, Iterator, Sequence
from statistics import fmean
from typing import Any

from alda.analysis.report.embedded import Item


def table(head: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = "") -> Item:
    return {"kind": "table", "head": head, "rows": [list(map(number, row)) for row in rows], "caption": caption}


def number(value: Any) -> str:
    """Return whole numbers whole, others with three digits after the point, words as they are; a dash for none."""
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, float):
        return f"{value:,.3f}" if abs(value) < 100 else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _traversal(numbers: dict[str, Any]) -> Iterator[Item]:
    columns = [numbers[name] for name in ("where", "effect", "on_agent", "spread")]
    rows = [[str(latent), *row] for latent, row in enumerate(zip(*columns, strict=True))]
    caption = (
        "Effect: mean change of a pixel over the range of the latent. On agent: 1 is what its area alone would give. "
        "Spread: share of the picture that the effect takes."
    )
    yield table(["latent", "effect is on", "effect", "on agent", "spread"], rows, caption)


def _trajectory(numbers: dict[str, Any]) -> Iterator[Item]:
    probes = list(numbers["r2"])
    caption = "R2 on held-out episodes: 1 is perfect, 0 what the mean alone would give."
    yield table(["", *probes], [["mean R2", *(numbers["r2_mean"][probe] for probe in probes)]], caption)
    rows = [[name, *(numbers["r2"][probe][name] for probe in probes)] for name in numbers["variables"]]
    yield table(["state variable", *probes], rows)


def _association(numbers: dict[str, Any]) -> Iterator[Item]:
    moments = ("before", "after")
    rows = [[name, *(of.get(when) for when in moments)] for name, of in numbers["distance"].items()]
    rows.append(["Q, in its standard deviations", None, numbers["q"]])
    if "psnr" in numbers:
        for twin in numbers["psnr"]["after"]:
            rows.append([f"PSNR to the {twin}, dB", *(numbers["psnr"][when][twin] for when in moments)])
    caption = "Distance to the same state in train: 0 is unnoticed, 1 is as far as another state."
    yield table([str(numbers["shift"]), "before retrieval", "after"], rows, caption)
    shares = {f"outside what is stored, {shift}": of for shift, of in numbers.get("outside", {}).items()}
    if "same_value" in numbers:
        shares["retrieves the same value as in train"] = numbers["same_value"]
    if shares:
        yield table(["share of frames, mean over latents", ""], [[name, fmean(of)] for name, of in shares.items()])


def _disentanglement(numbers: dict[str, Any]) -> Iterator[Item]:
    found = {states: of for states, of in numbers.items() if isinstance(of, dict)}
    first = next(iter(found.values()))
    scores = [name for name, value in first.items() if isinstance(value, float) and f"{name}_held_out" not in first]
    rows = [[name.replace("_", " "), *(of.get(name) for of in found.values())] for name in ["samples", *scores]]
    yield table(["score, 1 is best", *(f"{states} joints" for states in found)], rows)


def _theorem1(numbers: dict[str, Any]) -> Iterator[Item]:
    rows = [[f"premise: {name.replace('_', ' ')}", value] for name, value in numbers["premise"].items()]
    rows.append(["latents", len(numbers["sensitivity"])])
    for name, value in numbers["summary"].items():
        rows.append([name.replace("_", " "), len(value) if isinstance(value, list) else value])
    caption = (
        "Premise: change of Q, in its standard deviations, and of the action when the nuisance alone changes. "
        "Conclusion: T1 less its null; rejected: latents found to mix task and nuisance."
    )
    yield table(["", "value"], rows, caption)


NUMBERS: dict[str, Callable[[dict[str, Any]], Iterator[Item]]] = {
    "traversal": _traversal,
    "trajectory": _trajectory,
    "association": _association,
    "disentanglement": _disentanglement,
    "theorem1": _theorem1,
}
