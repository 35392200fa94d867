"""Stored codes: the same learning as from fresh ones where they are fresh, and never older than said."""

import math
import random

import numpy as np
import pytest
import torch
from conftest import CODE_DIM, STORED, fill, small_config
from tiny import spec_of, tiny_agent, tiny_replay

import alda
from alda.agents import make_agent
from alda.config import Config
from alda.errors import UserError
from alda.nets.representation import to_float
from alda.training.replay import Replay

SPEC = spec_of("alda")


@pytest.mark.parametrize("name", ["alda", "darla"])
@pytest.mark.usefixtures("_float64")
def test_stored_codes_that_are_fresh_teach_what_fresh_codes_do(name):
    """Ten updates in float64, ALDA's encoder learning after each: every code is written anew before it, and the target
    network of the run with fresh codes makes codes as the online one does. ALDA's codes that are not written anew teach
    something else."""
    darla = {**STORED["darla_stored"], "denoiser_updates": 0, "vae_updates": 0}
    schedule = {"autoencoder_every": 10**9, "autoencoder_first": 0}
    fresh = tiny_agent(name, **(darla if name == "darla" else {}))
    stored, stale = (tiny_agent(f"{name}_stored", **(darla if name == "darla" else schedule)) for _ in range(2))
    fresh.update_representation = lambda *_: {}  # the autoencoder learns below, of all alike
    rows = []
    for agent in (fresh, stored, stale):
        replay = tiny_replay(name)
        rows.append([])
        for step in range(10):
            torch.manual_seed(step)
            if agent is fresh:
                target, online = agent.target_representation, agent.representation
                for part in online.coders:
                    getattr(target, part).load_state_dict(getattr(online, part).state_dict())
            elif agent is stored:
                replay.forget_codes()
            rows[-1].append(agent.update(replay, step))
            if name == "alda":
                agent.update_autoencoder(to_float(replay.sample_frames(4)))
    for expected, found in zip(rows[0], rows[1], strict=True):
        assert expected.keys() == found.keys()
        for key, value in expected.items():
            assert found[key].item() == pytest.approx(value.item(), rel=1e-9, abs=1e-12), key
    weights = fresh.state_dict()
    assert len(stored.state_dict()) < len(weights)  # there is no target encoder
    for key, value in stored.state_dict().items():
        torch.testing.assert_close(value, weights[key], rtol=1e-9, atol=1e-11)
    assert rows[2][0]["critic/loss"] == rows[1][0]["critic/loss"]
    assert (rows[2][3]["critic/loss"] == rows[1][3]["critic/loss"]) == (name == "darla")  # whose encoder is frozen


def number(frames):
    """The number that a frame of `counted` shows."""
    return frames[..., 0, 0, 0].double() + 256 * frames[..., 1, 0, 0].double()


def counted(n):
    frame = torch.zeros(SPEC.obs_shape[1:], dtype=torch.uint8)
    frame[0], frame[1] = n % 256, n // 256
    return frame


@pytest.mark.parametrize(("num_envs", "capacity"), [(1, 40), (1, 600), (3, 40), (3, 600)])
def test_codes_follow_their_frames_and_none_waits_longer_than_stated(num_envs, capacity):
    """Against a list kept by hand: wrapping around, several environments, episodes of any length from one step on."""
    rng, count, shown = random.Random(num_envs), 7, 0
    replay = Replay(SPEC, capacity, 0.99, num_envs=num_envs, code_dim=1)
    stacks, left = [None] * num_envs, [0] * num_envs
    slots: list[int] = []  # slot -> number of its frame
    encoded: dict[int, int] = {}  # slot -> call in which its code was written

    def write(place):
        replay.write_codes(place, number(replay.frames_at(place))[:, None].float())

    def slot_of(place):
        newest = (len(slots) - 1 - place) // replay.slots * replay.slots + place
        assert 0 <= newest < len(slots)
        return newest

    for call in range(120):
        for env in range(num_envs):
            shown += 1
            if left[env] == 0:
                left[env], stacks[env] = rng.choice([1, 2, 5, 60]), [counted(shown)] * 3
                replay.add_first(torch.stack(stacks[env]), env)
                slots.append(shown)
                shown += 1
            stacks[env] = [*stacks[env][1:], counted(shown)]
            replay.add(torch.zeros(2), 0.0, False, torch.stack(stacks[env]), env)
            slots.append(shown)
            left[env] -= 1
        while replay.coded < replay.written:
            place = replay.next_uncoded(4)
            encoded |= {slot_of(p): call for p in place.tolist()}
            write(place)
        place = replay.next_in_turn(count)
        assert len(place) == count
        encoded |= {slot_of(p): call for p in place.tolist()}
        write(place)
        newest = replay.newest_codes().squeeze(-1)
        assert torch.equal(newest.double(), number(torch.stack([torch.stack(stack) for stack in stacks])))
        first = max(0, len(slots) - replay.slots)
        waits = [call - encoded[slot] for slot in range(first, len(slots))]
        assert max(waits) <= math.ceil(len(waits) / count)
        seed = rng.randrange(10**6)
        torch.manual_seed(seed)
        codes = replay.sample_codes(5)
        torch.manual_seed(seed)
        frames = replay.sample(5)
        for kept, seen in ((codes.obs, frames.obs), (codes.next_obs, frames.next_obs)):
            assert torch.equal(kept.squeeze(-1).double(), number(seen))


@pytest.mark.parametrize("capacity", [50, 200])
def test_a_saved_replay_keeps_its_codes(tmp_path, capacity):
    replay = fill(Replay(SPEC, 50, 0.99, code_dim=2), steps=90)
    uncoded = Replay(SPEC, 50, 0.99, code_dim=2)
    uncoded.load(tmp_path, replay.save(tmp_path))
    assert len(uncoded.next_uncoded(1_000)) == replay.slots  # one that wrapped before any code was written
    with pytest.raises(AssertionError, match="have no code yet"):
        replay.sample_codes(3)
    while replay.coded < replay.written:
        place = replay.next_uncoded(9)
        replay.write_codes(place, torch.rand(len(place), 2))
    replay.next_in_turn(5)
    saved, loaded = replay.save(tmp_path), Replay(SPEC, capacity, 0.99, code_dim=2)
    loaded.load(tmp_path, saved)
    assert loaded.coded == replay.coded
    kept = range(replay.written - replay.slots, replay.written)
    places, others = (torch.tensor([slot % it.slots for slot in kept]) for it in (replay, loaded))
    assert torch.equal(loaded.codes_at(others), replay.codes_at(places))
    assert torch.equal(loaded.code_ages(others), replay.code_ages(places))
    assert torch.equal(loaded.codes_at(loaded.next_in_turn(8)), replay.codes_at(replay.next_in_turn(8)))
    assert loaded.sample_codes(6).obs.shape == (6, 3, 2)


def test_only_the_newest_frame_is_encoded_to_act():
    agent, replay = tiny_agent("alda_stored"), tiny_replay("alda")
    seen, encode = [], agent.encode
    agent.encode = lambda frames: (seen.append(len(frames)), encode(frames))[1]
    agent.encode_new(replay)
    assert sum(seen) == replay.written
    obs = torch.randint(256, SPEC.obs_shape, dtype=torch.uint8)
    replay.add(torch.zeros(2), 0.0, False, obs)
    seen.clear()
    codes = agent.observe(replay, obs[None])
    assert seen == [1]
    assert torch.equal(codes[0, -1], agent.representation.codes(obs[None, -1:])[0, 0])


@pytest.mark.parametrize("name", STORED)
def test_acting_on_frames_and_on_their_codes_is_the_same(name):
    agent, obs = tiny_agent(name), tiny_replay(name).sample(3).obs
    codes = agent.encode(obs.flatten(0, 1)).unflatten(0, (3, 3))
    actions = [agent.act(seen, None, explore=False)[0] for seen in (obs, codes)]
    torch.testing.assert_close(*actions, rtol=1e-5, atol=1e-6)


def test_age_and_drift_are_what_they_say():
    """By hand: which codes are how old, and how far they are from what the encoder says now."""
    agent, replay = tiny_agent("alda_stored"), fill(Replay(SPEC, 100, 0.99, code_dim=CODE_DIM), steps=20)
    agent.encode_new(replay)
    old = replay.codes_at(torch.arange(21))
    fill(replay, steps=10)
    agent.encode_new(replay)
    for parameter in agent.representation.encoder.parameters():
        parameter.data.mul_(1.1)
    metrics = agent.refresh(replay, 6)
    codes = torch.cat([old, replay.codes_at(torch.arange(21, 32))])
    fresh = agent.encode(replay.frames_at(torch.arange(6)))
    drift = ((fresh - old[:6]) ** 2).mean() / codes.var(0).mean()
    assert metrics["codes/drift"].item() == pytest.approx(drift.sqrt().item(), rel=1e-5)
    assert metrics["codes/drift"] > 0
    assert metrics["codes/oldest"].item() == 11  # ten steps and a reset
    assert metrics["codes/age"].item() == pytest.approx(21 * 11 / 32)
    assert torch.equal(replay.codes_at(torch.arange(6)), fresh)
    assert replay.code_ages(torch.arange(8)).tolist() == [0] * 6 + [11] * 2


@pytest.mark.parametrize("latent", alda.latents.LATENTS)
def test_the_autoencoder_keeps_its_schedule(latent):
    """Alone at first, then with every fourth learning step, when codes are refreshed as well."""
    agent = tiny_agent("alda_stored", latent=latent, autoencoder_first=3, autoencoder_every=4)
    replay, random_steps = tiny_replay("alda"), agent.config.random_steps
    assert [agent.updates_due(random_steps + i) for i in range(-1, 2)] == [0, 3 + random_steps, 1]
    updates = [agent.update(replay, step) for step in range(12)]
    assert all(value.isfinite() for row in updates for value in row.values())
    rows, both = [{key.split("/")[0] for key in row} for row in updates], {"autoencoder", "codes"}
    assert [row & (both | {"critic"}) for row in rows] == [{"autoencoder"}] * 3 + [
        {"critic"} | (both if taken % 4 == 0 else set()) for taken in range(4, 13)
    ]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"critic_grad": "ste"}, "the reward trains the codes"),
        ({"latent": "quantized", "codebook_grad": "critic+quant"}, "the reward trains the codes"),
        ({"stack": "channels"}, "no codes of single frames"),
        ({"refresh_frames": 0}, r"--agent\.refresh-frames must be at least 1"),
    ],
)
def test_codes_that_cannot_be_stored_are_refused(setting, message):
    with pytest.raises(UserError, match=message):
        make_agent(Config(small_config("alda_stored", **setting)).resolved().agent, SPEC)


@pytest.mark.parametrize(
    ("task", "step"),
    [
        ("walker_stand", 16_000),
        *[
            ("cartpole_balance", 50_000),
            ("ball_in_cup_catch", 50_000),
            ("walker_walk", 100_000),
            ("finger_spin", 100_000),
        ],
    ],
)
def test_a_task_names_the_policy_that_comes_with_the_package(task, step):
    policy = alda.load(task)
    assert (policy.config.env.task, policy.config.name, policy.step) == (task, "alda_laptop", step)
    obs = np.random.default_rng(0).integers(256, size=policy.spec.obs_shape, dtype=np.uint8)
    assert policy.act(obs).shape == (policy.spec.action_dim,)
    assert policy.reconstruct(obs).shape == (3, 64, 64)


def test_a_folder_comes_before_a_policy_of_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "walker_stand").mkdir()  # a folder of that name comes first
    for name in ("walker_stand", "nonesuch"):
        with pytest.raises(UserError, match="is not a run directory"):
            alda.load(name)
