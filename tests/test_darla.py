import json
from copy import deepcopy
from functools import partial

import pytest
import torch
from conftest import SMALL, SMALL_OF, fill, make_agent
from test_fast import Tape, everything
from torch import nn

from alda.agents.darla import DARLA, DARLAConfig, beta_at, divergence_from_prior, rectangles
from alda.config import Config, EnvConfig
from alda.errors import LearningError, UserError
from alda.files import join_tensors, read_tensors, split_tensors
from alda.nets.conv import EluDecoder, EluEncoder
from alda.training.acceleration import _WARM_UP, Captured
from alda.training.replay import Replay
from alda.training.trainer import train
from alda.types import EnvSpec

SPEC = EnvSpec(frames=3, image_size=32, action_dim=2)
make = partial(make_agent, "darla", spec=SPEC)


@pytest.fixture
def replay():
    return fill(Replay(SPEC, 100, 0.99))


CORNERS = [  # as shares of the image: left and right in any order, then top and bottom
    [[0.25, 0.75], [0.5, 1.0]],
    [[0.9, 0.1], [0.3, 0.3]],  # no height
    [[1.0, 0.0], [0.6, 0.0]],
]


def test_a_rectangle_covers_the_pixels_whose_centres_it_holds():
    covered = rectangles(torch.tensor(CORNERS), 8)
    assert covered.shape == (3, 1, 8, 8)
    for image, ((x0, x1), (y0, y1)) in enumerate(CORNERS):
        for row in range(8):
            for column in range(8):
                x, y = (column + 0.5) / 8, (row + 0.5) / 8
                inside = min(x0, x1) <= x < max(x0, x1) and min(y0, y1) <= y < max(y0, y1)
                assert covered[image, 0, row, column].item() == inside
    assert covered.sum((1, 2, 3)).tolist() == [16, 0, 40]


def test_uniform_corners_cover_a_point_with_probability_four_times_its_shares():
    """A point at share p of a side lies between two uniform ones with probability 2 p (1 - p), on each axis."""
    corners = torch.rand(40_000, 2, 2, generator=torch.Generator().manual_seed(0))
    share = rectangles(corners, 6)[:, 0].float().mean(0)
    p = (torch.arange(6) + 0.5) / 6
    side = 2 * p * (1 - p)
    torch.testing.assert_close(share, side[:, None] * side, rtol=0, atol=0.012)  # five standard errors


def test_the_denoiser_learns_the_whole_from_the_covered(replay):
    agent, frames = make(), replay.sample(3).obs[:, -1]
    torch.manual_seed(3)
    corners = torch.rand(3, 2, 2).tolist()
    image = frames.double() / 255
    covered = image.clone()
    for b, ((x0, x1), (y0, y1)) in enumerate(corners):
        for row in range(32):
            for column in range(32):
                inside = min(x0, x1) <= (column + 0.5) / 32 < max(x0, x1) and (
                    min(y0, y1) <= (row + 0.5) / 32 < max(y0, y1)
                )
                if inside:
                    covered[b, :, row, column] = 0
    assert (covered == 0).sum() > (image == 0).sum()
    with torch.no_grad():
        decoded = agent.denoiser(covered.float()).sigmoid().double()
    torch.manual_seed(3)
    metrics = agent.learn_denoiser(frames)
    assert metrics["denoiser/loss"].item() == pytest.approx(((decoded - image) ** 2).mean().item(), rel=1e-5)


def test_the_vae_objective_equals_a_loop_over_images(replay):
    agent, frames = make(), replay.sample(3).obs[:, -1]
    agent.feature_std.uniform_(0.5, 2.0)
    image = frames.float() / 255
    with torch.no_grad():
        mean, log_var = agent.representation.encoder(image)
        torch.manual_seed(5)
        z = mean + log_var.exp().sqrt() * torch.randn(3, 4)
        decoded = agent.decoder(z).sigmoid()
        distance, divergence = 0.0, 0.0
        for b in range(3):
            seen, painted = (agent.denoiser.encoder(x[b : b + 1])[0] for x in (image, decoded))
            distance += sum(((p - s) / d).item() ** 2 for s, p, d in zip(seen, painted, agent.feature_std, strict=True))
            latents = torch.distributions.Normal(mean[b], (0.5 * log_var[b]).exp())
            prior = torch.distributions.Normal(torch.zeros(4), torch.ones(4))
            divergence += torch.distributions.kl_divergence(latents, prior).sum().item()
    torch.manual_seed(5)
    metrics = agent.learn_vae(frames, torch.tensor(2.5))
    assert metrics["vae/distance"].item() == pytest.approx(distance / 3, rel=1e-4)
    assert metrics["vae/kl"].item() == pytest.approx(divergence / 3, rel=1e-4)
    assert metrics["vae/loss"].item() == pytest.approx((distance + 2.5 * divergence) / 3, rel=1e-4)


def test_divergence_is_that_of_torch_distributions():
    g = torch.Generator().manual_seed(0)
    mean, log_var = torch.randn(5, 3, generator=g), torch.randn(5, 3, generator=g)
    latents = torch.distributions.Normal(mean, log_var.exp().sqrt())
    truth = torch.distributions.kl_divergence(latents, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(divergence_from_prior(mean, log_var), truth)


class Told(nn.Module):
    """An encoder that gives what it is told, whatever it sees."""

    def __init__(self, mean, log_var):
        super().__init__()
        self.mean, self.log_var = nn.Parameter(mean), nn.Parameter(log_var)

    def forward(self, image):
        return self.mean.expand(len(image), -1), self.log_var.expand(len(image), -1)


def test_latents_are_drawn_with_the_variance_that_the_encoder_gives(replay):
    """exp(log variance), not its square."""
    agent = make(num_latents=2)
    agent.representation.encoder = Told(torch.tensor([1.0, -2.0]), torch.tensor([-2.0, 1.0]))
    drawn = []
    agent.decoder.register_forward_pre_hook(lambda _, given: drawn.append(given[0].detach()))
    agent.descend = lambda *_, loss: None
    frames = torch.zeros(50, 3, 32, 32, dtype=torch.uint8)
    torch.manual_seed(0)
    for _ in range(20):
        agent.learn_vae(frames, torch.tensor(1.0))
    z = torch.cat(drawn)
    torch.testing.assert_close(z.mean(0), torch.tensor([1.0, -2.0]), rtol=0, atol=0.2)
    torch.testing.assert_close(z.var(0).log(), torch.tensor([-2.0, 1.0]), rtol=0, atol=0.2)  # 0.045 standard error


def test_beta_rises_as_in_this_table():
    config = DARLAConfig(beta=4.0, beta_warm_up=10)
    table = {0: 0.0, 1: 0.4, 5: 2.0, 9: 3.6, 10: 4.0, 11: 4.0, 1_000: 4.0}
    assert {update: beta_at(update, config) for update in table} == pytest.approx(table)


def test_features_are_scaled_by_their_deviation_over_the_data(replay):
    agent = make(sample_frames=10)  # three batches of four
    torch.manual_seed(7)
    agent._scale_features(replay)
    torch.manual_seed(7)
    frames = torch.cat([replay.sample(4).obs[:, -1] for _ in range(3)])
    with torch.no_grad():
        features = agent.denoiser.encoder(frames.float() / 255).double()
    std = ((features - features.mean(0)) ** 2).sum(0).div(11).sqrt()
    least = 0.1 * std.mean()
    torch.testing.assert_close(agent.feature_std.double(), torch.where(std < least, least, std), rtol=1e-4, atol=0)


def test_a_feature_that_hardly_varies_weighs_no_more_than_it_may(replay):
    agent = make()
    agent.denoiser.encoder.convs[6].weight.data[0] = 0  # the last convolution's first channel
    agent._scale_features(replay)
    assert agent.feature_std.min() > 0
    constant = agent.feature_std.view(64, 4)[0]
    assert torch.equal(constant, agent.feature_std.min().expand(4))


@pytest.mark.parametrize("size", [16, 64, 84])
def test_images_of_other_sizes_come_back_in_their_size(size):
    encoder, decoder = EluEncoder(size), EluDecoder(7, size)
    assert encoder(torch.zeros(2, 3, size, size)).shape == (2, encoder.out_dim)
    assert decoder(torch.zeros(2, 7)).shape == (2, 3, size, size)
    assert EluEncoder(64).out_dim == 1024


def test_too_small_images_are_refused():
    with pytest.raises(UserError, match="at least 16x16"):
        make(spec=EnvSpec(frames=3, image_size=15, action_dim=1))


STAGES = {"denoiser_updates": 2, "vae_updates": 3, "catch_up_updates": 4, "random_steps": 6}
ORDER = ["learn_denoiser"] * 2 + ["learn_vae"] * 3 + ["learn"]


def spied(agent):
    called = []
    for name in agent.hot:
        method = getattr(agent, name)
        setattr(agent, name, lambda *a, n=name, m=method, **k: called.append(n) or m(*a, **k))
    return called


def test_stages_come_in_order_and_as_often_as_asked(replay):
    agent = make(**STAGES, beta_warm_up=2, beta=3.0)
    assert [agent.updates_due(step) for step in range(9)] == [0] * 6 + [9, 1, 1]
    called, logged = spied(agent), []
    for step in (6,) * 9 + (7, 8):
        logged.append(agent.update(replay, step))
    assert called == ORDER + ["learn"] * 5
    assert [m["vae/beta"].item() for m in logged if "vae/beta" in m] == [0.0, 1.5, 3.0]
    judged = [i for i, metrics in enumerate(logged) if "darla/accepted" in metrics]
    assert judged == [4]  # the last of stage 1
    assert {"darla/active", "darla/psnr", "darla/psnr_gain", "vae/loss"} <= logged[4].keys()


def test_steady_learning_is_stage_2_alone(replay):
    agent = DARLA(DARLAConfig(hidden_dim=16, batch_size=2).steady(), SPEC)
    called = spied(agent)
    assert [agent.updates_due(step) for step in range(4)] == [0, 0, 2, 1]
    agent.update(replay, 2)
    assert called == ["learn"]
    alike = zip(agent.representation.parameters(), agent.target_representation.parameters(), strict=True)
    encoder_alike = [torch.equal(a, b) for a, b in alike]
    assert sum(encoder_alike) >= len(list(agent.representation.encoder.parameters()))


def after(updates, replay, **config):
    agent = make(**{**STAGES, **config})
    torch.manual_seed(1)
    for _ in range(updates):
        agent.update(replay, 6)
    return agent


def saved(agent):
    """As it comes back from a file."""
    content, tensors = split_tensors(deepcopy(agent.training_state()))
    return deepcopy(agent.state_dict()), join_tensors(json.loads(json.dumps(content)), tensors)


@pytest.mark.parametrize("updates", [1, 2, 3, 5, 6])
def test_a_run_saved_anywhere_in_its_stages_goes_on_bit_for_bit(updates, replay):
    original = after(updates, replay)
    weights, training = saved(original)
    loaded = make(**STAGES)
    loaded.load_state_dict(weights)
    loaded.load_training_state(training)
    called = spied(loaded)
    for agent in (original, loaded):
        torch.manual_seed(2)
        for _ in range(4):
            agent.update(replay, 6)
    assert called == (ORDER + ["learn"] * 9)[updates : updates + 4]
    for name, value in original.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name


PARTS = (
    *("denoiser", "decoder", "representation.encoder", "representation.history", "critic", "actor", "log_temperature"),
    *("target_representation.encoder", "target_representation.history", "target_critic"),
)


def moved(agent, change):
    before = {name: p.clone() for name, p in agent.named_parameters()}
    change()
    changed = {name for name, p in agent.named_parameters() if not torch.equal(p, before[name])}
    return {part for part in PARTS if any(name == part or name.startswith(part + ".") for name in changed)}


def test_each_stage_moves_its_own_parts_alone(replay):
    agent = make(**STAGES)
    by_update = [moved(agent, lambda: agent.update(replay, 6)) for _ in range(6)]
    vae = {"representation.encoder", "decoder"}
    sac = {"representation.history", "critic", "actor", "log_temperature"}
    targets = {"target_representation.history", "target_critic"}
    assert by_update[:2] == [{"denoiser"}] * 2
    assert by_update[2:4] == [vae] * 2
    assert by_update[4] == vae | {"target_representation.encoder"}  # which is made equal, once
    assert by_update[5] == sac | targets


def test_each_loss_of_stage_2_trains_its_own_parts(replay):
    agent, batch = make(), replay.sample(4)
    features = agent.representation.encode_transition(batch)
    assert moved(agent, lambda: agent.update_critic(batch, features)) == {"critic", "representation.history"}
    assert moved(agent, lambda: agent.update_actor(batch)) == {"actor", "log_temperature"}
    assert all(p.grad is None for p in agent.representation.encoder.parameters())


def test_targets_look_through_the_same_encoder_in_stage_2(replay):
    agent = after(9, replay)
    encoders = [r.encoder.state_dict() for r in (agent.representation, agent.target_representation)]
    assert encoders[0].keys() == encoders[1].keys()
    for name, value in encoders[0].items():
        assert torch.equal(value, encoders[1][name]), name
    assert not torch.equal(
        next(iter(agent.representation.history.parameters())),
        next(iter(agent.target_representation.history.parameters())),
    )


@pytest.mark.usefixtures("_float64")
def test_one_pass_over_the_frames_learns_what_two_passes_learn():
    results, encoded = [], []
    for one_pass in (False, True):
        agent = make(**STAGES)
        agent.representation.one_pass = one_pass
        replay = fill(Replay(SPEC, 100, 0.99))
        batch = replay.sample(3)
        with agent.representation.encoder.register_forward_hook(lambda *a: encoded.append(len(a[-1][0]))):
            features = agent.representation.encode_transition(batch)
        assert features.obs.requires_grad
        assert not features.next_obs.requires_grad
        torch.manual_seed(1)
        losses = [agent.update(replay, 6) for _ in range(8)]
        results.append((losses[-1], agent.state_dict()))
    assert encoded == [9, 9, 12]
    (two_losses, two), (one_losses, one) = results
    assert one_losses.keys() == two_losses.keys()
    for name, value in two_losses.items():
        assert one_losses[name].item() == pytest.approx(value.item(), rel=1e-6, abs=1e-6), name
    for name, value in two.items():
        torch.testing.assert_close(one[name], value.to(one[name]), rtol=0, atol=1e-6)


def test_fast_is_close_to_plain_in_every_stage(replay):
    """As tests/test_contract.py has it for the first updates."""
    results = []
    for speed in ("plain", "fast"):
        agent = make(speed, denoiser_updates=2, vae_updates=2)
        torch.manual_seed(1)
        results.append([agent.update(replay, step) for step in range(7)])
    for plain, fast in zip(*results, strict=True):
        assert plain.keys() == fast.keys()
        for key in plain.keys() - {"vae/active", "darla/active"}:  # counts: a latent at the threshold may be either
            assert fast[key].item() == pytest.approx(plain[key].item(), rel=0.1, abs=0.05), key


def test_every_stage_survives_being_captured(replay):
    """As tests/test_fast.py has it for learning: bit for bit, with the weight of the divergence rising meanwhile."""
    calls, frames = _WARM_UP + 3, [replay.sample(3).obs[:, -1] for _ in range(_WARM_UP + 3)]
    eager, captured = make("fast"), make("fast")
    for name in ("learn_denoiser", "learn_vae"):
        setattr(captured, name, Captured(getattr(captured, name), partial(Tape, partial(everything, captured))))
    results = []
    for agent in (eager, captured):
        torch.manual_seed(1)
        results.append([agent.learn_denoiser(seen) for seen in frames])
        results[-1] += [agent.learn_vae(frames[i], torch.full((), 0.1 * i)) for i in range(calls)]
    for expected, got in zip(*results, strict=True):
        assert expected.keys() == got.keys()
        for name, value in expected.items():
            assert torch.equal(got[name], value), name
    for expected, got in zip(everything(eager), everything(captured), strict=True):
        assert torch.equal(expected, got)


class Painter(nn.Module):
    """Paints given images, one after another, whatever the code."""

    def __init__(self, images):
        super().__init__()
        self.logits = images.clamp(1e-4, 1 - 1e-4).logit()

    def forward(self, code):
        return self.logits[: len(code)]


class Seen(nn.Module):
    """A denoiser to which an image looks as it is."""

    def forward(self, image):
        return image.logit()


def judged(active, images, painted, **config):
    """The verdict on a beta-VAE with so many active latents of eight that paints these instead of those."""
    agent = make(num_latents=8, batch_size=len(images), sample_frames=len(images), **config)
    mean = torch.where(torch.arange(8) < active, 0.4, 0.2)  # 0.08 and 0.02 nats
    agent.representation.encoder = Told(mean, torch.zeros(8))
    agent.decoder, agent.denoiser = Painter(painted), Seen()
    agent._fresh = lambda _: iter([images])
    return agent._judge(Replay(SPEC, 2, 0.99))


def case(name):
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mean = images.mean(0, keepdim=True).expand_as(images)
    painted = {"good": 0.9 * images + 0.1 * mean, "mean": mean, "hardly": 0.05 * images + 0.95 * mean}[name]
    return images, painted


@pytest.mark.parametrize(
    ("active", "painted", "accepted"),
    [
        (6, "good", True),
        (5, "good", False),
        (0, "good", False),
        (8, "good", False),  # too many
        (7, "good", True),
        (6, "mean", False),
        (6, "hardly", False),
    ],
)
def test_a_beta_vae_is_accepted_for_latents_and_images(active, painted, accepted):
    images, instead = case(painted)
    verdict = judged(active, images, instead, active_range=(6, 7))
    assert verdict["accepted"] == accepted
    assert verdict["active"] == active
    # Moving from the mean image to the truth by a share leaves the rest of the difference, squared.
    left = {"good": 0.1, "mean": 1.0, "hardly": 0.95}[painted]
    assert verdict["psnr_gain"] == pytest.approx(-20 * torch.tensor(left).log10().item(), abs=0.01)
    truth = -10 * ((images - instead) ** 2).mean().log10()
    assert verdict["psnr"] == pytest.approx(truth.item(), abs=0.01)


def test_a_decoder_that_paints_the_same_whatever_the_code_gains_nothing(replay):
    """No constant image is closer to the frames than their mean."""
    agent = make()
    agent.decoder[0].weight.data.zero_()
    assert agent._judge(replay)["psnr_gain"] < 0


def test_images_that_are_not_numbers_are_refused():
    images, _ = case("good")
    assert judged(6, images, torch.full_like(images, torch.nan))["accepted"] == 0.0


def test_a_refusal_stops_the_run_again_and_again_until_it_is_told_to_continue(replay):
    impossible = {"min_psnr_gain": 100.0}
    free = after(5, replay, **impossible)
    refused = after(4, replay, **impossible, on_refusal="stop")
    called = spied(refused)
    for _ in range(3):
        with pytest.raises(
            LearningError, match=r"dB better than the mean image .*--agent.on-refusal continue"
        ) as raised:
            refused.update(replay, 6)
        assert raised.value.sound
    assert called == ["learn_vae"]  # counted at once, refused thrice

    weights, training = saved(refused)
    resumed = make(**STAGES, **impossible)
    resumed.load_state_dict(weights)
    resumed.load_training_state(training)
    metrics = resumed.update(replay, 6)  # in place of the one that was refused
    assert metrics["darla/accepted"] == 0.0
    for agent in (free, resumed):
        torch.manual_seed(3)
        for step in range(6, 9):
            assert "critic/loss" in agent.update(replay, step)
    for name, value in free.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_refused_run_stops_each_time_it_is_resumed_and_may_then_continue(tmp_path, capfd):
    """Ending with the weights of a run that was to continue from the start."""
    env = EnvConfig(task="cartpole_balance", episode_length=36, profile="fast")  # nine steps an episode

    def attempt(name, on_refusal):
        small = {**SMALL, **SMALL_OF["darla"], "min_psnr_gain": 100.0, "on_refusal": on_refusal}
        agent = DARLAConfig(**small)
        quick = {"steps": 10, "shifts": ("train",), "eval_episodes": 1, "eval_workers": 0, "video_every": 0}
        config = Config(agent, env, run_dir=tmp_path / name, **quick)
        train(config)

    for _ in range(2):
        with pytest.raises(SystemExit) as stopped:
            attempt("stopped", "stop")
        assert stopped.value.code == 1
        assert "stopped at step 5: the beta-VAE is refused" in capfd.readouterr().out
    attempt("stopped", "continue")
    attempt("free", "continue")
    first, second = (
        read_tensors(next((tmp_path / name / "checkpoints").glob("save_*")) / "agent.safetensors")
        for name in ("stopped", "free")
    )
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


def test_a_good_beta_vae_is_not_refused(replay):
    """A range and a gain that anything satisfies."""
    agent = after(4, replay, active_range=(0, 4), min_psnr_gain=-100.0, on_refusal="stop")
    metrics = agent.update(replay, 6)
    assert metrics["darla/accepted"] == 1.0
    assert "critic/loss" in agent.update(replay, 6)


def test_traversals_lead_one_latent_and_hold_the_others(replay):
    agent, obs = make(), replay.sample(2).obs
    codes = []
    agent.decoder.register_forward_pre_hook(lambda _, given: codes.append(given[0]))
    images = agent.traverse(obs)
    assert images.shape == (4, 9, 3, 32, 32)
    mean, _ = agent.representation.encoder(obs[:1, -1].float() / 255)
    values = [-3.0, -2.25, -1.5, -0.75, 0.0, 0.75, 1.5, 2.25, 3.0]
    for latent in range(4):
        for i, value in enumerate(values):
            code = mean.detach().clone()
            code[0, latent] = value
            torch.testing.assert_close(codes[0].view(4, 9, 4)[latent, i], code[0])
            painted = (agent.denoiser(agent.decoder(code).sigmoid()).sigmoid() * 255)[0]
            assert (painted - images[latent, i]).abs().max() <= 0.51


def test_reconstruct_and_diagnose_look_at_the_newest_frame(replay):
    agent, obs = make(), replay.sample(3).obs
    other = obs.clone()
    other[:, :-1] = 0
    assert torch.equal(agent.reconstruct(obs), agent.reconstruct(other))
    assert agent.diagnose(obs) == agent.diagnose(other)
    image, truth = agent.reconstruct(obs).double() / 255, obs[:, -1].double() / 255
    quality = -10 * ((image - truth) ** 2).mean().log10()
    numbers = agent.diagnose(obs)
    assert numbers["psnr"].item() == pytest.approx(quality.item(), abs=0.05)
    with torch.no_grad():
        mean, log_var = agent.representation.encoder(obs[:, -1].float() / 255)
    by_latent = 0.5 * (mean**2 + log_var.exp() - 1 - log_var).mean(0)
    assert numbers["kl"].item() == pytest.approx(by_latent.sum().item(), rel=1e-5)
    assert numbers["active"] == sum(value > 0.05 for value in by_latent.tolist())


@pytest.mark.parametrize("setting", [{"active_range": (6, 2)}, {"active_range": (6, 32), "num_latents": 4}])
def test_a_criterion_that_nothing_can_meet_is_refused_before_anything_is_learned(setting):
    with pytest.raises(UserError, match=r"no beta-VAE of .* can have"):
        make("darla", **setting)
