"""Sources in their true layouts, and what they refuse."""

import contextlib
import dataclasses
import functools
import hashlib
import http.server
import io
import json
import os
import pickle
import tarfile
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from augmix_core.decode import decode_rgb
from pipeline.config import DataConfig
from pipeline.source import open_folder, open_parquet, open_source
from pipeline.sources import parquet
from tests.conftest import natural
from tests.pipeline.fixtures import (
    image_tree,
    imagenet_tree,
    jpeg,
    parquet_rows,
    refusal,
    write_cifar_parquet,
    write_shards,
    write_tar,
)


def test_digits_are_real_labelled_and_split_without_overlap():
    train, test = open_source(DataConfig(), train=True), open_source(DataConfig(), train=False)
    assert (len(train), len(test)) == (1348, 449)
    assert train.class_names == tuple("0123456789")
    images, labels = train.read([0, 5, 1347])
    assert images[0].shape == (32, 32, 3) and images[0].dtype == np.uint8
    assert set(np.unique(train.labels)) == set(range(10)) and labels.tolist() == train.labels[[0, 5, 1347]].tolist()
    seen = {image.tobytes() for image in train.images}
    assert sum(image.tobytes() in seen for image in test.images) < 3  # hardly a digit is written twice alike


def test_parquet_files_are_read_in_the_hugging_face_schema(tmp_path):
    write_cifar_parquet(tmp_path, train=30, test=10, files=3)
    config = DataConfig(name="cifar10", path=str(tmp_path))
    train = open_source(config, train=True)
    assert (len(train), len(open_source(config, train=False))) == (30, 10)
    assert train.class_names[3] == "cat"
    images, labels = train.read([29, 0])
    assert decode_rgb(images[0]).shape == (32, 32, 3)
    assert labels.tolist() == [29 % 10, 0]
    assert train.describe(29).endswith("train-00002-of-00003.parquet row 9")


def test_cifar100_is_read_by_its_fine_labels(tmp_path):
    table = parquet_rows(natural(4, 32, 32), [0, 99, 5, 7])
    table = table.rename_columns(["img", "fine_label"]).append_column("coarse_label", pa.array([1, 2, 3, 4]))
    info = {"info": {"features": {"fine_label": {"names": [f"c{i}" for i in range(100)]}}}}
    table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(table, tmp_path / "test-00000-of-00001.parquet")
    source = open_source(DataConfig(name="cifar100", path=str(tmp_path)), train=False)
    assert source.labels.tolist() == [0, 99, 5, 7] and source.class_names[99] == "c99"
    assert decode_rgb(source.read([1])[0][0]).shape == (32, 32, 3)


def test_real_cifar10_has_its_sizes_and_classes(real_cifar10):
    config = DataConfig(name="cifar10", path=str(real_cifar10))
    train, test = open_source(config, train=True), open_source(config, train=False)
    assert (len(train), len(test)) == (50_000, 10_000)
    assert np.bincount(train.labels).tolist() == [5000] * 10
    assert train.class_names[0] == "airplane"
    assert decode_rgb(train.read([49_999])[0][0]).shape == (32, 32, 3)


@pytest.fixture
def published(tmp_path, monkeypatch):
    """CIFAR-10's archive with six images, in torchvision's eyes the published one, behind a server on this machine."""
    from torchvision.datasets import CIFAR10

    pixels = natural(6, 32, 32)
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    files = {
        name: pickle.dumps({"data": pixels[n].transpose(2, 0, 1).reshape(1, -1), "labels": [n]})
        for n, name in enumerate(names)
    }
    files["batches.meta"] = pickle.dumps({"label_names": list("abcdefghij")})
    archive = tmp_path / "published" / "cifar-10-python.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    digests = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(archive.parent))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{server.server_port}/{archive.name}")
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(CIFAR10, "train_list", [[name, digests[name]] for name in names[:5]])
    monkeypatch.setattr(CIFAR10, "test_list", [[names[5], digests[names[5]]]])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": digests["batches.meta"]})
    yield pixels
    server.shutdown()
    server.server_close()


def test_cifar10_is_downloaded_checked_and_read_through_torchvision(published, tmp_path):
    config = DataConfig(name="cifar10", path=str(tmp_path / "new" / "data"), download=True)
    train = open_source(config, train=True)
    assert (train.read([3])[0][0] == published[3]).all()
    assert train.class_names == tuple("abcdefghij")
    again = dataclasses.replace(config, download=False)
    assert (open_source(again, train=False).read([0])[0][0] == published[5]).all()


def test_a_download_that_fails_is_an_error_of_one_line(published, tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    monkeypatch.setattr(CIFAR10, "url", CIFAR10.url + ".gone")
    config = DataConfig(name="cifar10", path=str(tmp_path / "data"), download=True)
    assert "cannot be used" in refusal(lambda: open_source(config, train=True))


def test_torchvisions_damaged_files_are_refused_before_they_are_unpickled(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(b"evil")
    with pytest.raises(ValueError, match="cannot be used"):
        open_source(DataConfig(name="cifar10", path=str(tmp_path)), train=True)


@pytest.mark.parametrize("below", ["", "Data/CLS-LOC", "ILSVRC/Data/CLS-LOC"])
def test_an_ilsvrc_tree_is_found_where_it_is_published(tmp_path, below):
    imagenet_tree(tmp_path / below)
    config = DataConfig(name="imagenet", path=str(tmp_path))
    train, val = open_source(config, train=True), open_source(config, train=False)
    assert train.class_names == val.class_names == ("n01", "n02")
    assert (len(train), len(val)) == (6, 2)
    images, labels = train.read([0, 5])
    assert labels.tolist() == [0, 1]
    assert decode_rgb(images[1]).shape == (90, 130, 3)


def test_a_digest_changes_with_the_images(tmp_path):
    write_cifar_parquet(tmp_path / "a", train=30, test=10, files=3)
    write_cifar_parquet(tmp_path / "b", train=33, test=10, files=3)
    a, again, b = (open_source(DataConfig(name="cifar10", path=str(tmp_path / n)), train=True) for n in "aab")
    assert a.digest == again.digest != b.digest


def write_row_groups(folder, *, split="train", rows=23, files=2, group=4):
    """CIFAR-10's schema in row groups of four; returns the images in order."""
    images = natural(rows, 32, 32)
    for n, part in enumerate(np.array_split(np.arange(rows), files)):
        table = parquet_rows(images[part], [i % 10 for i in part])
        pq.write_table(table, folder / f"{split}-{n:05d}-of-{files:05d}.parquet", row_group_size=group)
    return [jpeg(image) for image in images]


def test_large_parquet_files_are_read_by_row_groups_to_the_same_samples(tmp_path, monkeypatch):
    encoded = write_row_groups(tmp_path)
    config = DataConfig(name="cifar10", path=str(tmp_path))
    whole = open_source(config, train=True)
    monkeypatch.setattr(parquet, "MAX_BYTES_IN_MEMORY", 0)
    source = pickle.loads(pickle.dumps(open_source(config, train=True, index_folder=tmp_path / "index")))
    assert whole.shard_rows is None and source.shard_rows.tolist() == [4, 4, 4, 4, 4, 3]
    assert source.labels.tolist() == whole.labels.tolist() and source.class_names == whole.class_names
    ids = np.random.default_rng(0).permutation(23)
    assert source.read(ids)[0] == [encoded[n] for n in ids] == whole.read(ids)[0]
    assert [source.describe(n) for n in range(23)] == [whole.describe(n) for n in range(23)]


def test_a_row_group_is_read_once_while_ids_come_from_few(tmp_path, monkeypatch):
    write_row_groups(tmp_path)
    monkeypatch.setattr(parquet, "MAX_BYTES_IN_MEMORY", 0)
    read = []
    original = parquet.read_row_group
    monkeypatch.setattr(parquet, "read_row_group", lambda key, column: read.append(key) or original(key, column))
    monkeypatch.setattr(parquet, "RECENT", parquet.Recent(1 << 20))
    source = open_source(DataConfig(name="cifar10", path=str(tmp_path)), train=True)
    for ids in ([7, 0, 5], [1, 6, 2], [4, 3]):
        source.read(ids)
    assert len(read) == 2
    monkeypatch.setattr(parquet, "RECENT", parquet.Recent(1))
    for _ in range(2):
        source.read([0, 20])
    assert len(read) == 6 and len(parquet.RECENT.kept) == 1


def test_a_damaged_row_group_costs_its_own_samples_alone(tmp_path, monkeypatch):
    encoded = write_row_groups(tmp_path, files=1)
    monkeypatch.setattr(parquet, "MAX_BYTES_IN_MEMORY", 0)
    source = open_source(DataConfig(name="cifar10", path=str(tmp_path)), train=True)
    (file,) = tmp_path.glob("*.parquet")
    content = bytearray(file.read_bytes())
    begin = pq.ParquetFile(file).metadata.row_group(1).column(0).data_page_offset
    content[begin : begin + 40] = b"\xff" * 40
    file.write_bytes(content)
    parquet.open_file.cache_clear()
    images, _ = source.read(range(23))
    assert images == encoded[:4] + [b""] * 4 + encoded[8:]


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_parquet_file_of_the_set_that_is_missing_is_noticed(tmp_path, monkeypatch, in_memory):
    write_row_groups(tmp_path, files=3)
    monkeypatch.setattr(parquet, "MAX_BYTES_IN_MEMORY", in_memory << 30)
    (tmp_path / "train-00001-of-00003.parquet").unlink()
    told = refusal(lambda: open_source(DataConfig(name="cifar10", path=str(tmp_path)), train=True))
    assert "3 files are expected by their names and 2 are there" in told


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize(
    ("labels", "part"),
    [
        (pa.array([0, -1, 2]), "row 1 has label -1"),
        (pa.array([0, 1, 10]), "row 2 has label 10"),
        (pa.array([0.0, float("nan"), 1.0]), "label: double"),
        (pa.array(["cat", "dog", "cat"]), "label: string"),
    ],
)
def test_labels_that_are_wrong_are_refused_however_the_file_is_read(tmp_path, monkeypatch, in_memory, labels, part):
    monkeypatch.setattr(parquet, "MAX_BYTES_IN_MEMORY", in_memory << 30)
    table = parquet_rows(natural(3, 32, 32), [0, 1, 2])
    pq.write_table(table.set_column(1, "label", labels), tmp_path / "train-0.parquet")
    assert part in refusal(lambda: open_source(DataConfig(name="cifar10", path=str(tmp_path)), train=True))


class Evil:
    """Unpickling it would make a folder."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("name", ["arrow.py_extension_type", "ray.data.arrow_pickled_object", "ray.data.arrow_tensor"])
def test_hostile_extension_types_of_parquet_are_not_executed(tmp_path, name):
    import ray.data  # noqa: F401  # registers extension types of its own

    evil = {"ARROW:extension:name": name, "ARROW:extension:metadata": pickle.dumps(Evil(tmp_path / "marker"))}
    for column in ("image", "label"):
        table = parquet_rows(natural(2, 32, 32), [0, 1])
        at = table.schema.get_field_index(column)
        schema = table.schema.set(at, table.schema.field(column).with_metadata(evil))
        pq.write_table(table.cast(schema), tmp_path / "train-0.parquet")
        with contextlib.suppress(ValueError):
            open_source(DataConfig(name="cifar10", path=str(tmp_path)), train=True).read([0, 1])
        assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("names", [("x_{}.npy", "y_{}.npy"), ("{}_images.npy", "{}_labels.npy")])
@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_cifar_in_npy_files_is_mapped(tmp_path, names, shape):
    images = natural(12, 32, 32)
    for split, rows in (("train", slice(0, 8)), ("test", slice(8, 12))):
        np.save(tmp_path / names[0].format(split), images[rows])
        np.save(tmp_path / names[1].format(split), (np.arange(12)[rows] % 10).astype(np.uint8).reshape(shape))
    config = DataConfig(name="cifar10", path=str(tmp_path))
    train, test = open_source(config, train=True), open_source(config, train=False)
    assert (len(train), len(test)) == (8, 4) and test.labels.tolist() == [8, 9, 0, 1]
    assert (test.read([3])[0][0] == images[11]).all() and len(train.class_names) == 10
    assert len(pickle.dumps(train)) < 2000


@pytest.mark.parametrize(
    ("images", "labels", "part"),
    [
        (np.zeros((3, 32, 32, 3), np.uint8), np.array([0, 1]), "2 labels and"),
        (np.zeros((3, 32, 32, 3), np.uint8), np.array([0, 1, 10]), "label 10"),
        (np.zeros((3, 32, 32, 3), np.uint8), np.array([0, 1, -1]), "label -1"),
        (np.zeros((3, 32, 32, 3), np.uint8), np.array([0, 1, np.nan]), "float64 (3,)"),
        (np.zeros((3, 32, 32, 3), np.float32), np.array([0, 1, 2]), "float32 (3, 32, 32, 3)"),
        (np.zeros((3, 3, 32, 32), np.uint8), np.array([0, 1, 2]), "uint8 (3, 3, 32, 32)"),
        (np.array([[1]], object), np.array([0]), "pickled Python objects"),
        (np.zeros((3, 32, 32, 3), np.uint8), np.array([0, 1, 2], object), "pickled Python objects"),
    ],
)
def test_npy_files_that_are_wrong_are_refused(tmp_path, images, labels, part):
    np.save(tmp_path / "x_train.npy", images)
    np.save(tmp_path / "y_train.npy", labels)
    assert part in refusal(lambda: open_source(DataConfig(name="cifar10", path=str(tmp_path)), train=True))


@pytest.mark.parametrize("layout", ["folder", "tars"])
def test_cifar_in_any_layout_has_its_number_of_classes(tmp_path, layout):
    if layout == "tars":
        write_shards(tmp_path, "train", shards=1, images=3, classes=12)
        write_tar(tmp_path / "train.tar", [("a.jpg", b"x"), ("a.cls", b"10")])
        part = "has label 10; labels must be from 0 to 9"
    else:
        image_tree(tmp_path / "train", {"cat": 1, "dog": 1})
        part = "has 2 classes; cifar10 has 10"
    assert part in refusal(lambda: open_source(DataConfig(name="cifar10", path=str(tmp_path)), train=True))


def test_images_of_every_kind_become_rgb_and_orientation_is_ignored_as_by_torchvision(tmp_path):
    """CMYK, grey, palette and alpha; the pixels are those of torchvision's loader, in the same order."""
    from torchvision.datasets import ImageFolder

    (image,) = natural(1, 24, 40)
    folder = tmp_path / "train" / "all"
    folder.mkdir(parents=True)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(image).save(folder / "a.jpg", exif=turned)
    for name, mode in (("b.jpg", "CMYK"), ("c.jpg", "L"), ("d.png", "P"), ("e.png", "RGBA"), ("f.webp", "RGBA")):
        Image.fromarray(image).convert(mode).save(folder / name)
    source = open_source(DataConfig(name="folder", path=str(tmp_path)), train=True)
    theirs = ImageFolder(str(tmp_path / "train"))
    decoded = [decode_rgb(item) for item in source.read(range(6))[0]]
    assert [item.shape for item in decoded] == [(24, 40, 3)] * 6
    for ours, (other, _) in zip(decoded, theirs, strict=True):
        assert (ours == np.asarray(other)).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_an_image_that_is_cut_off_is_a_bad_sample(tmp_path, kind):
    buffer = io.BytesIO()
    Image.fromarray(natural(1, 64, 64)[0]).save(buffer, kind)
    content = buffer.getvalue()
    for size in (0, 1, 20, len(content) // 2, len(content) * 9 // 10):
        with pytest.raises(ValueError, match="not a readable"):
            decode_rgb(content[:size])


class TestRefusals:
    """Each is a ValueError of one line that names the place, the rule and the remedy."""

    def refused(self, call, *parts):
        told = refusal(call)
        for part in parts:
            assert part in told

    def test_no_path(self):
        self.refused(lambda: open_source(DataConfig(name="imagenet"), train=True), "--data.path", "jobs/digits.py")

    def test_a_path_that_is_not_there(self):
        config = DataConfig(name="cifar10", path="/not/there")
        self.refused(lambda: open_source(config, train=True), "'/not/there' is not a folder")

    def test_an_empty_folder(self, tmp_path):
        for name, parts in (("cifar10", ("found: nothing", "--data.download")), ("imagenet", ("no folder train/",))):
            config = DataConfig(name=name, path=str(tmp_path))
            self.refused(lambda config=config: open_source(config, train=True), *parts)

    def test_class_folders_without_images(self, tmp_path):
        (tmp_path / "train" / "n01").mkdir(parents=True)
        config = DataConfig(name="imagenet", path=str(tmp_path))
        self.refused(lambda: open_source(config, train=True), "no image in them")

    def test_a_validation_class_that_training_has_not(self, tmp_path):
        imagenet_tree(tmp_path)
        (tmp_path / "val" / "n99").mkdir()
        self.refused(lambda: open_folder(tmp_path / "val", ("n01", "n02")), "'n99'")

    def test_parquet_without_the_columns(self, tmp_path):
        file = tmp_path / "train-0.parquet"
        pq.write_table(pa.table({"picture": [b""], "label": [1]}), file)
        self.refused(lambda: open_parquet([file], classes=10), str(file), "no column 'image'", "picture")

    def test_parquet_with_other_types(self, tmp_path):
        file = tmp_path / "train-0.parquet"
        pq.write_table(pa.table({"image": ["path"], "label": [1]}), file)
        self.refused(lambda: open_parquet([file], classes=10), "image: string", "struct<bytes")

    @pytest.mark.parametrize("label", [10, -1])
    def test_a_label_out_of_range(self, tmp_path, label):
        file = tmp_path / "train-0.parquet"
        pq.write_table(parquet_rows(natural(3, 32, 32), [0, label, 2]), file)
        self.refused(lambda: open_parquet([file], classes=10), f"row 1 has label {label}", "from 0 to 9")

    def test_a_missing_label(self, tmp_path):
        file = tmp_path / "train-0.parquet"
        pq.write_table(parquet_rows(natural(2, 32, 32), [0, None]), file)
        self.refused(lambda: open_parquet([file], classes=10), "1 rows without a label")

    def test_a_file_that_is_no_parquet(self, tmp_path):
        file = tmp_path / "train-0.parquet"
        file.write_bytes(b"not at all")
        self.refused(lambda: open_parquet([file], classes=10), "not a readable parquet file")


def test_foreign_metadata_does_not_break_the_class_names(tmp_path):
    file = tmp_path / "train-0.parquet"
    table = parquet_rows(natural(1, 32, 32), [0])
    for metadata in (b"no json", json.dumps({"info": None}).encode(), json.dumps([1]).encode()):
        pq.write_table(table.replace_schema_metadata({b"huggingface": metadata}), file)
        assert open_parquet([file], classes=10).class_names == tuple("0123456789")


def test_a_file_that_vanishes_reads_as_nothing_and_is_left_to_the_decoder(tmp_path):
    imagenet_tree(tmp_path)
    source = open_folder(tmp_path / "train", ("n01", "n02"))
    (tmp_path / "train" / "n01" / "0.JPEG").unlink()
    assert source.read([0])[0] == [b""]
    assert Image.open(source.describe(1)).size == (130, 90)
