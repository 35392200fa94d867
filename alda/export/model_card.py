"""The README.md of an exported policy, in the form that model hubs read: what it is, what it takes and gives, how well
it did, how to use it."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from alda.agents.base import State
from alda.config import Config
from alda.errors import UserError
from alda.presets import presets
from alda.provenance import Conditions
from alda.training.logger import read_metrics
from alda.training.rollout import bootstrap_interval


class Evaluation(NamedTuple):
    """Episodes without exploration in one world."""

    of: str  # what it is: by which command, from which seed
    step: int  # agent steps before it
    world: str
    returns: list[float]
    made_with: Conditions

    def row(self) -> str:
        low, high = bootstrap_interval(self.returns)
        made = ", ".join(f"{name} {value}" for name, value in self.made_with.items())
        numbers = f"{np.mean(self.returns):.1f} | {low:.1f} to {high:.1f} | {len(self.returns)}"
        return f"| {self.world} | {numbers} | {self.step:,} | {self.of} | {made} |"


def evaluations_of(run: Path, step: int) -> list[Evaluation]:
    """Those of the policy at this step by `alda evaluate`; where there are none, the last while training.

    Raises UserError where they are damaged.
    """
    try:
        found = []
        for file in sorted(run.glob("evaluations/*.json")):
            record = json.loads(file.read_text())
            if record["step"] == step:
                of = f"`alda evaluate`, seed {record['seed']}"
                for world, scores in record["worlds"].items():
                    found.append(Evaluation(of, step, world, _numbers(scores["returns"]), scores["made_with"]))
        file = run / "metrics.jsonl"
        return found or _last_while_training(read_metrics(run))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is damaged ({error!r}); move it away, or make it anew") from error


def _last_while_training(rows: Iterable[dict[str, Any]]) -> list[Evaluation]:
    last: list[Evaluation] = []
    for row in rows:
        worlds = [name.split("/")[1] for name in row if name.startswith("eval/") and name.endswith("/returns")]
        if worlds:
            last = [
                Evaluation("while training", row["step"], w, _numbers(row[f"eval/{w}/returns"]), row[f"eval/{w}/world"])
                for w in worlds
            ]
    return last


def _numbers(returns: list[Any]) -> list[float]:
    if not returns:
        raise ValueError("an evaluation without episodes")
    return [float(value) for value in returns]


def model_card(
    config: Config, meta: dict[str, Any], state: State, evaluations: list[Evaluation], left_out: Iterable[str]
) -> str:
    """config, meta: as they are written beside it. state: at the start of an episode, of one observation. left_out:
    tensors of the agent that are not in the folder."""
    env, spec, steps = config.env, meta["spec"], meta["step"]
    tags = ["reinforcement-learning", "pixels", "dm_control", env.task, config.method]
    shape = f"{spec['frames']}, 3, {spec['image_size']}, {spec['image_size']}"
    options = ", ".join(f"{name}={value!r}" for name, value in vars(env).items() if name != "task")
    parts = sorted({".".join(name.split(".")[:2]) for name in left_out})
    rows = [evaluation.row() for evaluation in evaluations] or ["| none | | | | | | |"]
    takes, gives, begin = ("obs", "action", []) if state is None else ("obs, state", "action, state", [_begun(state)])
    return f"""---
license: unknown
library_name: alda
pipeline_tag: reinforcement-learning
tags: {json.dumps(tags)}
{_model_index(config, steps, evaluations)}---

# {config.method} on {env.task}

A policy that acts from pixels, trained by the package `alda`.

| | |
|---|---|
| method | `{config.method}`: {presets()[config.method].description} |
| variant | `{config.name}` |
| task | dm_control `{env.task}` |
| trained for | {steps:,} agent steps of {env.action_repeat} control steps each |
| seed | {config.seed} |
| trained in | `{config.train_shift}`: {_listed(meta["trained_in"])} |
| trained with | {_listed(meta["versions"])} |
| exported with | {_listed(meta["exported_with"])} |

All settings are in `config.json`.

## Returns

Sums of rewards over an episode, without exploration; this policy is that after {steps:,} agent steps. The interval is a
95 % bootstrap interval of the mean over these episodes; of other training seeds it says nothing.

| world | mean | 95 % interval | episodes | after agent steps | by | made with |
|---|---|---|---|---|---|---|
{chr(10).join(rows)}

## What it takes and gives

- Observation: uint8 `[{shape}]`, the {spec["frames"]} newest frames in RGB from 0 to 255, oldest first; at the start
  of an episode the first frame is repeated.
- Action: float32 `[{spec["action_dim"]}]` from -1 to 1, which stand for the task's own bounds. It is held for
  {env.action_repeat} control steps.

```python
import alda

policy = alda.load("FOLDER")  # this folder
env = alda.make_env("{env.task}", {options})
obs, _ = env.reset(seed=0)
policy.reset()
action = policy.act(obs)  # the policy's mode; explore=True samples
```

`alda evaluate FOLDER` and `alda picture FOLDER` take this folder as well. `alda.load` runs no code from it.

With PyTorch alone, `policy.pt2` gives the same actions, for B observations `[B, {shape}]` at a time:

```python
import torch

program = torch.export.load("FOLDER/policy.pt2").module()
{"".join(begin)}{gives} = program({takes})  # obs: uint8 [B, {shape}]
```

`torch.export.load` unpickles parts of a file and can run code from it: open a `policy.pt2` only if you trust its maker.

## Limits

- It was trained on one task, in one look of it, in simulation, with one seed. What it does elsewhere is not known
  beyond the table above.
- It cannot be trained further, and Q-functions cannot be asked: what only learning needs is left out
  ({", ".join(f"`{part}`" for part in parts)}).
- `policy.pt2` was written by PyTorch {meta["exported_with"]["torch"]}; PyTorch does not promise that other versions
  read it. `policy.safetensors` depends on no version.

## License

Unspecified. Who passes these weights on adds theirs, here and as `license` at the top of this file.

## Citation

The package implements ALDA and the methods that its paper compares it with; the table above names the method's own
paper, where it is another.

```bibtex
@inproceedings{{batra2025zeroshot,
  title = {{Zero-Shot Generalization of Vision-Based RL Without Data Augmentation}},
  author = {{Batra, Sumeet and Sukhatme, Gaurav S.}},
  booktitle = {{Proceedings of the International Conference on Machine Learning}},
  year = {{2025}}
}}
```
"""


def _model_index(config: Config, steps: int, evaluations: Iterable[Evaluation]) -> str:
    """What model hubs sort by: mean and standard deviation over episodes of this very policy, of each world by its
    largest evaluation."""
    of_policy = [evaluation for evaluation in evaluations if evaluation.step == steps]
    largest = {each.world: each for each in sorted(of_policy, key=lambda each: len(each.returns))}
    results = [
        {
            "task": {"type": "reinforcement-learning"},
            "dataset": {"name": f"{config.env.task}/{world}", "type": f"{config.env.task}/{world}"},
            "metrics": [
                {"type": "mean_reward", "value": f"{np.mean(each.returns):.2f} +/- {np.std(each.returns):.2f}"}
            ],
        }
        for world, each in largest.items()
    ]
    return f"model-index: {json.dumps([{'name': config.method, 'results': results}])}\n" if results else ""


def _listed(things: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in things.items()) or "unknown"


def _begun(state: State) -> str:
    return f"state = {_zeros(state)}  # at the start of an episode, here of one observation\n"


def _zeros(state: State) -> str:
    """Python that makes a state, which begins with zeros."""
    if isinstance(state, Tensor):
        return f"torch.zeros({', '.join(map(str, state.shape))})"
    return "{" + ", ".join(f'"{name}": {_zeros(part)}' for name, part in state.items()) + "}"
