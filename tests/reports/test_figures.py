"""The style of all pictures: models told apart, readable numbers and names, and checks of pictures that can fail."""

import numpy as np
import pytest
from matplotlib import ft2font
from PIL import Image

from hf_cb.benchmark.contenders import CONTENDERS
from hf_cb.reports import fonts
from hf_cb.reports.figures import (
    COLOURS,
    draw_training_curves,
    hollow,
    legend_below,
    new_figure,
    plain_log_numbers,
    save_training_curves,
    set_apart,
    style_of,
    style_of_variant,
)
from hf_cb.reports.fonts import families_for, is_readable, shown_names
from hf_cb.techniques.variants import VARIANTS
from pictures import check, looks_of, pixels_of, words_of


# of a plane for private use, which no font of text has; and a letter that matplotlib's second font has alone
NOWHERE, SCRIPT_G = "\U000f1234", "\u210a"
HISTORY = [
    {"epoch": epoch, "train_loss": 2 / epoch, "eval_loss": 2.1 / epoch, "eval_accuracy": 1 - 0.9 / epoch}
    for epoch in range(1, 71)
]


def lines_at(levels, styles):
    """A picture with a line for each style, all of them at these levels."""
    figure = new_figure(5, 4)
    axes = figure.subplots()
    handles = [axes.plot(range(len(levels)), levels, **style)[0] for style in styles]
    axes.set(xlabel="layer", ylabel="value")
    figure.suptitle("title")
    legend_below(figure, handles, [f"model {k}" for k in range(len(handles))], 5)
    return figure


def test_no_two_models_look_alike():
    looks = [looks_of(lines_at([1, 2], [style_of(place)]).axes[0].lines[0]) for place in range(49)]
    assert len(set(looks)) == 49 and len({look[:2] for look in looks}) == 49
    # the first seven differ in each
    assert [len(set(parts)) for parts in zip(*looks[:7])] == [7, 7, 7]


def test_a_technique_looks_the_same_whatever_else_is_shown_and_no_two_look_alike():
    names = [*CONTENDERS, *VARIANTS]
    looks = {
        name: tuple(map(str, (style_of_variant(name)[k] for k in ("color", "marker", "linestyle")))) for name in names
    }
    assert looks["vit"] == looks["plain"]
    assert len(set(looks.values())) == len(looks) - 1
    assert looks["cb"][0] == looks["cb_published"][0] and looks["cb"] != looks["cb_published"]


def pixels_of_lines(figure):
    # not those of the legend
    figure.legends.clear()
    return [pixels_of(figure, colour) for colour in COLOURS]


def test_of_lines_that_coincide_every_one_is_seen():
    levels = [1, 3, 2, 4, 4, 2]
    figure = lines_at(levels, [style_of(place) for place in range(len(COLOURS))])
    for place, line in enumerate(figure.axes[0].lines):
        set_apart(figure.axes[0], [line], place, len(COLOURS), len(levels))
        assert list(line.get_ydata()) == levels
    check(figure)
    assert min(pixels_of_lines(figure)) > 50
    # drawn alike and in one place, the last alone would be
    figure = lines_at(levels, [{**style_of(0), "color": colour} for colour in COLOURS])
    assert [count > 50 for count in pixels_of_lines(figure)] == [False] * 6 + [True]


def test_of_two_lines_that_coincide_both_are_seen_though_in_one_place():
    blue, orange, *_ = pixels_of_lines(lines_at([1, 3, 2, 4], [style_of(0), style_of(1)]))
    assert min(blue, orange) > 200


def test_what_is_hollow_is_no_copy():
    full, empty = style_of(3), hollow(style_of(3))
    assert empty["color"] == full["color"] and empty["markerfacecolor"] == "white"
    assert empty["linewidth"] < full["linewidth"]


@pytest.mark.parametrize("ends", [(1.02, 1.09), (0.9, 33), (3, 14), (1, 4e5), (2e-4, 0.3), (65, 4097)])
def test_numbers_on_a_logarithmic_axis_are_written_as_one_writes_them(ends):
    figure = lines_at(ends, [style_of(0)])
    axes = figure.axes[0]
    axes.set_yscale("log")
    plain_log_numbers(axes.yaxis)
    figure.draw_without_rendering()
    low, high = axes.get_ylim()
    shown = [label.get_text() for label in axes.get_yticklabels()]
    values = [float(text.replace(",", "")) for text in shown]
    assert 3 <= len(values) <= 9 and all(low <= value <= high for value in values)
    assert np.allclose(values, axes.get_yticks(), rtol=1e-5) and len(axes.get_yticks(minor=True)) == 0


@pytest.mark.parametrize("epochs", [1, 2, 12, 70])
def test_training_curves(epochs):
    figure = check(draw_training_curves(HISTORY[:epochs], "my_$model$"))
    assert figure.get_suptitle() == "Training: my_$model$"
    training, test = figure.axes[0].lines
    assert len({looks_of(line) for line in (training, test)}) == 2
    assert looks_of(figure.axes[1].lines[0]) == looks_of(test)
    assert list(test.get_ydata()) == [row["eval_loss"] for row in HISTORY[:epochs]]
    assert f"after the last epoch: {HISTORY[epochs - 1]['eval_accuracy']:.4f}" in words_of(figure)


def test_a_name_that_no_font_has_leaves_the_title_without_it(tmp_path):
    assert draw_training_curves(HISTORY, NOWHERE).get_suptitle() == "Training"
    save_training_curves(HISTORY, tmp_path / "curves.png", NOWHERE)
    assert min(Image.open(tmp_path / "curves.png").size) > 500


# names


def test_a_text_of_the_usual_letters_needs_the_usual_font_alone():
    assert families_for("Zürich, Ελλάδα, Москва") == families_for("a") and len(families_for("a")) == 1


def test_a_letter_that_the_usual_font_lacks_is_looked_for_in_the_others():
    usual, *others = families_for(f"a{SCRIPT_G}")
    assert others and [usual] == families_for("a")
    assert families_for(f"a{NOWHERE}") is None
    figure = lines_at([1, 2], [style_of(0)])
    figure.axes[0].set_title(f"an {SCRIPT_G}", fontweight="bold")
    # a warning, which is an error there, would say that a glyph is missing
    check(figure)
    title, label = figure.axes[0].title, figure.axes[0].xaxis.label
    assert (title.get_fontfamily(), title.get_fontweight()) == ([usual, *others], "normal")
    assert label.get_fontfamily() == [usual]


def test_fonts_that_are_preferred_come_first_and_those_that_show_boxes_not_at_all(monkeypatch):
    entries = [type("Entry", (), {"name": name, "fname": name})() for name in ("A", "Last Resort", "Noto Sans CJK SC")]
    monkeypatch.setattr(fonts.font_manager.fontManager, "ttflist", entries)
    assert [name for name, _ in fonts._installed()] == ["Noto Sans CJK SC", "A"]


def test_names_stand_as_they_are_where_they_can_be_read():
    assert shown_names(["cat", "a_b", "$x$"], "012") == ["cat", "a_b", "$x$"]
    # composed, since marks alone may lie beside their letter
    assert shown_names(["e\u0301te\u0301"], "0") == ["\u00e9t\u00e9"]
    (short,) = shown_names(["a" * 30 + "b" * 30], "0", longest=21)
    assert short == "a" * 9 + "..." + "b" * 9


@pytest.mark.parametrize(
    "names",
    [["cat", NOWHERE], ["cat", "two\nlines"], ["cat", "\udcff"], ["cat", " "], ["a" * 30 + "1" + "a" * 30, "a" * 61]],
    ids=["no font", "line break", "no text", "blank", "alike when shortened"],
)
def test_where_one_name_cannot_be_shown_all_have_numbers(names):
    assert shown_names(names, "01", longest=21) == ["0", "1"]


@pytest.mark.parametrize("name", ["\u0643\u0644\u0628", "\u05db\u05dc\u05d1"], ids=["Arabic", "Hebrew"])
def test_a_script_that_needs_shaping_is_shown_where_matplotlib_can_shape_it(name, monkeypatch):
    assert hasattr(ft2font, "__libraqm_version__") == fonts.CAN_SHAPE
    monkeypatch.setattr(fonts, "families_for", lambda text: ["any"])
    monkeypatch.setattr(fonts, "CAN_SHAPE", True)
    assert is_readable(name)
    monkeypatch.setattr(fonts, "CAN_SHAPE", False)
    assert not is_readable(name) and is_readable("\u00e9t\u00e9") and is_readable("\u732b")


# the checks themselves


def test_a_text_on_another_is_found():
    figure = lines_at([1, 2], [style_of(0)])
    figure.axes[0].text(0.5, 1.5, "one")
    check(figure)
    figure.axes[0].text(0.5, 1.5, "other")
    with pytest.raises(AssertionError, match="on each other"):
        check(figure)


def test_a_legend_on_the_data_is_found():
    figure = lines_at([1, 2], [style_of(0)])
    figure.axes[0].legend(figure.axes[0].lines, ["model"])
    with pytest.raises(AssertionError, match="a legend lies on the data"):
        check(figure)


def test_a_text_beyond_the_rim_is_found():
    figure = lines_at([1, 2], [style_of(0)])
    figure.text(0.95, 0.5, "a long word")
    with pytest.raises(AssertionError, match="beyond the picture"):
        check(figure)


def test_colours_without_a_scale_and_axes_without_a_name_are_found():
    figure = lines_at([1, 2], [style_of(0)])
    figure.axes[0].imshow([[0, 1]])
    with pytest.raises(AssertionError, match="without a scale"):
        check(figure)
    figure = lines_at([1, 2], [style_of(0)])
    figure.axes[0].set_xlabel("")
    with pytest.raises(AssertionError, match="no axis x"):
        check(figure)


def test_a_missing_glyph_is_found():
    figure = lines_at([1, 2], [style_of(0)])
    figure.axes[0].set_title(NOWHERE)
    with pytest.raises(UserWarning, match="Glyph .* missing"):
        check(figure)
