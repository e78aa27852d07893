"""Try the papers' claims: train each technique at several depths over several seeds, and measure what it changes.

python scripts/study.py --help
"""

from hf_cb.cli.parser import run
from hf_cb.commands.study import main


if __name__ == "__main__":
    run(main)
