"""LoRA through PEFT; the code is in `models/lora.py`, and adapter cards on the Hub name this module."""

from .models.lora import TARGET_MODULES, add_lora, is_adapter, load_adapter, technique_modules


__all__ = ["TARGET_MODULES", "add_lora", "is_adapter", "load_adapter", "technique_modules"]
