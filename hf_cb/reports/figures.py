"""Results as figures, all in one style."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


# Okabe and Ito's, which the colour-blind can tell apart, from dark to light; yellow is left out for its faintness
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
DOTS_PER_INCH = 150


def style_of(place: int) -> dict[str, str]:
    """Colour and marker of the model at a place; no two among the first 49 are alike."""
    rounds, index = divmod(place, len(COLOURS))
    return {"color": COLOURS[index], "marker": MARKERS[(index + rounds) % len(MARKERS)]}


def new_figure(width: float, height: float) -> Figure:
    """A figure that draws without a display, in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def tidy(axes: Axes) -> None:
    """A light grid and no frame."""
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def whole_numbers(axes: Axes) -> None:
    """No ticks between the epochs or layers of the x-axis."""
    axes.xaxis.get_major_locator().set_params(integer=True)


def save(figure: Figure, file: Path, **options: Any) -> None:
    """Write a PNG; `options` are those of matplotlib's `savefig`."""
    figure.savefig(file, dpi=DOTS_PER_INCH, **options)


def save_training_curves(history: Sequence[dict[str, Any]], file: Path) -> None:
    """Loss and accuracy over the epochs, side by side.

    Args:
        history: for each epoch `epoch`, `train_loss`, `eval_loss` and `eval_accuracy`.
        file: the PNG to write.
    """
    epochs = [row["epoch"] for row in history]
    figure = new_figure(9, 3.4)
    loss, accuracy = figure.subplots(1, 2)
    # a single epoch has no line, so its point is drawn
    marker = "o" if len(epochs) == 1 else None
    loss.plot(epochs, [row["train_loss"] for row in history], label="training, augmented", marker=marker)
    loss.plot(epochs, [row["eval_loss"] for row in history], label="test", marker=marker)
    loss.set(xlabel="epoch", ylabel="cross-entropy per image", ylim=(0, None))
    loss.legend(frameon=False)
    accuracy.plot(epochs, [row["eval_accuracy"] for row in history], color="C1", marker=marker)
    last = history[-1]["eval_accuracy"]
    accuracy.set(xlabel="epoch", ylabel="test accuracy", title=f"after the last epoch: {last:.3f}")
    for axes in (loss, accuracy):
        tidy(axes)
        whole_numbers(axes)
    save(figure, file)
