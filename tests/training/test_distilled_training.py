"""A teacher in scripts/train.py."""

import json

import pytest
import torch

from hf_cb.errors import UsageError
from runs import FEW_DIGITS, train, weights_of


# a rate at which a few updates tell one loss from another
FAST = f"{FEW_DIGITS} --num_train_epochs 3 --learning_rate 1e-2 --warmup_ratio 0"


@pytest.fixture(scope="module")
def teacher(train_script, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teachers") / "digits"
    train(train_script, folder, FAST, "--num_train_epochs 6")
    return folder


def taught(train_script, folder, teacher, *flags):
    return train(train_script, folder, FAST, "--teacher_model_name_or_path", str(teacher), *flags)


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_a_student_learns_from_the_teacher_alone(kind, train_script, teacher, tmp_path):
    results = taught(train_script, tmp_path, teacher, f"--distillation_type {kind} --distillation_alpha 1")
    losses = [row["train_loss"] for row in results["history"]]
    assert losses[-1] < losses[0]


def test_a_teacher_without_weight_changes_nothing_and_one_with_weight_does(train_script, teacher, tmp_path):
    train(train_script, tmp_path / "alone", FAST)
    taught(train_script, tmp_path / "unheard", teacher, "--distillation_alpha 0")
    taught(train_script, tmp_path / "heard", teacher, "--distillation_alpha 0.5")
    alone, unheard, heard = (weights_of(tmp_path / name) for name in ("alone", "unheard", "heard"))
    assert all(torch.equal(alone[name], unheard[name]) for name in alone)
    assert not torch.equal(alone["classifier.weight"], heard["classifier.weight"])


def test_a_teacher_of_other_classes_is_refused_before_training(train_script, teacher, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for file in teacher.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    config = json.loads((other / "config.json").read_text())
    config["id2label"]["3"], config["label2id"] = "three", {**config["label2id"], "three": 3}
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="label 3 is '3' in the data and 'three' in the teacher"):
        taught(train_script, tmp_path / "run", other)
    assert not (tmp_path / "run").exists()


MISTAKES = {
    "kind": ("--distillation_type warm", "distillation_type"),
    "alpha": ("--distillation_alpha 1.5", "`distillation_alpha` must be a number from 0 to 1, got 1.5"),
    "tau": ("--distillation_tau 0", "`distillation_tau` must be a number above 0, got 0.0"),
    "no teacher there": ("--teacher_model_name_or_path nowhere", "'nowhere' cannot be loaded"),
}


@pytest.mark.parametrize(("flags", "told"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_named(flags, told, train_script, tmp_path):
    with pytest.raises(UsageError, match=told):
        train(train_script, tmp_path / "run", FAST, flags)
    assert not (tmp_path / "run").exists()
