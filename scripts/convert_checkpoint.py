"""Convert a published checkpoint to ViT-CB, or to transformers' DeiT or Swin with techniques.

python scripts/convert_checkpoint.py --help        the same as hf-cb convert
"""

from hf_cb.__main__ import run


if __name__ == "__main__":
    run("convert")
