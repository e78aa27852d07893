"""The measures: closed-form answers, the literal definitions, precision, and the theorem they are there for."""

import math

import pytest
import torch
from torch.testing import assert_close

import reference
from hf_cb import analysis


EXACT = {"rtol": 1e-12, "atol": 1e-12}


def random_attention(*shape, sharpness=2.0, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    scores = sharpness * torch.randn(*shape, generator=generator, dtype=torch.float64)
    return torch.softmax(scores, dim=-1).to(dtype)


def random_tokens(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return (0.3 + torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype)


def uniform(count):
    return torch.full((count, count), 1 / count, dtype=torch.float64)


def one_column(count):
    """Every query looks at token 1."""
    return torch.eye(count, dtype=torch.float64)[[1]].repeat(count, 1)


def averaging_filter(count, width):
    """The mean of a token and those before it, `width` in all, around a ring."""
    offsets = (torch.arange(count)[:, None] - torch.arange(count)) % count
    return (offsets < width).double() / width


def pair(count):
    """Every query looks at two tokens alike."""
    return (torch.arange(count) < 2).double().repeat(count, 1) / 2


# maps without a grid: function, map, answer
ATTENTION_ANSWERS = {
    "density-uniform": (analysis.attention_density, uniform(6), 1.0),
    "density-one-hot": (analysis.attention_density, one_column(6), 0.0),
    "density-two-of-eight": (analysis.attention_density, pair(8), 1 / 3),
    "jacobian-uniform": (analysis.softmax_jacobian_norm, uniform(6), math.sqrt(5) / 6),
    "jacobian-one-hot": (analysis.softmax_jacobian_norm, one_column(6), 0.0),
    "jacobian-two-of-eight": (analysis.softmax_jacobian_norm, pair(8), 0.5),
    "response-uniform": (analysis.attention_frequency_response, uniform(6), [1.0, 0.0, 0.0, 0.0]),
    "response-identity": (analysis.attention_frequency_response, torch.eye(5).double(), [1.0, 1.0, 1.0]),
    "response-one-hot": (analysis.attention_frequency_response, one_column(6), [1.0, 0.0, 0.0, 0.0]),
    "response-shift": (analysis.attention_frequency_response, torch.eye(4).double().roll(1, 0), [1.0, 1.0, 1.0]),
    "response-averaging-filter": (
        analysis.attention_frequency_response,
        averaging_filter(8, 2),
        # the gain of a mean of two: cos(pi k / N)
        [math.cos(math.pi * k / 8) for k in range(5)],
    ),
}


@pytest.mark.parametrize(("function", "attention", "answer"), ATTENTION_ANSWERS.values(), ids=ATTENTION_ANSWERS)
def test_attention_measures_have_their_closed_form_answers(function, attention, answer):
    answer = torch.tensor(answer, dtype=torch.float64)
    assert_close(function(attention), answer, **EXACT)
    batch = attention.expand(2, 3, *attention.shape)
    assert_close(function(batch), answer.expand(2, 3, *answer.shape), **EXACT)


TOKEN_ANSWERS = {
    "ratio-constant": (analysis.high_frequency_ratio, torch.ones(5, 3), 0.0),
    # a mean of 1/4 in each of 4 entries; the rest is the identity less that
    "ratio-orthogonal": (analysis.high_frequency_ratio, torch.eye(4), math.sqrt(3)),
    "ratio-without-mean": (analysis.high_frequency_ratio, torch.tensor([[1.0], [-1.0]]), math.inf),
    "ratio-one-token": (analysis.high_frequency_ratio, torch.ones(1, 3), 0.0),
    "share-constant": (analysis.dc_share, torch.ones(5, 3), 1.0),
    "share-orthogonal": (analysis.dc_share, torch.eye(4), 0.25),
    "share-without-mean": (analysis.dc_share, torch.tensor([[1.0], [-1.0]]), 0.0),
    "similarity-constant": (analysis.token_similarity, torch.ones(5, 3), 1.0),
    "similarity-of-other-lengths": (analysis.token_similarity, torch.tensor([[1.0, 0.0], [9.0, 0.0]]), 1.0),
    "similarity-orthogonal": (analysis.token_similarity, torch.eye(4), 0.0),
    "similarity-opposite": (analysis.token_similarity, torch.tensor([[1.0], [-2.0]]), -1.0),
    "similarity-with-a-token-of-zeros": (analysis.token_similarity, torch.tensor([[1.0], [1.0], [0.0]]), 1 / 3),
}


@pytest.mark.parametrize(("function", "tokens", "answer"), TOKEN_ANSWERS.values(), ids=TOKEN_ANSWERS)
def test_token_measures_have_their_closed_form_answers(function, tokens, answer):
    answer = torch.tensor(answer, dtype=torch.float64)
    assert_close(function(tokens.double()), answer, **EXACT)
    assert_close(function(tokens.double().expand(2, 3, *tokens.shape)), answer.expand(2, 3), **EXACT)


def test_maps_are_like_themselves_and_unlike_maps_of_other_tokens():
    identity, shifted = torch.eye(4).expand(2, 3, 4, 4), torch.eye(4).roll(1, 0).expand(2, 3, 4, 4)
    half = (identity + shifted) / 2
    expected = torch.tensor([[1.0, 0.0, 0.5**0.5], [0.0, 1.0, 0.5**0.5], [0.5**0.5, 0.5**0.5, 1.0]])
    assert_close(analysis.attention_similarity([identity, shifted, half]), expected)


def plane_wave(grid, down, across):
    """[N, 2]: 1 plus half a sine of whole periods down and across the grid, in two equal dimensions."""
    rows, columns = (torch.arange(side, dtype=torch.float64) / side for side in grid)
    angle = 2 * math.pi * (down * rows[:, None] + across * columns[None, :])
    return (1 + 0.5 * torch.sin(angle)).flatten()[:, None].repeat(1, 2)


@pytest.mark.parametrize(
    ("grid", "down", "across", "ring"),
    [
        pytest.param((8, 8), 0, 3, 3, id="across"),
        pytest.param((8, 8), 2, 0, 2, id="down"),
        pytest.param((8, 8), 3, 3, 4, id="diagonal"),
        pytest.param((7, 7), 0, 2, 2, id="odd"),
        pytest.param((4, 8), 1, 0, 2, id="not-square"),
        pytest.param((1, 8), 0, 3, 3, id="one-row"),
    ],
)
def test_a_pure_sine_has_one_peak_of_its_amplitude(grid, down, across, ring):
    spectrum = analysis.feature_spectrum(plane_wave(grid, down, across), grid)
    frequencies = analysis.radial_frequencies(grid)
    assert spectrum.shape == frequencies.shape
    assert spectrum[0] == 0
    others = [index for index in range(1, len(spectrum)) if index != ring]
    # exact zeros but for rounding
    assert (spectrum[others] < -20).all() and spectrum.isfinite().all()
    step = 2 / max(grid)
    assert abs(frequencies[ring] - 2 * math.hypot(down / grid[0], across / grid[1])) <= step / 2
    # two coefficients of a quarter of the mean each, among all of the ring
    radii = torch.hypot(*torch.meshgrid(*(torch.fft.fftfreq(side) * max(grid) for side in grid), indexing="ij"))
    members = (radii.round() == ring).sum().item()
    assert spectrum[ring].item() == pytest.approx(math.log(2 * 0.25 / members), abs=1e-12)


def test_the_highest_frequency_of_a_row_is_1():
    assert_close(analysis.radial_frequencies((6, 6))[3].item(), 1.0)
    assert_close(analysis.token_frequencies(6), torch.tensor([0, 1 / 3, 2 / 3, 1], dtype=torch.float64))


DISTANCES = {
    "itself": (torch.eye(6).double(), (2, 3), 0.0),
    "next-in-a-row": (torch.eye(4).double()[[1, 0, 3, 2]], (2, 2), 1.0),
    "next-in-a-column": (torch.eye(4).double()[[2, 3, 0, 1]], (2, 2), 1.0),
    "diagonal": (torch.eye(4).double()[[3, 2, 1, 0]], (2, 2), math.sqrt(2)),
    "uniform": (uniform(4), (2, 2), (2 + math.sqrt(2)) / 4),
    "uniform-in-a-row": (uniform(3), (1, 3), 8 / 9),
    "one-patch": (uniform(1), (1, 1), 0.0),
    "half-on-the-class-token": (uniform(4) / 2, (2, 2), (2 + math.sqrt(2)) / 4),
}


@pytest.mark.parametrize(("attention", "grid", "answer"), DISTANCES.values(), ids=DISTANCES)
def test_attention_distance_has_its_closed_form_answers(attention, grid, answer):
    assert analysis.attention_distance(attention, grid).item() == pytest.approx(answer, abs=1e-12)


# every measure of one tensor, with its literal definition
GRID = (3, 4)
OF_ATTENTION = {
    "attention_density": (analysis.attention_density, reference.attention_density),
    "softmax_jacobian_norm": (analysis.softmax_jacobian_norm, reference.softmax_jacobian_norm),
    "attention_frequency_response": (
        analysis.attention_frequency_response,
        reference.attention_frequency_response,
    ),
    "attention_distance": (
        lambda attention: analysis.attention_distance(attention, GRID),
        lambda attention: reference.attention_distance(attention, *GRID),
    ),
}
OF_TOKENS = {
    "high_frequency_ratio": (analysis.high_frequency_ratio, reference.high_frequency_ratio),
    "token_similarity": (analysis.token_similarity, reference.token_similarity),
    "feature_spectrum": (
        lambda tokens: analysis.feature_spectrum(tokens, GRID),
        lambda tokens: reference.feature_spectrum(tokens, *GRID),
    ),
}
MEASURES = {
    **{name: (random_attention, (2, 3, 12, 12), *functions) for name, functions in OF_ATTENTION.items()},
    **{name: (random_tokens, (2, 3, 12, 5), *functions) for name, functions in OF_TOKENS.items()},
}
each_measure = pytest.mark.parametrize(("make", "shape", "measure", "literal"), MEASURES.values(), ids=MEASURES)


@each_measure
def test_measures_equal_their_definitions(make, shape, measure, literal):
    tensor = make(*shape)
    expected = torch.stack([torch.as_tensor(literal(one), dtype=torch.float64) for one in tensor.flatten(0, 1)])
    assert_close(measure(tensor), expected.view(*shape[:2], *expected.shape[1:]), **EXACT)


@each_measure
def test_measures_of_another_tensor_differ(make, shape, measure, literal):
    assert not torch.allclose(measure(make(*shape)), measure(make(*shape, seed=1)))


def test_attention_similarity_equals_its_definition():
    attentions = [random_attention(2, 3, 5, 5, seed=seed) for seed in range(3)]
    assert_close(analysis.attention_similarity(attentions), reference.attention_similarity(attentions), **EXACT)


@pytest.mark.parametrize("seed", range(3))
def test_effective_attention_equals_its_definition(seed):
    attention, omega = random_attention(2, 3, 5, 5, seed=seed), random_tokens(3, seed=seed)
    actual = analysis.effective_attention(attention, omega)
    assert_close(actual, reference.attn_scale(attention, omega), **EXACT)
    assert_close(actual.sum(-1), torch.ones(2, 3, 5, dtype=torch.float64), **EXACT)
    assert torch.allclose(analysis.effective_attention(attention, torch.zeros(3).double()), attention)


def test_attn_scale_multiplies_the_response_to_every_frequency_but_dc():
    attention, omega = random_attention(2, 3, 8, 8), torch.tensor([0.5, -0.25, 2.0], dtype=torch.float64)
    response = analysis.attention_frequency_response(attention)
    effective = analysis.attention_frequency_response(analysis.effective_attention(attention, omega))
    assert_close(effective[..., 0], response[..., 0], **EXACT)
    assert_close(effective[..., 1:], (1 + omega)[:, None] * response[..., 1:], **EXACT)


# float32 holds 7 digits; the most sensitive measure is a logarithm of amplitudes summed from tokens of size 1
SINGLE = {"rtol": 1e-5, "atol": 1e-5}


@each_measure
@pytest.mark.parametrize("sharpness", [0.01, 2.0, 30.0], ids=["nearly-uniform", "usual", "nearly-one-hot"])
def test_float32_agrees_with_float64(make, shape, measure, literal, sharpness):
    double = make(*shape, sharpness=sharpness) if make is random_attention else sharpness * make(*shape)
    single = measure(double.float())
    assert single.dtype == torch.float32
    assert_close(single.double(), measure(double.float().double()), **SINGLE)


@each_measure
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_computed_in_float32(make, shape, measure, literal, dtype):
    half = make(*shape).to(dtype)
    assert torch.equal(measure(half), measure(half.float())) and measure(half).dtype == torch.float32


def test_half_precision_tokens_beyond_its_range_when_squared_are_measured():
    tokens = torch.eye(4, dtype=torch.float16) * 60000
    assert analysis.high_frequency_ratio(tokens).item() == pytest.approx(math.sqrt(3), abs=1e-6)


def test_half_precision_maps_are_compared_and_scaled_in_float32():
    attention, omega = random_attention(2, 3, 5, 5).bfloat16(), torch.tensor([0.5, 0.1, 0.2])
    scaled = analysis.effective_attention(attention, omega)
    assert scaled.dtype == torch.float32
    assert torch.equal(scaled, analysis.effective_attention(attention.float(), omega))
    similar = analysis.attention_similarity([attention, attention.roll(1, -1)])
    assert torch.equal(similar, analysis.attention_similarity([attention.float(), attention.float().roll(1, -1)]))


@each_measure
@pytest.mark.parametrize("value", [math.nan, math.inf], ids=["nan", "infinity"])
def test_what_is_not_finite_shows_where_it_is_and_nowhere_else(make, shape, measure, literal, value):
    clean = make(*shape)
    broken = clean.clone()
    broken[0, 1, 2, 3] = value
    result, expected = measure(broken), measure(clean)
    assert not result[0, 1].isfinite().all()
    result[0, 1] = expected[0, 1]
    assert torch.equal(result, expected)


def test_one_token_has_no_density_and_no_pairs_and_the_rest_is_defined():
    attention, tokens = torch.ones(2, 3, 1, 1), torch.ones(2, 1, 4)
    assert analysis.attention_density(attention).isnan().all()
    assert analysis.token_similarity(tokens).isnan().all()
    assert torch.equal(analysis.softmax_jacobian_norm(attention), torch.zeros(2, 3))
    assert torch.equal(analysis.high_frequency_ratio(tokens), torch.zeros(2))
    assert torch.equal(analysis.attention_similarity([attention] * 2), torch.ones(2, 2))
    assert torch.equal(analysis.feature_spectrum(tokens, (1, 1)), torch.zeros(2, 1))
    assert torch.equal(analysis.attention_frequency_response(attention), torch.ones(2, 3, 1))
    assert torch.equal(analysis.effective_attention(attention, torch.ones(3)), attention)


def test_maps_with_negative_entries_have_no_density():
    attention = analysis.effective_attention(torch.eye(4).view(1, 1, 4, 4), torch.tensor([1.0]))
    assert (attention < 0).any() and analysis.attention_density(attention).isnan().all()


def test_tokens_of_zeros_have_no_ratio_and_no_spectrum():
    tokens = torch.zeros(4, 3)
    assert analysis.high_frequency_ratio(tokens).isnan()
    assert analysis.feature_spectrum(tokens, (2, 2)).isnan().all()


SQUARE, TOKENS = torch.ones(1, 2, 4, 4), torch.ones(2, 6, 3)
BAD_INPUT = {
    "no-matrix": (lambda: analysis.attention_density(torch.ones(4)), r"`attention`.*\(4,\)"),
    "no-tokens": (lambda: analysis.high_frequency_ratio(torch.ones(2, 0, 3)), r"`hidden`.*\(2, 0, 3\)"),
    "integers": (lambda: analysis.token_similarity(torch.ones(4, 4).long()), "int64"),
    "not-square": (lambda: analysis.attention_frequency_response(torch.ones(2, 3)), "as many queries as tokens"),
    "grid-of-other-size": (lambda: analysis.feature_spectrum(TOKENS, (2, 2)), r"6 patch tokens.*\(2, 2\)"),
    "grid-with-class-token": (lambda: analysis.attention_distance(torch.ones(5, 5), (2, 2)), "without class"),
    "negative-grid": (lambda: analysis.feature_spectrum(TOKENS, (-2, -3)), r"\(-2, -3\)"),
    "omega-of-other-heads": (lambda: analysis.effective_attention(SQUARE, torch.ones(3)), r"\(3,\)"),
    "no-heads": (lambda: analysis.effective_attention(torch.ones(2, 4, 4), torch.ones(2)), r"\[B, H, N, N\]"),
    "no-layers": (lambda: analysis.attention_similarity([]), "none"),
    "layers-of-other-sizes": (lambda: analysis.attention_similarity([SQUARE, SQUARE[..., :2, :2]]), "one shape"),
}


@pytest.mark.parametrize(("call", "message"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_shapes_that_do_not_fit_are_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
@each_measure
def test_results_stay_on_the_device(make, shape, measure, literal, device):
    with torch.no_grad():
        tensor = make(*shape).to(device)
        assert_close(measure(tensor).cpu(), measure(tensor.cpu()), **EXACT)
        assert measure(tensor).device.type == device


# the theorem: https://arxiv.org/abs/2203.05962


def ratios_of_attention_alone(omega, num_layers=30):
    """The ratio before and after each of some layers that are nothing but (scaled) attention."""
    tokens = random_tokens(2, 17, 6)
    ratios = [analysis.high_frequency_ratio(tokens)]
    for layer in range(num_layers):
        attention = random_attention(2, 1, 17, 17, sharpness=1.5, seed=layer)
        attention = analysis.effective_attention(attention, torch.tensor([omega], dtype=torch.float64))
        tokens = attention[:, 0] @ tokens
        ratios.append(analysis.high_frequency_ratio(tokens))
    return torch.stack(ratios)


def test_attention_alone_drives_the_ratio_to_0():
    ratios = ratios_of_attention_alone(omega=0.0)
    assert (ratios[0] > 1).all()
    assert (ratios[-1] < 1e-9).all()
    # exponentially: at least a tenth a layer, over any ten of them
    assert (ratios[10:] < 0.9**10 * ratios[:-10]).all()


def test_attn_scale_slows_it_the_more_the_larger_omega():
    last = [ratios_of_attention_alone(omega)[-1] for omega in (0.0, 0.25, 0.5)]
    assert (last[0] * 100 < last[1]).all() and (last[1] * 100 < last[2]).all()


def test_more_than_attention_alone_keeps_the_ratio():
    # the identity lets every frequency through: the checker can fail
    tokens = random_tokens(2, 17, 6)
    kept = torch.eye(17, dtype=torch.float64) @ tokens
    assert_close(analysis.high_frequency_ratio(kept), analysis.high_frequency_ratio(tokens), **EXACT)
