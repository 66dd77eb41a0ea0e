"""The published robustness test sets, read where they lie: -C, -R, -A, V2, Sketch, CIFAR-10.1, and sets without labels.

Whatever is missing, truncated or inconsistent is refused at opening, before anything starts. An opened set holds
paths, sizes and labels only: the cells of a corruption set share one index (pickle them together), and the rows of
an .npy file are mapped when they are read, in the process that reads them.
Layouts: Hendrycks & Dietterich (2019) for -C; Hendrycks et al. (2020, 2021) for -R and -A; Recht et al. (2018, 2019)
for CIFAR-10.1 and V2; Wang et al. (2019) for Sketch.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from augmix_core.errors import did_you_mean
from pipeline.config import check_severities, require
from pipeline.source import IMAGE_SUFFIXES, FolderSource, Source, class_folders, digest_of, held, place_of
from pipeline.sources.arrays import ArrayFileSource, check_range, digest_of_rows, open_array, read_labels

PROTOCOL = "published files, not resized"
"""How the images of a corruption set are used: as they are, at most cut to the centre."""
GROUPS = ("blur", "digital", "noise", "weather", "extra")
"""Folders that ImageNet-C's archives put their corruptions in; many copies have lost them."""
SEVERITIES = 5
CIFAR_SHAPE = (32, 32, 3)
LISTING_THREADS = 8  # a folder on a network file system answers in milliseconds, and a full ImageNet-C has 95,000
NAMES_IN_AN_ERROR = 40

SHIFT_SETS = {
    "imagenet_r": ("ImageNet-R", 30_000),
    "imagenet_a": ("ImageNet-A", 7_500),
    "imagenet_v2": ("ImageNet-V2", 10_000),
    "imagenet_sketch": ("ImageNet-Sketch", 50_889),
    "cifar10_1": ("CIFAR-10.1", 2_000),
}
"""Title, and number of images as published."""
CLASSES_OF_R_AND_A = 200  # not the same 200


@dataclass(frozen=True)
class ShiftSet:
    """Another test set of classes that the network knows."""

    source: Source
    """Its labels are indices into the class names of the network."""
    class_mask: NDArray[np.int64] | None
    """The classes that logits are restricted to, ascending; None means all."""
    protocol: str
    """What was scored, for the report; says NOT COMPARABLE where the set is not as published."""


def open_corruption_set(
    folder: Path, *, corruptions: Sequence[str], severities: Sequence[int], labels_of: Source | None
) -> dict[tuple[str, int], Source]:
    """Return the images of every (corruption, severity) of CIFAR-10-C, CIFAR-100-C, ImageNet-C or Tiny-ImageNet-C.

    A sample id names the same image in every cell, and where `paired` says so the same one as in `labels_of`.

    Args:
        folder: holds `<corruption>.npy` and labels.npy, or `[<group>/]<corruption>/<severity>/<class>/<image>`.
        labels_of: the clean test set, whose labels or class names must agree.
    Raises:
        ValueError: Something is missing, truncated or inconsistent; the text says what was expected and found.
    """
    require(bool(corruptions), "corruptions", corruptions, "name at least one")
    check_severities("severities", tuple(severities))
    if any(name.endswith(".npy") for name in entries(folder)):
        return array_cells(folder, corruptions, severities, labels_of)
    return folder_cells(folder, corruptions, severities, labels_of)


def paired(source: Source, clean: Source) -> bool:
    """Return whether a sample id names the same image in both: a subset or a set made of other images does not pair."""
    if isinstance(source, FolderSource):
        return isinstance(clean, FolderSource) and image_names(source) == image_names(clean)
    return len(source) == len(clean)  # an array's labels were compared at opening


def array_cells(
    folder: Path, corruptions: Sequence[str], severities: Sequence[int], clean: Source | None
) -> dict[tuple[str, int], Source]:
    """CIFAR-10-C and CIFAR-100-C: N images per severity, one severity after the other, each in test-set order."""
    labels, class_names = repeated_labels(folder / "labels.npy", clean)
    size = len(labels)
    cells: dict[tuple[str, int], Source] = {}
    for corruption in corruptions:
        file = open_array(array_of(folder, corruption), CIFAR_SHAPE)
        if file.shape[0] != SEVERITIES * size:
            raise ValueError(
                f"{file.path} has {file.shape[0]:,} images and labels.npy {SEVERITIES * size:,} labels "
                f"({SEVERITIES} severities of {size:,}); download it again"
            )
        for severity in severities:
            first = size * (severity - 1)
            digest = digest_of_rows(file, first, labels)
            cells[corruption, severity] = ArrayFileSource(file, first, labels, class_names, digest)
    return cells


def repeated_labels(path: Path, clean: Source | None) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """The labels of one severity, checked to stand in the file five times, and the class names."""
    labels = read_labels(path)
    if not len(labels) or len(labels) % SEVERITIES:
        raise ValueError(f"{path} has {len(labels):,} labels; it holds those of the test set {SEVERITIES} times over")
    size = len(labels) // SEVERITIES
    differ = np.flatnonzero(labels != np.tile(labels[:size], SEVERITIES))
    if len(differ):
        row, same = differ[0], differ[0] % size
        raise ValueError(
            f"{path} row {row} has label {labels[row]} and row {same}, of the same image, {labels[same]}; "
            f"it holds the test set's {size:,} labels {SEVERITIES} times over: download it again"
        )
    labels = labels[:size]
    classes = len(clean.class_names) if clean else 10 if labels.max() < 10 else 100
    check_range(path, labels, classes)
    if not clean:
        return labels, tuple(map(str, range(classes)))
    if len(clean) != size:
        raise ValueError(
            f"{path} labels {size:,} images and the clean test set has {len(clean):,}; use its own test set"
        )
    expected = clean.labels
    differ = np.flatnonzero(labels != expected)
    if len(differ):
        raise ValueError(
            f"{path} row {differ[0]} has label {labels[differ[0]]} and the clean test set {expected[differ[0]]} "
            f"({len(differ):,} differ); use the test set that it was made of, in its order"
        )
    return labels, clean.class_names


def folder_cells(
    folder: Path, corruptions: Sequence[str], severities: Sequence[int], clean: Source | None
) -> dict[tuple[str, int], Source]:
    """ImageNet-C and Tiny-ImageNet-C: every cell holds the same files in the same class folders."""
    roots = {(name, s): severity_folder(grouped(folder, name), s) for name in corruptions for s in severities}
    first = next(iter(roots.values()))
    index, files = open_classes(first, clean)

    def check(root: Path) -> None:
        for name, found in class_files(root, index.class_names, IMAGE_SUFFIXES).items():
            refuse_other_files(root / name, found, first / name, files[name])

    with ThreadPoolExecutor(LISTING_THREADS) as pool:
        list(pool.map(check, list(roots.values())[1:]))
    digests = {cell: digest_of(index.digest.encode(), repr(cell).encode()) for cell in roots}
    return {cell: dataclasses.replace(index, root=place_of(root), digest=digests[cell]) for cell, root in roots.items()}


def open_shift_set(kind: str, folder: Path, class_names: tuple[str, ...]) -> ShiftSet:
    """Return ImageNet-R, -A, -V2, -Sketch or CIFAR-10.1, labelled by the classes of the network.

    Args:
        kind: a key of SHIFT_SETS.
        class_names: the network's, in the order of its logits: sorted wnids, or CIFAR-10's ten.
    Raises:
        ValueError: Something is missing, truncated or inconsistent; the text says what was expected and found.
    """
    if kind not in SHIFT_SETS:
        raise ValueError(f"test set {kind!r} is unknown; {did_you_mean(kind, SHIFT_SETS)}")
    title, images = SHIFT_SETS[kind]
    entries(folder)
    if kind == "cifar10_1":
        return open_cifar10_1(folder, class_names)
    mask = None
    if kind == "imagenet_v2":
        labels = {str(label): label for label in range(len(class_names))}
        title = f"{title} ({folder.name})"  # three sets were published, and accuracy differs by their choice of images
    elif kind == "imagenet_sketch":
        labels = {name: label for label, name in enumerate(class_names)}
    else:
        labels = known_classes(folder, class_names)
        mask = np.fromiter(labels.values(), np.int64)
    source = folder_source(folder, class_files(folder, tuple(labels), IMAGE_SUFFIXES), labels, class_names)
    protocol = f"{title}, {len(source):,} images"
    if mask is not None:
        protocol += f", logits restricted to its {len(mask)} classes"
    if len(source) != images or (mask is not None and len(mask) != CLASSES_OF_R_AND_A):
        of = "" if mask is None else f" of {CLASSES_OF_R_AND_A} classes"
        protocol += f"; NOT COMPARABLE: the published set has {images:,} images{of}"
    return ShiftSet(source, mask, protocol)


def known_classes(folder: Path, class_names: tuple[str, ...]) -> dict[str, int]:
    """The labels of the class folders of a subset, in the order of the network's classes."""
    labels = {name: label for label, name in enumerate(class_names)}
    found = class_folders(folder)
    unknown = [name for name in found if name not in labels]
    if unknown:
        raise ValueError(
            f"{folder} has the class folder {unknown[0]!r}, none of the network's {len(class_names):,} classes "
            f"({class_names[0]!r}, ...); {len(unknown)} of {len(found)} folders are unknown"
        )
    return {name: labels[name] for name in sorted(found, key=labels.__getitem__)}


def open_cifar10_1(folder: Path, class_names: tuple[str, ...]) -> ShiftSet:
    """CIFAR-10.1: version 6 (2,000 images, the standard), else version 4 (2,021)."""
    version = next((v for v in ("v6", "v4") if (folder / f"cifar10.1_{v}_data.npy").is_file()), None)
    if version is None:
        raise ValueError(
            f"{folder} has no cifar10.1_v6_data.npy (nor the older cifar10.1_v4_data.npy); "
            f"found: {', '.join(entries(folder)[:5])}"
        )
    file = open_array(folder / f"cifar10.1_{version}_data.npy", CIFAR_SHAPE)
    path = folder / f"cifar10.1_{version}_labels.npy"
    labels = read_labels(path)
    if len(labels) != file.shape[0]:
        raise ValueError(f"{path} has {len(labels):,} labels and {file.path} {file.shape[0]:,} images")
    check_range(path, labels, len(class_names))
    title, images = SHIFT_SETS["cifar10_1"]
    protocol = f"{title} {version}, {len(labels):,} images"
    if (version, len(labels)) != ("v6", images):
        protocol += f"; NOT COMPARABLE: the standard is v6 with {images:,} images"
    source = ArrayFileSource(file, 0, labels, class_names, digest_of_rows(file, 0, labels))
    return ShiftSet(source, None, protocol)


def open_unlabelled(path: Path) -> Source:
    """Images of none of the network's classes, all labelled -1: a folder of them at any depth, or one .npy file.

    Raises:
        ValueError: There is no image, or the file is not uint8 (N, H, W, 3).
    """
    if path.suffix == ".npy":
        file = open_array(path, (None, None, 3))
        labels = np.full(file.shape[0], -1, np.int64)
        return ArrayFileSource(file, 0, labels, (), digest_of_rows(file, 0, labels))
    entries(path)
    files = [
        os.path.relpath(os.path.join(at, name), path)
        for at, _, names in os.walk(path)
        for name in names
        if name.lower().endswith(IMAGE_SUFFIXES)
    ]
    if not files:
        raise ValueError(f"{path} holds no image ({', '.join(IMAGE_SUFFIXES)})")
    return folder_source(path, {"": sorted(files)}, {"": -1}, ())


def open_classes(
    root: Path, clean: Source | None, suffixes: tuple[str, ...] = IMAGE_SUFFIXES
) -> tuple[FolderSource, dict[str, list[str]]]:
    """The index of one class folder each, in the clean set's order if that holds the same images, and its files."""
    class_names = clean.class_names if clean else class_folders(root)
    files = class_files(root, class_names, suffixes)
    labels = {name: label for label, name in enumerate(class_names)}
    return in_order_of(folder_source(root, files, labels, class_names), clean), files


def in_order_of(source: FolderSource, clean: Source | None) -> FolderSource:
    """The source numbered as the clean set numbers the same images; as it is where the two do not hold the same."""
    if not isinstance(clean, FolderSource) or len(clean) != len(source):
        return source
    own = {name: sample_id for sample_id, name in enumerate(image_names(source))}
    names = image_names(clean)
    if set(names) != own.keys():
        return source
    order = np.asarray([own[name] for name in names], np.int64)
    return source.taken(order)


def image_names(source: FolderSource) -> list[str]:
    """`<class>/<file stem>` by sample id: the same for one image wherever it was copied, corrupted or renamed .png."""
    classes = [source.class_names[label] for label in source.labels.tolist()]
    stems = (Path(path).stem for path in source.paths.to_pylist())
    return [f"{name}/{stem}" for name, stem in zip(classes, stems, strict=True)]


def folder_source(
    root: Path, files: Mapping[str, Sequence[str]], labels: Mapping[str, int], class_names: tuple[str, ...]
) -> FolderSource:
    """The index of listed files, class after class."""
    paths = [f"{name}/{file}" if name else file for name, inside in files.items() for file in inside]
    if not paths:
        raise ValueError(f"{root} has {len(files):,} class folders and no file of the expected kind in them")
    by_file = np.repeat([labels[name] for name in files], [len(inside) for inside in files.values()]).astype(np.int64)
    digest = digest_of("\n".join(paths).encode(), by_file.tobytes())
    return FolderSource(place_of(root), held(path=paths, label=by_file), class_names, digest)


def class_files(root: Path, class_names: tuple[str, ...], suffixes: tuple[str, ...]) -> dict[str, list[str]]:
    """The sorted file names in each class folder, of which there must be exactly the expected ones."""
    found = class_folders(root)
    missing, unknown = (
        sorted(set(a) - set(b), key=lambda name: (len(name), name))
        for a, b in ((class_names, found), (found, class_names))
    )
    if missing or unknown:
        detail = [f"{missing[0]!r} is missing"] if missing else []
        detail += [f"{unknown[0]!r} is none of them"] if unknown else []
        raise ValueError(
            f"{root} has {len(found):,} class folders and {len(class_names):,} are expected: {', '.join(detail)}; "
            "unpack it again, or set the folder to where the class folders lie"
        )
    return {
        name: sorted(file for file in os.listdir(root / name) if file.lower().endswith(suffixes))
        for name in class_names
    }


def refuse_other_files(folder: Path, found: list[str], first: Path, expected: list[str]) -> None:
    """Refuse a class folder whose files are not those of the first cell."""
    if found != expected:
        which = min(set(found) ^ set(expected))
        here, there = ("has", "has not") if which in found else ("has not", "has")
        raise ValueError(
            f"{folder} has {len(found):,} files and {first} {len(expected):,}: the one {here} {which}, "
            f"the other {there}; all hold the same images: unpack them again"
        )


def grouped(folder: Path, name: str) -> Path:
    """`<name>` or `<group>/<name>`; refused where both or none is there."""
    groups = [folder / group for group in GROUPS if (folder / group).is_dir()]
    found = [at / name for at in (folder, *groups) if (at / name).is_dir()]
    if not found:
        below = [entry for at in (folder, *groups) for entry in sorted(at.iterdir()) if entry.is_dir()]
        refuse_missing(folder, name, [entry.name for entry in below if entry not in groups])
    if len(found) > 1:
        raise ValueError(f"{found[0]} and {found[1]} are both there; keep the one that is to be scored")
    return found[0]


def severity_folder(folder: Path, severity: int) -> Path:
    """`<folder>/<severity>`."""
    if not (folder / str(severity)).is_dir():
        found = ", ".join(sorted(os.listdir(folder))[:NAMES_IN_AN_ERROR]) or "nothing"
        raise ValueError(f"{folder} has no folder {severity}, of that severity (found: {found}); unpack it again")
    return folder / str(severity)


def array_of(folder: Path, name: str) -> Path:
    """`<folder>/<name>.npy`."""
    path = folder / f"{name}.npy"
    if not path.is_file():
        refuse_missing(folder, name, sorted(file.stem for file in folder.glob("*.npy") if file.stem != "labels"))
    return path


def refuse_missing(folder: Path, name: str, there: Sequence[str]) -> NoReturn:
    """Refuse a corruption or perturbation that is not there."""
    remedy = (
        did_you_mean(name, there[:NAMES_IN_AN_ERROR]) if there else "nor any other; unpack the published files there"
    )
    raise ValueError(f"{folder} has no {name!r}; {remedy}")


def entries(folder: Path) -> list[str]:
    """The sorted names in a folder, of which there must be some."""
    if not folder.is_dir():
        raise ValueError(f"{str(folder)!r} is not a folder on this machine; mount it or correct the path")
    names = sorted(os.listdir(folder))
    if not names:
        raise ValueError(f"{folder} is empty; unpack the published files into it, or correct the path")
    return names
