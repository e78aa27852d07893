"""Distillation: DeiT's formulas written out, the teacher's own preprocessing, and what a student learns."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.testing import assert_close
from transformers import DeiTImageProcessor, ViTForImageClassification, ViTImageProcessor

from helpers import randomise_, tiny_config, tiny_vit_config
from hf_cb import ViTCBForImageClassification
from hf_cb.training.distillation import DistillationLoss, hard_distillation, load_teacher, soft_distillation


NAMES = ["cat", "dog", "fox", "hen", "owl"]
LABELS = {"id2label": dict(enumerate(NAMES)), "label2id": {name: i for i, name in enumerate(NAMES)}}
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def random_logits(seed, shape=(3, 5)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2


def soft_by_hand(outputs, teacher, tau):
    """DeiT's losses.py, term by term: tau^2 times the sum of p (log p - log q), over the number of elements."""
    total = 0.0
    for mine, other in zip(outputs, teacher):
        q = [math.exp(z / tau) for z in mine.tolist()]
        p = [math.exp(z / tau) for z in other.tolist()]
        for a, b in zip(p, q):
            total += a / sum(p) * (math.log(a / sum(p)) - math.log(b / sum(q)))
    return tau**2 * total / outputs.numel()


@pytest.mark.parametrize("tau", [1.0, 3.0, 0.5])
def test_soft_distillation_is_deits_formula(tau):
    outputs, teacher = random_logits(0), random_logits(1)
    assert soft_distillation(outputs, teacher, tau).item() == pytest.approx(soft_by_hand(outputs, teacher, tau))
    # from the teacher's probabilities to the student's, which is another number than the way back
    back = soft_by_hand(teacher, outputs, tau)
    assert soft_distillation(outputs, teacher, tau).item() != pytest.approx(back)
    assert soft_distillation(outputs, outputs, tau).item() == pytest.approx(0, abs=1e-15)


def test_soft_distillation_has_the_gradient_of_softened_probabilities():
    # d/dz of tau^2 / (B C) KL(p || softmax(z / tau)) is tau / (B C) (q - p)
    outputs, teacher = random_logits(0).requires_grad_(), random_logits(1)
    soft_distillation(outputs, teacher, 2.0).backward()
    expected = 2.0 / outputs.numel() * ((outputs / 2).softmax(1) - (teacher / 2).softmax(1))
    assert_close(outputs.grad, expected.detach(), **EXACT)


def test_hard_distillation_takes_the_teachers_first_guess_for_the_label():
    outputs, teacher = random_logits(0), random_logits(1)
    by_hand = [
        math.log(sum(math.exp(z) for z in mine.tolist())) - mine[other.argmax()].item()
        for mine, other in zip(outputs, teacher)
    ]
    assert hard_distillation(outputs, teacher).item() == pytest.approx(sum(by_hand) / 3)


@pytest.mark.parametrize("targets", [torch.tensor([1, 0, 4]), random_logits(2).softmax(1)], ids=["hard", "mixed"])
@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_the_loss_weighs_labels_and_teacher(kind, targets):
    outputs, teacher, images = random_logits(0), random_logits(1), torch.zeros(3, 3, 8, 8)
    distillation = soft_by_hand(outputs, teacher, 3.0) if kind == "soft" else hard_distillation(outputs, teacher).item()
    base = cross_entropy(outputs, targets).item()
    for alpha in (0.0, 0.3, 1.0):
        loss = DistillationLoss(cross_entropy, lambda pictures: teacher, kind, alpha, tau=3.0)
        assert loss(outputs, images, targets).item() == pytest.approx((1 - alpha) * base + alpha * distillation)


@pytest.fixture(scope="module")
def teacher_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    randomise_(ViTForImageClassification(tiny_vit_config(image_size=32, patch_size=8, **LABELS))).save_pretrained(
        folder
    )
    ViTImageProcessor(
        size={"height": 32, "width": 32}, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.1]
    ).save_pretrained(folder)
    return folder


def test_a_teacher_gets_pictures_in_its_own_normalisation(teacher_folder):
    teacher = load_teacher(str(teacher_folder), NAMES)
    pictures = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model = ViTForImageClassification.from_pretrained(teacher_folder).eval()
    mean, std = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1), torch.tensor([0.2, 0.3, 0.1]).view(3, 1, 1)
    with torch.no_grad():
        expected = model((pictures - mean) / std).logits
    assert_close(teacher(pictures), expected, rtol=1e-5, atol=1e-5)
    # what the loss is given has the student's normalisation
    loss = DistillationLoss(cross_entropy, teacher, "soft", 1.0, image_mean=(0.5, 0.4, 0.3), image_std=(0.5, 0.2, 0.1))
    normalised = (pictures - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor([0.5, 0.2, 0.1]).view(3, 1, 1)
    assert loss(expected, normalised, torch.tensor([0, 1])).item() == pytest.approx(0, abs=1e-6)
    assert loss(expected, pictures, torch.tensor([0, 1])).item() > 1e-3


def test_a_teacher_gets_pictures_in_its_own_size(teacher_folder):
    teacher = load_teacher(str(teacher_folder), NAMES)
    # enlarging a plain colour changes nothing but the size
    small, large = torch.full((1, 3, 16, 16), 0.3), torch.full((1, 3, 32, 32), 0.3)
    assert_close(teacher(small), teacher(large), rtol=1e-5, atol=1e-5)
    assert teacher(torch.rand(1, 3, 40, 24)).shape == (1, 5)


def test_a_teacher_is_in_evaluation_mode_and_gets_no_gradient(teacher_folder):
    teacher = load_teacher(str(teacher_folder), NAMES)
    model = teacher.classifier.model
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert not teacher(torch.rand(1, 3, 32, 32, requires_grad=True)).requires_grad


def test_a_vit_cb_and_a_processor_with_a_crop_teach_too(tmp_path):
    randomise_(ViTCBForImageClassification(tiny_config(attn_scale=True, **LABELS))).save_pretrained(tmp_path)
    crop = {"height": 16, "width": 16}
    DeiTImageProcessor(size={"height": 20, "width": 20}, crop_size=crop).save_pretrained(tmp_path)
    assert load_teacher(str(tmp_path), NAMES)(torch.rand(2, 3, 16, 16)).shape == (2, 5)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        pytest.param(["cat", "dog", "emu", "hen", "owl"], "label 2 is 'emu' in the data and 'fox'", id="another"),
        pytest.param(["dog", "cat", "fox", "hen", "owl"], "label 0 is 'dog' in the data and 'cat'", id="order"),
        pytest.param(NAMES[:4], "label 4 is missing in the data and 'owl'", id="fewer"),
        pytest.param([*NAMES, "pig"], "label 5 is 'pig' in the data and missing", id="more"),
    ],
)
def test_a_teacher_with_other_labels_is_refused_naming_the_first(names, told, teacher_folder):
    with pytest.raises(ValueError, match=told):
        load_teacher(str(teacher_folder), names)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param({"kind": "none"}, "`kind` must be 'soft' or 'hard', got 'none'", id="kind"),
        pytest.param({"alpha": 1.5}, "`alpha` must be a number from 0 to 1, got 1.5", id="alpha"),
        pytest.param({"alpha": float("nan")}, "`alpha` must be a number from 0 to 1, got nan", id="no number"),
        pytest.param({"tau": 0.0}, "`tau` must be a number above 0, got 0.0", id="tau"),
    ],
)
def test_a_value_that_is_not_allowed_is_named(arguments, told):
    with pytest.raises(ValueError, match=told):
        DistillationLoss(cross_entropy, lambda pictures: pictures, **arguments)


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_a_student_of_a_perfect_teacher_learns_without_labels(kind):
    """Classes are colours; the teacher knows them, the labels are all wrong and count nothing."""
    torch.manual_seed(0)
    colours = torch.eye(3)
    labels = torch.arange(3).repeat(8)
    images = colours[labels].view(-1, 3, 1, 1) + 0.05 * torch.randn(24, 3, 16, 16)
    student = ViTCBForImageClassification(tiny_config(num_labels=3, num_hidden_layers=1))
    loss = DistillationLoss(cross_entropy, lambda pictures: 8 * pictures.mean((2, 3)), kind, alpha=1.0, tau=2.0)
    optimizer = torch.optim.AdamW(student.parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        loss(student(images).logits, images, (labels + 1) % 3).backward()
        optimizer.step()
    accuracy = (student.eval()(images).logits.argmax(1) == labels).float().mean()
    assert accuracy == 1
