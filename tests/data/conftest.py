from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    """A cache of the test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("PRUNUS_CACHE", str(folder))
    return folder


@pytest.fixture
def real():
    """The folder of a real data set, for machines that have it."""

    def find(name):
        if not (REAL / name).is_dir():
            pytest.skip(f"the real data set {name} is not here: {REAL / name}")
        return REAL / name

    return find


@pytest.fixture
def png():
    """Makes a cell of an image column, the bytes of a PNG file, from an array or a Pillow image."""

    def make(pixels):
        file = BytesIO()
        image = pixels if isinstance(pixels, Pillow.Image) else Pillow.fromarray(pixels)
        image.save(file, "PNG")
        return {"bytes": file.getvalue(), "path": None}

    return make


@pytest.fixture
def random_pixels():
    """Makes images of random bytes: [count, height, width] or [count, height, width, 3]."""

    def make(count, start=0, size=(3, 4)):
        return np.random.default_rng(start).integers(0, 256, (count, *size), dtype=np.uint8)

    return make


@pytest.fixture
def make_folder(tmp_path):
    """Writes a folder of Parquet files: for each split, its columns; `features` for every split."""
    import datasets

    def make(splits, features=None, name="folder"):
        folder = tmp_path / name
        folder.mkdir()
        for split, columns in splits.items():
            data = datasets.Dataset.from_dict(columns, features=features and datasets.Features(features))
            data.to_parquet(folder / f"{split}-00000-of-00001.parquet")
        return folder

    return make


@pytest.fixture
def images_and_labels():
    """Features of the usual layout."""
    import datasets

    return {"image": datasets.Image(), "label": datasets.ClassLabel(names=["no", "yes"])}


@pytest.fixture
def small(make_folder, images_and_labels, png, random_pixels):
    """A folder of 20 + 6 grey images with its pixels: (folder, {split: pixels}, {split: labels})."""
    pixels = {"train": random_pixels(20), "test": random_pixels(6, start=1)}
    labels = {"train": [i % 2 for i in range(20)], "test": [1, 0, 0, 1, 1, 1]}
    splits = {s: {"image": [png(p) for p in pixels[s]], "label": labels[s]} for s in pixels}
    return make_folder(splits, images_and_labels, "small"), pixels, labels
