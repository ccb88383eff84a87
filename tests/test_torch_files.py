"""Files of weights from torch, read without torch: real ones, and what a damaged or hostile one can try."""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fixtures.make_torch_save import VALUES
from tests.torch_writer import (
    name,
    number,
    save_bin,
    save_safetensors,
    state_dict,
    tensor,
    text,
    write_zip,
)
from zoobot.errors import InputError
from zoobot.models import torch_files

FIXTURES = Path(__file__).parent / "fixtures"
REAL = [FIXTURES / "torch_save.bin", FIXTURES / "torch_save.safetensors"]
TWELVE = np.arange(12, dtype=np.float32)
TWO = {"a.weight": TWELVE.reshape(3, 4), "b": TWELVE[:2]}


def refused(path: Path) -> str:
    """Why a file is refused, when it is opened or when all its values are read."""
    with pytest.raises(InputError) as caught:
        for stored in torch_files.read(path).values():
            stored.read()
    assert str(path) in str(caught.value) and "Nothing in it was run." in str(caught.value)
    return str(caught.value)


def of_pickle(tmp_path: Path, content: bytes, size: int = 12) -> Path:
    return write_zip(tmp_path / "a.bin", content, {"0": TWELVE[:size].tobytes()})


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.suffix)
def test_what_torch_and_safetensors_wrote_is_read_to_the_bit(path: Path) -> None:
    found = torch_files.read(path)
    assert found.keys() == VALUES.keys()
    for key, wanted in VALUES.items():
        values = found[key].read()
        assert found[key].shape == values.shape == np.shape(wanted) and values.dtype == np.float32
        assert np.array_equal(values, wanted), key
    assert {found[key].dtype for key in ("f64", "f16", "bf16", "f32")} == {*torch_files.FLOATS}
    assert found["norm.num_batches_tracked"].dtype == "int64"


@pytest.mark.parametrize("save", [save_bin, save_safetensors])
def test_what_the_tests_write_is_read(save: type, tmp_path: Path) -> None:
    found = torch_files.read(save(tmp_path / "any name", TWO))
    assert {key: stored.read().tolist() for key, stored in found.items()} == {k: v.tolist() for k, v in TWO.items()}


# --------------------------------------------------------------- pickles that want more


class Calls:
    """What unpickles as a call."""

    def __init__(self, function: object, *given: object) -> None:
        self.call = (function, given)

    def __reduce__(self) -> tuple[object, ...]:
        return self.call


def test_a_pickle_that_calls_a_program_runs_nothing(tmp_path: Path) -> None:
    command = f"touch {tmp_path / 'ran'}"
    path = of_pickle(tmp_path, pickle.dumps({"a": Calls(os.system, command)}, protocol=2))
    assert f"asks for {os.system.__module__}.system" in refused(path)
    pickle.loads(pickle.dumps(Calls(os.system, command)))  # what any other reader would do
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (pickle.dumps(Calls(eval, "1"), protocol=2), "asks for __builtin__.eval"),
        (pickle.dumps({"a": 1}, protocol=4), "uses FRAME"),
        (b"\x80\x02(S'touch x'\nios\nsystem\n.", "uses STRING"),
        (b"\x80\x02(ios\nsystem\n.", "uses INST"),
        (b"\x80\x02" + name("torch", "load") + b".", "asks for torch.load"),
        (b"\x80\x02" + name("torch.FloatStorage", "x") + b".", "asks for torch.FloatStorage.x"),
        (b"\x80\x02" + name("collections", "OrderedDict.fromkeys") + b".", "OrderedDict.fromkeys"),
        (state_dict({"a": number(3)}), "a is a int, not a tensor"),
        (state_dict({"state_dict": state_dict({})[2:-1]}), "state_dict is a OrderedDict, not a tensor"),
        (b"\x80\x02" + number(3) + b".", "holds a int"),
        (b"\x80\x02}r\xff\xff\xff\x7f.", "more memory"),
        (b"\x80\x02" + text("elsewhere") + b"Q.", "other than numbers"),
        (b"\x80\x02" + b"(" * 5 + b".", "damaged"),
        (b"\x80\x02" + b")" + b"\x85" * 200_000 + b".", "holds a tuple"),
        (state_dict({"a": tensor("0", [3, 4], [4, 1])})[:-20], "damaged"),
        (b"", "damaged"),
    ],
)  # fmt: skip
def test_what_no_state_dict_holds_is_refused(content: bytes, why: str, tmp_path: Path) -> None:
    assert why in refused(of_pickle(tmp_path, content))


def test_a_file_leaves_nothing_behind_that_the_next_one_sees(tmp_path: Path) -> None:
    rebuild = name("torch._utils", "_rebuild_tensor_v2")
    for target in (rebuild, name("collections", "OrderedDict"), name("torch", "FloatStorage")):
        content = b"\x80\x02" + target + b"}" + text("__call__") + number(1) + b"sb."
        refused(of_pickle(tmp_path, content))
    assert torch_files.read(REAL[0])["f32"].read().shape == (3, 4)


# --------------------------------------------------------------- sizes that are not true


@pytest.mark.parametrize(
    ("pickled", "why"),
    [
        (tensor("0", [3, 4], [4, 1], offset=1), "outside its numbers"),
        (tensor("0", [3, 4], [5, 1]), "outside its numbers"),
        (tensor("0", [13], [1]), "outside its numbers"),
        (tensor("0", [100_000, 100_000], [0, 0]), "outside its numbers"),
        (tensor("0", [3, 4], [4, 1], offset=-1), "offset -1"),
        (tensor("0", [3, -4], [4, 1]), "(3, -4)"),
        (tensor("0", [3, 4], [-4, 1]), "strides (-4, 1)"),
        (tensor("0", [12], [1, 1]), "strides (1, 1)"),
        (tensor("0", [1] * 99, [1] * 99), "damaged"),
        (tensor("0", [12], [1], size=13), "does not hold 13 numbers"),
        (tensor("0", [11], [1], size=11), "does not hold 11 numbers"),
        (tensor("0", [6], [1], kind="HalfStorage"), "does not hold 12 numbers of type float16"),
        (tensor("0", [12], [1], kind="QUInt8Storage"), "asks for torch.QUInt8Storage"),
        (tensor("1", [12], [1]), "archive/data/1 does not hold"),
        (tensor("../../0", [12], [1]), "does not hold"),
    ],
)  # fmt: skip
def test_a_tensor_that_lies_about_its_numbers_is_refused(pickled: bytes, why: str, tmp_path: Path) -> None:
    assert why in refused(of_pickle(tmp_path, state_dict({"a": pickled})))


def test_a_zip_that_torch_did_not_write_is_refused(tmp_path: Path) -> None:
    good = state_dict({"a": tensor("0", [3, 4], [4, 1])})
    assert torch_files.read(of_pickle(tmp_path, good))["a"].read().tolist() == TWELVE.reshape(3, 4).tolist()
    path, data = tmp_path / "b.bin", {"0": TWELVE.tobytes()}
    assert "compressed" in refused(write_zip(path, good, data, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.txt", "")
    assert "without data.pkl" in refused(path)
    for folder in ("one", "two"):
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(f"{folder}/data.pkl", good)
    assert "without data.pkl" in refused(path)
    with zipfile.ZipFile(of_pickle(tmp_path, good), "a") as archive:
        archive.writestr("archive/byteorder", "big")
    assert "big-endian" in refused(tmp_path / "a.bin")


def test_a_flipped_bit_in_the_numbers_is_seen(tmp_path: Path) -> None:
    path = save_bin(tmp_path / "a.bin", TWO)
    content = bytearray(path.read_bytes())
    content[content.index(TWELVE.tobytes()) + 5] ^= 1
    path.write_bytes(content)
    assert "Bad CRC-32" in refused(path)


def test_numbers_that_end_early_are_not_read_beyond_their_end(tmp_path: Path) -> None:
    path = of_pickle(tmp_path, state_dict({"a": tensor("0", [12], [1])}), size=4)
    content = path.read_bytes()  # the directory at the end says 48 bytes; there are 16
    short, place = struct.pack("<II", 16, 16), content.rindex(struct.pack("<II", 16, 16))
    path.write_bytes(content[:place] + struct.pack("<II", 16, 48) + content[place + len(short) :])
    assert "damaged" in (why := refused(path)) or "ends early" in why


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"dtype": "F8_E4M3"}, "type F8_E4M3"),
        ({"dtype": "F16"}, "cannot fill the bytes"),
        ({"shape": [3, 5]}, "cannot fill the bytes"),
        ({"shape": [-3, -4]}, "shape [-3, -4]"),
        ({"shape": [3.0, 4]}, "shape [3.0, 4]"),
        ({"shape": "34"}, "shape 34"),
        ({"data_offsets": [8, 56]}, "do not fill it"),
        ({"data_offsets": [0, 48, 0]}, "place [0, 48, 0]"),
        ({"shape": [2], "data_offsets": [0, 8]}, "do not fill it"),
        ({"data_offsets": None}, "place None"),
        ({"dtype": []}, "damaged"),
    ],
)  # fmt: skip
def test_a_header_that_lies_is_refused(changed: dict[str, object], why: str, tmp_path: Path) -> None:
    assert why in refused(save_safetensors(tmp_path / "a.safetensors", TWO, **changed))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.", "legacy format"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
        (b"<!doctype html><html>", "neither a safetensors file nor a zip"),
        (b"", "neither"),
        (b"PK\x03\x04", "damaged"),
        (struct.pack("<Q", 2**60) + b"{", "it was cut off"),
        (struct.pack("<Q", 2) + b"{}", None),
        (struct.pack("<Q", 2) + b"{}more", "do not fill it"),
        (struct.pack("<Q", 200_006) + b'{"a":' + b"[" * 200_001, "damaged"),
        (struct.pack("<Q", 7) + b'{"a":1}', "damaged"),
    ],
)  # fmt: skip
def test_other_files_are_refused_by_name(content: bytes, why: str | None, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(content)
    if why is None:
        assert torch_files.read(path) == {}
    else:
        assert why in refused(path)
    with pytest.raises(InputError, match="FileNotFoundError"):
        torch_files.read(tmp_path / "none.bin")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(real=st.sampled_from(REAL), data=st.data())
def test_any_damage_is_refused_or_harmless(real: Path, data: st.DataObject, tmp_path: Path) -> None:
    content = bytearray(real.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    path = tmp_path / "damaged"
    path.write_bytes(content[:cut])
    try:
        total = sum(stored.read().nbytes for stored in torch_files.read(path).values())
    except InputError:
        return
    assert cut == len(content) and total <= 2 * len(VALUES) * len(content)
