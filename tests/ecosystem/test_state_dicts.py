"""`load_state_dict` takes the names that transformers saves: whoever reads the file itself restores the model."""

import copy
import pickle

import pytest
import torch
from accelerate.utils import load_checkpoint_in_model
from safetensors.torch import load_file, load_model
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments, ViTForImageClassification
from transformers.trainer_utils import load_sharded_checkpoint

from helpers import is_scale, randomise_, tiny_config, tiny_images, tiny_vit_config
from hf_cb import ViTCBForImageClassification, ViTCBModel
from models_with_everything import CLASSES, build


each_class = pytest.mark.parametrize("model_class", CLASSES.values(), ids=CLASSES)


def saved_weights(model, folder):
    """The file that transformers writes, read as it stands."""
    model.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    assert any("encoder.layer.0.attention.attention.query.weight" in name for name in weights)
    return weights


def same_weights(first, second):
    first, second = first.state_dict(), second.state_dict()
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def without_renaming(monkeypatch):
    monkeypatch.setattr(ViTCBModel, "_load_from_state_dict", nn.Module._load_from_state_dict)


@each_class
def test_a_saved_file_restores_a_model_whole(model_class, tmp_path):
    model, other = build(model_class), build(model_class, seed=1)
    assert not same_weights(other, model)
    missing, unexpected = other.load_state_dict(saved_weights(model, tmp_path))
    assert (missing, unexpected) == ([], [])
    assert same_weights(other, model)


@each_class
def test_without_renaming_a_saved_file_restores_no_layer(model_class, tmp_path, without_renaming):
    model, other = build(model_class), build(model_class, seed=1)
    missing, _ = other.load_state_dict(saved_weights(model, tmp_path), strict=False)
    assert set(missing) == {name for name in model.state_dict() if "layers." in name}


@each_class
def test_a_models_own_state_dict_restores_it_too(model_class):
    model, other = build(model_class), build(model_class, seed=1)
    assert other.load_state_dict(model.state_dict()) == ([], [])
    assert same_weights(other, model)


def test_the_given_state_dict_stays_as_it_is(tmp_path):
    weights = saved_weights(build(), tmp_path)
    before = dict(weights)
    build(seed=1).load_state_dict(weights)
    assert list(weights) == list(before) and all(weights[name] is before[name] for name in before)


def wrapped(model):
    return nn.ModuleDict({"student": nn.Sequential(nn.Identity(), model)})


HOLDERS = {
    "in-another-module": (wrapped, "student.1."),
    "compiled": (torch.compile, "_orig_mod."),
    "data-parallel": (nn.DataParallel, "module."),
    "copied": (copy.deepcopy, ""),
    "pickled": (lambda model: pickle.loads(pickle.dumps(model)), ""),
}


@pytest.mark.parametrize(("hold", "prefix"), HOLDERS.values(), ids=HOLDERS)
def test_a_model_is_restored_wherever_it_is(hold, prefix, tmp_path):
    model, other = build(), hold(build(seed=1))
    weights = {prefix + name: tensor for name, tensor in saved_weights(model, tmp_path).items()}
    assert other.load_state_dict(weights) == ([], [])
    assert same_weights(other, hold(model))


def test_names_of_other_modules_stay_as_they_are(tmp_path):
    def pair(seed):
        other = nn.ModuleDict({"encoder": nn.ModuleDict({"layer": nn.ModuleList([nn.Linear(2, 2)])})})
        return nn.ModuleDict({"ours": build(ViTCBModel, seed), "encoder": other["encoder"], "other": other})

    first, second = pair(0), pair(1)
    weights = {name: tensor for name, tensor in first.state_dict().items() if not name.startswith("ours.")}
    assert "encoder.layer.0.weight" in weights and "other.encoder.layer.0.weight" in weights
    weights |= {f"ours.{name}": tensor for name, tensor in saved_weights(first["ours"], tmp_path).items()}
    assert second.load_state_dict(weights) == ([], [])
    assert same_weights(second, first)


def test_a_plain_vits_file_restores_all_but_the_scales(tmp_path):
    plain, ours = randomise_(ViTForImageClassification(tiny_vit_config())), build(seed=1)
    missing, unexpected = ours.load_state_dict(saved_weights(plain, tmp_path), strict=False)
    assert unexpected == [] and missing == [name for name in ours.state_dict() if is_scale(name)]
    assert all(torch.equal(tensor, ours.state_dict()[name]) for name, tensor in plain.state_dict().items())


# as torch's


QUERY, SAVED_QUERY = "vit.layers.1.attention.q_proj.weight", "vit.encoder.layer.1.attention.attention.query.weight"
BEYOND = "vit.encoder.layer.7.attention.attention.query.weight"


def test_missing_and_unexpected_weights_are_refused_or_named(tmp_path):
    weights = saved_weights(build(), tmp_path)
    weights[BEYOND] = weights.pop(SAVED_QUERY)
    with pytest.raises(RuntimeError, match=rf'Missing key\(s\) in state_dict: "{QUERY}"'):
        build().load_state_dict(weights)
    missing, unexpected = build().load_state_dict(weights, strict=False)
    assert (missing, unexpected) == ([QUERY], ["vit.layers.7.attention.q_proj.weight"])


def test_a_weight_of_another_shape_is_refused(tmp_path):
    weights = saved_weights(build(), tmp_path)
    weights[SAVED_QUERY] = weights[SAVED_QUERY][:-1]
    with pytest.raises(RuntimeError, match=f"size mismatch for {QUERY}"):
        build().load_state_dict(weights, strict=False)


def test_a_saved_file_counts_where_it_is_merged_into_a_models_own_weights(tmp_path):
    model, other = build(), build(seed=1)
    assert other.load_state_dict({**other.state_dict(), **saved_weights(model, tmp_path)}) == ([], [])
    assert same_weights(other, model)


def test_assigned_weights_are_those_of_the_file(tmp_path):
    weights = saved_weights(build().double(), tmp_path)
    with torch.device("meta"):
        model = ViTCBForImageClassification(tiny_config(**build().config.to_diff_dict()))
    model.load_state_dict(weights, assign=True)
    assert model.state_dict()[QUERY].data_ptr() == weights[SAVED_QUERY].data_ptr()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}


# those that read files


READERS = {
    "safetensors": lambda model, folder: load_model(model, folder / "model.safetensors"),
    "accelerate": lambda model, folder: load_checkpoint_in_model(model, str(folder / "model.safetensors"), strict=True),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@each_class
def test_a_reader_of_files_restores_a_model(model_class, read, tmp_path):
    model, other = build(model_class), build(model_class, seed=1)
    model.save_pretrained(tmp_path)
    read(other, tmp_path)
    assert same_weights(other, model)


def test_a_file_in_parts_restores_a_model(tmp_path):
    model, other = build(), build(seed=1)
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    # it compares the names of the file with the model's itself, and finds none of the layers' before it loads them
    load_sharded_checkpoint(other, tmp_path, strict=False)
    assert same_weights(other, model)


# transformers' Trainer


class StopAfter(TrainerCallback):
    """What a killed process looks like from inside: no further step."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def trainer_in(folder, **arguments):
    """Plain Trainer, four steps an epoch for three epochs, with dropout."""
    model = build(hidden_dropout_prob=0.1)
    rows = [{"pixel_values": tiny_images(1, seed)[0], "labels": seed % 5} for seed in range(14)]
    settings = {"num_train_epochs": 3, "per_device_train_batch_size": 4, "learning_rate": 1e-3, "use_cpu": True}
    settings |= {"report_to": [], "disable_tqdm": True, "save_strategy": "steps", "save_steps": 3}
    training = TrainingArguments(str(folder), **settings | arguments)
    return Trainer(model, training, train_dataset=rows, eval_dataset=rows[:6])


def resumed(folder, **arguments):
    """A model whose training was interrupted after step 7 and taken up from the checkpoint of step 6."""
    first = trainer_in(folder, **arguments)
    first.add_callback(StopAfter(7))
    with pytest.raises(KeyboardInterrupt):
        first.train()
    trainer = trainer_in(folder, **arguments)
    trainer.train(resume_from_checkpoint=True)
    return trainer.model


def uninterrupted(folder, **arguments):
    trainer = trainer_in(folder, **arguments)
    trainer.train()
    return trainer


def test_a_resumed_training_ends_with_the_weights_of_an_uninterrupted_one(tmp_path):
    assert same_weights(resumed(tmp_path / "parts"), uninterrupted(tmp_path / "whole").model)


def test_without_renaming_a_resumed_training_ends_with_other_weights(tmp_path, without_renaming):
    assert not same_weights(resumed(tmp_path / "parts"), uninterrupted(tmp_path / "whole").model)


# what training lowers is wanted high: an early checkpoint is the best
BEST = {"load_best_model_at_end": True, "greater_is_better": True, "eval_strategy": "steps", "eval_steps": 3}


def best_checkpoint(trainer):
    """The model of that checkpoint, which is not what the training ended with."""
    best = trainer.state.best_model_checkpoint
    assert not best.endswith("checkpoint-12")
    return ViTCBForImageClassification.from_pretrained(best)


def test_the_best_model_at_the_end_is_that_of_the_best_checkpoint(tmp_path):
    trainer = uninterrupted(tmp_path / "whole", **BEST)
    assert same_weights(trainer.model, best_checkpoint(trainer))
    assert same_weights(resumed(tmp_path / "parts", **BEST), trainer.model)


def test_without_renaming_the_best_model_at_the_end_is_another(tmp_path, without_renaming):
    trainer = uninterrupted(tmp_path, **BEST)
    assert not same_weights(trainer.model, best_checkpoint(trainer))
