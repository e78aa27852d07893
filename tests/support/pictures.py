"""What can be checked of a figure before it is saved."""

import io
import warnings
from itertools import combinations

import numpy as np
from matplotlib.colors import to_rgb
from PIL import Image

from hf_cb.reports.figures import save


# pixels that two boxes may share: their rims, which have no ink
RIM = 1.0


def check(figure):
    """Draw it as it is saved, without a warning, and look at texts, legends, axes and colours; give it back."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save(figure, io.BytesIO())
    # the layout is for the saved resolution, measures are for the figure's own
    figure.draw_without_rendering()
    texts = texts_of(figure)
    cut_off = [text.get_text() for text in texts if not _holds(figure.bbox, text.get_window_extent())]
    assert not cut_off, f"beyond the picture: {cut_off}"
    overlapping = [
        (one.get_text(), other.get_text())
        for one, other in combinations(texts, 2)
        if _overlap(one.get_window_extent(), other.get_window_extent())
    ]
    assert not overlapping, f"on each other: {overlapping}"
    for legend in legends_of(figure):
        hidden = [axes for axes in axes_of(figure) if _overlap(legend.get_window_extent(), axes.get_window_extent())]
        assert not hidden, "a legend lies on the data"
    _check_labels(figure)
    return figure


def _check_labels(figure):
    bars = [axes for axes in axes_of(figure) if axes.get_label() == "<colorbar>"]
    has_scale = any(axes.images and axes not in bars for axes in axes_of(figure))
    assert not has_scale or bars, "colours without a scale"
    assert all(axes.get_xlabel() or axes.get_ylabel() for axes in bars), "a scale without words"
    for axis in ("x", "y"):
        # images have no ticks; along y the names of models may stand in the place of numbers
        ticked = [axes for axes in axes_of(figure) if axes not in bars and len(getattr(axes, f"get_{axis}ticks")())]
        labels = [getattr(axes, f"get_{axis}label")() for axes in ticked]
        supers = [getattr(part, f"get_sup{axis}label")() for part in parts_of(figure)]
        texts = [text.get_text() for axes in ticked for text in axes.get_yticklabels()] if axis == "y" else []
        is_named = any(labels) or any(supers) or any(text.strip("\u2212-0123456789.,") for text in texts)
        assert is_named or not ticked, f"no axis {axis} is named, only {words_of(figure)}"
    assert any(part.get_suptitle() for part in parts_of(figure)), "no title"


def parts_of(figure):
    """A figure and its subfigures."""
    return [figure, *(inner for part in figure.subfigs for inner in parts_of(part))]


def axes_of(figure):
    return [axes for axes in figure.get_axes() if axes.get_visible() and axes.axison]


def legends_of(figure):
    found = [legend for part in parts_of(figure) for legend in part.legends]
    return found + [axes.get_legend() for axes in axes_of(figure) if axes.get_legend()]


def texts_of(figure):
    """Every text that is seen."""
    found = [
        text for part in parts_of(figure) for text in (*part.texts, part._suptitle, part._supxlabel, part._supylabel)
    ]
    found += [text for legend in legends_of(figure) for text in legend.get_texts()]
    for axes in axes_of(figure):
        found += [axes.title, axes._left_title, axes._right_title, *axes.texts]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            inside = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            found += [axis.label, axis.offsetText, *(tick.label1 for tick in inside), *(tick.label2 for tick in inside)]
    seen = {id(text): text for text in found if text is not None and text.get_visible() and text.get_text().strip()}
    return list(seen.values())


def words_of(figure):
    return [text.get_text() for text in texts_of(figure)]


def looks_of(line):
    """Colour, marker and dashes."""
    return (to_rgb(line.get_color()), line.get_marker(), str(line._unscaled_dash_pattern))


def pixels_of(figure, colour):
    """How many pixels of a figure are of a colour."""
    file = io.BytesIO()
    save(figure, file)
    picture = np.asarray(Image.open(file).convert("RGB")).astype(int)
    return int((np.abs(picture - np.array(to_rgb(colour)) * 255).max(axis=2) < 3).sum())


def _overlap(one, other):
    return min(one.x1, other.x1) - max(one.x0, other.x0) > RIM and min(one.y1, other.y1) - max(one.y0, other.y0) > RIM


def _holds(outer, inner):
    return (
        inner.x0 >= outer.x0 - RIM
        and inner.x1 <= outer.x1 + RIM
        and inner.y0 >= outer.y0 - RIM
        and inner.y1 <= outer.y1 + RIM
    )
