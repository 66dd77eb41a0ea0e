"""The published perturbation sequences: CIFAR-10-P and CIFAR-100-P (.npy), ImageNet-P (one video per image).

A sequence is (T, H, W, 3) uint8 RGB, T frames of one image; how often the prediction flips from frame to frame is
scored. Noise compares every frame with the first, other perturbations with the one before. The harder variants of
the noise are perturbations of their own: gaussian_noise_2, gaussian_noise_3.
Layouts: Hendrycks & Dietterich (2019).
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from augmix_core.errors import missing_extra
from pipeline.config import require
from pipeline.published import array_of, class_files, entries, grouped, open_classes, refuse_other_files
from pipeline.source import FolderSource, Source, digest_of, place_of
from pipeline.sources.arrays import ArrayFile, digest_of_rows, open_array

VIDEO_SUFFIXES = (".mp4",)


class SequenceSource(Protocol):
    """Labelled frame sequences by sample id 0 .. len - 1."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of the labels; none where there are no labels."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 of the index."""
        ...

    def __len__(self) -> int: ...

    def read(self, sample_ids: Sequence[int] | NDArray[np.int64]) -> tuple[list[NDArray[np.uint8]], NDArray[np.int64]]:
        """Return the sequences, (T, H, W, 3) uint8 RGB each, and their labels, -1 where there are none.

        Raises:
            ValueError: A sequence cannot be decoded; names its file.
        """
        ...

    def describe(self, sample_id: int) -> str:
        """Say where a sequence comes from."""
        ...


@dataclass(frozen=True)
class ArraySequences:
    """Sequences in the rows of an .npy file (N, T, H, W, 3)."""

    file: ArrayFile
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    digest: str

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, sample_ids: Sequence[int] | NDArray[np.int64]) -> tuple[list[NDArray[np.uint8]], NDArray[np.int64]]:
        """Sequences and labels."""
        ids = np.asarray(sample_ids, np.int64)
        return list(self.file.rows()[ids]), self.labels[ids]

    def describe(self, sample_id: int) -> str:
        """Where a sequence comes from."""
        return f"{self.file.path} row {sample_id}"


@dataclass(frozen=True)
class VideoSequences:
    """Sequences in one video file each."""

    files: FolderSource

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of the labels."""
        return self.files.class_names

    @property
    def digest(self) -> str:
        """SHA-256 of the index."""
        return self.files.digest

    def __len__(self) -> int:
        return len(self.files)

    def read(self, sample_ids: Sequence[int] | NDArray[np.int64]) -> tuple[list[NDArray[np.uint8]], NDArray[np.int64]]:
        """Sequences and labels."""
        ids = np.asarray(sample_ids, np.int64)
        return [decoded_video(self.describe(int(i))) for i in ids], self.files.labels[ids]

    def describe(self, sample_id: int) -> str:
        """Where a sequence comes from."""
        return self.files.describe(sample_id)


def open_sequences(folder: Path, names: Sequence[str], labels_of: Source | None = None) -> dict[str, SequenceSource]:
    """Return the sequences of every named perturbation of CIFAR-10-P, CIFAR-100-P or ImageNet-P.

    A sample id names the same image in every perturbation, and the same one as in `labels_of` where that holds the
    same images.

    Args:
        folder: holds `<perturbation>.npy`, or `[<group>/]<perturbation>/<class>/<image>.mp4`.
        labels_of: the clean test set; without it .npy files, which have none of their own, are labelled -1.
    Raises:
        ValueError: Something is missing, truncated or inconsistent; the text says what was expected and found.
        ImportError: There are videos and PyAV, of the [video] extra, is missing.
    """
    require(bool(names), "perturbations", names, "name at least one")
    if any(name.endswith(".npy") for name in entries(folder)):
        return array_sequences(folder, names, labels_of)
    return video_sequences(folder, names, labels_of)


def array_sequences(folder: Path, names: Sequence[str], clean: Source | None) -> dict[str, SequenceSource]:
    """CIFAR-10-P and CIFAR-100-P, in test-set order."""
    files = {name: open_array(array_of(folder, name), (None, 32, 32, 3)) for name in names}
    size = len(clean) if clean else files[names[0]].shape[0]
    whose = "the clean test set" if clean else files[names[0]].path
    for file in files.values():
        if file.shape[0] != size:
            raise ValueError(f"{file.path} has {file.shape[0]:,} sequences and {whose} {size:,}; download it again")
    labels = clean.labels if clean else np.full(size, -1, np.int64)
    class_names = clean.class_names if clean else ()
    return {
        name: ArraySequences(file, labels, class_names, digest_of_rows(file, 0, labels)) for name, file in files.items()
    }


def video_sequences(folder: Path, names: Sequence[str], clean: Source | None) -> dict[str, SequenceSource]:
    """ImageNet-P: every perturbation holds a video of the same images; all share one index."""
    roots = {name: grouped(folder, name) for name in names}
    import_av()
    first = roots[names[0]]
    index, files = open_classes(first, clean, VIDEO_SUFFIXES)
    for root in roots.values():
        for name, found in class_files(root, index.class_names, VIDEO_SUFFIXES).items():
            refuse_other_files(root / name, found, first / name, files[name])
    return {
        name: VideoSequences(
            dataclasses.replace(index, root=place_of(root), digest=digest_of(index.digest.encode(), name.encode()))
        )
        for name, root in roots.items()
    }


def decoded_video(path: str) -> NDArray[np.uint8]:
    """(T, H, W, 3) uint8 RGB, all frames of a video.

    Raises:
        ValueError: It cannot be decoded, or ends before the number of frames it declares.
    """
    av = import_av()
    try:
        with av.open(path) as video:
            stream = video.streams.video[0]
            stream.codec_context.thread_count = 1  # many videos are decoded side by side
            declared = stream.frames
            frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(stream)]
    except (av.FFmpegError, IndexError, OSError) as error:
        reason = getattr(error, "strerror", "it has no pictures")
        raise ValueError(f"{path} is not a readable video: {reason}") from error
    if not frames or len(frames) < declared:
        raise ValueError(f"{path} declares {declared} frames and {len(frames)} can be decoded")
    return np.stack(frames)


def import_av() -> ModuleType:
    """PyAV, or the error that names the extra."""
    try:
        import av
    except ImportError as error:
        raise missing_extra("av", "video") from error
    return av
