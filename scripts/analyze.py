"""Measure vision transformers layer by layer: how dense their attention is, how much it smooths, how alike tokens grow.

python scripts/analyze.py --help        the same as hf-cb analyze
"""

from hf_cb.__main__ import run


if __name__ == "__main__":
    run("analyze")
