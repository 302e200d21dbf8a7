import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from prunus.core.errors import Invalid
from prunus.data import load
from prunus.data.decode import decode


def same_in_both(cells, labels=(0, 1, 0, 1), **more):
    """Train and test with the same columns."""
    columns = {"image": cells, "label": list(labels), **more}
    return {"train": columns, "test": columns}


@pytest.fixture
def cells(png, random_pixels):
    return [png(pixels) for pixels in random_pixels(4)]


def test_colour_images_come_with_channels_first(make_folder, images_and_labels, png, random_pixels):
    pixels = random_pixels(4, size=(3, 5, 3))
    folder = make_folder(same_in_both([png(p) for p in pixels]), images_and_labels)
    data = load(folder)
    assert data.input_shape == (3, 3, 5)
    assert torch.equal(data.test.images, torch.from_numpy(pixels).permute(0, 3, 1, 2))


def test_modes_are_brought_to_grey_or_colour(make_folder, images_and_labels, png, random_pixels):
    grey, colour = random_pixels(1)[0], random_pixels(1, size=(3, 4, 3))[0]
    alpha = np.concatenate([colour, grey[..., None]], axis=2)
    palette = Pillow.fromarray(colour).quantize(4)
    cells = [png(grey), png(colour), png(alpha), png(palette)]
    both = torch.from_numpy(np.stack([grey] * 3)), torch.from_numpy(colour).permute(2, 0, 1)
    images = load(make_folder(same_in_both(cells), images_and_labels)).test.images
    assert images.shape == (4, 3, 3, 4)
    assert torch.equal(images[:3], torch.stack([both[0], both[1], both[1]]))
    assert torch.equal(images[3].permute(1, 2, 0), torch.from_numpy(np.array(palette.convert("RGB"))))


def test_a_grey_split_beside_a_coloured_one_becomes_coloured(make_folder, images_and_labels, png, random_pixels):
    grey, colour = random_pixels(3), random_pixels(3, size=(3, 4, 3))
    splits = {
        name: {"image": [png(p) for p in pixels], "label": [0, 1, 1]}
        for name, pixels in {"train": colour, "test": grey}.items()
    }
    data = load(make_folder(splits, images_and_labels))
    assert torch.equal(data.test.images, torch.from_numpy(grey)[:, None].expand(3, 3, 3, 4))


def test_columns_of_other_names_and_an_image_without_metadata(make_folder, cells):
    import datasets

    features = {
        "id": datasets.Value("int64"),
        "img": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
        "digit": datasets.ClassLabel(names=["a", "b"]),
    }
    columns = {"id": [5, 6, 7, 8], "img": cells, "digit": [1, 1, 0, 1]}
    data = load(make_folder({"train": columns, "test": columns}, features))
    assert data.test.labels.tolist() == [1, 1, 0, 1]
    assert data.classes == ("a", "b")
    assert load(make_folder({"train": columns, "test": columns}, features, "2"), label="id").classes[0] == "5"


def test_whole_numbers_are_classes_in_ascending_order(make_folder, cells):
    import datasets

    features = {"image": datasets.Image(), "label": datasets.Value("int32")}
    data = load(make_folder(same_in_both(cells, [7, -3, 12, 7]), features))
    assert data.classes == ("-3", "7", "12")
    assert data.test.labels.tolist() == [1, 0, 2, 1]


def test_several_columns_are_chosen_by_name(make_folder, cells, random_pixels, png):
    import datasets

    image, label = datasets.Image(), datasets.ClassLabel(names=["a", "b"])
    features = {"left": image, "right": image, "fine": label, "coarse": label, "note": datasets.Value("string")}
    pixels = random_pixels(4, start=9)
    columns = {"left": cells, "right": [png(p) for p in pixels], "fine": [0, 1, 0, 1], "coarse": [1, 1, 0, 0]}
    columns["note"] = ["x"] * 4
    folder = make_folder({"train": columns, "test": columns}, features)
    data = load(folder, image="right", label="coarse")
    assert torch.equal(data.test.images[:, 0], torch.from_numpy(pixels))
    assert data.test.labels.tolist() == [1, 1, 0, 0]
    for options, message in [
        ({"label": "fine"}, "several columns of images; image is one of left, right"),
        ({"image": "left"}, "no column called label; label is one of fine, coarse"),
        ({"image": "lift", "label": "fine"}, "image is 'lift', no column of .*; did you mean 'left'"),
        ({"image": "note", "label": "fine"}, "image is 'note', which holds no images .*; allowed: left, right"),
        ({"image": "left", "label": "note"}, "label is 'note', which holds no class labels .*: fine, coarse"),
    ]:
        with pytest.raises(Invalid, match=message):
            load(folder, **options)


def test_data_without_images_is_refused_with_its_columns(make_folder):
    columns = {"sentence": ["a", "b"], "label": [0, 1]}
    folder = make_folder({"train": columns, "test": columns}, name="texts")
    with pytest.raises(Invalid, match=r"texts' holds no images; its columns are sentence \(string\), label \(int64\)"):
        load(folder)


def test_data_without_labels_is_refused_with_its_columns(make_folder, cells):
    import datasets

    features = {"image": datasets.Image(), "label": datasets.Value("float32")}
    with pytest.raises(Invalid, match=r"no class labels or whole numbers; .* label \(float32\)"):
        load(make_folder(same_in_both(cells), features))


@pytest.mark.parametrize(("there", "missing"), [("train", "test"), ("test", "train"), ("validation", "train")])
def test_a_missing_split_is_named(make_folder, images_and_labels, cells, there, missing):
    folder = make_folder({there: same_in_both(cells)["train"]}, images_and_labels)
    with pytest.raises(Invalid, match=f"folder' has no {missing} split, only {there}; allowed:"):
        load(folder)


def test_images_of_two_sizes_are_refused(make_folder, images_and_labels, cells, png, random_pixels):
    large = png(random_pixels(1, size=(9, 7))[0])
    mixed = same_in_both([*cells[:3], large])
    with pytest.raises(Invalid, match=r"image 3 in train of .* is 7×9, those before it 4×3 pixels"):
        load(make_folder(mixed, images_and_labels, "mixed"))
    splits = same_in_both(cells) | {"test": {"image": [large] * 4, "label": [0, 1, 0, 1]}}
    with pytest.raises(Invalid, match="are 4×3 pixels in train and 7×9 in test"):
        load(make_folder(splits, images_and_labels))


def test_an_image_that_is_none_is_named(make_folder, images_and_labels, cells, png):
    deep = png(np.full((3, 4), 1000, dtype=np.uint16))
    broken = {"bytes": cells[0]["bytes"][:-30], "path": None}
    text = {"bytes": b"no image at all", "path": None}
    for number, (cell, reason) in enumerate(
        [(deep, "allowed: 8 bits"), (broken, "decoded"), (text, "decoded"), (None, "missing")]
    ):
        folder = make_folder(same_in_both([*cells[:2], cell, cells[3]]), images_and_labels, str(number))
        with pytest.raises(Invalid, match=f"image 2 in train of .*{reason}") as raised:
            load(folder)
        assert "\n" not in str(raised.value)


def test_an_image_file_that_has_gone_is_named():
    with pytest.raises(Invalid, match=r"image 0 in train cannot be decoded .*nowhere\.png"):
        decode([{"bytes": None, "path": "nowhere.png"}], 1, "train")


def test_labels_that_are_kept_secret_are_refused(make_folder, images_and_labels, cells):
    for number, label in enumerate([-1, None]):
        splits = same_in_both(cells) | {"test": {"image": cells, "label": [0, label, 1, 0]}}
        with pytest.raises(Invalid, match=r"example 1 in test of .*label"):
            load(make_folder(splits, images_and_labels, str(number)))


def test_a_split_without_examples_is_refused(make_folder, images_and_labels, cells):
    splits = same_in_both(cells) | {"test": {"image": [], "label": []}}
    with pytest.raises(Invalid, match="folder"):
        load(make_folder(splits, images_and_labels))


def test_folders_of_image_files_by_class(tmp_path, random_pixels):
    pixels = random_pixels(8)
    for i, image in enumerate(pixels):
        place = tmp_path / "pictures" / ("train" if i < 4 else "test") / ("cat" if i % 2 else "ant")
        place.mkdir(parents=True, exist_ok=True)
        Pillow.fromarray(image).save(place / f"{i}.png")
    data = load(tmp_path / "pictures")
    assert data.classes == ("ant", "cat")
    found = {
        bytes(image.numpy()): label for image, label in zip(data.test.images, data.test.labels.tolist(), strict=True)
    }
    assert found == {pixels[i].tobytes(): i % 2 for i in range(4, 8)}


def test_real_mnist(real):
    data = load(real("mnist"))
    assert (data.name, data.input_shape, data.classes) == ("mnist", (1, 28, 28), tuple("0123456789"))
    assert (len(data.train), len(data.validation), len(data.test)) == (55_000, 5000, 10_000)
    labels = torch.cat([data.train.labels, data.validation.labels])
    # the counts and moments that are published everywhere
    assert torch.bincount(labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert torch.bincount(data.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert data.mean.item() == pytest.approx(0.1307, abs=5e-4)
    assert data.std.item() == pytest.approx(0.3081, abs=5e-4)
    assert load(real("mnist")).digest == data.digest


def test_real_cifar10(real):
    data = load(real("cifar10"))
    assert (data.input_shape, len(data.classes), data.classes[0]) == ((3, 32, 32), 10, "airplane")
    assert (len(data.train), len(data.validation), len(data.test)) == (45_000, 5000, 10_000)
    labels = torch.cat([data.train.labels, data.validation.labels])
    assert torch.bincount(labels).tolist() == [5000] * 10
    assert torch.bincount(data.test.labels).tolist() == [1000] * 10
    torch.testing.assert_close(data.mean, torch.tensor([0.4914, 0.4822, 0.4465]).double(), rtol=0, atol=2e-3)
    torch.testing.assert_close(data.std, torch.tensor([0.2470, 0.2435, 0.2616]).double(), rtol=0, atol=4e-3)


def test_real_text_has_no_images(real):
    with pytest.raises(Invalid, match=r"sst2' holds no images; its columns are idx \(int32\), sentence \(string\)"):
        load(real("sst2"))
