"""Everything that makes learning fast without changing what is learned. Applied last, to a finished agent."""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from alda.agents.base import Agent
from alda.nets.representation import Representation

Speed = Literal["plain", "fast"]
_WARM_UP = 3  # eager calls before a method is captured


def accelerate(agent: Agent, speed: Speed) -> Agent:
    """Return the agent as it is (plain), or made fast.

    fast encodes frames that two observations share once, runs image layers in bfloat16 with float32 results where the
    hardware multiplies bfloat16, and fuses the optimisers; on a CPU it keeps freed memory, on a GPU it turns hot
    methods and acting into CUDA graphs.
    """
    if speed == "plain":
        return agent
    device = next(agent.parameters()).device
    for module in agent.modules():
        if isinstance(module, Representation):
            module.one_pass = agent.shares_frames
        if getattr(module, "low_precision", False) and has_bfloat16(device.type):
            module.forward = _in_bfloat16(module.forward, device.type)
    for optimizer in agent.optimizers.values():
        for group in optimizer.param_groups:
            group["fused"], group["foreach"] = True, False
            group["capturable"] = device.type == "cuda"
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # shapes never change
        for name in (*agent.hot, "act"):
            setattr(agent, name, Captured(getattr(agent, name), partial(CudaGraph, device)))
    else:
        _keep_freed_memory()
    return agent


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done all that was asked of it; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread: for a single observation more do not help, and environments need the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def has_bfloat16(device: str) -> bool:
    """Return whether bfloat16 products are computed by hardware."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _in_bfloat16(forward: Callable[..., Tensor], device: str) -> Callable[..., Tensor]:
    def low_precision_forward(x: Tensor) -> Tensor:
        with torch.autocast(device, torch.bfloat16, cache_enabled=False):  # a cached cast would outlive its capture
            return forward(x).float()

    return low_precision_forward


def _keep_freed_memory() -> None:
    """Let the C library keep freed blocks of tens of megabytes, as activations are.

    Given back, every page would be cleared when it is asked for again, which costs as much as the arithmetic.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return  # another C library
    trim_threshold, mmap_threshold, most, most_of_old = -1, -3, 2**31 - 1, 2**25
    if mallopt(mmap_threshold, most) or mallopt(mmap_threshold, most_of_old):
        mallopt(trim_threshold, most)


class Captured:
    """Method that is recorded, once for every set of shapes and switches that it is called with.

    The first calls run eagerly, as capturing needs. Then one call is recorded on tensors that stay in place; later
    calls copy their inputs there, replay the recording, and return copies of its outputs. Random numbers continue as in
    eager calls.

    method: takes tensors, tuples of them or None, and switches by keyword; never waits for the device. record: makes a
    CudaGraph, or what is like one, of a call without arguments.
    """

    def __init__(self, method: Callable[..., Any], record: Callable[..., Any]) -> None:
        self.method, self.record = method, record
        self._calls: dict[Any, int] = {}
        self._recordings: dict[Any, tuple[list[Tensor], Any]] = {}

    def __call__(self, *inputs: Any, **switches: Any) -> Any:
        given = _tensors(inputs)
        key = (tuple((t.shape, t.dtype) for t in given), tuple(sorted(switches.items())))
        if key not in self._recordings:
            self._calls[key] = self._calls.get(key, 0) + 1
            if self._calls[key] <= _WARM_UP:
                return self.method(*inputs, **switches)
            fixed = tree_map_only(Tensor, torch.clone, inputs)
            self._recordings[key] = _tensors(fixed), self.record(partial(self.method, *fixed, **switches))
        fixed_tensors, recording = self._recordings[key]
        torch._foreach_copy_(fixed_tensors, given)
        recording.replay()
        results = _tensors(recording.outputs)
        copies = [torch.empty_like(result) for result in results]
        torch._foreach_copy_(copies, results)  # one launch
        remaining = iter(copies)
        return tree_map_only(Tensor, lambda _: next(remaining), recording.outputs)


class CudaGraph:
    """Call as a CUDA graph; recording it does not run it."""

    def __init__(self, device: torch.device, call: Callable[[], Any]) -> None:
        self.graph = torch.cuda.CUDAGraph()
        # A stream for each: graphs of one stream share scratch memory of matrix products, and two may run at a time.
        stream = torch.cuda.Stream(device)
        with torch.cuda.device(device), torch.cuda.graph(self.graph, stream=stream):
            self.outputs = call()

    def replay(self) -> None:
        self.graph.replay()


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
