"""What an evaluation leaves: results as JSON, tables as Markdown, figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..cli.output_dir import EVALUATION_FILES, replacing, write_json
from ..reports.figures import save
from ..reports.tables import markdown_table
from .panel import Panel
from .plots import (
    classes_in_pictures,
    draw_comparison,
    draw_confusion_matrix,
    draw_reliability_diagram,
    draw_robustness_curves,
    models_in_pictures,
)
from .robustness import LEVELS
from .scores import classification_metrics, confusion_matrix, per_class_accuracy, reliability


RESULTS = "eval_results.json"
TABLES = "eval_tables.md"
CONFUSION, RELIABILITY, COMPARISON = "confusion_matrix.png", "reliability_diagram.png", "comparison.png"

HEADINGS = {
    "clean": "Unperturbed images",
    "patch_drop": "Random patch drop",
    "corruptions": "Corruptions",
    "fgsm": "Fast gradient sign method, and random signs of the same size",
    "pgd": "Projected gradient descent",
}


def describe_answers(panel: Panel, k: int, logits: torch.Tensor) -> dict[str, Any]:
    """All that is told of one model on unperturbed images.

    Args:
        panel: the models and the images.
        k: which of the models.
        logits: [images, outputs], its answers.
    """
    labels = panel.labels(k)
    matrix = confusion_matrix(logits, labels, panel.indices[k])
    return {
        **classification_metrics(logits, labels),
        "per_class_accuracy": per_class_accuracy(matrix, panel.label_names),
        "confusion_matrix": matrix.tolist(),
        "reliability": reliability(logits.double().softmax(1), labels),
    }


def save_evaluation(output_dir: Path, results: Mapping[str, Any]) -> None:
    """Write everything at once.

    Args:
        output_dir: the folder.
        results: with `models`, for each name what `describe_answers` says, `label_names`, and `robustness`, the rows.
    """
    with replacing(output_dir, EVALUATION_FILES) as folder:
        write_json(folder / RESULTS, results)
        text = "\n".join(filter(None, (tables(results["robustness"]), legends(results))))
        (folder / TABLES).write_text(text, encoding="utf-8")
        _save_pictures(folder, results)


def _save_pictures(folder: Path, results: Mapping[str, Any]) -> None:
    (name, first), *others = results["models"].items()
    matrix = torch.tensor(first["confusion_matrix"])
    shown = models_in_pictures(results["models"])[name]
    save(draw_confusion_matrix(matrix, results["label_names"], shown), folder / CONFUSION)
    save(draw_reliability_diagram(results["models"]), folder / RELIABILITY)
    of_kind = {kind: [row for row in results["robustness"] if row["kind"] == kind] for kind in HEADINGS}
    if others:
        save(draw_comparison(of_kind["clean"]), folder / COMPARISON)
    for kind in LEVELS:
        if of_kind[kind]:
            save(draw_robustness_curves(of_kind[kind], HEADINGS[kind]), folder / f"{kind}.png")


def legends(results: Mapping[str, Any]) -> str:
    """Markdown tables of what pictures have numbers for; none where all names stand in them.

    Args:
        results: with `models` and `label_names`.
    """
    models, labels = list(results["models"]), list(map(str, results["label_names"]))
    names = {
        "model": (models, list(models_in_pictures(models).values())),
        "class": (labels, classes_in_pictures(labels)),
    }
    return "\n".join(
        f"## What pictures call each {what}\n\n{markdown_table(['in the pictures', what], zip(shown, full))}\n"
        for what, (full, shown) in names.items()
        if shown != full
    )


def tables(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown tables of `robustness.measure`'s rows: accuracies, and differences with their 95 % intervals."""
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    return "\n".join(_table(kind, [row for row in rows if row["kind"] == kind]) for kind in kinds)


def _table(kind: str, rows: Sequence[Mapping[str, Any]]) -> str:
    models = list(dict.fromkeys(row["model"] for row in rows))
    differences = [f"{model} - {models[0]} (95 %)" for model in models[1:]]
    columns = ["perturbation", LEVELS.get(kind, "level"), *models, *differences]
    groups = (rows[start : start + len(models)] for start in range(0, len(rows), len(models)))
    return f"## {HEADINGS[kind]}\n\n{markdown_table(columns, map(_cells, groups))}\n"


def _cells(group: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line of the table, of the rows of all models in one condition."""
    differences = [
        f"{row['difference']:+.4f} ({row['difference_low']:+.4f} to {row['difference_high']:+.4f})" for row in group[1:]
    ]
    condition = [group[0]["perturbation"].replace("_", " "), f"{group[0]['level']:g}"]
    return [*condition, *(f"{row['accuracy']:.4f}" for row in group), *differences]
