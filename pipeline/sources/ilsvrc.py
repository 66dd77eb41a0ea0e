"""ILSVRC's validation images in one flat folder: their labels stand in a file of their own, in one of three forms.

    LOC_val_solution.csv                      Kaggle's: `ImageId,PredictionString`, which begins with the wnid
    val.txt                                   Caffe's: `<file> <label>`, labels 0 .. 999 in the order of sorted wnids
    ILSVRC2012_validation_ground_truth.txt    the development kit's: one ILSVRC2012_ID an image, in the order of the
                                              images; meta.mat or map_clsloc.txt beside it says which wnid an ID is

ILSVRC2012_IDs are 1 .. 1000 and not in the order of the sorted wnids, which is that of labels everywhere else.
"""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from augmix_core.errors import missing_extra
from pipeline.sources.base import IMAGE_SUFFIXES, digest_of
from pipeline.sources.files import Place
from pipeline.sources.folder import FolderSource, rows_of
from pipeline.sources.index import Built, open_index

SOLUTION = "LOC_val_solution.csv"
LISTS = ("val.txt", "val_map.txt", "validation.txt")
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
MAPS = ("meta.mat", "map_clsloc.txt")
BESIDE = ("", "data", "devkit/data", "ILSVRC2012_devkit_t12/data", "ILSVRC/devkit/data")
"""Where those files lie below the folders that are looked into."""
NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})\.")


def label_file(root: Place, above: Sequence[Place]) -> Place | None:
    """The file that labels a flat folder: in it, or below one of the folders above it."""
    return first_file([root, *above], (SOLUTION, *LISTS, GROUND_TRUTH))


def first_file(folders: Sequence[Place], names: Sequence[str]) -> Place | None:
    """The first of some files that is there."""
    seen = dict.fromkeys(folder / below for folder in folders for below in BESIDE)
    for folder in (folder for folder in seen if folder.is_folder()):
        there = {entry.name for entry in folder.entries() if not entry.is_folder} & set(names)
        if there:
            return folder / min(there, key=names.index)
    return None


def open_flat(
    root: Place,
    labels_in: Place,
    class_names: tuple[str, ...] | None,
    *,
    name: str,
    index_folder: Path | None,
    rebuild: bool,
) -> FolderSource:
    """The images of one folder, labelled by a file.

    Args:
        class_names: of the training images; None takes those that the file names.
    Raises:
        ValueError: Images and labels are not one for one, or a label is unknown; says what was expected and found.
    """
    files = [entry.name for entry in root.entries() if entry.name.lower().endswith(IMAGE_SUFFIXES)]
    lists = [entry for entry in labels_in.parent.entries() if entry.name in (labels_in.name, *MAPS)]
    state = [digest_of("\n".join(files).encode()), [[entry.name, entry.size, entry.mtime_ns] for entry in lists]]

    def build() -> Built:
        by_file = names_by_file(labels_in, files, class_names)
        known = class_names or sorted_names(set(by_file))
        labels = {name: label for label, name in enumerate(known)}
        unknown = sorted(set(by_file) - labels.keys())
        if unknown:
            raise ValueError(
                f"{labels_in} names the class {unknown[0]!r}, which train/ has not ({len(unknown):,} such, "
                f"train/ has {len(known):,}); the classes of both must agree"
            )
        return Built(rows_of(root, files, [labels[name] for name in by_file]), state, {"class_names": known})

    index = open_index(
        index_folder,
        name,
        place=["flat", str(root), root.store, str(labels_in), class_names],
        current=lambda known: known == state,
        build=build,
        rebuild=rebuild,
    )
    return FolderSource(root, index, tuple(index.about["class_names"]), index.digest)


def sorted_names(names: set[str]) -> tuple[str, ...]:
    """Classes in the order of their labels: sorted names, or all numbers up to the largest."""
    if all(name.isdecimal() for name in names):
        return tuple(map(str, range(max(map(int, names)) + 1)))
    return tuple(sorted(names))


def names_by_file(labels_in: Place, files: list[str], class_names: tuple[str, ...] | None) -> list[str]:
    """The class name of every file."""
    if labels_in.name == GROUND_TRUTH:
        return by_ground_truth(labels_in, files)
    text = text_of(labels_in)
    if labels_in.name == SOLUTION:
        rows = [row for row in csv.reader(io.StringIO(text)) if row][1:]
        if any(len(row) < 2 or not row[1].split() for row in rows):
            raise ValueError(f"{labels_in} has a row without `ImageId,PredictionString`; download it again")
        pairs = {row[0]: row[1].split()[0] for row in rows}
        stems = [file.rpartition(".")[0] for file in files]
        return matched(labels_in, pairs, stems)
    words = [line.split() for line in text.splitlines() if line.strip()]
    wrong = next((n for n, parts in enumerate(words, start=1) if len(parts) != 2), 0)
    if wrong:
        raise ValueError(f"{labels_in} line {wrong} is not `<file> <label>`; correct it")
    pairs = {file.rpartition("/")[2]: label for file, label in words}
    return [name_of(labels_in, label, class_names) for label in matched(labels_in, pairs, files)]


def name_of(labels_in: Place, label: str, class_names: tuple[str, ...] | None) -> str:
    """A label as a class name: it is one, or counts from 0 in the order of the sorted names."""
    if class_names is None or label in class_names:
        return label
    if not label.isdecimal() or int(label) >= len(class_names):
        raise ValueError(
            f"{labels_in} has label {label!r}; labels must be from 0 to {len(class_names) - 1}, in the order of the "
            "sorted class names, or be such names"
        )
    return class_names[int(label)]


def matched(labels_in: Place, pairs: dict[str, str], files: list[str]) -> list[str]:
    """The label of every file, where files and labels are one for one."""
    without = [file for file in files if file not in pairs]
    if without or len(pairs) != len(files):
        detail = f"{without[0]} has none" if without else f"no image of {min(pairs.keys() - set(files))}"
        raise ValueError(
            f"{labels_in} labels {len(pairs):,} images and {len(files):,} are there ({detail}); "
            "copy images and labels again"
        )
    return [pairs[file] for file in files]


def by_ground_truth(labels_in: Place, files: list[str]) -> list[str]:
    """The wnids of the development kit's list, which is in the order of the images' numbers."""
    lines = text_of(labels_in).split()
    if len(lines) != len(files):
        raise ValueError(
            f"{labels_in} labels {len(lines):,} images and {len(files):,} are there; copy images and labels again"
        )
    found = [NUMBER.match(file) for file in files]
    numbers = [int(match[1]) for match in found if match]
    if sorted(numbers) != list(range(1, len(files) + 1)):
        raise ValueError(
            f"{labels_in} labels ILSVRC2012_val_00000001 to {len(files):08d}, and {len(files):,} images of other "
            "names are there; restore their names"
        )
    wnids = wnids_by_id(labels_in)
    unknown = [line for line in lines if not line.isdecimal() or int(line) not in wnids]
    if unknown:
        raise ValueError(f"{labels_in} has ID {unknown[0]!r}; IDs are from {min(wnids)} to {max(wnids)}")
    return [wnids[int(lines[number - 1])] for number in numbers]


def wnids_by_id(labels_in: Place) -> dict[int, str]:
    """The development kit's table of ILSVRC2012_IDs, of those that are classes."""
    table = first_file([labels_in.parent, labels_in.parent.parent], MAPS)
    if table is None:
        raise ValueError(
            f"{labels_in} holds ILSVRC2012_IDs, and {' or '.join(MAPS)} beside it must say which wnids they are; "
            "copy it there from the development kit's data/"
        )
    if table.name == "map_clsloc.txt":
        words = [line.split() for line in text_of(table).splitlines() if line.strip()]
        if any(len(parts) < 2 or not parts[1].isdecimal() for parts in words):
            raise ValueError(f"{table} has a line that is not `<wnid> <id> <name>`; copy it again")
        return {int(parts[1]): parts[0] for parts in words}
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ImportError as error:
        raise missing_extra("scipy", "score") from error
    try:
        content = loadmat(io.BytesIO(table.read()), squeeze_me=True, variable_names=["synsets"])
        synsets = np.atleast_1d(content["synsets"])
        leaves = synsets[synsets["num_children"].astype(np.int64) == 0]
        ids: NDArray[np.int64] = leaves["ILSVRC2012_ID"].astype(np.int64)
        return dict(zip(ids.tolist(), map(str, leaves["WNID"]), strict=True))
    except (MatReadError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{table} is not the development kit's meta.mat: {error}; copy it again") from error


def text_of(file: Place) -> str:
    """The text of a file."""
    try:
        return file.read().decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not a text file; copy it again") from error
