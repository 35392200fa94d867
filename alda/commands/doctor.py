"""`alda doctor`: whether this machine can do what training needs."""

import time
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import psutil
from rich.console import Console
from rich.table import Table

from alda.errors import UserError

TESTED = {"mujoco": "3.17.0", "dm_control": "1.0.50", "torch": "2.13.0", "gymnasium": "1.4.0", "numpy": "2.4.6"}
WORKS = {("mujoco", "4.0.0"): "works; scores are made with 3.17.0 and the two should not be mixed"}  # make test-mujoco4


def doctor(*, renderer_only: bool = False) -> int:
    """Check this machine: renderer and its speed, versions, memory, GPU; exit code 0 if all that is needed works.

    Args:
        renderer_only: Only check that something renders; print nothing if so.
    """
    from alda.envs.rendering import renderer_name

    console = Console()
    try:
        renderer_name()
    except UserError as error:
        console.print(f"rendering   {error}", highlight=False, soft_wrap=True)
        return 1
    if renderer_only:
        return 0

    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    working = True
    for section in (_versions, _memory, _processors, _extras, _rendering, _learning):
        try:
            for row in section():
                table.add_row(*row)
        except Exception as error:  # whatever is broken here is what the report is for
            table.add_row(section.__name__.strip("_"), f"broken: {error}")
            working = False
    console.print(table, highlight=False)
    return 0 if working else 1


def _rendering() -> list[tuple[str, str]]:
    import os

    from alda.envs import make_env
    from alda.envs.rendering import Profile, default_profile, renderer_name

    rows = [("renderer", f"{renderer_name()}, through {os.environ.get('MUJOCO_GL', 'the system default')}")]
    profiles: tuple[Profile, ...] = ("exact", "near", "fast")
    for profile in profiles:
        env = make_env("walker_walk", profile=profile)
        env.reset()
        start, frames = time.perf_counter(), 20
        for _ in range(frames):
            env.frame()
        speed = 1000 * (time.perf_counter() - start) / frames
        env.close()
        rows.append(
            (f"  {profile}", f"{speed:.1f} ms a frame" + (" (default)" if profile == default_profile() else ""))
        )
    return rows


def _learning() -> list[tuple[str, str]]:
    """Take an optimiser step in a process that has rendered, where libraries that conflict fail."""
    import torch

    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([weight])
    weight.sum().backward()
    optimizer.step()
    triton = version("triton") if find_spec("triton") else "not installed"
    return [("learning", f"an optimiser step after rendering works; triton {triton}")]


def _versions() -> list[tuple[str, str]]:
    rows = []
    for name, tested in TESTED.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            found = "missing"
        same = found.split("+")[0] == tested
        known = WORKS.get((name, found), f"tested with {tested}")
        rows.append((name, found if same else f"{found} ({known})"))
    return rows


def _memory() -> list[tuple[str, str]]:
    memory = psutil.virtual_memory()
    return [("memory", f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free; 500,000 steps keep 6.5 GB")]


def _processors() -> list[tuple[str, str]]:
    import torch

    from alda.provenance import device_name
    from alda.training.acceleration import has_bfloat16

    bf16 = "with" if has_bfloat16("cpu") else "without"
    rows = [("processor", f"{device_name('cpu')}, {psutil.cpu_count()} cores, {bf16} bfloat16")]
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        rows.append(("GPU", f"{device_name('cuda')}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free"))
    else:
        rows.append(("GPU", "none that PyTorch can use: training runs on the processor"))
    return rows


def _extras() -> list[tuple[str, str]]:
    extras = {"video": ("av", "mp4 videos"), "plot": ("matplotlib", "learning curves")}
    return [
        (f"extra {name}", f"{what}: " + ("installed" if find_spec(module) else f"pip install 'alda[{name}]'"))
        for name, (module, what) in extras.items()
    ]
