"""Measure what the techniques cost.

python scripts/benchmark.py --help
"""

from hf_cb.cli.parser import run
from hf_cb.commands.benchmark import main


if __name__ == "__main__":
    run(main)
