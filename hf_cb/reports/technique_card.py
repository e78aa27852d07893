"""The card of techniques that are shared alone."""

from huggingface_hub import ModelCardData

from ..techniques.apply import AppliedTechniques
from .card_blocks import render_template
from .cards import card_text_of, tags_of


def render_technique_card(applied: AppliedTechniques, base_name: str | None, name: str) -> str:
    """The card as text.

    Args:
        applied: the techniques.
        base_name: folder or repository of the model that they were added to, if it is known.
        name: the folder's or repository's.
    """
    is_on_hub = base_name is not None and base_name.count("/") == 1 and not base_name.startswith((".", "/"))
    data = ModelCardData(base_model=base_name if is_on_hub else None, tags=tags_of(applied.config, applied.model_type))
    modules = [getattr(module, key) for _, module, key in applied.places]
    num_scales = sum(parameter.numel() for module in modules for parameter in module.parameters())
    text = render_template(
        "technique_card.md",
        **card_text_of(applied.config, name),
        card_data=data.to_yaml(),
        base=f"`{base_name}`" if base_name else f"a model of type `{applied.model_type}`",
        base_name=base_name or "BASE_MODEL",
        num_layers=applied.num_layers,
        num_scales=num_scales,
    )
    return f"{text}\n"
