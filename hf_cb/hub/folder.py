"""What of a model's folder goes to the Hub, and whether the folder is fit to go there."""

import ast
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard
from transformers import PreTrainedConfig

from ..cli.output_dir import RUN_FILES
from ..errors import UsageError
from ..reports.card_blocks import loading_block, replace_block
from ..reports.cards import PIPELINE_TAGS, render_untold_card
from ..techniques.config import find_techniques
from ..vit_cb.configuration_vit_cb import ViTCBConfig


WEIGHTS, WEIGHTS_INDEX, CARD = "model.safetensors", "model.safetensors.index.json", "README.md"
# besides the weights, the code and the card; checkpoints, averaged weights and optimizer states match none of these
UPLOADED = ("config.json", "preprocessor_config.json", "*_results.json", "*.png", "LICENSE*")
# of an earlier push and not in this one, a file of these names would describe or replace other weights
REPLACED = (*RUN_FILES, "*_vit_cb.py")

# what whoever loads a model is sure to have
PACKAGES = {*sys.stdlib_module_names, "torch", "torchvision", "transformers", "huggingface_hub", "numpy"}


class HubError(UsageError):
    """What keeps a model from the Hub, in one sentence."""


@dataclass(frozen=True)
class ModelFolder:
    """A folder that can be pushed.

    Args:
        path: of the folder.
        config: as `config.json` has it.
        architecture: the model's class.
        files: names of what is uploaded, the card apart.
        card: the card's text, of the folder's README.md or rendered where there is none.
    """

    path: Path
    config: dict[str, Any]
    architecture: str
    files: tuple[str, ...]
    card: str

    @property
    def auto_class(self) -> str:
        """Name of the Auto class that loads the model."""
        target = f"modeling_vit_cb.{self.architecture}"
        return next(auto for auto, name in self.config["auto_map"].items() if name == target)

    def card_for(self, repo_id: str, revision: str) -> str:
        """The card with the page's name and the revision to pin in its lines on loading."""
        block = loading_block(PIPELINE_TAGS[self.architecture], repo_id, revision)
        return replace_block(self.card, "loading", block)


def read_model_folder(model_dir: str | Path) -> ModelFolder:
    """Look through a folder as `save_pretrained` writes it; nothing is loaded or executed.

    Raises:
        HubError: it holds no ViT-CB in safetensors, its code is not whole or needs more than transformers and torch,
            or its card's metadata is not valid.
    """
    path = Path(model_dir)
    if not path.is_dir():
        raise HubError(f"`model_dir` must be a folder that holds a model, and {str(model_dir)!r} is none.")
    config = _read_config(path)
    architecture = str((config.get("architectures") or [None])[0])
    if architecture not in PIPELINE_TAGS:
        raise HubError(f"{path}: must hold one of {', '.join(PIPELINE_TAGS)}, and config.json names {architecture}.")
    weights, code = _weights_of(path), _code_of(path, config, architecture)
    # a name with a dot is that of a file being written
    others = [file.name for pattern in UPLOADED for file in path.glob(pattern) if not file.name.startswith(".")]
    files = sorted({name for name in (*weights, *code, *others) if (path / name).is_file()})
    return ModelFolder(path, config, architecture, tuple(files), _card_of(path, config, architecture))


# what else a folder may hold, by the file that tells it, and what to do with that
OTHER_FOLDERS = {
    "adapter_config.json": "an adapter: merge it into its model first",
    "technique_config.json": "techniques for another model: share them with `hf_cb.push_techniques_to_hub`",
}


def _read_config(path: Path) -> dict[str, Any]:
    other = next((what for file, what in OTHER_FOLDERS.items() if (path / file).is_file()), None)
    has_config = (path / "config.json").is_file()
    if not has_config or (other and not (path / WEIGHTS).is_file()):
        raise HubError(f"{path}: must hold a ViT-CB, its config.json and weights, and holds {other or 'none'}.")
    config = read_json(path / "config.json")
    if config.get("model_type") != ViTCBConfig.model_type:
        raise HubError(f"{path}: must hold a ViT-CB, and holds {other or _other_model(config)}.")
    try:
        ViTCBConfig.from_dict(config)
    except (ValueError, TypeError) as error:
        raise HubError(f"{path / 'config.json'}: {error}") from error
    return config


def _other_model(config: dict[str, Any]) -> str:
    """What a model of another architecture is, and how it gets to the Hub."""
    kind = f"a model of type {config.get('model_type')!r}"
    if find_techniques(config) is None:
        return f"{kind}: push that with the model's own `push_to_hub`"
    return (
        f"{kind} with techniques, which needs hf_cb wherever it is used: load it with `hf_cb.from_pretrained` and share"
        " the techniques alone with `hf_cb.push_techniques_to_hub`, or all of it with the model's own `push_to_hub`"
    )


def check_model_can_be_pushed(config: PreTrainedConfig) -> None:
    """Before a model is trained: whether `push_to_hub` will take it.

    Raises:
        HubError: it is no ViT-CB.
    """
    if config.model_type != ViTCBConfig.model_type:
        raise HubError(f"`push_to_hub` pushes a ViT-CB, and the model is {_other_model(config.to_dict())}.")


def read_json(file: Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        HubError: it is not one.
    """
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise HubError(f"{file}: cannot be read as JSON: {error}.") from error
    if not isinstance(content, dict):
        raise HubError(f"{file}: must hold a JSON object, and holds a {type(content).__name__}.")
    return content


def _weights_of(path: Path) -> list[str]:
    """The files that transformers would load, which prefers the single one."""
    if (path / WEIGHTS).is_file():
        return [WEIGHTS]
    if (path / WEIGHTS_INDEX).is_file():
        weight_map = read_json(path / WEIGHTS_INDEX).get("weight_map")
        shards = sorted(set(map(str, weight_map.values()))) if isinstance(weight_map, dict) else []
        missing = [name for name in shards if Path(name).name != name or not (path / name).is_file()]
        if missing or not shards:
            raise HubError(f"{path}: the weights that {WEIGHTS_INDEX} names are not all there: {', '.join(missing)}.")
        return [WEIGHTS_INDEX, *shards]
    pickled = next((file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in sorted(path.glob(pattern))), None)
    if pickled:
        raise HubError(
            f"{path}: only safetensors go to the Hub, and the weights are pickled ({pickled}): save them anew."
        )
    raise HubError(f"{path}: must hold a model's weights, {WEIGHTS}, and holds none.")


def _code_of(path: Path, config: dict[str, Any], architecture: str) -> set[str]:
    """The folder's own code: the files of `auto_map`, and what these import from each other."""
    targets = _auto_map_targets(config)
    if f"modeling_vit_cb.{architecture}" not in targets:
        raise HubError(
            f"{path}: its code does not travel: `auto_map` in config.json does not name modeling_vit_cb.{architecture}."
            " Save the model anew with hf_cb."
        )
    processor = path / "preprocessor_config.json"
    targets += _auto_map_targets(read_json(processor)) if processor.is_file() else []
    waiting, found = {f"{target.split('.')[0]}.py" for target in targets}, set()
    while waiting:
        name = waiting.pop()
        found.add(name)
        waiting |= _imports_of(path, name) - found
    return found


def _auto_map_targets(config: dict[str, Any]) -> list[str]:
    auto_map = config.get("auto_map")
    values = auto_map.values() if isinstance(auto_map, dict) else []
    # an image processor may have two classes, one of them None
    return [str(target) for value in values for target in (value if isinstance(value, list) else [value]) if target]


def _imports_of(path: Path, name: str) -> set[str]:
    """The files beside it that a file imports."""
    if not (path / name).is_file():
        raise HubError(f"{path}: its code does not travel: {name} is missing. Save the model anew with hf_cb.")
    try:
        tree = ast.parse((path / name).read_text("utf-8"))
    except (SyntaxError, ValueError) as error:
        raise HubError(f"{path}: its code does not travel: {name} is no Python: {error}.") from error
    siblings = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            if node.level > 1 or not node.module or "." in node.module:
                raise HubError(f"{path}: its code does not travel: {name} imports from outside the folder.")
            siblings.add(f"{node.module}.py")
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            _check_packages(path, name, {module.split(".")[0] for module in modules})
    return siblings


def _check_packages(path: Path, name: str, packages: set[str]) -> None:
    if foreign := sorted(packages - PACKAGES):
        raise HubError(
            f"{path}: its code does not travel: {name} imports {', '.join(foreign)}, which may be missing where it is"
            " loaded."
        )


def _card_of(path: Path, config: dict[str, Any], architecture: str) -> str:
    file = path / CARD
    if not file.is_file():
        return str(render_untold_card(ViTCBConfig.from_dict(config), path.resolve().name, architecture))
    try:
        text = file.read_bytes().decode("utf-8-sig")
        data = ModelCard(text).data
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise HubError(f"{file}: the card's metadata is not valid: {error}.") from error
    expected = {"library_name": "transformers", "pipeline_tag": PIPELINE_TAGS[architecture]}
    for name, value in expected.items():
        if data.get(name) != value:
            raise HubError(f"{file}: the card's metadata must have `{name}: {value}`, got {data.get(name)!r}.")
    return text
