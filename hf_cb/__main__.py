"""The commands by one name: `hf-cb COMMAND`, `python -m hf_cb COMMAND`, and under `accelerate launch -m hf_cb COMMAND`.

hf-cb --help
"""

import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

from .cli import parser
from .errors import missing_extra


# the command's module, and what it is for
COMMANDS = {
    "train": ("train", "train a ViT-CB, from scratch or from pretrained weights, on one machine or many"),
    "finetune": ("finetune", "fine-tune any image classifier with transformers' Trainer, LoRA included"),
    "evaluate": ("evaluate_model", "accuracy and calibration; robustness to occlusion, corruption and attack"),
    "analyze": ("analyze", "what happens inside, layer by layer, as a report with pictures"),
    "study": ("study", "train every technique over depths and seeds, and test the differences"),
    "benchmark": ("benchmark", "what the techniques cost in time and memory"),
    "convert": ("convert_checkpoint", "make a model of a checkpoint of timm, DeiT, Swin, Google or the published code"),
    "export-onnx": ("export_onnx", "write a classifier as ONNX"),
    "push": ("push_to_hub", "share a trained model on the Hub"),
}
HELP = "\n".join(
    [
        "usage: hf-cb COMMAND [--flag value ...]",
        "",
        "Context Broadcasting, AttnScale and FeatScale for vision transformers.",
        "",
        *(f"  {name:<12} {purpose}" for name, (_, purpose) in COMMANDS.items()),
        "",
        "hf-cb COMMAND --help tells the flags of one.",
    ]
)


def run(command: str, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command; a package that it lacks is named with the extra that brings it, in one line and exit code 2.

    Args:
        command: one of `COMMANDS`.
        arguments: its flags; None for the process' own.
    """
    try:
        module = importlib.import_module(f".commands.{COMMANDS[command][0]}", __package__)
    except ModuleNotFoundError as error:
        parser.refuse(missing_extra(error))
    parser.run(module.main, arguments)


def main() -> NoReturn:
    """The console entry point."""
    command, *arguments = sys.argv[1:] or ["--help"]
    if command in ("-h", "--help"):
        print(HELP)
        raise SystemExit(0)
    if command not in COMMANDS:
        sys.argv[0] = "hf-cb"
        parser.refuse(f"there is no command {command!r}: give one of {', '.join(COMMANDS)}.")
    # the name in messages
    sys.argv[:] = [f"hf-cb {command}", *arguments]
    run(command)


if __name__ == "__main__":
    main()
