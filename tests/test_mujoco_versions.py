"""dm_control on the MuJoCo that is installed: `make test` has 3.17, `make test-mujoco4` has 4.0."""

import runpy
from importlib.metadata import version

import mujoco
import numpy as np
import pytest

import alda
import alda.commands.doctor
from alda.envs.rendering import load_suite
from alda.envs.tasks import TASKS

DROPPED = {
    "3.17": {"mjmodel": set(), "mjdata": set()},
    "4.0": {
        "mjmodel": {
            "flex_vertedge",
            "flex_vertedgeadr",
            "flex_vertedgenum",
            "flex_vertmetric",
            "flexvert_J_colind",
            "flexvert_J_rowadr",
            "flexvert_J_rownnz",
        },
        "mjdata": {"flexvert_J", "flexvert_length"},
    },
}
FIRST_TASKS = {domain: task for task, (domain, _) in reversed(TASKS.items())}


def test_only_what_this_mujoco_lacks_is_taken_out():
    load_suite()
    from dm_control.mujoco.wrapper.mjbindings import sizes

    shipped = runpy.run_path(sizes.__file__)["array_sizes"]
    dropped = {table: set(shipped[table]) - set(sizes.array_sizes[table]) for table in shipped}
    structs = {"mjmodel": mujoco.MjModel, "mjdata": mujoco.MjData}
    assert dropped == {table: {n for n in shipped[table] if not hasattr(structs[table], n)} for table in shipped}
    minor = ".".join(version("mujoco").split(".")[:2])
    if minor not in DROPPED:
        pytest.skip(f"what mujoco {minor} lacks has not been written down")
    assert dropped == DROPPED[minor]


@pytest.mark.parametrize("task", FIRST_TASKS.values(), ids=FIRST_TASKS)
def test_every_domain_loads_resets_steps_and_renders(task):
    env = alda.make_env(task, profile="fast")
    first, _ = env.reset(seed=0)
    state = env.physics.get_state()
    for _ in range(8):
        obs, reward, *_ = env.step(env.action_space.high)
        assert np.isfinite(reward)
    assert not np.array_equal(env.physics.get_state(), state)
    assert np.isfinite(env.physics.get_state()).all()
    assert obs[-1].std() > 1
    assert not np.array_equal(obs[-1], first[-1])
    env.close()


@pytest.mark.parametrize(
    ("found", "report"),
    [
        ("3.17.0", "3.17.0"),
        ("4.0.0", "4.0.0 (works; scores are made with 3.17.0 and the two should not be mixed)"),
        ("3.18.0", "3.18.0 (tested with 3.17.0)"),
    ],
)
def test_doctor_says_what_is_known_of_this_mujoco(monkeypatch, found, report):
    monkeypatch.setattr(alda.commands.doctor, "version", lambda name: found)
    assert dict(alda.commands.doctor._versions())["mujoco"] == report
