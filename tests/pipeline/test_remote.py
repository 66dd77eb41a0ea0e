"""Object stores: the same layouts from a real S3 server on this machine, and what happens when it fails."""

import pickle
import urllib.request

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline import storage
from pipeline.config import DataConfig
from pipeline.decode import evaluation_images
from pipeline.source import find_source, open_source
from pipeline.sources import files, parquet
from tests.pipeline.fixtures import Server, image_tree, jpeg, natural, parquet_rows, refusal, write_shards


@pytest.fixture(scope="module")
def server():
    server = Server()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def nothing_kept():
    yield
    storage.store_of.cache_clear()
    files.remote_file.cache_clear()


def opened(uri, *, train=True, name="folder", **more):
    return open_source(DataConfig(name=name, path=uri, **more), train=train)


def test_image_folders_in_a_bucket(server, tmp_path):
    image_tree(tmp_path / "train", {"cat": 3, "dog": 2})
    image_tree(tmp_path / "val", {"cat": 1, "dog": 1})
    server.upload(tmp_path, "images/folders")
    found = find_source(DataConfig(name="folder", path=server.uri("images/folders")), train=True)
    assert found.what == "image folders in s3://images/folders/train"
    source = found.open(tmp_path / "index")
    assert source.labels.tolist() == [0, 0, 0, 1, 1] and source.class_names == ("cat", "dog")
    assert source.describe(4) == "s3://images/folders/train/dog/001.jpg"
    local = open_source(DataConfig(name="folder", path=str(tmp_path)), train=True)
    assert source.read(range(5))[0] == local.read(range(5))[0] and source.digest == local.digest
    assert source.shard_rows is None
    assert len(opened(server.uri("images/folders"), train=False)) == 2


def test_an_index_of_a_bucket_notices_classes_and_reindex_the_rest(server, tmp_path):
    image_tree(tmp_path / "train", {"cat": 2, "dog": 2})
    server.upload(tmp_path, "images/growing")
    config = DataConfig(name="folder", path=server.uri("images/growing"))
    kept = tmp_path / "index"
    assert len(open_source(config, train=True, index_folder=kept)) == 4
    server.upload(tmp_path / "train/dog", "images/growing/train/cat/more")
    assert len(open_source(config, train=True, index_folder=kept)) == 4
    anew = DataConfig(name="folder", path=config.path, reindex=True)
    assert len(open_source(anew, train=True, index_folder=kept)) == 6
    server.upload(tmp_path / "train/dog", "images/growing/train/eel")
    assert len(open_source(config, train=True, index_folder=kept)) == 8


def test_tar_shards_in_a_bucket_are_shards_to_be_read_in_sequence(server, tmp_path):
    encoded = write_shards(tmp_path, "train", shards=2, images=6)
    server.upload(tmp_path, "images/tars/data")
    source = opened(server.uri("images/tars"))
    assert source.shard_rows.tolist() == [6, 6]
    ids = np.random.default_rng(0).permutation(12)
    assert pickle.loads(pickle.dumps(source)).read(ids)[0] == [encoded[n] for n in ids]
    assert source.describe(7).startswith("s3://images/tars/data/imagenet1k-train-0001.tar member ")


@pytest.mark.parametrize("in_memory", [True, False])
def test_parquet_in_a_bucket(server, tmp_path, monkeypatch, in_memory):
    images = natural(10, 32, 32)
    for n in range(2):
        table = parquet_rows(images[5 * n : 5 * n + 5], list(range(5 * n, 5 * n + 5)))
        pq.write_table(table, tmp_path / f"train-{n:05d}-of-00002.parquet", row_group_size=2)
    server.upload(tmp_path, "images/parquet/data")
    if not in_memory:
        monkeypatch.setattr(parquet, "MAX_BYTES_IN_MEMORY", 0)
    source = opened(server.uri("images/parquet"), name="cifar10")
    assert source.read([9, 0, 4])[0] == [jpeg(images[n]) for n in (9, 0, 4)]
    assert source.labels.tolist() == list(range(10)) and source.class_names[9] == "truck"
    assert source.describe(9) == "s3://images/parquet/data/train-00001-of-00002.parquet row 4"
    if in_memory:
        assert source.shard_rows is None
    else:
        assert source.shard_rows.tolist() == [2, 2, 1, 2, 2, 1]


def test_the_endpoint_of_the_environment_will_do(server, tmp_path, monkeypatch):
    image_tree(tmp_path / "train", {"cat": 1})
    server.upload(tmp_path, "images/environment")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{server.host}")
    assert len(opened("s3://images/environment")) == 1


def test_fsspec_reads_what_pyarrow_does_not(tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    image_tree(tmp_path / "train", {"cat": 2})
    memory.put(str(tmp_path / "train"), "/somewhere/train", recursive=True)
    source = opened("memory://somewhere")
    assert source.read([1])[0] == [(tmp_path / "train/cat/001.jpg").read_bytes()]
    told = refusal(lambda: opened("teleport://somewhere"))
    assert "data.path 'teleport://somewhere' cannot be opened" in told


@pytest.mark.parametrize(
    ("path", "part"), [("no-such-bucket/x", "bucket does not exist"), ("images/no-such-folder", "does not exist")]
)
def test_a_bucket_or_folder_that_is_not_there_is_told_in_a_line(server, path, part):
    told = refusal(lambda: find_source(DataConfig(name="folder", path=server.uri(path)), train=True))
    assert f"data.path 's3://{path}' cannot be listed" in told and part in told and "AWS_ACCESS_KEY_ID" in told


def test_credentials_that_the_store_does_not_know_are_told_in_a_line():
    server = Server()
    url, header = f"http://{server.host}/moto-api/reset-auth", {"Content-Type": "text/plain"}
    try:
        urllib.request.urlopen(urllib.request.Request(url, data=b"0", headers=header))  # from now on keys count
        told = refusal(lambda: opened(server.uri("images/folders")))
        assert "cannot be listed" in told and "give its store's credentials" in told
    finally:
        urllib.request.urlopen(urllib.request.Request(url, data=b"inf", headers=header))
        server.stop()


def test_a_missing_key_is_a_bad_sample_and_a_store_that_has_gone_is_an_error(tmp_path):
    config = DataConfig(name="folder", image_size=24, crop="random_resized")
    server = Server()
    image_tree(tmp_path / "folders/train", {"cat": 3})
    encoded = write_shards(tmp_path / "tars", "train", shards=1, images=3)
    server.upload(tmp_path, "images/gone")
    folders, tars = (opened(server.uri(f"images/gone/{name}")) for name in ("folders", "tars"))
    server.files.delete_file("images/gone/folders/train/cat/001.jpg")
    images, _, valid = evaluation_images(folders, np.arange(3), config)
    assert valid.tolist() == [True, False, True] and images[0].any()
    assert tars.read([0])[0] == [encoded[0]]
    server.stop()
    with pytest.raises(OSError, match=r"the data set in s3://images/gone/tars cannot be read any more: .*NETWORK"):
        tars.read([1])  # after pyarrow's retries, six seconds


def test_a_bucket_that_was_emptied_is_an_error_and_not_a_thousand_bad_samples(server, tmp_path):
    image_tree(tmp_path / "train", {"cat": 3})
    server.upload(tmp_path, "images/emptied")
    source = opened(server.uri("images/emptied"))
    server.files.delete_dir("images/emptied")
    with pytest.raises(OSError, match="cannot be read any more"):
        source.read([0, 1, 2])
