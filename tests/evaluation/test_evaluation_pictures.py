"""The pictures of an evaluation, from made-up results: what they show, and that all of it can be read."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from hf_cb.evaluation.plots import (
    classes_in_pictures,
    draw_comparison,
    draw_confusion_matrix,
    draw_reliability_diagram,
    draw_robustness_curves,
    models_in_pictures,
)
from hf_cb.evaluation.report import HEADINGS, legends, save_evaluation
from hf_cb.evaluation.robustness import LEVELS
from pictures import axes_of, check, looks_of, words_of


# of a plane for private use, which no font of text has
NOWHERE = "\U000f1234"
MODELS = ["vit-cb", "plain", "a-model-whose-name-is-of-forty-characters", "d"]
CONDITIONS = {
    "patch_drop": {"patch_drop": [tenths / 10 for tenths in range(10)]},
    "corruptions": {name: list(range(6)) for name in ("gaussian_noise", "elastic", "jpeg", "darkness", "posterize")},
    "fgsm": {"fgsm": [0, 1, 2, 4, 8], "random_signs": [0, 1, 2, 4, 8]},
    "pgd": {"pgd": [0.0, 0.5]},
}


def rows_of(kind, models, conditions=None):
    """As `robustness.measure` gives them; every model at the same accuracy."""
    rows = []
    for name, levels in (conditions or CONDITIONS[kind]).items():
        for level in levels:
            for model in models:
                row = {"kind": kind, "perturbation": name, "level": level, "model": model, "samples": 360}
                row["accuracy"] = 0.95 / (1 + level)
                if model != models[0]:
                    row |= {"difference": -0.01 * level, "difference_low": -0.01 * level - 0.02}
                    row["difference_high"] = -0.01 * level + 0.03
                rows.append(row)
    return rows


def answers(num_classes=10, errors=0.1):
    bins = [{"confidence": 0.3 + 0.1 * k, "accuracy": 0.2 + 0.11 * k, "samples": 2**k} for k in range(7)]
    matrix = torch.eye(num_classes, dtype=torch.long) * 1200 + 3
    return {"eval_calibration_error": errors, "reliability": bins, "confusion_matrix": matrix.tolist()}


@pytest.mark.parametrize("num_models", [1, 2, 4])
@pytest.mark.parametrize("kind", LEVELS)
def test_robustness_curves(kind, num_models):
    models, conditions = MODELS[:num_models], CONDITIONS[kind]
    figure = check(draw_robustness_curves(rows_of(kind, models), HEADINGS[kind]))
    panels = axes_of(figure)
    assert len(panels) == len(conditions) * (1 + (num_models > 1))
    titles = {axes.get_title() for axes in panels} - {""}
    assert titles == ({name.replace("_", " ") for name in conditions} if len(conditions) > 1 else set())
    assert LEVELS[kind] in words_of(figure)
    if num_models == 1:
        assert figure.get_suptitle() == f"{HEADINGS[kind]}: vit-cb" and not figure.legends
        return
    handles = figure.legends[0].legend_handles
    assert len({looks_of(line) for line in handles}) == num_models
    # the curves have the values, wherever on the picture they stand
    curves = panels[0].lines[:num_models]
    assert [looks_of(line) for line in curves] == [looks_of(line) for line in handles]
    levels = next(iter(conditions.values()))
    assert all(list(line.get_xdata()) == levels for line in curves)
    assert [line.get_ydata()[-1] for line in curves] == [0.95 / (1 + levels[-1])] * num_models


@pytest.mark.parametrize("kind", LEVELS)
def test_every_interval_is_drawn(kind):
    figure = draw_robustness_curves(rows_of(kind, MODELS), HEADINGS[kind])
    bars = [
        tuple(segment[:, 1].round(6))
        for axes in axes_of(figure)
        for lines in axes.collections
        for segment in lines.get_segments()
    ]
    expected = [
        (round(row["difference_low"], 6), round(row["difference_high"], 6))
        for row in rows_of(kind, MODELS)
        if "difference" in row
    ]
    assert np.array(sorted(bars)) == pytest.approx(np.array(sorted(expected)))


def test_models_of_the_same_accuracy_stand_side_by_side():
    figure = check(draw_robustness_curves(rows_of("pgd", MODELS), "PGD"))
    lines = axes_of(figure)[0].lines[: len(MODELS)]
    places = [line.get_transform().transform(line.get_xydata())[0] for line in lines]
    assert len({round(x, 3) for x, _ in places}) == len(MODELS) and len({round(y, 3) for _, y in places}) == 1
    assert max(x for x, _ in places) - min(x for x, _ in places) < 20


@pytest.mark.parametrize("num_models", [2, 4, 9])
def test_a_comparison_shows_accuracies_and_intervals(num_models):
    names = (MODELS + [f"model {k}" for k in range(9)])[:num_models]
    figure = check(draw_comparison(rows_of("clean", names, {"none": [0]})))
    accuracies, differences = axes_of(figure)
    assert len({looks_of(line)[:2] for line in accuracies.lines}) == num_models
    (bar, *_), *others = [bars.get_segments() for bars in differences.collections]
    assert bar[:, 0].tolist() == [-0.02, 0.03] and len(others) == num_models - 2
    assert any("less that of vit-cb" in word for word in words_of(figure))


@pytest.mark.parametrize("num_models", [1, 3])
def test_a_reliability_diagram(num_models):
    figure = check(draw_reliability_diagram({name: answers() for name in MODELS[:num_models]}))
    perfect, *handles = figure.legends[0].legend_handles
    assert len({looks_of(line) for line in handles}) == num_models
    assert f"{MODELS[0]}: calibration error 0.100" in words_of(figure)
    assert figure.get_suptitle() == ("Reliability: vit-cb" if num_models == 1 else "Reliability")


CLASSES = {
    "two": ["cat", "dog"],
    "digits": list("0123456789"),
    "long names": [f"a class with a name that is too long for any picture, number {k}" for k in range(12)],
    "as many as have names": [f"class {k}" for k in range(40)],
    "more": [f"class {k}" for k in range(41)],
    "ImageNet": [f"class {k}" for k in range(1000)],
    "no font": ["cat", NOWHERE, "$a$"],
}


@pytest.mark.parametrize("has_others", [False, True])
@pytest.mark.parametrize("names", CLASSES.values(), ids=CLASSES)
def test_a_confusion_matrix(names, has_others):
    matrix = torch.tensor(answers(len(names))["confusion_matrix"])
    matrix = torch.cat([matrix, matrix[:, :1]], dim=1) if has_others else matrix
    figure = check(draw_confusion_matrix(matrix, names, "vit-cb"))
    title, words = figure.get_suptitle(), words_of(figure)
    assert title.startswith("Confusion matrix: vit-cb\naccuracy ") and "share of the class' images" in words
    assert ("1203" in words) == (len(names) <= 12)
    if len(names) <= 10 and NOWHERE not in names:
        assert set(names) <= set(words) and "answer" in words
    assert (NOWHERE in words) is False
    if NOWHERE in names or len(names) > 40:
        assert "answer (numbers and names: eval_tables.md)" in words


def test_what_has_numbers_in_pictures_is_told_in_the_tables(tmp_path):
    names, models = ["cat", NOWHERE], [f"runs/{NOWHERE}", "runs/b|c"]
    results = {
        "models": {name: answers(2) for name in models},
        "label_names": names,
        "robustness": rows_of("clean", models, {"none": [0]}) + rows_of("pgd", models),
    }
    assert classes_in_pictures(names) == ["0", "1"]
    assert list(models_in_pictures(models).values()) == ["model 1", "model 2"]
    save_evaluation(tmp_path / "out", results)
    text = (tmp_path / "out" / "eval_tables.md").read_text(encoding="utf-8")
    assert f"| 1 | {NOWHERE} |" in text and f"| model 1 | runs/{NOWHERE} |" in text
    assert json.loads((tmp_path / "out" / "eval_results.json").read_text())["label_names"] == names
    pictures = {file.name: Image.open(file).size for file in (tmp_path / "out").glob("*.png")}
    assert pictures.keys() == {"confusion_matrix.png", "reliability_diagram.png", "comparison.png", "pgd.png"}


def test_names_that_stand_in_the_pictures_need_no_table():
    assert legends({"models": dict.fromkeys(["a", "$b$"]), "label_names": list("0123456789")}) == ""
