"""The card of techniques that are shared alone."""

from huggingface_hub import ModelCardData

from ..techniques.apply import AppliedTechniques
from .card_blocks import render_template, without_way
from .cards import card_text_of, is_on_hub, tags_of


def render_technique_card(applied: AppliedTechniques, base_name: str | None, name: str) -> str:
    """The card as text.

    Args:
        applied: the techniques.
        base_name: folder or repository of the model that they were added to, if it is known.
        name: the folder's or repository's.
    """
    is_repository = base_name is not None and "/" in base_name and is_on_hub(base_name)
    base_name = base_name and without_way(base_name)
    tags = tags_of(applied.config, applied.model_type)
    data = ModelCardData(base_model=base_name if is_repository else None, tags=tags)
    modules = [getattr(module, key) for _, module, key in applied.places]
    num_scales = sum(parameter.numel() for module in modules for parameter in module.parameters())
    text = render_template(
        "technique_card.md",
        **card_text_of(applied.config, name),
        card_data=data.to_yaml(),
        base=f"`{base_name}`" if base_name else f"a model of type `{applied.model_type}`",
        base_name=base_name or "BASE_MODEL",
        base_is_known=is_repository,
        num_layers=applied.num_layers,
        num_scales=num_scales,
    )
    return f"{text}\n"
