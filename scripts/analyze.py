"""Measure vision transformers layer by layer: how dense their attention is, how much it smooths, how alike tokens grow.

python scripts/analyze.py --help
"""

from hf_cb.cli.parser import run
from hf_cb.commands.analyze import main


if __name__ == "__main__":
    run(main)
