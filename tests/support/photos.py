"""Real photographs as a folder of JPEGs: crops of the two that scikit-learn ships."""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images


SIDE = 96


def write_photos(folder: Path, per_class: int = 8, seed: int = 0) -> Path:
    """A folder for each class, `flower` and `temple` (sklearn's china.jpg), with random crops of the photograph."""
    generator = np.random.default_rng(seed)
    photos = load_sample_images()
    for file, pixels in zip(photos.filenames, photos.images):
        name = {"china.jpg": "temple", "flower.jpg": "flower"}[Path(file).name]
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            top, left = (generator.integers(size - SIDE) for size in pixels.shape[:2])
            crop = pixels[top : top + SIDE, left : left + SIDE - 16]
            Image.fromarray(crop).save(folder / name / f"{number}.jpg", quality=90)
    return folder
