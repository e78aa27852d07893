"""Try the papers' claims: train each technique at several depths over several seeds, and measure what it changes.

python scripts/study.py --help        the same as hf-cb study
"""

from hf_cb.__main__ import run


if __name__ == "__main__":
    run("study")
