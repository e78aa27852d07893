"""What converted checkpoints do to images, against timm's evaluation transform of the same model."""

import pytest
import timm
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from timm.data import create_transform, resolve_model_data_config
from transformers import AutoImageProcessor, ViTImageProcessor, pipeline

from checkpoints import save, timm_vit
from hf_cb import ViTCBForImageClassification, ViTCBImageProcessor
from hf_cb.conversion.checkpoint import CheckpointError
from hf_cb.conversion.convert import convert_checkpoint


IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
# left, upper, right, lower; cropped by an odd and an even number of pixels on either side
CROPS = {
    "whole": (0, 0, 640, 427),
    "wide": (0, 0, 640, 300),
    "high": (100, 0, 380, 420),
    "nearly square": (0, 0, 403, 400),
    "small": (10, 20, 110, 100),
}


@pytest.fixture(scope="module", params=["china.jpg", "flower.jpg"])
def photograph(request):
    return Image.fromarray(load_sample_image(request.param))


def pixels_of(processor, image):
    return processor(image, return_tensors="pt").pixel_values[0]


def difference(processor, transform, image):
    """The average over all normalised values, which are at least twice as far apart as those from 0 to 1."""
    return (pixels_of(processor, image) - transform(image)).abs().mean().item()


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("backend", ["torchvision", "pil"])
@pytest.mark.parametrize("name", ["file.pth", "file.npz"])
def test_a_files_processor_equals_timms_transform(name, backend, crop, photograph, tmp_path):
    convert_checkpoint(save(timm_vit(img_size=224, patch_size=32).state_dict(), tmp_path / name), tmp_path / "out")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out", backend=backend)
    assert processor.size.shortest_edge == 256
    normalisation = HALF if name == "file.npz" else IMAGENET
    transform = create_transform((3, 224, 224), interpolation="bicubic", crop_pct=0.875, **normalisation)
    assert difference(processor, transform, photograph.crop(CROPS[crop])) < 1 / 255


def test_transformers_own_crop_is_a_pixel_beside(photograph):
    arguments = {
        "size": {"shortest_edge": 256},
        "do_center_crop": True,
        "crop_size": {"height": 224, "width": 224},
        "resample": 3,
        "image_mean": IMAGENET["mean"],
        "image_std": IMAGENET["std"],
    }
    transform = create_transform((3, 224, 224), interpolation="bicubic", crop_pct=0.875, **IMAGENET)
    assert difference(ViTCBImageProcessor(**arguments), transform, photograph) < 1 / 255
    assert difference(ViTImageProcessor(**arguments), transform, photograph) > 10 / 255


@pytest.mark.parametrize("shape", [(20, 20), (20, 50), (33, 32), (31, 40)])
def test_an_image_smaller_than_the_crop_is_padded_as_in_transformers(shape):
    arguments = {"do_resize": False, "do_center_crop": True, "crop_size": {"height": 32, "width": 32}}
    image = torch.randint(256, (3, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ours, theirs = (pixels_of(kind(**arguments), image) for kind in (ViTCBImageProcessor, ViTImageProcessor))
    assert ours.shape == theirs.shape == (3, 32, 32)
    assert torch.equal(ours, theirs)


def test_a_pipeline_loads_a_folder_without_asking_whether_to_trust_its_code(tmp_path, monkeypatch):
    questions = []
    monkeypatch.setattr("builtins.input", lambda *question: questions.append(question) or "n")
    convert_checkpoint(save(timm_vit().state_dict(), tmp_path / "file.pth"), tmp_path / "out")
    classifier = pipeline("image-classification", model=str(tmp_path / "out"))
    assert type(classifier.image_processor) is ViTCBImageProcessor
    assert questions == []


NAMES = ["deit_tiny_patch16_224", "vit_tiny_patch16_384", "vit_base_patch16_224_miil"]


@pytest.fixture(scope="module", params=NAMES)
def named(request, tmp_path_factory):
    """timm's model of a name with one block, and the folder that it becomes; its weights are random."""
    with pytest.MonkeyPatch.context() as patch:
        create = timm.create_model
        models = []

        def create_one_block(name, pretrained=False):
            assert pretrained
            models.append(create(name, pretrained=False, depth=1))
            return models[-1].eval()

        patch.setattr(timm, "create_model", create_one_block)
        folder = tmp_path_factory.mktemp("named") / "out"
        convert_checkpoint(None, folder, timm_model=request.param)
    return models[0], folder


def test_a_model_by_name_has_timms_logits_and_transform(named, photograph):
    model, folder = named
    transform = create_transform(**resolve_model_data_config(model))
    processor = AutoImageProcessor.from_pretrained(folder)
    image = photograph.crop(CROPS["whole"])
    assert difference(processor, transform, image) < 1 / 255
    converted = ViTCBForImageClassification.from_pretrained(folder).eval()
    pixels = pixels_of(processor, image)[None]
    with torch.no_grad():
        torch.testing.assert_close(converted(pixels).logits, model(pixels), rtol=0, atol=2e-5)


def test_a_name_beside_a_file_gives_its_preprocessing_alone(tmp_path):
    weights = timm.create_model("vit_tiny_patch16_224", num_classes=7).state_dict()
    convert_checkpoint(save(weights, tmp_path / "file.pth"), tmp_path / "out", timm_model="vit_tiny_patch16_224")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out")
    assert list(processor.image_mean) == [0.5, 0.5, 0.5] and processor.size.shortest_edge == 248
    assert ViTCBForImageClassification.from_pretrained(tmp_path / "out").config.num_labels == 7


def test_a_download_that_fails_is_one_line(tmp_path, capfd):
    with pytest.raises(CheckpointError, match="timm's deit_tiny_patch16_224: cannot be loaded: ") as error:
        convert_checkpoint(None, tmp_path / "out", timm_model="deit_tiny_patch16_224")
    assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""
    assert list(tmp_path.iterdir()) == []
