"""Commands within the process of a test."""

import importlib
from types import ModuleType


def load_script(name: str) -> ModuleType:
    """What a file of scripts/ runs."""
    return importlib.import_module(f"hf_cb.commands.{name}")
