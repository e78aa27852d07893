"""The loader's speed is in what surrounds timm's transforms: what they make of an image stays. Nothing times here."""

import gc
import json

import numpy as np
import pytest
import torch
from datasets import Image as ImageFeature
from PIL import Image
from PIL.Image import Exif
from timm.data import create_transform
from timm.data.loader import PrefetchLoader
from torch.testing import assert_close
from torchvision.transforms.functional import pil_to_tensor

from command_lines import load_script
from hf_cb import ViTCBImageProcessor
from hf_cb.benchmark.loader_benchmark import (
    BASELINE,
    STAGES,
    LoaderBenchmarkArguments,
    TimedEpochs,
    _make_epochs,
    save_crops,
)
from hf_cb.cli.parser import run
from hf_cb.data.augmentation import (
    AugmentationArguments,
    BatchAugmentation,
    Normalization,
    keep_a_bit,
    to_tensor,
    training_transform,
)
from hf_cb.data.batch_memory import BatchMemory
from hf_cb.data.dataset import collate
from hf_cb.data.images import read_image
from hf_cb.data.randomness import seed_random_generators


POLICY = "rand-m9-mstd0.5-inc1"
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
DEIT = AugmentationArguments(
    random_resized_crop=[0.08, 1.0],
    train_interpolation="bicubic",
    horizontal_flip=0.5,
    auto_augment=POLICY,
    random_erasing=0.25,
)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    return save_crops(tmp_path_factory.mktemp("crops"), 16, [96, 64])


@pytest.fixture(scope="module")
def files(crops):
    return sorted(crops.glob("*/*.jpg"))


def processor(size=48):
    return ViTCBImageProcessor(size={"height": size, "width": size}, image_mean=MEAN, image_std=STD)


def timms_transform(size=48):
    transform = create_transform(
        size, is_training=True, use_prefetcher=True, auto_augment=POLICY, interpolation="bicubic"
    )
    keep_a_bit(transform.transforms)
    return transform


# what an image becomes


def test_a_random_state_makes_of_an_image_what_it_makes_in_timms_pipeline(files):
    ours, theirs = training_transform(processor(), DEIT), timms_transform()
    made = []
    for number in range(64):
        file = files[number % len(files)]
        seed_random_generators(0, number)
        found = ours(read_image({"bytes": None, "path": str(file)}))
        seed_random_generators(0, number)
        made.append(theirs(Image.open(file).convert("RGB")))
        assert torch.equal(found, made[-1])
    assert len({image.numpy().tobytes() for image in made}) == 64


def test_a_batch_is_normalised_as_by_timm():
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    labels = torch.arange(4)
    [(expected, _)] = PrefetchLoader([(images, labels)], mean=MEAN, std=STD, device=CPU)
    augment = BatchAugmentation(Normalization.of(processor()), AugmentationArguments(), 0.0, 4, CPU)
    found, _ = augment(images, labels, 0)
    assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(found, images.float() / 255)


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (96, 64)])
def test_an_image_as_a_tensor_is_contiguous_and_has_its_pixels(size):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    tensor = to_tensor(image)
    assert torch.equal(tensor, pil_to_tensor(image)) and tensor.is_contiguous()
    tensor.zero_()
    assert np.array_equal(np.asarray(image), pixels)


def test_every_orientation_of_a_jpeg_is_turned_once(files, tmp_path):
    upright = Image.open(files[0])
    for orientation in range(1, 9):
        exif = Exif()
        exif[0x0112] = orientation
        upright.save(tmp_path / "turned.jpg", exif=exif, quality=95)
        stored = {"bytes": (tmp_path / "turned.jpg").read_bytes(), "path": None}
        expected = np.asarray(ImageFeature().decode_example(stored))
        found = read_image(stored)
        assert np.array_equal(np.asarray(found), expected)
        assert (found.size == upright.size) == (orientation < 5)
        # as PIL images come
        assert np.array_equal(np.asarray(read_image(Image.open(tmp_path / "turned.jpg"))), expected)


def test_images_are_collated_in_order():
    rows = [
        {"pixel_values": torch.full((3, 2, 2), value, dtype=torch.uint8), "labels": value, "skipped": []}
        for value in (3, 1)
    ]
    batch = collate(rows)
    assert batch["pixel_values"].dtype == torch.uint8 and batch["labels"].tolist() == [3, 1]
    assert torch.equal(batch["pixel_values"], torch.stack([row["pixel_values"] for row in rows]))


# memory of batches


def test_memory_is_given_out_again_only_when_no_tensor_uses_it():
    memory, shape = BatchMemory(), torch.Size([2, 3, 5, 5])
    first = memory.empty(shape).fill_(1)
    second = memory.empty(shape).fill_(2)
    assert first.data_ptr() != second.data_ptr() and (first == 1).all()
    place, view = first.data_ptr(), first[1, :, ::2]
    del first
    third = memory.empty(shape).fill_(3)
    assert third.data_ptr() != place and (view == 1).all()
    del view
    assert memory.empty(shape).data_ptr() == place


def test_memory_that_autograd_needs_is_not_given_out():
    memory, shape = BatchMemory(), torch.Size([2, 3])
    weight = torch.ones(3, 1, requires_grad=True)
    product = memory.empty(shape).fill_(2) @ weight
    gc.collect()
    memory.empty(shape).fill_(9)
    product.sum().backward()
    assert torch.equal(weight.grad, torch.full((3, 1), 4.0))


def test_memory_is_aligned_as_torchs_and_of_the_size_asked_for():
    memory = BatchMemory()
    for shape in ([1, 3, 4, 4], [7, 3, 5, 5], [1, 3, 4, 4], [0, 3, 4, 4]):
        tensor = memory.empty(torch.Size(shape))
        assert list(tensor.shape) == shape and tensor.dtype == torch.float32 and tensor.is_contiguous()
        assert tensor.data_ptr() % 64 == 0
    assert len(memory.free) <= 1


def test_batches_do_not_share_memory():
    augment = BatchAugmentation(Normalization.of(processor()), DEIT, 0.0, 2, CPU)
    images, labels = torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.arange(2)
    first, _ = augment(images, labels, 0)
    kept = first.clone()
    augment(images + 255, labels, 1)
    assert torch.equal(first, kept)


# the benchmark


def test_both_loaders_give_every_file_of_an_epoch(crops):
    arguments = LoaderBenchmarkArguments(str(crops), batch_size=4, image_size=16, dataloader_num_workers=1)
    for (stage, _), epochs in _make_epochs(str(crops), arguments).items():
        batches = list(epochs.batches(0))
        assert [tuple(batch.shape) for batch in batches] == [(4, 3, 16, 16)] * 4
        assert {batch.dtype for batch in batches} == {torch.uint8 if stage == "images" else torch.float32}


def test_images_of_an_epoch_are_counted():
    epochs = TimedEpochs(lambda epoch: [torch.zeros(3 + epoch), torch.zeros(1)])
    epochs()
    assert epochs.num_images == 4
    epochs()
    assert epochs.num_images == 5 and len(epochs.cpu_seconds) == 2


SMALL = ["--what", "loader", "--num_images", "8", "--batch_size", "4", "--image_size", "32", "--crop_size", "48", "40"]
SMALL += ["--num_rounds", "2", "--dataloader_num_workers", "1", "--disable_tqdm"]


def test_a_run_prints_a_table_and_leaves_numbers_and_a_picture(tmp_path, capsys):
    load_script("benchmark").main([*SMALL, "--output_dir", str(tmp_path)])
    results = json.loads((tmp_path / "all_results.json").read_text())
    printed = capsys.readouterr().out
    assert results["what"] == "loader" and results["setting"] in printed and "48x40" in results["setting"]
    assert list(results["stages"]) == list(STAGES)
    for loaders in results["stages"].values():
        assert loaders[BASELINE]["wall"]["ratio"] == 1
        for measured in loaders.values():
            wall = measured["wall"]
            assert len(wall["seconds"]) == len(measured["cpu"]["seconds"]) == 2
            rates = [f"{1 / wall[name]:,.0f}" for name in ("median", "max", "min")]
            assert "{} ({} to {})".format(*rates) in printed
    assert (tmp_path / "benchmark.png").read_bytes().startswith(b"\x89PNG")


MISTAKES = {
    "no such folder": (["--train_dir", "nowhere"], "nowhere"),
    "too few images": (["--batch_size", "9"], "batch of 9"),
    "larger than the photographs": (["--crop_size", "5000", "32"], "crop_size"),
    "one side": (["--crop_size", "32"], "crop_size"),
    "no loader process": (["--dataloader_num_workers", "0"], "dataloader_num_workers"),
}


@pytest.mark.parametrize(("arguments", "named"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_on_stderr_with_exit_code_2(arguments, named, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        run(load_script("benchmark").main, [*SMALL, *arguments, "--output_dir", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert exit_.value.code == 2 and error.count("\n") == 1 and named in error
    assert not (tmp_path / "out").exists()
