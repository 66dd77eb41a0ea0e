"""WebDataset shards: read by offset, and hostile or damaged ones refused before anything is written or executed."""

import io
import json
import os
import pickle
import tarfile

import numpy as np
import pytest

from pipeline.config import DataConfig
from pipeline.source import open_source
from pipeline.sources import tars
from pipeline.sources.files import place_of
from tests.pipeline.fixtures import refusal, write_shards, write_tar

IMAGE = b"\xff\xd8 not decoded here"


def opened(folder, *, train=True):
    return open_source(DataConfig(name="imagenet", path=str(folder)), train=train)


def test_images_of_shards_are_read_by_offset_in_any_order(tmp_path):
    encoded = write_shards(tmp_path, "train", shards=3, images=5)
    write_shards(tmp_path, "validation", shards=1, images=4)
    source = opened(tmp_path)
    assert (len(source), len(opened(tmp_path, train=False))) == (15, 4)
    assert source.labels.tolist() == [n % 3 for n in range(15)] and source.class_names == ("0", "1", "2")
    ids = np.random.default_rng(0).permutation(15)
    assert source.read(ids)[0] == [encoded[n] for n in ids]
    assert source.describe(7) == f"{tmp_path}/imagenet1k-train-0001.tar member n01_7"
    assert source.shard_rows is None  # any offset of a local file costs the same
    assert sorted(os.listdir(tmp_path)) == sorted(
        [*(f"imagenet1k-train-{n:04d}.tar" for n in range(3)), "imagenet1k-validation-0000.tar"]
    )


def test_labels_and_class_names_come_from_json_where_there_is_no_cls(tmp_path):
    members = []
    for n, name in enumerate(("tench", "goldfish")):
        members += [
            (f"{n}.png", IMAGE + bytes([n])),
            (f"{n}.json", json.dumps({"label": n, "class_name": name}).encode()),
        ]
    write_tar(tmp_path / "my-train.tar", [*members, ("folder/", b""), ("0.txt", b"a caption")])
    source = opened(tmp_path)
    assert source.class_names == ("tench", "goldfish") and source.read([1])[0] == [IMAGE + b"\x01"]


def test_long_names_and_the_three_formats_of_tar_are_read(tmp_path):
    for n, kind in enumerate((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT)):
        with tarfile.open(tmp_path / f"train-{n}.tar", "w", format=kind) as tar:
            for suffix, content in (("jpg", IMAGE), ("cls", b"0")):
                member = tarfile.TarInfo(f"{'folder' * 16}/{'k' * (20 if n == 2 else 120)}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    source = opened(tmp_path)
    assert source.read(range(3))[0] == [IMAGE] * 3
    assert source.describe(0).endswith("/" + "k" * 120)


def with_size(name, claimed):
    """A header that claims another size than its content has."""
    member = tarfile.TarInfo(name)
    member.size = claimed
    return member


def special(name, kind, link=""):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


LABELLED = [("a.jpg", IMAGE), ("a.cls", b"1")]


@pytest.mark.parametrize(
    ("members", "part"),
    [
        ([*LABELLED, ("../evil.jpg", IMAGE)], "'../evil.jpg' leads out of the shard"),
        ([*LABELLED, ("/etc/evil.jpg", IMAGE)], "'/etc/evil.jpg' leads out of the shard"),
        ([*LABELLED, (special("b.jpg", tarfile.SYMTYPE, "/etc/passwd"), b"")], "'b.jpg' is a link"),
        ([*LABELLED, (special("b.jpg", tarfile.LNKTYPE, "a.jpg"), b"")], "'b.jpg' is a link"),
        ([*LABELLED, (special("b.jpg", tarfile.CHRTYPE), b"")], "a device"),
        ([*LABELLED, (special("b.jpg", tarfile.FIFOTYPE), b"")], "a device"),
        ([*LABELLED, *LABELLED], "'a.jpg' is there twice"),
        ([*LABELLED, ("a.png", IMAGE)], "a has two images"),
        ([*LABELLED, (with_size("b.jpg", 10 << 30), b"")], "claims 10,737,418,240 bytes"),
        ([*LABELLED, (special("x", tarfile.GNUTYPE_LONGNAME), b"")], "is not a usable shard"),
        ([*LABELLED, ("b.jpg", IMAGE)], "1 of 2 images have no .cls or .json label: b"),
        ([("a.jpg", IMAGE), ("a.cls", b"1.5")], "'a.cls' is not a whole number"),
        ([("a.jpg", IMAGE), ("a.cls", b"nan")], "'a.cls' is not a whole number"),
        ([("a.jpg", IMAGE), ("a.json", b'{"label": "cat"}')], "'a.json' is not a whole number"),
        ([("a.jpg", IMAGE), ("a.json", b"[" * 100_000)], "'a.json' is not a whole number"),
        ([*LABELLED, ("a.json", b'{"label": 2}')], "a has two labels, 1 and 2"),
        ([("a.jpg", IMAGE), ("a.cls", b"-1")], "row 0 has label -1"),
        ([("a.txt", b"")], "hold no image"),
    ],
)
def test_a_shard_that_is_hostile_or_wrong_is_refused_in_words(tmp_path, members, part):
    write_tar(tmp_path / "train.tar", members)
    before = sorted(tmp_path.rglob("*"))
    assert part in refusal(lambda: opened(tmp_path))
    assert sorted(tmp_path.rglob("*")) == before


def checksummed(header):
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_negative_sizes_end_at_once_and_not_in_an_endless_loop(tmp_path, kind):
    write_tar(tmp_path / "train.tar", LABELLED)
    content = (tmp_path / "train.tar").read_bytes()
    header = bytearray(content[:512])
    header[156:157] = kind
    header[124:136] = b"\xff" * 10 + b"\xf8\x00"  # -2048 in base 256
    (tmp_path / "train.tar").write_bytes(content[:2048] + checksummed(header) + content[2048:])
    assert "a header claims -2,048 bytes" in refusal(lambda: opened(tmp_path))


def test_a_pax_size_that_is_negative_or_too_large_is_refused(tmp_path):
    for claimed in ("-2048", str(10 << 30)):
        with tarfile.open(tmp_path / "train.tar", "w", format=tarfile.PAX_FORMAT) as tar:
            member = tarfile.TarInfo("a.jpg")
            member.pax_headers = {"size": claimed}
            tar.addfile(member)
        assert "is not a usable shard" in refusal(lambda: opened(tmp_path))


def test_headers_that_follow_each_other_without_end_are_refused(tmp_path):
    with tarfile.open(tmp_path / "one.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("k" * 120))
    long_name = (tmp_path / "one.tar").read_bytes()[:1024]
    (tmp_path / "train.tar").write_bytes(long_name * 3000 + bytes(1024))
    assert "without end" in refusal(lambda: opened(tmp_path))


def test_a_shard_that_is_cut_off_anywhere_is_refused(tmp_path):
    write_shards(tmp_path, "train", shards=1, images=2)
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    ends = content.rstrip(b"\0")
    for size in [*range(0, len(ends), 509), *range(512, len(ends), 512)]:
        file.write_bytes(content[:size])
        assert "not a usable shard" in refusal(lambda: opened(tmp_path))


def test_a_damaged_header_is_refused_and_not_taken_for_the_end(tmp_path):
    write_tar(tmp_path / "train.tar", [("b.jpg", IMAGE), ("b.cls", b"0"), *LABELLED])
    content = bytearray((tmp_path / "train.tar").read_bytes())
    content[2048 + 5] ^= 1
    (tmp_path / "train.tar").write_bytes(content)
    assert "damaged or cut off at byte 2,048" in refusal(lambda: opened(tmp_path))


def test_compressed_shards_are_refused(tmp_path):
    with tarfile.open(tmp_path / "train.tar", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.jpg"))
    assert "is not a usable shard" in refusal(lambda: opened(tmp_path))


class Evil:
    def __reduce__(self):
        return os.mkdir, (os.environ["MARKER"],)


def test_pickles_in_a_shard_are_never_read(tmp_path, monkeypatch):
    monkeypatch.setenv("MARKER", str(tmp_path / "marker"))
    evil = pickle.dumps(Evil())
    members = [(f"a.{kind}", evil) for kind in ("pkl", "pyd", "pth", "pt", "pickle", "npy", "mp")]
    write_tar(tmp_path / "train.tar", [*LABELLED, *members])
    source = opened(tmp_path)
    assert len(source) == 1 and source.read([0])[0] == [IMAGE]
    assert not (tmp_path / "marker").exists()


def test_neighbours_of_a_remote_shard_come_with_one_request(tmp_path):
    write_shards(tmp_path, "train", shards=2, images=6)
    source = opened(tmp_path)
    ids = np.array([11, 0, 1, 2, 8, 7, 7, 5])
    together = [sorted(ids[rows].tolist()) for rows in source.requests(ids)]
    assert together == [[0, 1, 2, 5], [7, 7, 8, 11]]
    read = {
        int(ids[n]): image
        for rows in source.requests(ids)
        for n, image in zip(rows, source.read_rows(ids, rows), strict=True)
    }
    assert all(read[n] == source.read([n])[0][0] for n in ids)


def test_requests_are_bounded(tmp_path, monkeypatch):
    write_shards(tmp_path, "train", shards=1, images=6)
    source = opened(tmp_path)
    size = int(source.index.numbers("size").max())
    monkeypatch.setattr(tars, "RANGE_BYTES", 2 * size + 8192)
    ids = np.arange(6)
    assert all(len(rows) <= 3 for rows in source.requests(ids)) and sum(map(len, source.requests(ids))) == 6
    monkeypatch.setattr(tars, "GAP_BYTES", 0)
    assert [len(rows) for rows in source.requests(ids)] == [1] * 6


def test_names_of_shards_are_words(tmp_path):
    for name in ("constrained.tar", "train.txt", "my-train-0.tar", "b_train0001.tar", "interval.tar"):
        (tmp_path / name).write_bytes(b"")
    entries = place_of(tmp_path).entries()
    assert [e.name for e in tars.tar_files(entries, "train")] == ["b_train0001.tar", "my-train-0.tar"]
    assert tars.tar_files(entries, "val") == []
