import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from prunus.core.errors import Invalid
from prunus.data import DATASETS, load, loading


def all_of(data):
    """The training images and labels in the source's order, whatever part they are in."""
    images = torch.cat([data.train.images, data.validation.images])
    labels = torch.cat([data.train.labels, data.validation.labels])
    order = np.lexsort(images.flatten(1).numpy().T)
    return images[order], labels[order]


def test_digits_are_scikit_learns_in_two_parts():
    from sklearn.datasets import load_digits

    data = load("digits")
    assert (data.name, data.input_shape) == ("digits", (1, 8, 8))
    assert (len(data.train), len(data.validation), len(data.test)) == (1293, 144, 360)
    assert data.classes == tuple("0123456789")
    images = torch.cat([all_of(data)[0], data.test.images]).flatten(1)
    expected = np.rint(load_digits().images * 255 / 16).reshape(-1, 64)
    assert images.max() == 255
    assert sorted(images.tolist()) == sorted(expected.tolist())
    # every class is in every part
    assert all(len(part.labels.unique()) == 10 for part in (data.train, data.validation, data.test))


def test_the_test_split_of_digits_does_not_depend_on_the_seed():
    first, second = load("digits"), load("digits", seed=1)
    assert torch.equal(first.test.images, second.test.images)
    assert not torch.equal(first.validation.images, second.validation.images)


def test_a_folder_is_read_as_it_was_written(small):
    folder, pixels, labels = small
    data = load(folder)
    assert (data.name, data.classes, data.input_shape) == ("small", ("no", "yes"), (1, 3, 4))
    assert (len(data.train), len(data.validation)) == (18, 2)
    assert torch.equal(data.test.images, torch.from_numpy(pixels["test"]).unsqueeze(1))
    assert data.test.labels.tolist() == labels["test"]
    assert data.test.labels.dtype == torch.int64
    images, found = all_of(data)
    expected = torch.from_numpy(pixels["train"]).unsqueeze(1)
    order = np.lexsort(expected.flatten(1).numpy().T)
    assert torch.equal(images, expected[order])
    assert torch.equal(found, torch.tensor(labels["train"])[order])


def test_the_same_data_has_the_same_digest_wherever_it_is(small, tmp_path, monkeypatch):
    import datasets

    folder, _, _ = small
    local = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "hub"))
    by_folder = load(folder)
    folder.rename(tmp_path / "elsewhere")
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: asked.append((a, k)) or local)
    by_id = load("someone/small@v2")
    assert asked == [(("someone/small",), {"revision": "v2"})]
    assert by_id.name == "someone/small@v2"
    assert load(tmp_path / "elsewhere").digest == by_folder.digest == by_id.digest


def test_a_known_name_is_its_hub_id(small, monkeypatch):
    folder, _, _ = small
    asked = []
    read = loading.read_source
    monkeypatch.setattr(loading, "read_source", lambda source, *_: asked.append(source) or read(folder, None, None))
    assert load("mnist").digest == load("ylecun/mnist").digest
    assert asked == ["ylecun/mnist"]  # the second time it was kept
    assert all(row.note for row in DATASETS.values())


def test_images_are_decoded_once(small, cache_folder, monkeypatch):
    folder, _, _ = small
    first = load(folder)
    (kept,) = cache_folder.iterdir()
    with monkeypatch.context() as patched:
        patched.setattr(loading, "read_source", None)
        again = load(folder)
        assert again.digest == first.digest
        assert again.classes == first.classes
    # other columns, and other contents of the same size and age, are another thing
    load(folder, label="label")
    file = next(folder.glob("test-*"))
    age, data = file.stat(), bytearray(file.read_bytes())
    data[data.index(b"IHDR") - 10 : data.index(b"IHDR")] = bytes(10)
    file.write_bytes(data)
    os.utime(file, ns=(age.st_atime_ns, age.st_mtime_ns))
    with pytest.raises(Invalid, match=r"image 0 in test of .*small.* cannot be decoded"):
        load(folder)
    assert kept in cache_folder.iterdir()
    assert len(list(cache_folder.iterdir())) == 2


@pytest.mark.parametrize("damage", ["altered", "cut short", "emptied", "another file"])
def test_a_damaged_cache_is_noticed_and_rebuilt(small, cache_folder, monkeypatch, damage):
    folder, _, _ = small
    first = load(folder)
    (kept,) = cache_folder.iterdir()
    good = kept.read_bytes()
    altered = good[:-1] + bytes([good[-1] ^ 1])
    kept.write_bytes({"altered": altered, "cut short": good[:-7], "emptied": b"", "another file": b"x" * 99}[damage])
    assert load(folder).digest == first.digest
    monkeypatch.setattr(loading, "read_source", None)
    assert load(folder).digest == first.digest


def test_without_the_cache_nothing_is_kept_or_taken(small, cache_folder, monkeypatch):
    folder, _, _ = small
    load(folder, cache=False)
    assert not cache_folder.exists()
    load(folder)
    monkeypatch.setattr(loading, "read_source", lambda *_: pytest.fail("decoded anew"))
    load(folder)
    with pytest.raises(pytest.fail.Exception, match="decoded anew"):
        load(folder, cache=False)


def test_where_nothing_can_be_kept_the_data_comes_with_a_warning(small, cache_folder):
    folder, _, _ = small
    cache_folder.write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="decoded data is not kept in .*cache"):
        data = load(folder)
    assert len(data.test) == 6


def test_loading_is_silent_and_leaves_progress_bars_as_they_were(small, capfd):
    import datasets
    import huggingface_hub.utils as hub

    folder, _, _ = small
    capfd.readouterr()
    for disable in (False, True):
        for module in (datasets, hub):
            module.disable_progress_bars() if disable else module.enable_progress_bars()
        load(folder, cache=False)
        assert capfd.readouterr() == ("", "")
        assert [module.are_progress_bars_disabled() for module in (datasets, hub)] == [disable] * 2
    for module in (datasets, hub):
        module.enable_progress_bars()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("digit", "data is 'digit': no such folder, .* did you mean 'digits'"),
        ("imagenet", "data is 'imagenet': no such folder, hub id .* allowed: digits, mnist, cifar10"),
        ("/no/such/folder", "data is '/no/such/folder': no such folder"),
        ("./nowhere", r"data is '\./nowhere': no such folder"),
        ("", "data is ''"),
    ],
)
def test_what_is_no_data_set_is_refused_without_asking_the_hub(data, message, monkeypatch, tmp_path):
    import datasets

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("asked"))
    with pytest.raises(Invalid, match=message):
        load(data)


def test_a_file_is_no_data_set(small):
    with pytest.raises(Invalid, match=r"test-00000-of-00001\.parquet', a file; allowed: a folder"):
        load(next(small[0].glob("test-*")))


def test_an_empty_folder_is_named(tmp_path):
    (tmp_path / "void").mkdir()
    with pytest.raises(
        Invalid,
        match=r"void' cannot be read \(.*doesn't contain any data files.*\); allowed: a folder that holds images",
    ):
        load(tmp_path / "void")


def test_offline_one_line_says_that_the_hub_cannot_be_reached(tmp_path):
    code = (
        "import sys\nfrom prunus.data import load\nfrom prunus.core.errors import Invalid\n"
        "try: load('nobody/nothing')\nexcept Invalid as error: print(error)"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    (line,) = done.stdout.splitlines()
    assert line.startswith("data 'nobody/nothing' is no folder here, and the hub cannot be reached")
    assert done.stderr == ""


def test_importing_brings_none_of_the_heavy_packages():
    code = (
        "import sys, prunus.data, prunus.models\n"
        "heavy = {'datasets', 'sklearn', 'PIL', 'pyarrow', 'huggingface_hub'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_missing_package_is_named(small, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(Invalid, match=r"data 'small' needs datasets: install prunus\[study\]"):
        load(small[0])
