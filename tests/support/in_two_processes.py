"""What two processes do, for test_processes.py: accelerate launch tests/in_two_processes.py FOLDER."""

import json
import sys
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from safetensors.torch import save_file

from command_lines import load_script
from gradients import first_gradients
from hf_cb.training.learner import Learner
from runs import Killed, start


def die_at(batch):
    step, seen = Learner.step, []

    def dying(self, *arguments):
        seen.append(None)
        if len(seen) == batch:
            raise Killed
        return step(self, *arguments)

    Learner.step = dying
    return step


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    # it would take the processes apart, of which several runs are made here
    Accelerator.end_training = lambda self: None
    script, flags = load_script("train"), json.loads((folder / "flags.json").read_text())
    gradients = first_gradients(script, flags["gradients"].split(" "), folder)
    if PartialState().is_main_process:
        save_file(gradients, str(folder / "gradients.safetensors"))
    start(script, folder / "whole", flags["whole"])
    start(script, folder / "streamed", flags["streamed"])
    step = die_at(12)
    try:
        start(script, folder / "resumed", flags["whole"])
    except Killed:
        Learner.step = step
    start(script, folder / "resumed", flags["whole"], "--resume_from_checkpoint latest")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
