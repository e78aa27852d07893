"""The card of techniques that are shared alone."""

from huggingface_hub import ModelCardData

from ..techniques.apply import AppliedTechniques
from .cards import card_text_of, tags_of


def render_technique_card(applied: AppliedTechniques, base_name: str | None, name: str) -> str:
    """The card as text.

    Args:
        applied: the techniques.
        base_name: folder or repository of the model that they were added to, if it is known.
        name: the folder's or repository's.
    """
    text = card_text_of(applied.config, name)
    is_on_hub = base_name is not None and base_name.count("/") == 1 and not base_name.startswith((".", "/"))
    data = ModelCardData(base_model=base_name if is_on_hub else None, tags=tags_of(applied.config, applied.model_type))
    scales = sum(
        parameter.numel() for _, module, key in applied.places for parameter in getattr(module, key).parameters()
    )
    base = f"`{base_name}`" if base_name else f"a model of type `{applied.model_type}`"
    differences = "\n".join(f"- {line}" for line in text["differences"])
    return f"""---
{data.to_yaml()}
---

# {name}

{text["techniques"]} for {base} with {applied.num_layers} layers: {scales:,} parameters, without the model.

```python
import hf_cb
from transformers import AutoModelForImageClassification

model = AutoModelForImageClassification.from_pretrained({base_name or "BASE_MODEL"!r})
model = hf_cb.load_techniques(model, {name!r})
```

`{name}` stands for the path of this folder or its name on the Hub. `technique_model.safetensors` holds the parameters.

## What differs from the model

{differences}

## References

{text["papers"]}

```bibtex
{text["references"]}
```
"""
