"""Small data sets in their true layouts."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.conftest import natural

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


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
