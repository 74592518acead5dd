"""The compact UNet: what it may depend on, and what it must not."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rounding import bound_of_rounding, largest, nudged_weights
from satcascade.diffusion.process import alpha_sigma, to_x0
from satcascade.diffusion.weighting import low_res_estimate
from satcascade.models.compact_unet import CompactUNet
from satcascade.models.denoiser import TextCondition, resize_low_res
from satcascade.models.layers import cpu
from satcascade.models.text import TextEmbeddings
from satcascade.training.batches import Batch
from satcascade.training.loss import DenoisingLoss


def make(low_res: bool = False, **changes: object) -> CompactUNet:
    torch.manual_seed(0)
    settings = {
        "sample_size": 32,
        "widths": [16, 32],
        "blocks": [1, 2],
        "attention": [False, True],
        "head_dim": 16,
        "cond_dim": 24,
        "text_dim": 12,
        "low_res": low_res,
    }
    model = CompactUNet(**settings | changes).eval()
    # Residual branches start at zero; give them something to say.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def inputs(count: int = 3, size: int = 32, length: int = 5) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor([length, 2, 1, 3][:count])
    mask = torch.arange(length) < lengths[:, None]
    return (
        torch.randn(count, 3, size, size, generator=generator),
        torch.linspace(-4, 4, count),
        torch.randn(count, length, 12, generator=generator) * mask[..., None],
        mask,
    )


TYPES = {kind: make(prediction_type=kind) for kind in ("v_prediction", "epsilon", "sample")}


def test_prediction_depends_on_everything_it_is_given():
    model = make()
    x, log_snr, embeddings, mask = inputs()
    with torch.inference_mode():
        text = model.encode_text(embeddings, mask)
        reference = model(x, log_snr, text)
        assert reference.shape == x.shape
        assert reference.dtype == torch.float32
        null = model.encode_text(embeddings, mask, torch.zeros(3, dtype=torch.bool))
        for other in (
            model(x + 0.1, log_snr, text),
            model(x, log_snr + 1, text),
            model(x, log_snr, text[[1, 2, 0]]),
            model(x, log_snr, null),
        ):
            assert (other - reference).abs().amax(dim=(1, 2, 3)).min() > 1e-4


def test_padding_and_neighbours_in_the_batch_do_not_matter():
    model = make()
    x, log_snr, embeddings, mask = inputs()
    longer = torch.cat([embeddings, torch.zeros(3, 4, 12)], dim=1)
    longer_mask = torch.cat([mask, torch.zeros(3, 4, dtype=torch.bool)], dim=1)
    with torch.inference_mode():

        def predicted(seed: int) -> torch.Tensor:
            with nudged_weights(seed, model):
                return model(x, log_snr, model.encode_text(embeddings, mask))

        reference = model(x, log_snr, model.encode_text(embeddings, mask))
        padded = model(x, log_snr, model.encode_text(longer, longer_mask))
        bound = bound_of_rounding(reference, predicted)
        assert largest(padded - reference) <= bound
        for row in range(3):
            only = slice(row, row + 1)
            alone = model(x[only], log_snr[only], model.encode_text(embeddings[only], mask[only]))
            assert largest(alone - reference[only]) <= bound


def test_null_caption_is_the_same_for_all_captions():
    model = make()
    _, _, embeddings, mask = inputs()
    drop = torch.zeros(3, dtype=torch.bool)
    null = model.encode_text(embeddings, mask, drop)
    assert null.mask.sum(dim=1).tolist() == [1, 1, 1]
    assert torch.equal(null.tokens[0, 0], null.tokens[1, 0])
    assert torch.equal(null.pooled[0], null.pooled[1])
    mixed = model.encode_text(embeddings, mask, torch.tensor([True, False, True]))
    assert torch.equal(mixed.pooled[0], model.encode_text(embeddings, mask).pooled[0])
    assert torch.equal(mixed.pooled[1], null.pooled[1])


def test_untrained_network_makes_the_best_linear_guess():
    """With its output layer at zero, v is c_skip x_t: for data of the assumed size, the least squares fit."""
    torch.manual_seed(0)
    model = CompactUNet(
        sample_size=32, widths=[16], blocks=[1], attention=[False], text_dim=12, sigma_data=0.5
    )
    x0, noise = torch.randn(2, 3, 64, 64) * 0.5, torch.randn(2, 3, 64, 64)
    log_snr = torch.tensor([-1.0, 2.0])
    alpha, sigma = log_snr.sigmoid().sqrt().view(2, 1, 1, 1), (-log_snr).sigmoid().sqrt().view(2, 1, 1, 1)
    x_t, v = alpha * x0 + sigma * noise, alpha * noise - sigma * x0
    with torch.inference_mode():
        guess = model(
            x_t, log_snr, model.encode_text(torch.zeros(2, 1, 12), torch.ones(2, 1, dtype=torch.bool))
        )
    best = (v * x_t).sum((1, 2, 3)) / (x_t * x_t).sum((1, 2, 3))
    torch.testing.assert_close((guess / x_t)[:, 0, 0, 0], best, rtol=0, atol=0.02)


@given(log_snr=st.floats(-8, 8), seed=st.integers(0, 1000))
def test_prediction_types_state_the_same_clean_image(log_snr, seed):
    """Preconditioned, the same weights mean the same; only the rounding of what is stated differs."""
    generator = torch.Generator().manual_seed(seed)
    x, levels = torch.randn(2, 3, 32, 32, generator=generator), torch.full((2,), log_snr)
    embeddings, mask = torch.randn(2, 3, 12, generator=generator), torch.ones(2, 3, dtype=torch.bool)
    found = []
    with torch.inference_mode():
        for kind, network in TYPES.items():
            prediction = network(x, levels, network.encode_text(embeddings, mask))
            found.append(to_x0(prediction, x, levels, kind))
    # Each states the same numbers by sums and products of a few; an image is divided by alpha.
    alpha, sigma = alpha_sigma(levels[:1])
    terms = float((x.abs().max() + found[0].abs().max()) * (1 + sigma / alpha).max())
    for other in found[1:]:
        assert largest(other - found[0]) <= 16 * torch.finfo(torch.float32).eps * terms


@pytest.mark.parametrize("kind", ["v_prediction", "epsilon", "sample"])
def test_without_preconditioning_the_output_is_the_prediction(kind):
    """With its output layers at zero, a network predicts nothing."""
    torch.manual_seed(0)
    arguments = {"sample_size": 16, "widths": [16], "blocks": [1], "attention": [False], "text_dim": 12}
    model = CompactUNet(**arguments, prediction_type=kind, preconditioned=False)
    x, log_snr, embeddings, mask = inputs(size=16)
    with torch.inference_mode():
        assert not model(x, log_snr, model.encode_text(embeddings, mask)).any()
    trained = make(preconditioned=False)
    x, log_snr, embeddings, mask = inputs()
    with torch.inference_mode():
        both = [
            trained(part, log_snr, trained.encode_text(embeddings, mask)) for part in (x, torch.zeros_like(x))
        ]
    assert not torch.allclose(*both)


def test_unknown_prediction_type_is_refused():
    with pytest.raises(ValueError, match="prediction type 'score'"):
        make(prediction_type="score")


@pytest.mark.parametrize("low_res", [False, True])
def test_detail_level_adds_nothing_until_it_is_trained(low_res):
    plain, detailed = make(low_res), make(low_res, detail_width=8, detail_blocks=2)
    x, log_snr, embeddings, mask = inputs()

    def found(network):
        given = (x.flip(0), log_snr) if low_res else ()
        with torch.inference_mode():
            return network(x, log_snr, network.encode_text(embeddings, mask), *given)

    trained = found(detailed)
    detailed.load_state_dict(plain.state_dict(), strict=False)
    with torch.no_grad():
        for parameter in detailed.detail.out.parameters():
            parameter.zero_()
    assert torch.equal(found(detailed), found(plain))
    assert not torch.allclose(trained, found(plain), atol=1e-2)


def test_detail_level_sees_what_lies_within_a_patch():
    """Where only its own stem hears of the image, its answer still follows single pixels."""
    model = make(detail_width=8)
    x, log_snr, embeddings, mask = inputs()
    with torch.inference_mode():
        for deaf in (model.stem, model.filters):
            deaf.weight.zero_()
        text = model.encode_text(embeddings, mask)
        # The best linear guess, outside the network, moves with the pixel alone.
        moved = x.clone()
        moved[:, :, 9, 9] += 1
        difference = (model(moved, log_snr, text) - model(x, log_snr, text)).abs().amax(dim=(0, 1))
    assert difference[8:10, 8:10].min() > 1e-5
    # A 3x3 stem, a block of two and a 3x3 output, of positions of 2 pixels: 4 positions to each side.
    assert not difference[:, 18:].any()
    assert difference[:, 14:18].any()


def test_detail_level_needs_patches_that_divide():
    with pytest.raises(ValueError, match="even size"):
        make(patch_size=1, detail_width=8)


@pytest.mark.parametrize("detail_width", [None, 8])
def test_super_resolution_network_takes_crops_and_whole_images(detail_width):
    model = make(low_res=True, self_attention=False, detail_width=detail_width)
    for size in (16, 32, 48):
        x, log_snr, embeddings, mask = inputs(size=size)
        text = model.encode_text(embeddings, mask)
        with torch.inference_mode():
            first = model(x, log_snr, text, x.flip(0), log_snr)
            assert first.shape == x.shape
            assert not torch.allclose(first, model(x, log_snr, text, x.flip(0), log_snr + 2))
            assert not torch.allclose(first, model(x, log_snr, text, x, log_snr))


def test_low_resolution_image_where_none_is_taken_is_refused_and_the_other_way_round():
    x, log_snr, embeddings, mask = inputs()
    for model, low_res in ((make(), x), (make(low_res=True), None)):
        with pytest.raises(ValueError, match="low_res"):
            model(x, log_snr, model.encode_text(embeddings, mask), low_res, log_snr)


def test_saved_network_computes_the_same(tmp_path):
    model = make(low_res=True, prediction_type="sample", preconditioned=False)
    model.save_pretrained(tmp_path)
    loaded = CompactUNet.from_pretrained(tmp_path)
    x, log_snr, embeddings, mask = inputs()
    with torch.inference_mode():
        made = [
            network(x, log_snr, network.encode_text(embeddings, mask), x, log_snr)
            for network in (model, loaded)
        ]
    assert torch.equal(*made)
    assert loaded.config.prediction_type == "sample"


def test_a_configuration_of_an_earlier_version_is_a_preconditioned_v_prediction(tmp_path):
    model = make()
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    content = json.loads(path.read_text())
    for key in ("preconditioned", "detail_width", "detail_blocks"):
        del content[key]
    path.write_text(json.dumps(content))
    x, log_snr, embeddings, mask = inputs()
    with torch.inference_mode():
        made = [
            network(x, log_snr, network.encode_text(embeddings, mask))
            for network in (model, CompactUNet.from_pretrained(tmp_path))
        ]
    assert torch.equal(*made)


def test_levels_must_agree():
    with pytest.raises(ValueError, match="as many levels"):
        CompactUNet(widths=[16, 32], blocks=[1], attention=[False, True])


def test_conditions_join_and_part():
    a, b = (
        TextCondition(torch.randn(2, n, 4), torch.ones(2, n, dtype=torch.bool), torch.randn(2, 6))
        for n in (3, 5)
    )
    joined = TextCondition.cat([a, b])
    assert joined.tokens.shape == (4, 5, 4)
    assert joined.mask.sum(dim=1).tolist() == [3, 3, 5, 5]
    assert torch.equal(joined[slice(2, 4)].pooled, b.pooled)
    assert torch.equal(joined.tokens[:2, :3], a.tokens)


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_low_resolution_images_keep_their_mean(mode):
    images = torch.rand(2, 3, 8, 8) * 2 - 1
    resized = resize_low_res(images, 16, mode)
    assert resized.shape == (2, 3, 16, 16)
    torch.testing.assert_close(resized.mean((2, 3)), images.mean((2, 3)), rtol=0, atol=0.05)
    assert resize_low_res(images, 8, mode) is images


def residual_network(kind: str = "v_prediction") -> CompactUNet:
    torch.manual_seed(0)
    small = {"sample_size": 16, "widths": (16,), "blocks": (1,), "attention": (False,), "cond_dim": 16}
    return CompactUNet(
        **small, text_dim=8, low_res=True, sigma_data=0.4, sigma_residual=0.1, prediction_type=kind
    )


@pytest.mark.parametrize("kind", ["v_prediction", "epsilon", "sample"])
def test_untrained_residual_network_enlarges(kind):
    """Of two measurements of an image, the low-resolution one and x_t, it takes the mean by precision."""
    model = residual_network(kind)
    low_res, image = 0.4 * torch.randn(2, 1, 3, 16, 16)
    caption = model.encode_text(torch.randn(1, 3, 8), torch.ones(1, 3, dtype=torch.bool))
    clean = torch.tensor([30.0])
    for log_snr, expected in (
        (-12.0, low_res),
        (14.0, image),
        # Where alpha^2 0.1^2 = sigma^2.
        (-2 * math.log(0.1), (low_res + image) / 2),
    ):
        level = torch.tensor([log_snr])
        x_t = alpha_sigma(level)[0] * image
        found = to_x0(model(x_t, level, caption, low_res, clean), x_t, level, kind)
        torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)


def test_low_res_estimate_is_the_best_linear_one():
    rng = torch.Generator().manual_seed(0)
    smooth = torch.randn(200_000, generator=rng, dtype=torch.float64) * 0.4
    image = smooth + torch.randn(200_000, generator=rng, dtype=torch.float64) * 0.1
    for log_snr in (-1.0, 2.0, 6.0):
        alpha, sigma = (float(value) for value in alpha_sigma(torch.tensor([log_snr])))
        noised = alpha * smooth + sigma * torch.randn(200_000, generator=rng, dtype=torch.float64)
        factor, left = (float(value) for value in low_res_estimate(torch.tensor([log_snr]), 0.4, 0.1))
        assert factor == pytest.approx(float((noised * image).mean() / noised.square().mean()), rel=0.02)
        assert left == pytest.approx(float((image - factor * noised).square().mean().sqrt()), rel=0.02)


def test_residual_training_has_unit_targets():
    """With the edm weighting an untrained network's loss is about one at every noise level."""
    model, rng = residual_network(), torch.Generator().manual_seed(0)
    smooth = torch.randn(64, 3, 16, 16, generator=rng) * 0.4
    image = smooth + torch.randn(64, 3, 16, 16, generator=rng) * 0.1
    text = TextEmbeddings(torch.randn(64, 3, 8), torch.ones(64, 3, dtype=torch.bool))
    for log_snr in (-6.0, 0.0, 4.0, 9.0):
        for low_res_log_snr in (0.0, 6.0):
            batch = Batch(
                images=image,
                noise=torch.randn(64, 3, 16, 16, generator=rng),
                log_snr=torch.full((64,), log_snr),
                text=text,
                keep=torch.ones(64, dtype=torch.bool),
                low_res=smooth,
                low_res_noise=torch.randn(64, 3, 16, 16, generator=rng),
                low_res_log_snr=torch.full((64,), low_res_log_snr),
            )
            with torch.no_grad():
                assert float(DenoisingLoss(model, "edm")(batch).mean()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_with_a_mask_is_pytorchs_and_has_its_gradients(dtype):
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 3, 16, 8), (2, 3, 20, 8), (2, 3, 20, 8)]
    values = [torch.randn(shape, generator=generator) for shape in shapes]
    mask = (torch.rand(2, 1, 1, 20, generator=generator) < 0.6).index_fill(3, torch.tensor([0]), True)
    ours = [value.to(dtype, copy=True).requires_grad_() for value in values]
    exact = [value.double().requires_grad_() for value in values]
    direction = torch.randn(shapes[0], generator=generator)
    found = cpu.masked_attention(*ours, mask)
    (found * direction).sum().backward()
    theirs = [value.to(dtype, copy=True).requires_grad_() for value in values]
    results = []
    for inputs in (exact, theirs):
        results.append(torch.nn.functional.scaled_dot_product_attention(*inputs, mask))
        (results[-1] * direction).sum().backward()
    assert found.dtype is dtype
    # As near to float64 as PyTorch's own of the same type, but for a few units in the last place.
    wanted, usual = results
    numbers = [(found, wanted, usual)]
    numbers += [
        (mine.grad, one.grad, other.grad) for mine, one, other in zip(ours, exact, theirs, strict=True)
    ]
    for mine, one, other in numbers:
        unit = torch.finfo(dtype).eps * largest(one)
        assert largest(mine.double() - one) <= 2 * largest(other.double() - one) + 2 * unit
