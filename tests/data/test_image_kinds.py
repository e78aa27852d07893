"""What is said of images that others read differently."""

import numpy as np
import pytest
from PIL import Image

from hf_cb.data.sources import DataArguments, load_data


def folder(root, make):
    """Two classes of three images, the first of which is `make`'s."""
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (8, 8), (40 * i, 0, 0)).save(root / name / f"{i}.png")
    make(root / "cat")
    return root


def sixteen_bits(place):
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 900).save(place / "0.png")


def fractions(place):
    Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)).save(place / "0.tiff")


def moving(place):
    Image.new("RGB", (8, 8)).save(place / "0.gif", save_all=True, append_images=[Image.new("RGB", (8, 8), "white")])


@pytest.mark.parametrize(
    ("make", "told", "on_card"),
    [
        pytest.param(sixteen_bits, "1 of 6 images looked at have 16-bit or 32-bit grey values", True, id="16 bits"),
        pytest.param(fractions, "1 of 7 images looked at have 16-bit or 32-bit grey values", True, id="floating point"),
        pytest.param(
            moving, "1 of 7 images looked at have several frames, of which the first is read", False, id="moving"
        ),
        pytest.param(lambda place: None, None, False, id="nothing"),
        pytest.param(lambda place: (place / "0.png").write_bytes(b"no image"), None, False, id="broken"),
    ],
)
def test_a_run_says_what_others_read_differently_and_the_card_what_the_pipeline_does(make, told, on_card, tmp_path):
    data = load_data(DataArguments(train_dir=str(folder(tmp_path / "photos", make)), train_val_split=0.34))
    assert len(data.lines) == (1 if told is None else 2)
    assert told is None or data.lines[1].startswith(told)
    assert ("read_image(PIL.Image.open(file))" in data.description.limits) == on_card
