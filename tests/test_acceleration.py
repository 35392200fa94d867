"""What is fast equals what is plain, and can be captured: the same operations on the same memory, call after call."""

import subprocess
import sys
from copy import deepcopy
from functools import partial

import pytest
import torch
from conftest import METHODS, SMALL, SPEC, filled
from conftest import make_agent as make
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from alda.agents import AGENTS, make_agent
from alda.agents.drq import DrQ
from alda.agents.sac import SAC
from alda.training.acceleration import _WARM_UP, Captured, accelerate
from alda.training.timing import Stopwatch


class Tape(TorchDispatchMode):
    """A call as a CUDA graph holds it, on a CPU: its operations on their memory, and nothing of the Python around them.

    Replaying runs the operations again: tensors that came from an earlier one are made anew, all others are read and
    written where they are. Recording leaves no trace in `kept`, as capturing runs nothing.
    """

    WAITS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::item")

    def __init__(self, kept, call):
        super().__init__()
        self.operations = []
        before, random_state = [t.clone() for t in kept()], torch.get_rng_state()
        with self:
            self.outputs = call()
        torch.set_rng_state(random_state)
        with torch.no_grad():
            for tensor, value in zip(kept(), before, strict=True):
                tensor.copy_(value)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func._schema.name not in self.WAITS, f"{func._schema.name} waits for the device"
        result = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, result))
        return result

    @torch.no_grad()
    def replay(self):
        new = {}

        def present(leaf):
            return new.get(id(leaf), leaf) if isinstance(leaf, torch.Tensor) else leaf

        for func, args, kwargs, recorded in self.operations:
            result = func(*tree_map(present, args), **tree_map(present, kwargs))
            for old, made in zip(tree_leaves(recorded), tree_leaves(result), strict=True):
                if isinstance(old, torch.Tensor):
                    assert old.shape == made.shape
                    new[id(old)] = made
        for output in tree_leaves(self.outputs):
            if isinstance(output, torch.Tensor):
                output.copy_(new[id(output)])


def everything(agent):
    """All that learning changes."""
    states = [s for o in agent.optimizers.values() for s in o.state.values()]
    return [*agent.state_dict().values(), *(t for state in states for t in state.values())]


@pytest.mark.parametrize("name", METHODS)
def test_learning_and_acting_survive_being_captured(name, replay):
    """Bit for bit, over every set of switches; a value kept in Python, a branch or a copy to the host would show."""
    long_enough = {"denoiser_updates": 6, "vae_updates": 6}
    stages = long_enough if name.startswith("darla") else {}
    eager, captured = (make(name, "fast", **stages) for _ in range(2))
    recorded = []

    def record(call):
        shapes = tuple(leaf.shape for leaf in tree_leaves(call.args) if isinstance(leaf, torch.Tensor))
        recorded.append((call.func.__name__, shapes, *call.keywords.items()))
        return Tape(partial(everything, captured), call)

    for method in (*captured.hot, "act"):
        setattr(captured, method, Captured(getattr(captured, method), record))
    steps, obs = range(2 * (_WARM_UP + 3) * len(captured.hot)), replay.sample(2).obs
    results = []
    for agent in (eager, captured):
        torch.manual_seed(1)
        results.append([])
        state, replay = agent.initial_state(2), filled()
        for step in steps:
            if step % 2:  # frames arrive, of one environment
                replay.add(torch.zeros(2), 1.0, False, obs[0])
                agent.observe(replay, obs[:1])
            metrics = agent.update(replay, step)
            action, state = agent.act(obs, state, explore=step % 2 == 0)
            results[-1].append({**metrics, "action": action})
    assert {method for method, *_ in recorded} == {*captured.hot, "act"}
    assert len(set(recorded)) == len(recorded) >= len(captured.hot) + 2  # once for every set of shapes and switches
    for step, (expected, got) in enumerate(zip(*results, strict=True)):
        assert expected.keys() == got.keys()
        for key, value in expected.items():
            assert torch.equal(got[key], value), (step, key)
    for expected, got in zip(everything(eager), everything(captured), strict=True):
        assert torch.equal(expected, got)


def test_what_a_captured_method_returns_is_not_overwritten_by_its_next_call():
    double = Captured(lambda x: {"twice": 2 * x, "nothing": None}, partial(Tape, list))
    results = [double(torch.full((2,), float(i))) for i in range(_WARM_UP + 4)]
    assert [r["twice"].tolist() for r in results] == [[2.0 * i] * 2 for i in range(_WARM_UP + 4)]
    assert results[-1]["nothing"] is None


def test_other_shapes_are_captured_on_their_own():
    total = Captured(lambda x: x.sum(), partial(Tape, list))
    for size in (2, 3) * (_WARM_UP + 2):
        assert total(torch.ones(size)).item() == size


def test_filling_and_sampling_a_replay_never_waits_for_the_device(replay):
    def use():
        replay.add_first(torch.zeros(3, 3, 64, 64, dtype=torch.uint8))
        replay.add(torch.zeros(2), 1.0, False, torch.ones(3, 3, 64, 64, dtype=torch.uint8))
        return replay.sample(4)

    names = {func._schema.name for func, *_ in Tape(list, use).operations}
    assert "aten::fill_" in names
    assert "aten::index_put_" not in names  # which may wait for its indices


FAULTS = """
import resource, sys, torch
from alda.training.acceleration import accelerate, _keep_freed_memory
if sys.argv[1] == "kept":
    _keep_freed_memory()
def work():
    for _ in range(5):
        torch.ones(16_000_000)  # 64 MB
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="another C library")
def test_freed_memory_is_kept():
    """Counted in pages that the system had to clear."""
    faults = {}
    for mode in ("given back", "kept"):
        done = subprocess.run([sys.executable, "-c", FAULTS, mode], capture_output=True, text=True, check=True)
        faults[mode] = int(done.stdout)
    assert faults["given back"] > 1_000
    assert faults["kept"] < 100


def test_a_stopwatch_counts_inner_parts_once(monkeypatch):
    now = iter([0.0, 1.0, 3.0, 6.0, 10.0, 15.0, 16.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    watch = Stopwatch()
    with watch("update"), watch("sample"):  # entered at 1 and 3, left at 6 and 10
        pass
    watch.move(1.0, "sample", "idle")
    watch.add_elsewhere(20.0, "render")
    parts = {"other": 1.0 + 5.0, "update": 2.0 + 4.0, "sample": 2.0, "idle": 1.0, "render": 20.0}
    assert watch.lap() == (15.0, parts)
    assert watch.lap() == (1.0, {"other": 1.0})


class Rewarded(SAC):
    """Another reward, and the frames as they are."""

    def augment(self, batch):
        return batch._replace(reward=2 * batch.reward)


@pytest.mark.parametrize(("kind", "shared"), [(Rewarded, True), (DrQ, False), (SAC, True)])
def test_frames_are_encoded_once_where_a_method_declares_that_they_are_shared(kind, shared):
    config = AGENTS["drq" if kind is DrQ else "sac"][0](**SMALL)
    agent = accelerate(kind(config, SPEC), "fast")
    assert agent.representation.one_pass == shared


def test_an_accelerated_agent_keeps_its_weights_under_their_names():
    plain = make_agent(AGENTS["alda"][0](**SMALL), SPEC)
    names = deepcopy(list(plain.state_dict()))
    assert list(accelerate(plain, "fast").state_dict()) == names
