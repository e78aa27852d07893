"""The picture of a benchmark, from made-up results: what it shows, and that all of it can be read."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from hf_cb.benchmark.contenders import SWEPT, contenders_of
from hf_cb.benchmark.report import draw_benchmark
from hf_cb.reports.figures import style_of_variant
from pictures import axes_of, check, looks_of, words_of


SETTING = (
    "ViT-small/16, 12 layers, 224 pixels, batch of 4, bfloat16, compiled, n = 10; x86_64 CPU, 2 cores, 1 of them used"
)


def timed(factor=1.0):
    times = {"median": 0.02 * factor, "min": 0.018 * factor, "max": 0.03 * factor}
    return {**times, "ratio": factor, "ratio_min": 0.9 * factor, "ratio_max": 1.3 * factor}


def results_of(model_type="vit_cb", tokens=(65, 197, 577, 1025, 4097)):
    contenders = contenders_of(model_type)
    return {
        "setting": f"{SETTING}; torch 2.15.0, transformers 5.23.0, timm 1.0.31",
        "baseline": next(iter(contenders)),
        "models": {
            name: {"label": label, "forward": timed(), "training": timed(1.1)}
            for name, (label, _) in contenders.items()
        },
        # all models take the same time
        "sweep": {n: {name: {"forward": timed(n / 10)} for name in contenders if name in SWEPT} for n in tokens},
    }


@pytest.mark.parametrize("tokens", [(65, 197, 577, 1025, 4097), (17, 26), (5, 17, 65, 257, 4097, 16385)], ids=str)
@pytest.mark.parametrize("model_type", ["vit_cb", "dinov2"])
def test_ratios_and_growth_with_the_tokens(model_type, tokens):
    results = results_of(model_type, tokens)
    figure = check(draw_benchmark(results))
    ratios, growth = axes_of(figure)
    words = words_of(figure)
    labels = [model["label"] for model in results["models"].values()]
    assert set(labels) <= set(words) and figure.get_suptitle() == results["setting"].replace("; ", "\n")
    # a range for each model and phase, full and hollow
    bars = [bars.get_segments()[0][:, 0].tolist() for bars in ratios.collections]
    assert bars == [pytest.approx([0.9, 1.3]), pytest.approx([0.99, 1.43])] * len(labels)
    assert [label.get_text() for label in growth.get_xticklabels()] == [f"{number:,}" for number in tokens]
    numbers = [label.get_text() for label in growth.get_yticklabels()]
    assert len(numbers) >= 3 and not any("10^" in number or "e" in number for number in numbers)
    swept = list(next(iter(results["sweep"].values())))
    lines = [line for line in growth.lines if len(line.get_xdata()) and line.get_linestyle() != "None"]
    assert [to_rgb(line.get_color()) for line in lines] == [to_rgb(style_of_variant(n)["color"]) for n in swept]
    assert len({looks_of(line) for line in lines}) == len(swept)
    places = [line.get_transform().transform(line.get_xydata())[0][0] for line in lines]
    assert len({round(x, 2) for x in places}) == len(swept)
    assert np.allclose(lines[0].get_ydata(), [20 * number / 10 for number in tokens])
    assert len(growth.collections) == len(swept)


def test_without_a_sweep_there_is_one_panel():
    figure = check(draw_benchmark({**results_of(), "sweep": {}}))
    assert len(axes_of(figure)) == 1
    assert {"forward pass", "training step"} <= set(words_of(figure))
