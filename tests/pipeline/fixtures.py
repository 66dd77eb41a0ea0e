"""Small data sets in their true layouts."""

import io
import json
import logging
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from PIL import Image
from pyarrow import fs

from pipeline.checkpoint import SNAPSHOT
from tests.conftest import natural

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class Server:
    """moto's S3 server on a free port of this machine; ended by `stop`."""

    def __init__(self):
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self.server.start()
        self.stop = self.server.stop
        self.host = "{}:{}".format(*self.server.get_host_and_port())
        options = {"endpoint_override": self.host, "scheme": "http"}
        self.files = fs.S3FileSystem(access_key="k", secret_key="s", allow_bucket_creation=True, **options)
        self.files.create_dir("images")

    def uri(self, path):
        return f"s3://{path}?endpoint_override={self.host}&scheme=http"

    def upload(self, folder, path):
        fs.copy_files(str(folder), path, destination_filesystem=self.files)


def jpeg(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def parquet_rows(images: np.ndarray, labels: list) -> pa.Table:
    """Hugging Face's schema for CIFAR-10."""
    rows = [{"bytes": jpeg(image), "path": None} for image in images]
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    info = {"info": {"features": {"image": {"_type": "Image"}, "label": {"names": CLASSES, "_type": "ClassLabel"}}}}
    table = pa.table({"image": pa.array(rows, struct), "label": pa.array(labels, pa.int64())})
    return table.replace_schema_metadata({"huggingface": json.dumps(info)})


def write_cifar_parquet(folder: Path, *, train: int, test: int, files: int) -> None:
    """train-*.parquet in some files and test-*.parquet in one; labels go round the ten classes."""
    folder.mkdir(exist_ok=True)
    rows = train // files
    images = natural(train, 32, 32)
    for n in range(files):
        at = range(n * rows, (n + 1) * rows)
        table = parquet_rows(images[at], [i % 10 for i in at])
        pq.write_table(table, folder / f"train-{n:05d}-of-{files:05d}.parquet")
    pq.write_table(parquet_rows(images[:test], [i % 10 for i in range(test)]), folder / "test-00000-of-00001.parquet")


def imagenet_tree(folder: Path) -> None:
    """train/ and val/ with two classes of 90 x 130 JPEGs."""
    for split, count in (("train", 3), ("val", 1)):
        for name in ("n01", "n02"):
            (folder / split / name).mkdir(parents=True)
            for n, image in enumerate(natural(count, 90, 130)):
                (folder / split / name / f"{n}.JPEG").write_bytes(jpeg(image))


def write_cifar_c(folder: Path, corruptions: tuple[str, ...], *, size: int = 10) -> dict[str, np.ndarray]:
    """CIFAR-10-C with `size` test images, labelled 0 1 2 ... 9 0 ...; returns the pixels of each file."""
    folder.mkdir(exist_ok=True)
    np.save(folder / "labels.npy", np.tile(np.arange(size) % 10, 5))
    rng = np.random.default_rng(len(corruptions))
    pixels = {name: rng.integers(0, 256, (5 * size, 32, 32, 3), np.uint8) for name in corruptions}
    for name, rows in pixels.items():
        np.save(folder / f"{name}.npy", rows)
    return pixels


def write_imagenet_c(folder: Path, corruptions: tuple[str, ...], *, images: int = 3) -> None:
    """ImageNet-C with two classes of 224 x 224 JPEGs, each of a colour of its own; a corruption may be `group/name`."""
    for c, corruption in enumerate(corruptions):
        for severity in range(1, 6):
            for label, name in enumerate(("n01", "n02")):
                at = folder / corruption / str(severity) / name
                at.mkdir(parents=True)
                for n in range(images):
                    colour = np.array([40 * severity, 60 * c + 100 * label, 40 * n % 256], np.uint8)
                    image = np.broadcast_to(colour, (224, 224, 3))
                    (at / f"ILSVRC2012_val_{label:04d}{n:04d}.JPEG").write_bytes(jpeg(image))


def write_snapshot(folder: Path, names: list[str]) -> None:
    """Ray Train's list of the checkpoints in a folder, oldest first."""
    kept = [{"checkpoint_dir_name": name, "metrics": {}} for name in names]
    snapshot = {"ray_version": ray.__version__, "checkpoint_results": kept, "latest_checkpoint_result": kept[-1]}
    snapshot |= {"checkpoint_report_indices": list(range(len(names))), "current_report_index": len(names)}
    snapshot |= {f"pending_{what}": [] for what in ("training_results", "validation_specs")}
    outcomes = ("validated", "timed_out_validation", "failed_validation")
    snapshot |= {f"{outcome}_checkpoint_dir_names": [] for outcome in outcomes}
    (folder / SNAPSHOT).write_text(json.dumps(snapshot))


def write_video(path: Path, frames: np.ndarray) -> None:
    """An .mp4 of (T, H, W, 3) frames, in H.264 as ImageNet-P's."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as video:  # index first: a cut file still opens
        stream = video.add_stream("libx264", rate=30, options={"crf": "12"})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        for frame in frames:
            video.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        video.mux(stream.encode(None))


def image_tree(root: Path, counts: dict[str, int], *, suffix: str = ".jpg") -> None:
    """One folder per class with so many small JPEGs, each with other pixels."""
    images = iter(natural(sum(counts.values()), 24, 40))
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for n in range(count):
            (root / name / f"{n:03d}{suffix}").write_bytes(jpeg(next(images)))


def write_tar(path: Path, members: list[tuple[tarfile.TarInfo | str, bytes]]) -> None:
    """A tar file of named contents, or of headers that somebody has made up."""
    with tarfile.open(path, "w") as tar:
        for member, content in members:
            if isinstance(member, str):
                member = tarfile.TarInfo(member)
                member.size = len(content)
            tar.addfile(member, io.BytesIO(content) if member.size == len(content) else None)


def write_shards(folder: Path, split: str, *, shards: int, images: int, classes: int = 3) -> list[bytes]:
    """WebDataset shards with .jpg, .cls and .json members as timm writes them; returns the images in order."""
    folder.mkdir(parents=True, exist_ok=True)
    encoded = [jpeg(image) for image in natural(shards * images, 24, 40)]
    for shard in range(shards):
        rows = range(shard * images, (shard + 1) * images)
        members = []
        for n in rows:
            label = n % classes
            about = {"filename": f"n{label:02d}/n{label:02d}_{n}.JPEG", "label": label, "width": 40, "height": 24}
            members += [(f"n{label:02d}_{n}.cls", str(label).encode())]
            members += [(f"n{label:02d}_{n}.jpg", encoded[n]), (f"n{label:02d}_{n}.json", json.dumps(about).encode())]
        write_tar(folder / f"imagenet1k-{split}-{shard:04d}.tar", members)
    return encoded


def refusal(call) -> str:
    """The text of the ValueError that a call ends in, which is one line."""
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        call()
    assert "\n" not in str(refused.value)
    return str(refused.value)
