"""Checkpoints of other libraries become models of transformers with the same outputs, and go back to timm.

It imports `models`, `data` and the floors below, and no other job.
"""

from .convert import convert_checkpoint, convert_to_timm, to_timm_state_dict


__all__ = ["convert_checkpoint", "convert_to_timm", "to_timm_state_dict"]
