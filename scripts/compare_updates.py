"""Compare the updates of a run of ALDA with those of a second implementation, written from the paper's formulas.

Both start from the run's weights with fresh optimisers, and learn from the same batches of the run's replay. plain: in
float64, where only rounding may differ. fast: as runs learn by default, in float32 and bfloat16.
"""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

import torch
import tyro
from rich.progress import track
from rich.table import Table

from alda.agents import make_agent
from alda.agents.alda import ALDAConfig
from alda.config import Config, load_config
from alda.progress import wide_console
from alda.provenance import load_spec
from alda.training.acceleration import Speed, accelerate
from alda.training.checkpoint import load_checkpoint, load_weights
from alda.training.replay import Replay
from alda.types import EnvSpec, Transition

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from reference import Reference


def main(run: Annotated[Path, tyro.conf.Positional], updates: int = 20) -> None:
    """Print the largest difference of any loss, and of all weights that learn by gradient, over some updates.

    run: directory of a run with a checkpoint, of ALDA as released but for batch size and beta. updates: learning steps.
    """
    config = load_config(run)
    spec = load_spec(run, config)
    known = isinstance(config.agent, ALDAConfig) and (spec.frames, spec.image_size) == (3, 64)
    if not known or config.agent != ALDAConfig(batch_size=config.agent.batch_size, beta=config.agent.beta):
        sys.exit(f"{run}: the second implementation knows ALDA's own settings, 3 frames of 64x64, and no others")
    torch.manual_seed(0)
    agent = make_agent(config.agent, spec)
    replay = Replay(spec, min(config.replay_capacity, config.steps), config.agent.discount)
    load_checkpoint(run, agent, replay)
    batches = [replay.sample(config.agent.batch_size) for _ in range(updates)]
    table = Table(title=f"largest difference from a second implementation in {updates} updates of {run}")
    table.add_column("")
    for name in ("losses, relative", "loss that differs most", "weights, share of what they moved"):
        table.add_column(name, justify="right")
    pairs: tuple[tuple[Speed, torch.dtype], ...] = (("plain", torch.float64), ("fast", torch.float32))
    for speed, dtype in pairs:
        table.add_row(f"{speed}, {dtype}", *compared(run, config, spec, batches, speed, dtype))
    wide_console().print(table)


def compared(
    run: Path, config: Config, spec: EnvSpec, batches: list[Transition], speed: Speed, dtype: torch.dtype
) -> tuple[str, str, str]:
    """Return the largest relative difference of a loss, the name of that loss, and the difference of all weights."""
    torch.set_default_dtype(dtype)
    agent = make_agent(config.agent, spec)
    load_weights(run, agent)
    agent = accelerate(agent.to(dtype), speed)
    reference = Reference(actions=spec.action_dim, beta=config.agent.beta)
    reference.copy_from(agent)
    reference.log_alpha.data.copy_(agent.log_temperature.data)
    for name, part in reference.target_parts().items():
        for theirs, ours in zip(part.parameters(), agent.get_submodule(name).parameters(), strict=True):
            theirs.data.copy_(ours.data)
    before = weights(reference)
    worst, name_of_worst = 0.0, ""
    for step, batch in enumerate(track(batches, f"{speed}: updates", console=wide_console())):
        batch = typed(batch, dtype)
        torch.manual_seed(step)
        found = agent.update(SimpleNamespace(sample=lambda _, batch=batch: batch), step)
        torch.manual_seed(step)
        for name, value in reference.update(*batch, step).items():
            difference = abs(found[name].item() - value) / max(abs(value), 1e-3)
            if difference > worst:
                worst, name_of_worst = difference, f"{name} at update {step}"
    mine = torch.cat(
        [p.detach().flatten() for name in reference.parts() for p in agent.get_submodule(name).parameters()]
    )
    share = (mine - weights(reference)).norm() / (weights(reference) - before).norm()
    torch.set_default_dtype(torch.float32)
    return f"{worst:.1e}", name_of_worst, f"{share.item():.1e}"


def weights(reference: Reference) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for part in reference.parts().values() for p in part.parameters()])


def typed(batch: Transition, dtype: torch.dtype) -> Transition:
    return batch._replace(**{name: getattr(batch, name).to(dtype) for name in ("action", "reward", "discount")})


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
