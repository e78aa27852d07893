"""Results as figures, all in one style: colours, markers and lines of models, axes, legends, fonts."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from matplotlib.transforms import ScaledTranslation

from .fonts import beyond_usual_fonts, families_for, shown_names


# Okabe and Ito's, which the colour-blind can tell apart, from dark to light; yellow is left out for its faintness
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
LINES = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (6, 2, 1, 2)), (0, (9, 3)), (0, (3, 1, 1, 1, 1, 1)), (0, (2, 2)))
# from broad to thin, the thin over the broad: lines that coincide show each other
WIDTHS = (2.6, 2.3, 2.0, 1.7, 1.4, 1.2, 1.0)
MARKER_SIZES = (8.0, 7.4, 6.8, 6.2, 5.7, 5.3, 5.0)
# the models that the study and the benchmark have in common, by the names of `techniques.variants`
PLACES = {"plain": 0, "vit": 0, "cb": 1, "cb_s": 2, "attn_scale": 3, "feat_scale": 4, "all": 5, "timm": 6}
PUBLISHED = "_published"

# from one model's points to the next, in points of 1/72 inch, and for the models and levels of a panel together
MOST_APART, ROOM = 3.0, 150.0

DOTS_PER_INCH = 150
# beyond so many points a line has markers at some of them alone
MOST_MARKERS = 15


def style_of(place: int) -> dict[str, Any]:
    """Colour, marker and line of the model at a place; no two among the first 49 are alike."""
    rounds, index = divmod(place, len(COLOURS))
    shifted, weight = (index + rounds) % len(COLOURS), (index + 3 * rounds) % len(COLOURS)
    return {
        "color": COLOURS[index],
        "marker": MARKERS[shifted],
        "linestyle": LINES[shifted],
        "linewidth": WIDTHS[weight],
        "markersize": MARKER_SIZES[weight],
        # a light rim parts markers that lie upon each other
        "markeredgecolor": "white",
        "markeredgewidth": 0.5,
        "zorder": 2 + weight / len(COLOURS),
    }


def style_of_variant(name: str) -> dict[str, Any]:
    """The same for a technique, whatever else is shown; as published it keeps its colour alone."""
    place = PLACES[name.removesuffix(PUBLISHED)]
    return style_of(place + len(COLOURS) if name.endswith(PUBLISHED) else place)


def hollow(style: dict[str, Any]) -> dict[str, Any]:
    """A style for something else of the same model: hollow points, a thinner line."""
    looks = {"markerfacecolor": "white", "markeredgecolor": style["color"], "markeredgewidth": 1.2}
    return {**style, **looks, "linewidth": 0.6 * style["linewidth"]}


def marks_only(style: dict[str, Any]) -> dict[str, Any]:
    """A style for points with intervals: without the line between points, and all of one weight."""
    return {**style, "linestyle": "", "linewidth": 1.5, "markersize": 7.0}


def set_apart(axes: Axes, artists: Iterable[Artist], place: int, count: int, levels: int) -> None:
    """Move what is drawn of a model a little to the side, so that equal values are all seen; its data stay.

    Args:
        axes: on which.
        artists: that were drawn.
        place: of the model.
        count: of all models.
        levels: so many values a model has from left to right.
    """
    points = min(MOST_APART, ROOM / (levels * count)) * (place - (count - 1) / 2)
    # after the drawing, since data of another transform would not set the limits of the axes
    axes.margins(x=0.08)
    for artist in artists:
        artist.set_transform(axes.transData + ScaledTranslation(points / 72, 0, axes.figure.dpi_scale_trans))


def new_figure(width: float, height: float) -> Figure:
    """A figure that draws without a display, in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def tidy(axes: Axes) -> None:
    """A light grid and no frame."""
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def whole_numbers(axis: Axis) -> None:
    """No ticks between epochs or layers."""
    axis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))


def plain_log_numbers(axis: Axis) -> None:
    """An axis in logarithms with its numbers as one writes them, and at least four of them; after what is drawn."""
    low, high = axis.get_view_interval()
    for digits in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)):
        ticks = [digit * 10.0**power for power in range(-12, 13) for digit in digits]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 4:
            break
    else:
        # less than a doubling: as on a linear axis
        ticks = [tick for tick in MaxNLocator(4).tick_values(low, high) if low <= tick <= high]
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axis.set_minor_locator(NullLocator())


def legend_below(figure: Figure, handles: Sequence[Artist], labels: Sequence[str], width: float) -> Legend | None:
    """A legend under all axes, in as many columns as fit.

    Args:
        figure: that gets it.
        handles: what is explained.
        labels: of these.
        width: of the figure, in inches.
    """
    if not labels:
        return None
    # of a small font, with the line before it
    widest = 0.075 * max(map(len, labels)) + 0.65
    rows = -(-len(labels) // max(1, int(width / widest)))
    options = {"frameon": False, "fontsize": "small", "handlelength": 3.2}
    return figure.legend(handles, labels, loc="outside lower center", ncols=-(-len(labels) // rows), **options)


def title_of(what: str, name: str) -> str:
    """A title with a model's name, as far as a picture can show it."""
    (shown,) = shown_names([name], [""], longest=60)
    return f"{what}: {shown}" if shown else what


def save(figure: Figure, file: Path, **options: Any) -> None:
    """Write a PNG, with fonts for every script in it; `options` are those of matplotlib's `savefig`."""
    make_readable(figure)
    figure.savefig(file, dpi=DOTS_PER_INCH, **options)


def make_readable(figure: Figure) -> None:
    """Fonts for all characters of a figure's texts, which are taken as they stand, dollars included."""
    texts = figure.findobj(Text)
    foreign = beyond_usual_fonts("".join(text.get_text() for text in texts))
    for text in texts:
        text.set_parse_math(False)
        if foreign & set(text.get_text()):
            text.set_fontfamily(families_for(text.get_text()) or text.get_fontfamily())
            # most fonts of other scripts have no other weight
            text.set_fontweight("normal")


def draw_training_curves(history: Sequence[dict[str, Any]], name: str = "") -> Figure:
    """Loss and accuracy over the epochs, side by side.

    Args:
        history: for each epoch `epoch`, `train_loss`, `eval_loss` and `eval_accuracy`.
        name: of the model, for the title.
    """
    width = 8.0
    figure = new_figure(width, 3.7)
    loss, accuracy = figure.subplots(1, 2)
    thin = {"linewidth": 1.4, "markersize": 5.0}
    training, test = {**style_of(1), **thin}, {**style_of(0), **thin}
    lines = [_draw_epochs(loss, history, "train_loss", training), _draw_epochs(loss, history, "eval_loss", test)]
    _draw_epochs(accuracy, history, "eval_accuracy", test)
    loss.set(xlabel="epoch", ylabel="cross-entropy per image", ylim=(0, 1.06 * loss.dataLim.y1 or 1))
    accuracy.set(xlabel="epoch", ylabel="accuracy")
    last = history[-1]["eval_accuracy"]
    accuracy.set_title(f"after the last epoch: {last:.4f}", fontsize="small")
    figure.suptitle(title_of("Training", name), fontsize="medium", fontweight="bold")
    legend_below(figure, lines, ["training images, augmented", "evaluation images"], width)
    return figure


def _draw_epochs(axes: Axes, history: Sequence[dict[str, Any]], key: str, style: dict[str, Any]) -> Artist:
    every = -(-len(history) // MOST_MARKERS)
    (line,) = axes.plot([row["epoch"] for row in history], [row[key] for row in history], markevery=every, **style)
    tidy(axes)
    whole_numbers(axes.xaxis)
    return line


def save_training_curves(history: Sequence[dict[str, Any]], file: Path, name: str = "") -> None:
    """`draw_training_curves` as a PNG; `file` is its path."""
    save(draw_training_curves(history, name), file)
