"""Latent models against loops over scalars, autograd and hand-made tables."""

import importlib
import inspect
import pkgutil

import pytest
import torch

import alda.latents
from alda.errors import UserError
from alda.latents import LATENTS, AssociativeLatent, LatentConfig, LatentModel, make_latent
from alda.latents.ablations import ClampLatent, FSQLatent, IdentityLatent
from alda.latents.bio import BioLatent, BioPenaltyLatent
from alda.latents.codebook import QuantizedLatent
from alda.nets.conv import FrameDecoder


def encoded(n=64, latents=5, scale=1.5, seed=0):
    return (torch.rand(n, latents, generator=torch.Generator().manual_seed(seed)) * 2 - 1) * scale


def brute_force(x, values, beta):
    """Softmax retrieval, one scalar at a time."""
    out = torch.empty_like(x)
    for n in range(x.shape[0]):
        for j in range(x.shape[1]):
            scores = torch.stack([-beta * (x[n, j] - v).abs() for v in values[j]])
            weights = (scores - scores.max()).exp()
            out[n, j] = (weights / weights.sum() * values[j]).sum()
    return out


@pytest.mark.parametrize("beta", [1.0, 10.0, 100.0])
def test_retrieval_equals_a_loop_over_scalars(beta):
    x, memory = encoded(8).double(), AssociativeLatent(LatentConfig(num_latents=5, beta=beta)).double()
    torch.testing.assert_close(memory(x).policy, brute_force(x, memory.values, beta), rtol=0, atol=1e-14)
    ends = memory(torch.tensor([[1.0], [-1.0]]).double().expand(-1, 5)).policy
    far = memory(torch.tensor([[1.5], [-1.5], [40.0], [-40.0]]).double().expand(-1, 5)).policy
    torch.testing.assert_close(far, ends.repeat(2, 1), rtol=0, atol=1e-12)  # outside the codebook, its end


def reached(value, *tensors):
    """Which of the tensors a value has a gradient to."""
    if not value.requires_grad:
        return (False,) * len(tensors)
    found = torch.autograd.grad(value.sum(), tensors, allow_unused=True, retain_graph=True)
    return tuple(g is not None and bool(g.abs().sum() > 0) for g in found)


@pytest.mark.parametrize(
    ("switches", "critic", "regulariser"),
    [
        ({}, (False, False), (True, False)),
        ({"codebook_grad": "critic"}, (False, True), (True, False)),
        ({"codebook_grad": "quant"}, (False, False), (True, True)),
        ({"codebook_grad": "critic+quant"}, (False, True), (True, True)),
        ({"critic_grad": "ste"}, (True, False), (True, False)),
        ({"critic_grad": "soft"}, (True, False), (True, False)),
        ({"critic_grad": "soft", "codebook_grad": "quant"}, (True, False), (True, True)),
        ({"critic_grad": "soft", "codebook_grad": "critic"}, (True, True), (True, False)),
        ({"critic_grad": "ste", "codebook_grad": "critic+quant"}, (True, True), (True, True)),
    ],
)
def test_switches_say_which_of_encoder_and_codebook_each_loss_reaches(switches, critic, regulariser):
    x = encoded(scale=0.9).requires_grad_()
    memory = AssociativeLatent(LatentConfig(num_latents=5, beta=5.0, **switches))
    memory.values.requires_grad_()
    output = memory(x)
    assert reached(output.policy, x, memory.values) == critic
    assert reached(output.loss, x, memory.values) == regulariser


def test_gradients_are_one_straight_through_and_otherwise_the_slope():
    x = encoded(8).double().requires_grad_()
    output = AssociativeLatent(LatentConfig(num_latents=5, critic_grad="ste")).double()(x)
    for code in (output.policy, output.decode):
        (gradient,) = torch.autograd.grad((code * torch.arange(5)).sum(), x)
        assert torch.equal(gradient, torch.arange(5).expand(8, 5).double())
    config = LatentConfig(num_latents=5, beta=5.0, critic_grad="soft", codebook_grad="critic")
    soft = AssociativeLatent(config).double()
    assert torch.autograd.gradcheck(lambda v: soft(v).policy, x)
    assert torch.autograd.gradcheck(lambda v: soft.retrieve(x.detach(), v), soft.values)


def test_diagnosis_of_hand_made_latents():
    memory = AssociativeLatent(LatentConfig(num_latents=1, num_values=5, beta=1e4))  # -1, -.5, 0, .5, 1
    found = memory.diagnose(torch.tensor([[-1.0], [0.0], [1.0], [3.0]]))
    assert found["retrieval_distance"].item() == pytest.approx(0.5)  # 2 off in one of four
    assert found["outside_codebook"].item() == 0.25
    assert found["values_used"].item() == 3
    entropy = -(0.5 * torch.tensor(0.5).log() + 0.5 * torch.tensor(0.25).log())
    assert found["perplexity"].item() == pytest.approx(entropy.exp().item(), rel=1e-5)
    assert found["entropy"].item() == pytest.approx(0, abs=1e-6)


def test_every_latent_model_is_registered():
    found = set()
    for module in pkgutil.iter_modules(alda.latents.__path__):
        contents = vars(importlib.import_module(f"alda.latents.{module.name}")).values()
        models = {c for c in contents if isinstance(c, type) and issubclass(c, LatentModel)}
        found |= {model for model in models if not inspect.isabstract(model)}
    assert found == set(LATENTS.values())
    with pytest.raises(UserError, match="known: associative"):
        make_latent("nonesuch", LatentConfig())
    with pytest.raises(UserError, match="needs a latent model with a codebook"):
        make_latent("identity", LatentConfig(codebook_grad="quant"))


@pytest.mark.parametrize("name", LATENTS)
def test_every_latent_model_keeps_the_contract(name):
    """Codes within a range, whose decoder reaches the encoder always and whose critic does when asked to."""
    for critic_grad in ("none", "ste", "soft"):
        x = encoded(scale=0.9).requires_grad_()
        config = LatentConfig(num_latents=5, beta=5.0, critic_grad=critic_grad)
        if (name, critic_grad) == ("quantized", "soft"):
            with pytest.raises(UserError, match="no slope"):
                make_latent(name, config)
            continue
        output = make_latent(name, config)(x)
        assert torch.equal(output.policy, output.decode)
        assert reached(output.decode, x) == (True,)
        assert reached(output.policy, x) == (critic_grad != "none",)
    model, x = make_latent(name, LatentConfig(num_latents=5)), encoded()
    output, sweep = model(x), model.sweep(model(x).policy, 7)
    assert output.loss.ndim == 0
    assert sweep.shape == (5, 7)
    assert (sweep.diff() > 0).all()
    assert (output.policy <= sweep[:, -1] + 1e-6).all()
    assert (output.policy >= sweep[:, 0] - 1e-6).all()
    assert all(value.isfinite() for value in model.diagnose(x).values())


@pytest.mark.parametrize("name", LATENTS)
def test_the_nearest_stored_value_is_named_where_there_are_any(name):
    x = torch.tensor([[-3.0, -0.6], [0.2, 0.7], [0.9, 5.0]])
    model = make_latent(name, LatentConfig(num_latents=2, num_values=5))  # -1, -0.5, 0, 0.5, 1
    if name not in ("associative", "quantized", "fsq"):
        assert model.nearest(x) is None
        return
    assert model.nearest(x).tolist() == [[0, 1], [2, 3], [4, 4]]
    if name != "fsq":
        model.values.data = model.values.data.flip(-1)
        assert model.nearest(x).tolist() == [[0, 1], [2, 3], [4, 4]]


def test_quantized_takes_the_nearest_value_one_scalar_at_a_time():
    x, model = encoded(20), QuantizedLatent(LatentConfig(num_latents=5))
    model.values.data.add_(0.1 * torch.randn(5, 12, generator=torch.Generator().manual_seed(1)))
    code = model(x).policy
    for n in range(20):
        for j in range(5):
            nearest = min(model.values[j].tolist(), key=lambda v: abs(v - x[n, j].item()))
            assert code[n, j].item() == pytest.approx(nearest, abs=1e-7)


def test_quantisation_moves_values_to_what_they_stand_for_and_commitment_the_encoder():
    x = torch.tensor([[0.1], [0.3], [0.9]], requires_grad=True)
    config = LatentConfig(num_latents=1, num_values=2, codebook_range=(0.0, 1.0), lambda_commit=0.3, lambda_quant=0.6)
    model = QuantizedLatent(config)  # 0.1, 0.3 -> 0; 0.9 -> 1
    output = model(x)
    assert output.loss.item() == pytest.approx(0.9 * (0.01 + 0.09 + 0.01) / 3)
    by_x, by_values = torch.autograd.grad(output.loss, [x, model.values])
    torch.testing.assert_close(by_x, 0.3 * 2 / 3 * torch.tensor([[0.1], [0.3], [-0.1]]))
    torch.testing.assert_close(by_values, 0.6 * 2 / 3 * torch.tensor([[-0.4, 0.1]]))


def test_ablations_clamp_and_round():
    x = torch.tensor([[-3.0, -0.6, -0.1, 0.26, 0.9, 1.4]], requires_grad=True)
    config = LatentConfig(num_latents=6, num_values=5, lambda_commit=1.0)  # -1, -.5, 0, .5, 1
    clamped, rounded = ClampLatent(config)(x), FSQLatent(config)(x)
    torch.testing.assert_close(clamped.policy, torch.tensor([[-1.0, -0.6, -0.1, 0.26, 0.9, 1.0]]))
    torch.testing.assert_close(rounded.policy, torch.tensor([[-1.0, -0.5, 0.0, 0.5, 1.0, 1.0]]))
    assert clamped.loss.item() == pytest.approx((4 + 0.16) / 6)
    assert rounded.loss.item() == pytest.approx((4 + 0.01 + 0.01 + 0.0576 + 0.01 + 0.16) / 6)
    assert torch.equal(torch.autograd.grad(clamped.decode.sum(), x)[0], torch.ones(1, 6))
    inside = torch.tensor([[0.0, 1, 1, 1, 1, 0]])
    assert torch.equal(torch.autograd.grad(rounded.decode.sum(), x)[0], inside)
    soft = ClampLatent(LatentConfig(num_latents=6, critic_grad="soft"))(x).policy
    assert torch.equal(torch.autograd.grad(soft.sum(), x)[0], inside)
    identity = IdentityLatent(config)(x)
    assert torch.equal(identity.decode, x)
    assert identity.loss == 0
    many, frozen = encoded(1000), LatentConfig(num_latents=5, codebook_grad="none")
    torch.testing.assert_close(FSQLatent(frozen)(many).policy, QuantizedLatent(frozen)(many).policy, rtol=0, atol=1e-6)


def test_both_definitions_of_bioae():
    x = torch.tensor([[-1.0, 2.0], [0.5, -3.0]])
    config, decoder = LatentConfig(num_latents=2), FrameDecoder(2, 16)
    bio = BioLatent(config)
    assert bio(x).policy.tolist() == [[0.0, 2.0], [0.5, 0.0]]
    assert 12_288 * bio(x).loss.item() == pytest.approx(0.5 * (4 + 0.25) / 2)
    dense = [p for name, p in decoder.named_parameters() if name.startswith("head") and name.endswith("weight")]
    assert len(dense) == 3
    assert 12_288 * bio.decoder_loss(decoder).item() == pytest.approx(0.03 * sum((p**2).sum().item() for p in dense))
    penalty = BioPenaltyLatent(config)
    assert penalty(x).policy.tolist() == x.tolist()
    assert penalty(x).loss.item() == pytest.approx((1 + 3) / 4 + 0.01 * (1 + 4 + 0.25 + 9) / 4)
    assert penalty.decoder_loss(decoder) == 0
