"""From blocks to a record, and from a record to tables."""

from collections.abc import Callable
from itertools import pairwise
from statistics import mean, median
from typing import Any

from rich.console import Console
from rich.table import Table

from alda.bench.subject import PAPER_LAP, Plan
from alda.training.replay import replay_bytes
from alda.types import EnvSpec

LONG_RUN = 500_000  # agent steps
_RATES = {"updates": "updates/s", "environment": "environment\nsteps/s", "training": "agent steps/s,\nend to end"}


def summary(measured: dict[str, dict[str, dict[str, Any]]], plan: Plan, *, task: str, device: str) -> dict[str, Any]:
    """All that was measured and all that follows from it, for JSON. Memory is in bytes, ratios are fast / plain."""
    episodes, length = plan.evaluation
    machine = next(iter(measured.values()))["plain"]["start"]["machine"]
    return {
        "task": task,
        "plan": {**vars(plan), "steps": plan.steps, "evaluation_episodes": episodes, "evaluation_length": length},
        "machine": machine,
        "methods": {method: _pair(pair, device) for method, pair in measured.items()},
    }


def _pair(pair: dict[str, dict[str, Any]], device: str) -> dict[str, Any]:
    rates = {speed: _rates(raw) for speed, raw in pair.items()}
    ratios: dict[str, Any] = {what: _ratio(rates["plain"][what], rates["fast"][what]) for what in _RATES}
    plain, fast = (pair[speed]["training"]["memory"] for speed in ("plain", "fast"))
    ratios["memory"] = {where: fast[where] / plain[where] for where in ("host", "device") if plain[where]}
    return {speed: _one(raw, rates[speed], device) for speed, raw in pair.items()} | {"ratio": ratios}


def _rates(raw: dict[str, Any]) -> dict[str, list[float]]:
    rates = {what: [block["count"] / block["seconds"] for block in raw[what]] for what in ("updates", "environment")}
    return rates | {"training": [in_proportion(lap) for lap in raw["training"]["laps"]]}


def in_proportion(lap: dict[str, Any]) -> float:
    """Agent steps a second. What a lap does once however long it is, mostly saving, counts as in the paper's laps."""
    once = (lap["shares"]["checkpoint"] + lap["shares"]["other"]) * max(0.0, 1 - lap["count"] / PAPER_LAP)
    return lap["count"] / (lap["seconds"] * (1 - once))


def _ratio(plain: list[float], fast: list[float]) -> dict[str, float]:
    """Of the medians; lowest and highest are of neighbours in time: plain, fast, plain, fast, ..."""
    in_turn = list(zip(plain, fast, strict=True))
    neighbours = [f / p for p, f in in_turn] + [f / p for (_, f), (p, _) in pairwise(in_turn)]
    return {"of_medians": median(fast) / median(plain), "lowest": min(neighbours), "highest": max(neighbours)}


def _one(raw: dict[str, Any], rates: dict[str, list[float]], device: str) -> dict[str, Any]:
    start, training = raw["start"], raw["training"]
    names = dict.fromkeys(name for lap in training["laps"] for name in lap["shares"])
    shares = {name: mean(lap["shares"].get(name, 0.0) for lap in training["laps"]) for name in names}
    steady = start["updates"] / median(rates["updates"])
    spent = sum(block["seconds"] for block in raw["environment"])
    return {
        "per_second": {what: median(values) for what, values in rates.items()},
        "drawing_share": sum(block["drawing_seconds"] for block in raw["environment"]) / spent,
        "start_seconds": max(0.0, start["seconds"] - steady),
        "threads": start["machine"]["threads"],
        "time_shares": shares,
        "long_run": _long_run(training, device),
        "blocks": {what: raw[what] for what in ("updates", "environment")},
        **{name: training[name] for name in ("laps", "workers", "memory")},
        "start": {name: start[name] for name in ("seconds", "updates")},
    }


def _long_run(training: dict[str, Any], device: str) -> dict[str, int]:
    """Memory of a run of LONG_RUN steps, computed: the small run's with another replay."""
    spec, memory = EnvSpec(**training["spec"]), training["memory"]
    small = sum(lap["count"] for lap in training["laps"]) + training["laps"][0]["count"]
    replay = replay_bytes(spec, LONG_RUN)
    more = replay - replay_bytes(spec, small)
    where = "device" if device.startswith("cuda") else "host"
    return {"steps": LONG_RUN, "replay": replay} | {
        name: memory[name] + (more if name == where else 0) for name in ("host", "device")
    }


def show(record: dict[str, Any], console: Console) -> None:
    machine = record["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        f"{machine['device']}, {machine['cores']} cores, {machine['threads']} threads, "
        f"bfloat16: {'yes' if machine['bfloat16'] else 'no'}, renderer: {machine['renderer']}, {machine['system']}",
        versions,
    ]
    gpu = any(one["memory"]["device"] for pair in record["methods"].values() for one in (pair["plain"], pair["fast"]))
    tables = [_speeds(record, gpu=gpu), _times(record), _long_runs(record, gpu=gpu)]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    for table, explanation in zip(tables, _explanations(record["plan"]), strict=True):
        console.print()
        console.print(table)
        console.print(explanation, highlight=False, markup=False)


def _explanations(plan: dict[str, Any]) -> list[str]:
    evaluation = plan["evaluation_episodes"] * plan["evaluation_length"]
    return [
        f"Updates and environment: blocks of at least {plan['seconds']:g} and {plan['seconds'] / 3:.2g} s, medians of "
        f"{plan['rounds']}. Start: what the first updates take longer than later ones. End to end: a training run of "
        f"{plan['steps']:,} agent steps in laps of {plan['lap']:,}, the first of which does not count, each with "
        f"{evaluation:,} evaluation steps (episodes x steps: {plan['evaluation_episodes']} x "
        f"{plan['evaluation_length']}), in the paper's proportion; plain plays them in the training process, fast in "
        "its workers. Memory: peaks of that run. Ratios are of medians; in brackets, lowest and highest of neighbours.",
        f"Shares of the laps. A checkpoint is saved once a lap; end to end it counts as often as in the paper's run, "
        f"which has laps of {PAPER_LAP:,}.",
        f"Peaks of the training run, with a replay for {LONG_RUN:,} steps in place of its own (GB = 10^9 bytes).",
    ]


def _speeds(record: dict[str, Any], *, gpu: bool) -> Table:
    head = [*_RATES.values(), "of environment,\ndrawing", "start, s", "host, GB", "workers, GB"]
    head += ["device, GB"] if gpu else []
    table = _table(f"speed and memory on {record['task']}", "method", "speed", *head)
    for method, pair in record["methods"].items():
        for speed in ("plain", "fast"):
            one = pair[speed]
            rates = [f"{one['per_second'][what]:.3g}" for what in _RATES]
            memory = one["memory"]
            workers = f"{_gb(memory['workers'])} ({one['workers']})" if one["workers"] else "none"
            cells = [f"{one['drawing_share']:.0%}", f"{one['start_seconds']:.3g}", _gb(memory["host"]), workers]
            table.add_row(method, speed, *rates, *cells, *([_gb(memory["device"])] if gpu else []))
        ratio = pair["ratio"]
        spreads = [_spread(ratio[what]) for what in _RATES]
        sizes = {where: f"{ratio['memory'][where]:.2f}" for where in ratio["memory"]}
        device = [sizes.get("device", "")] if gpu else []
        table.add_row(method, "fast / plain", *spreads, "", "", sizes["host"], "", *device, end_section=True)
    return table


def _spread(ratio: dict[str, float]) -> str:
    return f"{ratio['of_medians']:.2f}\n({ratio['lowest']:.2f} to {ratio['highest']:.2f})"


def _times(record: dict[str, Any]) -> Table:
    """Every share of time that any of the runs accounts for."""

    def cell(one: dict[str, Any], name: str) -> str:
        return f"{one['time_shares'].get(name, 0.0):.1%}"

    ones = [pair[speed] for pair in record["methods"].values() for speed in ("plain", "fast")]
    names = [*dict.fromkeys(name for one in ones for name in one["time_shares"] if name != "other"), "other"]
    return _by_speed(record, "where time goes in training", names, cell)


def _long_runs(record: dict[str, Any], *, gpu: bool) -> Table:
    def cell(one: dict[str, Any], name: str) -> str:
        return _gb(one["long_run"][name.removesuffix(", GB")])

    names = ["replay, GB", "host, GB", *(["device, GB"] if gpu else [])]
    return _by_speed(record, f"memory of a run of {LONG_RUN:,} steps, computed", names, cell)


def _by_speed(
    record: dict[str, Any], title: str, names: list[str], cell: Callable[[dict[str, Any], str], str]
) -> Table:
    table = _table(title, "method", "speed", *names)
    for method, pair in record["methods"].items():
        for speed in ("plain", "fast"):
            table.add_row(method, speed, *(cell(pair[speed], name) for name in names))
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title)
    for column in columns:
        table.add_column(column, justify="left" if column in ("method", "speed") else "right", overflow="fold")
    return table


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f}"
