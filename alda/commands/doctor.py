"""`alda doctor`: whether this machine can do what training needs."""

import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec

import psutil
from rich.table import Table

from alda.errors import UserError
from alda.progress import lasting_console

Rows = Iterator[tuple[str, str]]


def doctor(*, renderer_only: bool = False) -> int:
    """Check this machine: renderer and its speed, versions, memory, GPU; exit code 0 if all that is needed works.

    Args:
        renderer_only: Only check that something renders; print nothing if so.
    """
    from alda.envs.rendering import renderer_name

    console = lasting_console()
    try:
        renderer_name()
    except UserError as error:
        console.print(f"rendering   {error}", highlight=False, soft_wrap=True)
        return 1
    if renderer_only:
        return 0

    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    working = True
    checks: tuple[Callable[[], Rows], ...] = (_machine, _extras, _rendering, _learning)
    for check in checks:
        try:
            for row in check():
                table.add_row(*row)
        except Exception as error:  # whatever is broken here is what the report is for
            table.add_row(check.__name__.strip("_"), f"broken: {error}")
            working = False
    console.print(table, highlight=False)
    return 0 if working else 1


def _machine() -> Rows:
    import torch

    from alda.provenance import describe_machine

    machine = describe_machine("cpu")
    yield from machine["versions"].items()
    yield "renderer", f"{machine['renderer']}, through {machine['opengl']}"
    bfloat16 = "with" if machine["bfloat16"] else "without"
    yield "processor", f"{machine['device']}, {machine['cores']} cores, {bfloat16} bfloat16"
    memory = psutil.virtual_memory()
    yield "memory", f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free; 500,000 steps keep 6.5 GB"
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        yield "GPU", f"{torch.cuda.get_device_name()}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free"
    else:
        yield "GPU", "none that PyTorch can use: training runs on the processor"


def _extras() -> Rows:
    for extra, module, what in (("video", "av", "mp4 videos"), ("plot", "matplotlib", "learning curves")):
        yield f"extra {extra}", f"{what}: " + ("installed" if find_spec(module) else f"pip install 'alda[{extra}]'")


def _rendering() -> Rows:
    from alda.envs import make_env
    from alda.envs.rendering import Profile, default_profile

    profiles: tuple[Profile, ...] = ("exact", "near", "fast")
    for profile in profiles:
        env = make_env("walker_walk", profile=profile)
        env.reset()
        start, frames = time.perf_counter(), 20
        for _ in range(frames):
            env.frame()
        speed = 1000 * (time.perf_counter() - start) / frames
        env.close()
        yield f"  {profile}", f"{speed:.1f} ms a frame" + (" (default)" if profile == default_profile() else "")


def _learning() -> Rows:
    """Take an optimiser step in a process that has rendered, where libraries that conflict fail."""
    import torch

    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([weight])
    weight.sum().backward()
    optimizer.step()
    yield "learning", "an optimiser step after rendering works"
