"""Evaluate an image classifier: accuracy, calibration, and how it bears occlusion, corruption and attack.

    python scripts/evaluate_model.py --model_name_or_path outputs/vit-cb-digits

measures any image classifier of transformers, ViT-CB or not, on the digits' test split or on the images that the data
flags name, and writes `eval_results.json`, tables and figures to `outputs/evaluation`: a few seconds for the digits.

    python scripts/evaluate_model.py --model_name_or_path M --validation_dir photos --patch_drop --corruptions \\
        --fgsm_epsilons 1 2 4 --pgd_epsilons 1 2 4 --compare M2 M3

adds curves of accuracy over the share of patches dropped, over the strength of each of torchvision's corruptions, and
over the size of attacks, for several models on the same perturbed images, with the paired differences to the first and
their 95 % bootstrap intervals. An attack is made for each model with its own gradients (white box).

`--context_broadcast`, `--attn_scale` and the other fields of `TechniqueConfig` add techniques to the models before they
are evaluated.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from transformers.utils import logging

from ..cli.flags import HfArg
from ..cli.output_dir import EVALUATION_FILES, check_output_dir
from ..cli.parser import ArgumentParser, TechniqueArguments, config_overrides, print_next
from ..cli.record import describe_run
from ..data.sources import DataArguments, ImageData, load_data
from ..errors import UsageError
from ..evaluation.panel import LoadingArguments, Panel
from ..evaluation.report import describe_answers, save_evaluation, tables
from ..evaluation.robustness import RobustnessArguments, compare, measure
from ..models.classifier import Classifier, load_classifier
from ..reports.tables import short_names


@dataclass
class EvaluationArguments:
    """What is evaluated, and where the results go."""

    model_name_or_path: str | None = HfArg(default=None, help="Image classifier, folder or Hub name.")
    compare: list[str] = HfArg(
        default_factory=list, help="Further classifiers, compared with the first on the same perturbed images."
    )
    model_revision: str | None = HfArg(default=None, help="Branch, tag or commit on the Hub.")
    output_dir: str = HfArg(default="outputs/evaluation", help="Folder of the results.")
    overwrite_output_dir: bool = HfArg(default=False, help="Replace the evaluation in that folder.")

    def models(self) -> list[str]:
        """The classifiers, the one that the others are compared with first."""
        return ([] if self.model_name_or_path is None else [self.model_name_or_path]) + self.compare


def main(arguments: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(
        EvaluationArguments,
        DataArguments,
        LoadingArguments,
        RobustnessArguments,
        TechniqueArguments,
        description=__doc__,
    )
    evaluation, data_arguments, loading, robustness, technique_arguments = parser.parse(arguments)
    techniques = config_overrides(technique_arguments)
    loading.limit_threads()
    models = check_models(evaluation)
    output_dir = check_output_dir(evaluation.output_dir, evaluation.overwrite_output_dir, EVALUATION_FILES)
    logging.disable_progress_bar()
    data = load_data(data_arguments, robustness.seed)
    for line in data.lines:
        print(line)
    names = short_names(models)
    classifiers = load(models, names, evaluation.model_revision, techniques)
    panel = make_panel(classifiers, data, loading)
    results = evaluate(panel, names, robustness)
    record = describe_run(evaluation, data_arguments, loading, robustness, technique_arguments)
    results = {
        **results,
        "data": data.description.description,
        **data.to_results(),
        "num_processes": 1,
        **record,
    }
    save_evaluation(output_dir, results)
    print(summary(results, names))
    print(f"{output_dir}")
    print_next("analyze", "--model_name_or_path", *models)


def check_models(arguments: EvaluationArguments) -> list[str]:
    """The models' names, each once."""
    models = arguments.models()
    if not models:
        raise UsageError("no model: give one with --model_name_or_path, or several with --compare.")
    if len(set(models)) < len(models):
        raise UsageError(f"each model is to be named once, got {' '.join(models)}.")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UsageError("evaluate_model.py runs in one process: start it with python, not with accelerate launch.")
    return models


def load(
    models: Sequence[str], names: Sequence[str], revision: str | None, techniques: dict[str, Any]
) -> list[Classifier]:
    """The models under the names that the results call them by, with the techniques that are asked for."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    source = {} if revision is None else {"revision": revision}
    classifiers = [load_classifier(model, device, techniques, **source) for model in models]
    for classifier, name in zip(classifiers, names, strict=True):
        classifier.name = name
    return classifiers


def make_panel(classifiers: Sequence[Classifier], data: ImageData, loading: LoadingArguments) -> Panel:
    """The models and the images."""
    images = data.evaluation
    if isinstance(images, IterableDataset):
        # read several times over; the images stay as their files have them
        images = Dataset.from_list(list(images))
    return Panel(classifiers, images, data.label_names, loading)


def evaluate(panel: Panel, names: Sequence[str], arguments: RobustnessArguments) -> dict[str, Any]:
    """Everything measured: `eval_*` of the first model, `models` with those of each, and `robustness`."""
    answers = panel.logits("unperturbed")
    models = {name: describe_answers(panel, k, answers[k]) for k, name in enumerate(names)}
    correct = [logits.argmax(1) == panel.labels(k) for k, logits in enumerate(answers)]
    clean = [{"kind": "clean", "perturbation": "none", "level": 0, **row} for row in compare(correct, names, arguments)]
    first = {name: value for name, value in models[names[0]].items() if name.startswith("eval_")}
    return {
        **first,
        "skipped_images": len(panel.skipped),
        "skipped_image_names": sorted(panel.skipped.values()),
        "label_names": panel.label_names,
        "models": models,
        "robustness": clean + measure(panel, names, arguments),
    }


def summary(results: dict[str, Any], names: Sequence[str]) -> str:
    """What is printed."""
    lines = [tables(results["robustness"])]
    if results["skipped_images"]:
        first = results["skipped_image_names"][0]
        lines.append(f"{results['skipped_images']} images cannot be read and are left out, the first: {first}")
    lines += [
        f"{name}: accuracy {model['eval_accuracy']:.4f}, top-5 {model['eval_top_5_accuracy']:.4f}, loss"
        f" {model['eval_loss']:.4f}, calibration error {model['eval_calibration_error']:.4f} on"
        f" {model['eval_samples']} images"
        for name, model in ((name, results["models"][name]) for name in names)
    ]
    return "\n".join(lines)
