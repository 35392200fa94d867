"""README.md of an exported policy, in the form that model hubs read: what it takes and gives, and how well it did."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from alda.agents.base import State
from alda.config import Config
from alda.errors import UserError
from alda.files import read_json
from alda.presets import presets
from alda.provenance import Conditions
from alda.training.logger import read_metrics
from alda.training.rollout import bootstrap_interval


class Evaluation(NamedTuple):
    """Returns of episodes without exploration under one shift."""

    source: str  # which command, from which seed
    step: int  # agent steps before it
    shift: str
    returns: list[float]
    made_with: Conditions

    def row(self) -> str:
        low, high = bootstrap_interval(self.returns)
        numbers = f"{np.mean(self.returns):.1f} | {low:.1f} to {high:.1f} | {len(self.returns)}"
        return f"| {self.shift} | {numbers} | {self.step:,} | {self.source} | {_listed(self.made_with)} |"


def evaluations_of(run: Path, step: int) -> list[Evaluation]:
    """Return evaluations of the policy at this step by `alda evaluate`, or else the last while training.

    Raises UserError where they are damaged.
    """
    found = []
    try:
        for file in sorted(run.glob("evaluations/*.json")):
            record = read_json(file)
            if record["step"] == step:
                source = f"`alda evaluate`, seed {record['seed']}"
                for shift, scores in record["worlds"].items():
                    found.append(Evaluation(source, step, shift, scores["returns"], scores["made_with"]))
        file = run / "metrics.jsonl"
        rows = [] if found else [row for row in read_metrics(run) if any(name.endswith("/returns") for name in row)]
        for name in rows[-1] if rows else ():
            if name.startswith("eval/") and name.endswith("/returns"):
                shift, row = name.split("/")[1], rows[-1]
                found.append(Evaluation("while training", row["step"], shift, row[name], row[f"eval/{shift}/world"]))
        for evaluation in found:
            evaluation.row()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is damaged ({error!r}); move it away, or make it anew") from error
    return found


def model_card(config: Config, meta: dict[str, Any], state: State, evaluations: list[Evaluation]) -> str:
    """Return the text. config, meta: as written beside it. state: of one observation, where an episode starts."""
    env, spec, steps = config.env, meta["spec"], meta["step"]
    shape = f"{spec['frames']}, 3, {spec['image_size']}, {spec['image_size']}"
    options = ", ".join(f"{name}={value!r}" for name, value in vars(env).items() if name != "task")
    rows = [evaluation.row() for evaluation in evaluations] or ["| none | | | | | | |"]
    takes, gives, start = "obs", "action", ""
    if state is not None:
        takes, gives, start = "obs, state", "action, state", f"state = {_zeros(state)}  # at the start of an episode\n"
    return f"""---
license: unknown
library_name: alda
pipeline_tag: reinforcement-learning
tags: {json.dumps(["reinforcement-learning", "pixels", "dm_control", env.task, config.method])}
{_model_index(config, evaluations, steps)}---

# {config.method} on {env.task}

A policy that acts from pixels, trained by the package `alda`. All settings are in `config.json`.

| | |
|---|---|
| method | `{config.method}`: {presets()[config.method].description} |
| variant, seed | `{config.name}`, {config.seed} |
| task | dm_control `{env.task}` |
| trained for | {steps:,} agent steps of {env.action_repeat} control steps each |
| trained in | `{config.train_shift}`: {_listed(meta["trained_in"])} |
| trained with | {_listed(meta["versions"])} |
| exported with | {_listed(meta["exported_with"])} |

## Returns

Sums of rewards over an episode, without exploration; this policy is that after {steps:,} agent steps. Intervals are
95 % bootstrap intervals of the mean over these episodes; they say nothing about other training seeds.

| shift | mean | 95 % interval | episodes | after agent steps | by | made with |
|---|---|---|---|---|---|---|
{chr(10).join(rows)}

## Use

- Observation: uint8 `[{shape}]`, the {spec["frames"]} newest frames in RGB from 0 to 255, oldest first; at the start
  of an episode the first frame is repeated.
- Action: float32 `[{spec["action_dim"]}]` from -1 to 1, which stand for the task's own bounds; it is held for
  {env.action_repeat} control steps.

```python
import alda

policy = alda.load("FOLDER")  # this folder; runs no code from it
env = alda.make_env("{env.task}", {options})
obs, _ = env.reset(seed=0)
policy.reset()
action = policy.act(obs)  # the policy's mode; explore=True samples
```

With PyTorch alone, `policy.pt2` gives the same actions, for B observations at a time. `torch.export.load` can run code
from such a file: open it only if you trust its maker.

```python
import torch

program = torch.export.load("FOLDER/policy.pt2").module()
{start}{gives} = program({takes})  # obs: uint8 [B, {shape}]
```

## Limits

- It was trained on one task, with one look, in simulation, with one seed. What it does elsewhere is not known beyond
  the table above. It cannot be trained further.
- PyTorch does not promise that other versions than {meta["exported_with"]["torch"]} read `policy.pt2`;
  `policy.safetensors` depends on no version.
- Its license is unspecified: who passes these weights on adds theirs, as `license` at the top of this file.

## Citation

Batra and Sukhatme, "Zero-Shot Generalization of Vision-Based RL Without Data Augmentation", ICML 2025, for ALDA and the
package; the first table names the paper of another method.
"""


def _model_index(config: Config, evaluations: list[Evaluation], step: int) -> str:
    """Return what model hubs sort by: mean and standard deviation of this policy, by the largest evaluation a shift."""
    largest = {
        each.shift: each for each in sorted(evaluations, key=lambda each: len(each.returns)) if each.step == step
    }
    results = [
        {
            "task": {"type": "reinforcement-learning"},
            "dataset": dict.fromkeys(("name", "type"), f"{config.env.task}/{shift}"),
            "metrics": [{"type": "mean_reward", "value": f"{np.mean(e.returns):.2f} +/- {np.std(e.returns):.2f}"}],
        }
        for shift, e in largest.items()
    ]
    return f"model-index: {json.dumps([{'name': config.method, 'results': results}])}\n" if results else ""


def _listed(things: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in things.items()) or "unknown"


def _zeros(state: State) -> str:
    """Return Python that makes a state of zeros, a tensor or a dict of them."""
    if isinstance(state, Tensor):
        return f"torch.zeros({', '.join(map(str, state.shape))})"
    return "{" + ", ".join(f'"{name}": {_zeros(part)}' for name, part in state.items()) + "}"
