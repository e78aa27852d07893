"""Techniques alone, on disk and on the Hub, as PEFT shares adapters.

    technique_config.json           the fields of `TechniqueConfig`, and which model they are for
    technique_model.safetensors     the parameters: layers.{i}.attn_scale.omega, layers.{i}.feat_scale.dc_scale, ...
    README.md                       a card

The names of the parameters are the same for every architecture, class and version of transformers.
"""

import json
import os
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import CommitInfo, HfApi, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..cli.output_dir import write_json
from ..reports.technique_card import render_technique_card
from ..techniques.apply import AppliedTechniques, apply_techniques, need_techniques, remove_techniques
from ..techniques.config import TechniqueConfig
from ..vit_cb.layers_vit_cb import ZeroStart


CONFIG_FILE = "technique_config.json"
WEIGHTS_FILE = "technique_model.safetensors"
CARD_FILE = "README.md"
# which model the techniques are for
BASE_FIELDS = ("base_model_name_or_path", "base_model_type", "base_model_layers")


def save_techniques(model: nn.Module, folder: str | Path) -> None:
    """Write the techniques alone, a few KB; a card too, where no other card stands.

    Args:
        model: a model with techniques, or one that holds it.
        folder: made if it is not there; its other files stay.

    Raises:
        ValueError: the model has no techniques, or `folder` is a file.
    """
    _write(need_techniques(model), _name_of(model), Path(folder), Path(folder).absolute().name)


def push_techniques_to_hub(
    model: nn.Module,
    repo_id: str,
    *,
    commit_message: str = "Upload techniques",
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
) -> CommitInfo:
    """Put the techniques alone on the Hub, in one commit; `load_techniques` takes them from there.

    Args:
        model: a model with techniques, or one that holds it.
        repo_id: "user/name"; made if it is not there.
        commit_message, private, token, revision, create_pr: as in transformers' `push_to_hub`.

    Raises:
        ValueError: the model has no techniques; nothing was uploaded then.
    """
    applied = need_techniques(model)
    with tempfile.TemporaryDirectory() as folder:
        _write(applied, _name_of(model), Path(folder), repo_id)
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        return api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message=commit_message,
            revision=revision,
            create_pr=create_pr,
        )


def load_techniques(model: nn.Module, folder_or_repo: str | Path, **hub_arguments: Any) -> nn.Module:
    """Add techniques that `save_techniques` or `push_techniques_to_hub` wrote, in place.

    Args:
        model: of the architecture and depth that they were saved from, without techniques.
        folder_or_repo: a folder, or a repository on the Hub.
        hub_arguments: `revision`, `token`, `subfolder`, `cache_dir`, ... of `huggingface_hub.hf_hub_download`.

    Returns:
        The same model.

    Raises:
        ValueError: the files are not there or damaged, or do not fit the model; it is then as it was.
    """
    config, base = read_technique_config(folder_or_repo, **hub_arguments)
    tensors = _read_tensors(_find_file(folder_or_repo, WEIGHTS_FILE, **hub_arguments))
    apply_techniques(model, config)
    try:
        applied = need_techniques(model)
        _check_base(folder_or_repo, base, applied)
        _fill(folder_or_repo, technique_tensors(applied), tensors)
    except ValueError:
        remove_techniques(model)
        raise
    return model


def technique_tensors(applied: AppliedTechniques) -> dict[str, nn.Parameter]:
    """The techniques' parameters under the names that the files have."""
    tensors = {}
    for index, module, name in applied.places:
        # PEFT's `modules_to_save` has the original first, then the copy that it trains
        technique = [part for part in getattr(module, name).modules() if isinstance(part, ZeroStart)][-1]
        for key, parameter in technique.named_parameters():
            tensors[f"layers.{index}.{name}.{key}"] = parameter
    return tensors


def read_technique_config(folder_or_repo: str | Path, **hub_arguments: Any) -> tuple[TechniqueConfig, dict[str, Any]]:
    """Read `technique_config.json`.

    Returns:
        The techniques, and what the file says of the model that they are for.

    Raises:
        ValueError: the file is not there, damaged, or holds what it should not.
    """
    path = _find_file(folder_or_repo, CONFIG_FILE, **hub_arguments)
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: is damaged: {error}.") from error
    known = [f.name for f in fields(TechniqueConfig)]
    if not isinstance(content, dict) or not set(content) <= {*known, *BASE_FIELDS}:
        strange = sorted(set(content) - {*known, *BASE_FIELDS}) if isinstance(content, dict) else type(content).__name__
        raise ValueError(
            f"{path}: must hold the fields {', '.join(known)} and {', '.join(BASE_FIELDS)}, has {strange}."
        )
    return TechniqueConfig.from_fields(content), {name: content.get(name) for name in BASE_FIELDS}


def _find_file(folder_or_repo: str | Path, name: str, subfolder: str | None = None, **hub_arguments: Any) -> Path:
    folder = Path(folder_or_repo)
    if folder.is_dir():
        path = folder / (subfolder or "") / name
        if not path.is_file():
            raise ValueError(f"{folder} must hold {name}, as `save_techniques` writes it, and does not.")
        return path
    try:
        return Path(hf_hub_download(str(folder_or_repo), name, subfolder=subfolder, **hub_arguments))
    except EntryNotFoundError as error:
        raise ValueError(f"The repository {str(folder_or_repo)!r} must hold {name}, and does not.") from error
    except (OSError, HFValidationError) as error:
        raise ValueError(
            f"{str(folder_or_repo)!r} must be a folder or a repository on the Hub with {name}: {error}"
        ) from error


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: is damaged or no safetensors file: {error}.") from error


def _check_base(source: str | Path, base: dict[str, Any], applied: AppliedTechniques) -> None:
    for name, actual in {"base_model_type": applied.model_type, "base_model_layers": applied.num_layers}.items():
        if base[name] not in (None, actual):
            raise ValueError(
                f"The techniques in {source} are for a model of `{name}` {base[name]!r}, and this one has {actual!r}."
            )


@torch.no_grad()
def _fill(source: str | Path, parameters: dict[str, nn.Parameter], tensors: dict[str, Tensor]) -> None:
    for name in [*parameters, *tensors]:
        if name not in tensors or name not in parameters:
            what = "lacks" if name in parameters else "holds, and its configuration does not ask for,"
            raise ValueError(f"{WEIGHTS_FILE} in {source} {what} {name!r}.")
        shape, expected = list(tensors[name].shape), list(parameters[name].shape)
        if shape != expected:
            raise ValueError(f"{name!r} in {source} is of shape {shape}, and the model needs {expected}.")
    for name, parameter in parameters.items():
        parameter.copy_(tensors[name])


def _name_of(model: nn.Module) -> str | None:
    return getattr(getattr(model, "config", None), "_name_or_path", "") or None


def _write(applied: AppliedTechniques, base_name: str | None, folder: Path, card_name: str) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"`folder` must name a folder, and {str(folder)!r} is a file.")
    folder.mkdir(parents=True, exist_ok=True)
    base = dict(zip(BASE_FIELDS, (base_name, applied.model_type, applied.num_layers)))
    tensors = {name: p.detach().cpu().contiguous() for name, p in technique_tensors(applied).items()}
    card = folder / CARD_FILE
    # written beside and then moved: no file is ever half there
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=folder) as staging:
        save_file(tensors, Path(staging, WEIGHTS_FILE), metadata={"format": "pt"})
        write_json(Path(staging, CONFIG_FILE), {**applied.config.to_dict(), **base})
        if not card.exists() or WEIGHTS_FILE in card.read_text():
            Path(staging, CARD_FILE).write_text(render_technique_card(applied, base_name, card_name))
        for file in Path(staging).iterdir():
            os.replace(file, folder / file.name)
