"""Share a trained or converted model on the Hugging Face Hub.

    hf auth login
    python scripts/push_to_hub.py --model_dir outputs/vit-cb-digits --hub_model_id USER/vit-cb-digits

loads the folder in a process that cannot import hf_cb, compares what it computes with hf_cb's own, and then uploads
model, code, image processor, card, results and figures in one commit, which loads with and without hf_cb. The token is
that of `hf auth login`, or of the environment's HF_TOKEN.

    python scripts/push_to_hub.py --model_dir outputs/vit-cb-digits --hub_model_id USER/vit-cb-digits --dry_run

checks the folder and prints what would go where, without asking the Hub.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers.utils import logging

from ..cli.flags import HfArg
from ..cli.parser import ArgumentParser
from ..hub.push import push_to_hub


@dataclass
class PushArguments:
    """What goes where."""

    # as in the commands that push after a training
    OLD_SPELLINGS = {"repo_id": "hub_model_id", "private": "hub_private_repo", "revision": "hub_revision"}

    model_dir: str = HfArg(help="Folder of the model.")
    hub_model_id: str = HfArg(help="USER/NAME on the Hub; NAME alone for the user who is logged in.")
    hub_private_repo: bool = HfArg(default=False, help="Make a new repository a private one.")
    hub_revision: str | None = HfArg(
        default=None, help="Branch to commit to, made where there is none; by default main."
    )
    dry_run: bool = HfArg(default=False, help="Check the folder and print what would go where.")
    disable_tqdm: bool = HfArg(default=False, help="Show no progress bar.")


def main(arguments: Sequence[str] | None = None) -> None:
    (parsed,) = ArgumentParser(PushArguments, description=__doc__).parse(arguments)
    logging.disable_progress_bar()
    push = push_to_hub(
        parsed.model_dir,
        parsed.hub_model_id,
        parsed.hub_private_repo,
        parsed.hub_revision,
        parsed.dry_run,
        show_progress=not parsed.disable_tqdm,
    )
    if parsed.dry_run:
        visibility = f"a {'private' if parsed.hub_private_repo else 'public'} repository if it is new"
        print(f"would go to {push.repo_id}, {visibility}, branch {push.branch}, in one commit with the tag {push.tag}:")
        for name, size in push.files.items():
            print(f"{size:>12,} bytes  {name}")
    else:
        print(f"{parsed.model_dir} is now {push.url}, with the tag {push.tag}")
