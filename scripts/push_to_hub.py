"""Share a trained or converted model on the Hugging Face Hub.

python scripts/push_to_hub.py --help
"""

from hf_cb.cli.parser import run
from hf_cb.commands.push_to_hub import main


if __name__ == "__main__":
    run(main)
