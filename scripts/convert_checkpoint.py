"""Convert a published checkpoint to ViT-CB, or to transformers' DeiT or Swin with techniques.

python scripts/convert_checkpoint.py --help
"""

from hf_cb.cli.parser import run
from hf_cb.commands.convert_checkpoint import main


if __name__ == "__main__":
    run(main)
