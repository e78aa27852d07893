"""What a vision transformer does inside: measures as functions of tensors, and taken of whole models.

It imports `models`, `data` and the floors below, and no other job.
"""

from .measures import (
    attention_density,
    attention_distance,
    attention_frequency_response,
    attention_similarity,
    dc_share,
    effective_attention,
    feature_spectrum,
    high_frequency_ratio,
    radial_frequencies,
    softmax_jacobian_norm,
    token_frequencies,
    token_similarity,
)


__all__ = [
    "attention_density",
    "attention_distance",
    "attention_frequency_response",
    "attention_similarity",
    "dc_share",
    "effective_attention",
    "feature_spectrum",
    "high_frequency_ratio",
    "radial_frequencies",
    "softmax_jacobian_norm",
    "token_frequencies",
    "token_similarity",
]
