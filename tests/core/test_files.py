import errno
import json
import os
import resource
import stat
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunus.core import files
from prunus.core.errors import Invalid
from prunus.core.files import new_folder, read_tensors, write_bytes, write_json, write_tensors, write_text

TENSORS = {"a": torch.arange(4.0), "b": torch.tensor([[True], [False]])}


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request):
    old = os.umask(request.param)
    yield request.param
    os.umask(old)


@pytest.fixture
def full_disk():
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


# --- complete or absent ----------------------------------------------------------------------------------------

WRITES = {
    "bytes": lambda path: write_bytes(path, b"new" * 1000),
    "text": lambda path: write_text(path, "neu ∞ " * 1000),
    "json": lambda path: write_json(path, [0.1] * 1000),
    "tensors": lambda path: write_tensors(path, {"a": torch.ones(1000)}, {}),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("old", [None, b"old"])
@pytest.mark.parametrize("failing", ["replace", "fsync", "chmod"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_breaks_off_leaves_what_was_there(tmp_path, monkeypatch, write, old, failing, error):
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(*((os, "fsync") if failing == "fsync" else (Path, failing)), fail)
    with pytest.raises(type(error)):
        write(path)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ([] if old is None else ["file"])
    assert old is None or path.read_bytes() == old


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_disk_that_is_full_is_an_os_error_that_names_the_file(tmp_path, full_disk, write):
    path = tmp_path / "file"
    with pytest.raises(OSError, match="File too large") as caught:
        write(path)
    assert caught.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_folders_are_made_and_old_files_replaced(tmp_path, write):
    path = tmp_path / "some" / "where" / "file"
    write(path)
    first = path.read_bytes()
    path.write_bytes(b"old")
    write(path)
    assert path.read_bytes() == first
    assert [p.name for p in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_permissions_of_files_follow_the_umask(tmp_path, umask, write):
    write(tmp_path / "file")
    assert mode(tmp_path / "file") == 0o666 & ~umask


def test_reading_and_writing_leave_the_umask_alone(tmp_path, umask):
    write_text(tmp_path / "file", "text")
    assert os.umask(umask) == umask


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
                    | st.text(st.characters(exclude_categories=["Cs"])), lambda inner: st.lists(inner)))  # fmt: skip
@settings(max_examples=50)
def test_json_reads_back_bit_for_bit(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("json") / "file.json"
    write_json(path, value)
    assert repr(json.loads(path.read_text(encoding="utf-8"))) == repr(value)


# --- folders ---------------------------------------------------------------------------------------------------


def test_a_folder_is_there_only_at_the_end(tmp_path, umask):
    path = tmp_path / "cells" / "key"
    with new_folder(path) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_text("text")
        assert not path.exists()
        assert folder.parent == path.parent
    assert (path / "inner" / "file").read_text() == "text"
    assert [p.name for p in path.parent.iterdir()] == ["key"]
    assert mode(path) == 0o777 & ~umask


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), Invalid("x")])
def test_a_folder_that_is_not_finished_goes(tmp_path, error):
    def half_of_it():
        with new_folder(tmp_path / "key") as folder:
            (folder / "inner").mkdir()
            (folder / "inner" / "file").write_text("half")
            raise error

    with pytest.raises(type(error)):
        half_of_it()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failing", ["rename", "fsync"])
def test_a_folder_that_cannot_take_its_name_goes(tmp_path, monkeypatch, failing):
    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(*((os, "fsync") if failing == "fsync" else (Path, "rename")), fail)
    with pytest.raises(OSError, match="Input/output error"), new_folder(tmp_path / "key") as folder:
        (folder / "file").write_text("text")
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


def test_the_first_of_two_folders_stays(tmp_path):
    path = tmp_path / "key"
    with new_folder(path) as second:
        (second / "file").write_text("second")
        with new_folder(path) as first:
            (first / "file").write_text("first")
    assert (path / "file").read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["key"]


def test_a_file_in_the_way_of_a_folder_is_an_error(tmp_path):
    (tmp_path / "key").write_text("a file")
    with pytest.raises(NotADirectoryError), new_folder(tmp_path / "key") as folder:
        (folder / "file").write_text("text")
    assert [p.name for p in tmp_path.iterdir()] == ["key"]


# --- tensors ---------------------------------------------------------------------------------------------------

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3)])
def test_tensors_read_back_bit_for_bit(tmp_path, dtype, shape):
    tensor = (torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 5).to(dtype)
    write_tensors(tmp_path / "file", {"x": tensor, "y.z": tensor}, {"key": "wert ∞", "": ""})
    tensors, metadata = read_tensors(tmp_path / "file")
    assert metadata == {"key": "wert ∞", "": ""}
    assert tensors.keys() == {"x", "y.z"}
    for read in tensors.values():
        assert (read.dtype, read.shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(read, tensor)


def test_nan_zeros_views_and_shared_memory_read_back(tmp_path):
    weight = torch.tensor([[float("nan"), -0.0, float("inf")], [1.0, 2.0, 3.0]])
    there = {"tied": weight, "same": weight, "turned": weight.T, "part": weight[:, ::2], "grad": weight.clone()}
    there["grad"].requires_grad_()
    write_tensors(tmp_path / "file", there, {})
    tensors, _ = read_tensors(tmp_path / "file")
    for name, tensor in there.items():
        assert torch.equal(tensors[name].view(torch.int32), tensor.detach().contiguous().view(torch.int32))


def test_every_altered_byte_is_noticed(tmp_path):
    path = tmp_path / "file"
    write_tensors(path, TENSORS, {"round": "3", "density": "0.5"})
    whole = path.read_bytes()
    for place in range(len(whole)):
        for bit in (0x01, 0x80):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
            try:
                seen = read_tensors(path)
            except Invalid:
                continue
            # white space of the header may change, what is read may not
            assert seen[1] == {"round": "3", "density": "0.5"}
            assert seen[0].keys() == TENSORS.keys()
            assert all(torch.equal(seen[0][name], TENSORS[name]) for name in TENSORS)


def test_every_cut_is_noticed(tmp_path):
    path = tmp_path / "file"
    write_tensors(path, TENSORS, {"round": "3"})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(Invalid, match="cut short or not a safetensors file"):
            read_tensors(path)
    path.write_bytes(whole + b"more")
    with pytest.raises(Invalid):
        read_tensors(path)


def test_a_header_that_claims_more_than_there_is_costs_nothing(tmp_path):
    path = tmp_path / "file"
    for header in (
        b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}',
        b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}',
        b"[" * 1000,
    ):
        path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
        with pytest.raises(Invalid, match="cut short or not a safetensors file"):
            read_tensors(path)
    path.write_bytes((2**62).to_bytes(8, "little") + b"{}")
    with pytest.raises(Invalid, match="cut short or not a safetensors file"):
        read_tensors(path)


def test_a_file_of_somebody_else_is_told_from_an_altered_one(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2)}, tmp_path / "file")
    with pytest.raises(Invalid, match="not written by Prunus"):
        read_tensors(tmp_path / "file")


@pytest.mark.parametrize("path", ["nowhere", "."])
def test_a_file_that_is_not_there_is_named(tmp_path, path):
    with pytest.raises(Invalid, match=f"{tmp_path / path}: no such file"):
        read_tensors(tmp_path / path)


def test_the_checksum_is_over_names_types_shapes_contents_and_metadata():
    seen = {
        files._checksum(tensors, metadata)
        for metadata in ({}, {"a": "b"}, {"a": "c"})
        for tensors in (
            {"a": torch.zeros(4)},
            {"b": torch.zeros(4)},
            {"a": torch.zeros(2, 2)},
            {"a": torch.zeros(4, dtype=torch.int32)},
            {"a": torch.tensor([0.0, 0.0, 0.0, -0.0])},
            {"a": torch.zeros(4), "b": torch.zeros(0)},
        )
    }
    assert len(seen) == 18


def test_the_same_tensors_and_metadata_are_the_same_bytes(tmp_path):
    tensors = {"b": torch.arange(5), "a": torch.ones(3, 2, dtype=torch.bfloat16)}
    metadata = {name: f"„{name}“ \\ \n" for name in "qwertyuiop"}
    for name in range(8):
        write_tensors(tmp_path / f"{name}", tensors, metadata)
    assert len({(tmp_path / f"{name}").read_bytes() for name in range(8)}) == 1
    found, said = read_tensors(tmp_path / "0")
    assert said == metadata
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
