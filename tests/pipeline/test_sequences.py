"""Published perturbation sequences, read back from arrays and videos."""

import builtins
import pickle
import tracemalloc

import numpy as np
import pytest

from augmix_core.errors import MissingExtraError
from pipeline.sequences import open_sequences
from pipeline.source import open_folder
from tests.conftest import natural
from tests.pipeline.fixtures import jpeg, write_video
from tests.pipeline.test_published import cifar, refused, sparse_npy

NOISE = ("gaussian_noise", "gaussian_noise_2", "gaussian_noise_3")


@pytest.fixture
def arrays(tmp_path):
    """CIFAR-10-P with ten images and three frames."""
    rng = np.random.default_rng(0)
    pixels = {name: rng.integers(0, 256, (10, 3, 32, 32, 3), np.uint8) for name in NOISE}
    for name, rows in pixels.items():
        np.save(tmp_path / f"{name}.npy", rows)
    return tmp_path, pixels


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """ImageNet-P with two classes of one video each and 31 frames: tilt moves from red to green, rotate is blue."""
    pytest.importorskip("av", reason="PyAV is not installed: pip install 'augmix-ray[video]'")
    folder = tmp_path_factory.mktemp("imagenet-p")
    for n, name in enumerate(("n01", "n02")):
        frames = np.zeros((31, 224, 224, 3), np.uint8)
        frames[:, :, :, 0] = np.linspace(255, 0, 31).astype(np.uint8)[:, None, None]
        frames[:, :, :, 1] = np.linspace(0, 255, 31).astype(np.uint8)[:, None, None]
        write_video(folder / "tilt" / name / f"{n}.mp4", frames)
        write_video(folder / "rotate" / name / f"{n}.mp4", np.full((31, 224, 224, 3), (0, 0, 200 + n), np.uint8))
    return folder


def test_an_array_sequence_is_read_back_exactly_under_every_difficulty(arrays):
    folder, pixels = arrays
    opened = open_sequences(folder, NOISE, cifar())
    assert tuple(opened) == NOISE
    for name, source in opened.items():
        sequences, labels = source.read([9, 2])
        assert (len(source), labels.tolist()) == (10, [9, 2])
        assert (sequences[0] == pixels[name][9]).all() and (sequences[1] == pixels[name][2]).all()
        assert type(sequences[0]) is np.ndarray
    assert len({source.digest for source in opened.values()}) == 3


def test_arrays_need_no_labels(arrays):
    source = open_sequences(arrays[0], NOISE[:1])[NOISE[0]]
    assert source.read([3])[1].tolist() == [-1] and source.class_names == ()


def test_a_pickled_source_reads_the_same(arrays):
    folder, pixels = arrays
    source = pickle.loads(pickle.dumps(open_sequences(folder, NOISE)))["gaussian_noise_2"]
    assert (source.read([4])[0][0] == pixels["gaussian_noise_2"][4]).all()


def test_opening_and_reading_a_sequence_does_not_load_the_file(tmp_path):
    shape = (10_000, 41, 32, 32, 3)  # 1.2 GiB
    sparse_npy(tmp_path / "translate.npy", shape)
    tracemalloc.start()
    try:
        (sequence,), _ = open_sequences(tmp_path, ["translate"])["translate"].read([9_999])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sequence.shape == shape[1:] and peak < 4 * 2**20


def test_a_video_is_decoded_to_all_its_frames_in_rgb(videos):
    opened = open_sequences(videos, ["tilt", "rotate"])
    (first, second), labels = opened["tilt"].read([0, 1])
    assert first.shape == second.shape == (31, 224, 224, 3) and first.dtype == np.uint8
    assert labels.tolist() == [0, 1] and opened["tilt"].class_names == ("n01", "n02")
    expected = np.stack([np.linspace(255, 0, 31), np.linspace(0, 255, 31), np.zeros(31)], axis=-1)
    assert np.abs(first.mean(axis=(1, 2)) - expected).max() < 6
    (blue,), _ = opened["rotate"].read([1])
    assert np.abs(blue.mean(axis=(0, 1, 2)) - (0, 0, 201)).max() < 6


def test_a_video_of_a_photograph_is_near_its_frames(tmp_path):
    pytest.importorskip("av", reason="PyAV is not installed: pip install 'augmix-ray[video]'")
    smooth = np.repeat(np.repeat(natural(5, 28, 28), 8, axis=1), 8, axis=2)
    write_video(tmp_path / "scale" / "n01" / "0.mp4", smooth)
    (frames,), _ = open_sequences(tmp_path, ["scale"])["scale"].read([0])
    assert np.abs(frames.astype(int) - smooth).mean() < 6  # colour at half resolution, and H.264's loss


def test_all_perturbations_share_one_index_in_the_clean_order(videos, tmp_path):
    for name, stem in (("n01", "0"), ("n02", "1")):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{stem}.JPEG").write_bytes(jpeg(natural(1, 40, 60)[0]))
    clean = open_folder(tmp_path, ("n02", "n01"))
    opened = open_sequences(videos, ["tilt", "rotate"], clean)
    assert opened["tilt"].files.index is opened["rotate"].files.index
    assert opened["tilt"].read([0])[1].tolist() == [0] and opened["tilt"].describe(0).endswith("tilt/n02/1.mp4")
    assert len(pickle.loads(pickle.dumps(opened))["rotate"].read([1])[0][0]) == 31


def test_a_video_that_cannot_be_decoded_is_an_error_with_its_path(videos, tmp_path):
    whole = (videos / "tilt" / "n01" / "0.mp4").read_bytes()
    path = tmp_path / "tilt" / "n01" / "0.mp4"
    path.parent.mkdir(parents=True)
    for content in (b"", b"no video", whole[: len(whole) // 2]):
        path.write_bytes(content)
        source = open_sequences(tmp_path, ["tilt"])["tilt"]
        refused(lambda source=source: source.read([0]), str(path))
    path.unlink()
    refused(lambda: source.read([0]), str(path))


def test_a_video_cut_between_two_frames_is_an_error_and_not_a_shorter_sequence(tmp_path):
    av = pytest.importorskip("av", reason="PyAV is not installed: pip install 'augmix-ray[video]'")
    path = tmp_path / "tilt" / "n01" / "0.mp4"
    write_video(path, natural(31, 64, 64))
    with av.open(str(path)) as video:
        ends = [packet.pos + packet.size for packet in video.demux(video=0) if packet.size]
    path.write_bytes(path.read_bytes()[: ends[9]])
    source = open_sequences(tmp_path, ["tilt"])["tilt"]
    refused(lambda: source.read([0]), "declares 31 frames and 10 can be decoded")


def test_without_pyav_videos_name_the_extra_and_arrays_open(arrays, tmp_path, monkeypatch):
    real = builtins.__import__

    def without_av(name, *args, **kwargs):
        if name == "av":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_av)
    assert open_sequences(arrays[0], NOISE[:1])
    (tmp_path / "p" / "tilt" / "n01").mkdir(parents=True)
    with pytest.raises(MissingExtraError, match=r"av is not installed.*augmix-ray\[video\]"):
        open_sequences(tmp_path / "p", ["tilt"])


class TestRefusals:
    """Each is a ValueError of one line that says what was expected and what was found."""

    def test_a_missing_perturbation(self, arrays, videos):
        refused(lambda: open_sequences(arrays[0], ["gaussian_noise_4"]), "did you mean 'gaussian_noise_")
        refused(lambda: open_sequences(videos, ["tilted"]), "no 'tilted'", "did you mean 'tilt'?")
        refused(lambda: open_sequences(videos, []), "name at least one")

    def test_another_number_of_images(self, arrays):
        folder, pixels = arrays
        refused(lambda: open_sequences(folder, NOISE, cifar(12)), "has 10 sequences and the clean test set 12")
        np.save(folder / "gaussian_noise_2.npy", pixels["gaussian_noise_2"][:9])
        refused(lambda: open_sequences(folder, NOISE), "gaussian_noise_2.npy has 9 sequences", "gaussian_noise.npy 10")

    def test_single_images_instead_of_sequences(self, arrays):
        folder, pixels = arrays
        np.save(folder / "tilt.npy", pixels["gaussian_noise"][:, 0])
        refused(lambda: open_sequences(folder, ["tilt"]), "(10, 32, 32, 3)", "uint8 (images, any, 32, 32, 3)")

    def test_a_class_or_a_video_too_few(self, videos, tmp_path):
        for name in ("n01", "n02", "n03"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "0.JPEG").write_bytes(b"")
        clean = open_folder(tmp_path, ("n01", "n02", "n03"))
        refused(lambda: open_sequences(videos, ["tilt"], clean), "2 class folders and 3", "'n03' is missing")
        for path in ("tilt/n01/0.mp4", "tilt/n01/1.mp4", "scale/n01/0.mp4"):
            (tmp_path / "p" / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "p" / path).touch()
        refused(lambda: open_sequences(tmp_path / "p", ["tilt", "scale"]), "1 files", "2", "has not 1.mp4")
