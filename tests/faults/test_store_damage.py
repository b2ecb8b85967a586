"""Feature stores that are damaged, foreign or hostile (fault matrix rows 24, 25 and 27)."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from xmodal.errors import DataError
from xmodal.store import Codec, FeatureInfo, Run, fingerprint_of, load_array
from xmodal.store.digests import CHUNK_BYTES, check_file, digest_file

NUM, CHANNELS = 300, 64
Check = Callable[[BaseException, int], None]


def make(path: Path, codec: Codec = "fp16", num: int = NUM, channels: int = CHANNELS) -> Run:
    run = Run(path)
    described = FeatureInfo(
        teacher="t", space="unit", channels=channels, num_points=num, num_valid=num,
        fingerprint="f", cosine_error=0.0,
    )  # fmt: skip
    run.write_features(
        "lifted",
        described,
        codec=codec,
        rows=np.random.default_rng(0).standard_normal((num, channels)).astype(np.float32),
        valid=np.ones(num, np.bool_),
        weight=np.ones(num, np.float32),
        num_views=np.ones(num, np.int32),
        disagreement=np.zeros(num, np.float32),
        segments=np.arange(num, dtype=np.int32) // 3,
    )
    return run


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(bytes(data))


FILES = {
    "fp16": ["rows", "valid", "weight", "num_views", "disagreement", "segments"],
    "bf16": ["rows"],
    "int8": ["codes", "scale"],
    "pq64": ["codes", "codebook"],
    "components": ["codes", "weights", "scale", "bank"],
    "segments": ["rows", "row_of"],
}
EVERY_FILE = [(codec, name) for codec, names in FILES.items() for name in names]


def test_every_codec_is_in_the_table_above() -> None:
    assert set(FILES) == set(get_args(Codec))


@pytest.mark.parametrize("fault", ["flipped", "cut", "longer", "gone", "empty"])
@pytest.mark.parametrize(("codec", "name"), EVERY_FILE)
def test_a_damaged_file_is_named_and_never_read(
    tmp_path: Path, codec: Codec, name: str, fault: str, four_parts: Check
) -> None:
    run = make(tmp_path, codec)
    run.features("lifted")
    file = tmp_path / "features" / "lifted" / f"{name}.npy"
    data = file.read_bytes()
    if fault == "flipped":
        flip(file, len(data) - 3)
    elif fault == "gone":
        file.unlink()
    else:
        file.write_bytes({"cut": data[:-7], "longer": data + b"\0", "empty": b""}[fault])
    with pytest.raises(DataError, match=f"{name}.npy") as caught:
        run.features("lifted")
    four_parts(caught.value, 3)


def test_each_chunk_is_told_apart_and_its_rows_are_named(tmp_path: Path) -> None:
    num = 3 * CHUNK_BYTES // (2 * 512)
    run = make(tmp_path, num=num, channels=512)
    file = tmp_path / "features" / "lifted" / "rows.npy"
    size, whole = file.stat().st_size, file.read_bytes()
    for chunk in range(-(-size // CHUNK_BYTES)):
        flip(file, min(chunk * CHUNK_BYTES + 1000, size - 1))
        with pytest.raises(DataError, match=f"chunk {chunk} of 4") as caught:
            run.features("lifted")
        first, last = (int(word) for word in caught.value.where.split("rows ")[-1].split(" to "))
        assert first <= min(chunk * 4096, num) <= last
        file.write_bytes(whole)
    run.features("lifted")


def test_a_cut_file_says_where_it_ends(tmp_path: Path) -> None:
    run = make(tmp_path, num=3 * CHUNK_BYTES // 1024, channels=512)
    file = tmp_path / "features" / "lifted" / "rows.npy"
    file.write_bytes(file.read_bytes()[: CHUNK_BYTES + 5])
    with pytest.raises(DataError, match="chunk 1 of 4") as caught:
        run.features("lifted")
    assert str(CHUNK_BYTES + 5) in caught.value.got


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda text: text.replace('"unit"', '"simplex"'), "changed"),
        (lambda text: text.replace('"schema": 2', '"schema": 9'), "schema 9"),
        (lambda text: text[: len(text) // 2], "JSON"),
        (lambda text: "[]", "older one"),
        (lambda text: "", "JSON"),
        (lambda text: "\xff", "record|JSON"),
    ],
)
def test_a_changed_record_is_refused(
    tmp_path: Path, change: Callable[[str], str], match: str, four_parts: Check
) -> None:
    run = make(tmp_path)
    record = tmp_path / "features" / "lifted" / "store.json"
    record.write_text(change(record.read_text()), encoding="latin-1")
    for read in (run.features, run.info):
        with pytest.raises(DataError, match=match) as caught:
            read("lifted")
        four_parts(caught.value, 3)


@pytest.mark.parametrize("entry", [{"codec": "zip"}, {"extra": 1}])
def test_a_record_of_another_version_is_refused(tmp_path: Path, entry: dict[str, Any]) -> None:
    run = make(tmp_path)
    path = tmp_path / "features" / "lifted" / "store.json"
    record = json.loads(path.read_text())
    del record["sha256"]
    record["info"] |= entry
    path.write_text(json.dumps({**record, "sha256": fingerprint_of(**record)}))
    with pytest.raises(DataError, match=r"codec zip|extra"):
        run.features("lifted")


def test_rows_of_another_width_with_a_right_checksum_are_refused(tmp_path: Path) -> None:
    run = make(tmp_path)
    folder = tmp_path / "features" / "lifted"
    np.save(folder / "rows.npy", np.zeros((NUM, CHANNELS + 1), np.float16))
    record = json.loads((folder / "store.json").read_text())
    del record["sha256"]
    record["files"]["rows.npy"] = digest_file(folder / "rows.npy", NUM)
    (folder / "store.json").write_text(json.dumps({**record, "sha256": fingerprint_of(**record)}))
    with pytest.raises(DataError, match="shape"):
        run.features("lifted")


def test_verify_finds_what_opening_finds(tmp_path: Path) -> None:
    run = make(tmp_path)
    run.finish(fingerprint="f")
    assert run.verify() == []
    flip(tmp_path / "features" / "lifted" / "rows.npy", 5000)
    assert any("rows.npy" in problem for problem in run.verify())


def test_a_file_is_hashed_once_while_it_stays_the_same(tmp_path: Path) -> None:
    file = tmp_path / "a.npy"
    np.save(file, np.arange(10))
    record = digest_file(file, 10)
    check_file(file, record)
    check_file(file, record)
    flip(file, 130)
    with pytest.raises(DataError, match="chunk 0 of 1"):
        check_file(file, record)


def npy(header: str, data: bytes = b"") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.npy", bytes(50_000_000))
    return buffer.getvalue()


def saved(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


HOSTILE = {
    "objects": saved(np.array([{}, []], dtype=object)),
    "objects in a record": npy("{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (1,)}"),
    "zip bomb": archive(),
    "an expression in the header": npy(
        "{'descr': '<f4', 'fortran_order': False, 'shape': (10**15, 10**15)}"
    ),
    "huge shape": npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({10**15}, {10**15})}}"),
    "negative shape": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4)}", b"1234"),
    "a size more than there is": npy(
        "{'descr': '<f4', 'fortran_order': False, 'shape': (100,)}", bytes(396)
    ),
    "a call in the header": npy("__import__('os').system('true')"),
    "a long header": b"\x93NUMPY\x02\x00" + (1 << 31).to_bytes(4, "little") + bytes(100),
    "version 9": b"\x93NUMPY\x09\x00" + bytes(100),
    "a pickle": b"\x80\x04N.",
    "nothing": b"",
    "text": b"0.1 0.2 0.3",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_arrays_are_refused_before_anything_is_allocated(
    tmp_path: Path, name: str, four_parts: Check
) -> None:
    file = tmp_path / "scores.npy"
    file.write_bytes(HOSTILE[name])
    with pytest.raises(DataError, match="scores") as caught:
        load_array(file)
    four_parts(caught.value, 3)


@pytest.mark.parametrize("shape", [(0,), (0, 5), (), (3, 2)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_ordinary_arrays_are_mapped(tmp_path: Path, shape: tuple[int, ...], order: Any) -> None:
    wanted = np.asarray(np.random.default_rng(0).random(shape), order=order)
    np.save(tmp_path / "a.npy", wanted)
    found = load_array(tmp_path / "a.npy")
    np.testing.assert_array_equal(found, wanted)
    assert isinstance(found, np.memmap)


def test_a_missing_array_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        load_array(tmp_path / "none.npy")
