"""Measure what the techniques cost.

python scripts/benchmark.py --help        the same as hf-cb benchmark
"""

from hf_cb.__main__ import run


if __name__ == "__main__":
    run("benchmark")
