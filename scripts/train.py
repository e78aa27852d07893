"""Train a ViT-CB.

python scripts/train.py --help
"""

from hf_cb.cli.parser import run
from hf_cb.commands.train import main


if __name__ == "__main__":
    run(main)
