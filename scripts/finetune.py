"""Fine-tune a ViT-CB, or any image classifier of transformers with techniques, with transformers' Trainer.

python scripts/finetune.py --help
"""

from hf_cb.cli.parser import run
from hf_cb.commands.finetune import main


if __name__ == "__main__":
    run(main)
