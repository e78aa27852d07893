"""The pictures of analysis and study, from made-up results: what they show, and that all of it can be read."""

import numpy as np
import pytest
import torch
from matplotlib.lines import Line2D

from hf_cb.analysis.catalogue import MEASURES
from hf_cb.analysis.examples import Examples
from hf_cb.analysis.plots import MAX_MAPS, draw_examples, draw_measure
from hf_cb.analysis.report import lines_of, short_labels
from hf_cb.analysis.study import Run
from hf_cb.analysis.study_results import DRAWN_MEASURES, draw_study, summarise
from hf_cb.reports.figures import style_of, style_of_variant
from hf_cb.techniques.variants import VARIANTS
from pictures import axes_of, check, looks_of, words_of


# of a plane for private use, which no font of text has
NOWHERE = "\U000f1234"
LONG = "a-model-whose-name-is-of-forty-characters"
PATHS = ["runs/vit-cb", "runs/plain", f"runs/{LONG}", f"runs/{LONG[::-1]}"]


def result_of(measure, num_layers, value=0.5):
    layers = list(range(measure.first_layer, num_layers + 1))
    result = {"layers": layers, "mean": [value] * len(layers), "std": [0.1] * len(layers)}
    if measure.frequencies is not None:
        curves = [[1.0, value, value / (1 + layer)] for layer in layers]
        result |= {"frequencies": [0.0, 0.5, 1.0], "curves": {"mean": curves}}
    if measure.name == "attention_similarity":
        result["matrix"] = {"mean": np.full((num_layers, num_layers), value).tolist()}
    return result


def lines(measure, depths, scaled=False):
    """All models at the same values."""
    paths = PATHS[: len(depths)]
    results = {
        path: {"model": {"num_layers": depth}, measure.name: result_of(measure, depth)}
        for path, depth in zip(paths, depths)
    }
    if scaled:
        results[paths[0]]["effective_attention"] = {measure.name: result_of(measure, depths[0])}
    return lines_of(measure.name, results, short_labels(paths))


@pytest.mark.parametrize("depths", [[4], [12, 12], [4, 12, 24, 12]], ids=str)
@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.name)
def test_a_measure(measure, depths):
    figure = check(draw_measure(measure, lines(measure, depths, measure.takes_scaled)))
    words, first = words_of(figure), axes_of(figure)[0]
    assert measure.axis in words and (f"{measure.title}: vit-cb" if len(depths) == 1 else measure.title) in words
    assert ("layer" if len(set(depths)) == 1 else "share of the depth (layer / number of layers)") in words
    looks = [looks_of(line)[:2] for line in first.lines if line.get_markerfacecolor() != "white"]
    assert looks == [looks_of(Line2D([], [], **style_of(place)))[:2] for place in range(len(depths))]
    hollow = [line for line in first.lines if line.get_markerfacecolor() == "white"]
    assert len(hollow) == measure.takes_scaled
    # each beside the other, though all have the same values
    starts = [line.get_transform().transform(line.get_xydata())[-1][0] for line in first.lines]
    assert len({round(x, 2) for x in starts}) == len(first.lines)
    scale = {"curves": "share of the depth", "matrix": "cosine"}
    assert [label for kind, label in scale.items() if kind in result_of(measure, 4)] == [
        axes.get_ylabel() for axes in figure.get_axes() if axes.get_label() == "<colorbar>"
    ]


def test_bands_are_of_one_standard_deviation():
    measure = MEASURES[0]
    (band,) = draw_measure(measure, lines(measure, [4])).axes[0].collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((0.4, 0.6))


def examples_of(num_images, num_layers, kinds, has_shares=True):
    maps = {kind: torch.rand(num_layers, num_images, 4, 4) - 0.1 * (kind == "A'") for kind in kinds}
    shares = torch.rand(num_images, num_layers + 1) if has_shares else None
    return Examples(torch.rand(num_images, 16, 16, 3), maps, "the class token", shares)


@pytest.mark.parametrize("kinds", [["A"], ["A", "A'"], []], ids=str)
@pytest.mark.parametrize("num_layers", [1, 4, 12])
def test_examples(num_layers, kinds):
    figure = draw_examples(examples_of(2, num_layers, kinds), "vit-cb")
    if kinds:
        check(figure)
        assert "attention,\neach map on its own scale" in words_of(figure)
        assert ("0 or less" in words_of(figure)) == ("A'" in kinds)
    assert figure.get_suptitle() == "Examples: vit-cb"
    maps = [axes for axes in axes_of(figure) if axes.images and axes.images[0].get_array().shape == (4, 4)]
    assert len(maps) == 2 * min(num_layers, MAX_MAPS) * len(kinds)
    shares = [axes for axes in axes_of(figure) if axes.get_ylabel() == "DC share (%)"]
    assert len(shares) == 2


def test_examples_without_shares():
    figure = check(draw_examples(examples_of(1, 3, ["A"], has_shares=False), NOWHERE))
    assert figure.get_suptitle() == "Examples" and "layer 3" in words_of(figure)


def test_models_whose_names_no_font_has_are_numbered_in_the_pictures():
    assert short_labels(["runs/a", f"runs/{NOWHERE}"]) == {"runs/a": "model 1", f"runs/{NOWHERE}": "model 2"}
    assert short_labels(["x/" + "a" * 50 + "b" * 45, "y/" + "c" * 50 + "b" * 45]).keys() == {
        "x/" + "a" * 50 + "b" * 45,
        "y/" + "c" * 50 + "b" * 45,
    }
    assert list(short_labels(["a" * 50 + "b" * 45, "c" * 50 + "b" * 45]).values()) == ["model 1", "model 2"]


def study(depths, variants, seeds):
    results = {
        Run(depth, variant, seed): {
            "eval_accuracy": 0.9 - 0.01 * seed - 0.001 * place,
            "eval_loss": 0.5,
            "train_loss": 0.2,
            "train_runtime": 9.0,
        }
        for depth in depths
        for place, variant in enumerate(variants)
        for seed in range(seeds)
    }
    by_name = {measure.name: measure for measure in MEASURES}
    layers = {
        str(depth): {v: {name: result_of(by_name[name], depth) for name in DRAWN_MEASURES} for v in variants}
        for depth in depths
    }
    return results, summarise(results), layers


@pytest.mark.parametrize(
    ("depths", "variants", "seeds"),
    [
        ([6, 12], list(VARIANTS), 5),
        ([2], ["plain", "all"], 3),
        ([2, 3, 4], ["cb_s"], 1),
        ([24], ["attn_scale", "cb"], 2),
    ],
    ids=["usual", "two", "one of each", "without plain"],
)
def test_a_study(depths, variants, seeds):
    results, summary, layers = study(depths, variants, seeds)
    figure = check(draw_study(results, summary, layers))
    words = words_of(figure)
    assert {f"{depth} layers" for depth in depths} <= set(words) and set(variants) <= set(words)
    accuracies, differences = axes_of(figure)[0], axes_of(figure)[len(depths)]
    points = [sorted(line.get_xdata()) for line in accuracies.lines]
    assert points == [sorted(results[Run(depths[0], v, s)]["eval_accuracy"] for s in range(seeds)) for v in variants]
    # a technique looks the same whatever else is shown
    colours = [line.get_color() for line in accuracies.lines]
    assert colours == [style_of_variant(v)["color"] for v in variants]
    bars = [bars.get_segments()[0][:, 0].tolist() for bars in differences.collections]
    intervals = [row["difference"][1:] for row in summary if row["depth"] == depths[0] and row["difference"]]
    assert bars == [pytest.approx(interval) for interval in intervals]
    assert len(intervals) == (len(variants) - 1 if "plain" in variants and seeds > 1 else 0)
    handles = figure.legends[0].legend_handles
    assert len({looks_of(line) for line in handles}) == len(variants)
    lines = axes_of(figure)[-1].lines
    assert [looks_of(line) for line in lines] == [looks_of(line) for line in handles]
