"""Train a ViT-CB.

python scripts/train.py --help        the same as hf-cb train
"""

from hf_cb.__main__ import run


if __name__ == "__main__":
    run("train")
