"""The published test sets in their true layouts, read back exactly, and what is refused at opening."""

import pickle
import shutil
import tracemalloc

import numpy as np
import pytest

from pipeline.published import SHIFT_SETS, open_corruption_set, open_shift_set, open_unlabelled, paired
from pipeline.source import ArraySource, open_folder
from tests.conftest import natural
from tests.pipeline.fixtures import CLASSES, jpeg, write_cifar_c, write_imagenet_c

C = ("fog", "snow")


def refused(call, *parts):
    """The message of a ValueError of one line, in which every part stands."""
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        call()
    message = str(refusal.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


def cifar(size=10, classes=CLASSES):
    """A clean test set labelled 0 1 2 ... 9 0 ..."""
    labels = np.arange(size, dtype=np.int64) % 10
    return ArraySource("clean", np.zeros((size, 32, 32, 3), np.uint8), labels, tuple(classes), "d")


def opened(folder, clean=None, corruptions=C, severities=(1, 3, 5)):
    return open_corruption_set(folder, corruptions=corruptions, severities=severities, labels_of=clean)


def sparse_npy(path, shape):
    """A file of zeros that takes no room on the disk."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        file.truncate(file.tell() + int(np.prod(shape, dtype=np.int64)))


def files_below(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


class TestArrays:
    """CIFAR-10-C and CIFAR-100-C."""

    def test_a_cell_holds_the_rows_of_its_severity(self, tmp_path):
        pixels = write_cifar_c(tmp_path, C)
        cells = opened(tmp_path, cifar())
        assert list(cells) == [(name, s) for name in C for s in (1, 3, 5)]
        for (name, severity), cell in cells.items():
            images, labels = cell.read([9, 0, 4])
            assert len(cell) == 10 and labels.tolist() == [9, 0, 4]
            assert all((images[n] == pixels[name][10 * (severity - 1) + i]).all() for n, i in enumerate((9, 0, 4)))
            assert all(type(image) is np.ndarray for image in images)
        assert paired(cells["fog", 1], cifar()) and not paired(cells["fog", 1], cifar(12))
        assert cells["snow", 3].describe(4) == f"{tmp_path / 'snow.npy'} row 24"

    def test_a_sample_id_beyond_the_severity_is_an_error_and_not_the_next_severity(self, tmp_path):
        write_cifar_c(tmp_path, C)
        with pytest.raises(IndexError):
            opened(tmp_path)["fog", 1].read([10])

    def test_class_names_are_the_clean_sets_or_else_numbers(self, tmp_path):
        write_cifar_c(tmp_path, C)
        assert opened(tmp_path, cifar())["fog", 1].class_names == CLASSES
        assert opened(tmp_path)["fog", 1].class_names == tuple("0123456789")
        np.save(tmp_path / "labels.npy", np.tile(np.arange(10) * 11, 5))
        assert len(opened(tmp_path)["fog", 1].class_names) == 100

    def test_a_pickled_cell_is_small_and_reads_the_same(self, tmp_path):
        pixels = write_cifar_c(tmp_path, C, size=200)
        packed = pickle.dumps(opened(tmp_path)["fog", 5])
        assert len(packed) < 4000  # an image alone is 3,072 bytes
        assert (pickle.loads(packed).read([7])[0][0] == pixels["fog"][807]).all()

    def test_opening_and_reading_a_row_does_not_load_the_file(self, tmp_path):
        size = 100_000
        sparse_npy(tmp_path / "fog.npy", (5 * size, 32, 32, 3))
        np.save(tmp_path / "labels.npy", np.zeros(5 * size, np.uint8))
        tracemalloc.start()
        try:
            cell = opened(tmp_path, corruptions=("fog",), severities=(5,))["fog", 5]
            assert not cell.read([size - 1])[0][0].any()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < (tmp_path / "fog.npy").stat().st_size // 40

    def test_digests_tell_cells_and_remade_files_apart(self, tmp_path):
        write_cifar_c(tmp_path, C)
        before, again = opened(tmp_path), opened(tmp_path)
        rows = np.load(tmp_path / "fog.npy")
        rows[0] ^= 1
        np.save(tmp_path / "fog.npy", rows)
        after = opened(tmp_path)
        assert len({cell.digest for cell in before.values()}) == 6
        assert [before[key].digest == again[key].digest for key in before] == [True] * 6
        assert [before[key].digest == after[key].digest for key in before] == [False] + [True] * 5


class TestFolders:
    """ImageNet-C and Tiny-ImageNet-C."""

    def test_a_cell_holds_the_bytes_of_its_files(self, tmp_path):
        write_imagenet_c(tmp_path, C)
        cells = opened(tmp_path)
        for (name, severity), cell in cells.items():
            images, labels = cell.read([5, 0])
            assert (len(cell), labels.tolist(), cell.class_names) == (6, [1, 0], ("n01", "n02"))
            root = tmp_path / name / str(severity)
            assert images[0] == (root / "n02" / "ILSVRC2012_val_00010002.JPEG").read_bytes()
            assert images[1] == (root / "n01" / "ILSVRC2012_val_00000000.JPEG").read_bytes()
        assert len({cell.digest for cell in cells.values()}) == 6

    def test_the_archives_groups_change_nothing(self, tmp_path):
        write_imagenet_c(tmp_path / "flat", C)
        write_imagenet_c(tmp_path / "grouped", ("weather/fog", "weather/snow"))
        flat, grouped = opened(tmp_path / "flat"), opened(tmp_path / "grouped")
        ids = np.arange(6)
        for key in flat:
            assert flat[key].digest == grouped[key].digest
            assert flat[key].read(ids)[0] == grouped[key].read(ids)[0]

    def test_all_cells_share_one_index(self, tmp_path):
        write_imagenet_c(tmp_path, C, images=30)
        cells = opened(tmp_path)
        first = cells["fog", 1]
        assert all(cell.index is first.index for cell in cells.values())
        one = len(pickle.dumps(first, protocol=5))
        assert len(pickle.dumps(cells, protocol=5)) < one + 400 * len(cells) < 2 * one
        again = pickle.loads(pickle.dumps(cells))
        assert again["snow", 5].read([7])[0] == cells["snow", 5].read([7])[0]

    def test_sample_ids_are_those_of_the_clean_set_where_it_holds_the_same_images(self, tmp_path):
        write_imagenet_c(tmp_path / "c", C)
        for name in ("n01", "n02"):
            shutil.copytree(tmp_path / "c" / "fog" / "1" / name, tmp_path / "val" / name)
        first = tmp_path / "val" / "n01" / "ILSVRC2012_val_00000000.JPEG"
        first.rename(first.with_suffix(".png"))  # still the same image
        clean = open_folder(tmp_path / "val", ("n01", "n02"))
        cells = opened(tmp_path / "c", clean)
        assert all(paired(cell, clean) for cell in cells.values())
        assert [cells["fog", 1].read([i])[0] for i in range(6)] == [clean.read([i])[0] for i in range(6)]

    def test_the_clean_order_is_followed_even_where_it_is_not_sorted(self, tmp_path):
        write_imagenet_c(tmp_path / "c", C)
        shutil.copytree(tmp_path / "c" / "fog" / "1", tmp_path / "val")
        clean = open_folder(tmp_path / "val", ("n02", "n01"))
        order = np.array([4, 1, 5, 0, 3, 2])
        clean = clean.taken(order)
        cell = opened(tmp_path / "c", clean)["fog", 1]
        assert cell.class_names == ("n02", "n01") and paired(cell, clean)
        images, labels = cell.read(range(6))
        assert images == clean.read(range(6))[0]
        assert labels.tolist() == [1, 0, 1, 0, 1, 0]

    def test_a_subset_and_other_images_keep_their_own_ids_and_do_not_pair(self, tmp_path):
        write_imagenet_c(tmp_path / "c", C)
        shutil.copytree(tmp_path / "c" / "fog" / "1", tmp_path / "val")
        full = open_folder(tmp_path / "val", ("n01", "n02"))
        (tmp_path / "val" / "n01" / "ILSVRC2012_val_00000000.JPEG").rename(tmp_path / "val" / "n01" / "test_1.JPEG")
        renamed = open_folder(tmp_path / "val", ("n01", "n02"))
        (tmp_path / "val" / "n01" / "extra.JPEG").write_bytes(b"")
        larger = open_folder(tmp_path / "val", ("n01", "n02"))
        own = opened(tmp_path / "c")["fog", 1]
        for clean, pairs in ((full, True), (renamed, False), (larger, False)):
            cell = opened(tmp_path / "c", clean)["fog", 1]
            assert paired(cell, clean) is pairs
            assert (cell.paths == own.paths) and len(cell) == 6


class TestShifts:
    """Other test sets of the same classes."""

    NAMES = tuple(f"n{i:02d}" for i in range(12))

    def tree(self, folder, names, images=2, suffix="jpg"):
        for n, name in enumerate(names):
            (folder / name).mkdir(parents=True)
            for i in range(images):
                content = jpeg(np.full((30, 50, 3), (10 * n, 100 * i, 0), np.uint8))
                (folder / name / f"{i}.{suffix}").write_bytes(content)

    @pytest.mark.parametrize("kind", ["imagenet_r", "imagenet_a"])
    def test_a_subset_is_labelled_by_the_networks_classes_and_masked_to_its_own(self, tmp_path, kind):
        self.tree(tmp_path, ("n07", "n02", "n11"))
        (tmp_path / "README.txt").write_text("as published")
        shift = open_shift_set(kind, tmp_path, self.NAMES)
        assert shift.class_mask.tolist() == [2, 7, 11]
        assert shift.source.class_names == self.NAMES
        images, labels = shift.source.read(range(6))
        assert labels.tolist() == [2, 2, 7, 7, 11, 11]
        assert images[2] == (tmp_path / "n07" / "0.jpg").read_bytes()
        assert "restricted to its 3 classes" in shift.protocol and "NOT COMPARABLE" in shift.protocol

    def test_the_mask_is_in_the_networks_order_whatever_that_is(self, tmp_path):
        self.tree(tmp_path, ("n07", "n02"))
        shift = open_shift_set("imagenet_r", tmp_path, self.NAMES[::-1])
        assert shift.class_mask.tolist() == [4, 9]
        assert shift.source.read([0])[0][0] == (tmp_path / "n07" / "0.jpg").read_bytes()

    def test_only_a_complete_set_is_comparable(self, tmp_path, monkeypatch):
        names = tuple(f"n{i:03d}" for i in range(300))
        self.tree(tmp_path, names[:200], images=1)
        monkeypatch.setitem(SHIFT_SETS, "imagenet_a", ("ImageNet-A", 200))
        whole = open_shift_set("imagenet_a", tmp_path, names).protocol
        assert whole == "ImageNet-A, 200 images, logits restricted to its 200 classes"
        shutil.rmtree(tmp_path / "n007")
        assert "NOT COMPARABLE: the published set has 200 images of 200 classes" in (
            open_shift_set("imagenet_a", tmp_path, names).protocol
        )

    def test_v2_folders_are_numbers_and_not_words(self, tmp_path):
        self.tree(tmp_path, [str(i) for i in range(12)], images=1, suffix="jpeg")
        shift = open_shift_set("imagenet_v2", tmp_path, self.NAMES)
        images, labels = shift.source.read(range(12))
        assert labels.tolist() == list(range(12)) and shift.class_mask is None
        assert images[10] == (tmp_path / "10" / "0.jpeg").read_bytes()
        assert images[2] == (tmp_path / "2" / "0.jpeg").read_bytes() != images[10]
        assert tmp_path.name in shift.protocol

    def test_sketch_has_every_class(self, tmp_path):
        self.tree(tmp_path, self.NAMES, suffix="JPEG")
        shift = open_shift_set("imagenet_sketch", tmp_path, self.NAMES)
        assert len(shift.source) == 24 and shift.class_mask is None

    def test_cifar10_1_is_version_6_where_both_are_there(self, tmp_path):
        pixels = {}
        for version, size, shift in (("v4", 21, 1), ("v6", 20, 0)):
            pixels[version] = natural(size, 32, 32) + np.uint8(shift)
            np.save(tmp_path / f"cifar10.1_{version}_data.npy", pixels[version])
            np.save(tmp_path / f"cifar10.1_{version}_labels.npy", (np.arange(size) % 10).astype(np.int32))
        standard = open_shift_set("cifar10_1", tmp_path, CLASSES)
        assert len(standard.source) == 20 and (standard.source.read([13])[0][0] == pixels["v6"][13]).all()
        assert standard.source.read([13])[1].tolist() == [3] and standard.class_mask is None
        assert "v6" in standard.protocol
        (tmp_path / "cifar10.1_v6_data.npy").unlink()
        older = open_shift_set("cifar10_1", tmp_path, CLASSES)
        assert len(older.source) == 21 and "v4" in older.protocol and "NOT COMPARABLE" in older.protocol

    def test_a_shift_set_survives_pickling(self, tmp_path):
        self.tree(tmp_path, ("n07", "n02"))
        shift = open_shift_set("imagenet_r", tmp_path, self.NAMES)
        again = pickle.loads(pickle.dumps(shift))
        assert again.source.read([3])[0] == shift.source.read([3])[0]

    def test_unlabelled_images_are_found_at_any_depth(self, tmp_path):
        for name in ("b.png", "n01/a.JPEG", "n01/deep/c.jpg", "notes.txt"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(name.encode())
        source = open_unlabelled(tmp_path)
        images, labels = source.read(range(len(source)))
        assert images == [b"b.png", b"n01/a.JPEG", b"n01/deep/c.jpg"]
        assert labels.tolist() == [-1, -1, -1]

    def test_unlabelled_images_may_be_one_array(self, tmp_path):
        images = natural(4, 20, 30)
        np.save(tmp_path / "ood.npy", images)
        source = open_unlabelled(tmp_path / "ood.npy")
        assert (source.read([3])[0][0] == images[3]).all() and source.read([3])[1].tolist() == [-1]

    def test_refusals(self, tmp_path):
        r, v2, bad = tmp_path / "r", tmp_path / "v2", tmp_path / "bad"
        self.tree(r, ("n02", "m99"))
        self.tree(v2, [str(i) for i in range(12) if i != 10])
        refused(lambda: open_shift_set("imagenet_q", r, self.NAMES), "'imagenet_q'", "did you mean 'imagenet_")
        refused(lambda: open_shift_set("imagenet_r", r, self.NAMES), "'m99'", "12 classes", "1 of 2")
        refused(lambda: open_shift_set("imagenet_r", bad, self.NAMES), "not a folder")
        refused(lambda: open_shift_set("imagenet_v2", v2, self.NAMES), "11 class folders and 12", "'10' is missing")
        refused(lambda: open_shift_set("imagenet_sketch", r, self.NAMES), "2 class folders and 12", "'m99' is none")
        bad.mkdir()
        refused(lambda: open_shift_set("imagenet_a", bad, self.NAMES), "is empty")
        refused(lambda: open_unlabelled(bad), "is empty")
        (bad / "notes.txt").touch()
        refused(lambda: open_unlabelled(bad), "holds no image")
        refused(lambda: open_shift_set("cifar10_1", bad, CLASSES), "no cifar10.1_v6_data.npy", "notes.txt")
        np.save(bad / "cifar10.1_v6_data.npy", natural(4, 32, 32))
        refused(lambda: open_shift_set("cifar10_1", bad, CLASSES), "labels.npy is missing")
        np.save(bad / "cifar10.1_v6_labels.npy", np.arange(5))
        refused(lambda: open_shift_set("cifar10_1", bad, CLASSES), "5 labels", "4 images")
        np.save(bad / "cifar10.1_v6_labels.npy", np.array([1, 2, 10, 3]))
        refused(lambda: open_shift_set("cifar10_1", bad, CLASSES), "row 2 has label 10", "0 to 9")
        np.save(bad / "grey.npy", np.zeros((3, 8, 8), np.uint8))
        refused(lambda: open_unlabelled(bad / "grey.npy"), "(3, 8, 8)", "(images, any, any, 3)")


class TestRefusedArrays:
    """Each is a ValueError of one line that says what was expected and what was found."""

    @pytest.fixture
    def folder(self, tmp_path):
        write_cifar_c(tmp_path, C)
        return tmp_path

    def test_a_folder_that_is_not_there_or_empty(self, tmp_path):
        refused(lambda: opened(tmp_path / "none"), "not a folder on this machine")
        (tmp_path / "empty").mkdir()
        refused(lambda: opened(tmp_path / "empty"), "is empty")

    def test_a_missing_corruption(self, folder):
        refused(lambda: opened(folder, corruptions=("fogg",)), "no 'fogg'", "did you mean 'fog'?")
        refused(lambda: opened(folder, corruptions=("jpeg",)), "no 'jpeg'", "choose one of fog, snow")

    def test_missing_labels(self, folder):
        (folder / "labels.npy").unlink()
        refused(lambda: opened(folder), "labels.npy is missing")

    def test_severities_and_corruptions_that_do_not_exist(self, folder):
        refused(lambda: opened(folder, severities=(0,)), "severities are 1, 2, 3, 4 and 5")
        refused(lambda: opened(folder, corruptions=()), "name at least one")

    def test_a_missing_severity(self, folder):
        np.save(folder / "snow.npy", np.load(folder / "snow.npy")[:40])
        refused(lambda: opened(folder), "snow.npy has 40 images", "50 labels (5 severities of 10)")

    def test_a_truncated_file(self, folder):
        path = folder / "snow.npy"
        whole = path.stat().st_size
        with path.open("r+b") as file:
            file.truncate(whole - 1000)
        refused(lambda: opened(folder), "snow.npy", f"has {whole - 1000:,} bytes", f"says {whole:,}")
        path.write_bytes(path.read_bytes()[:20])
        refused(lambda: opened(folder), "snow.npy is not a readable .npy file")
        path.write_bytes(b"")
        refused(lambda: opened(folder), "snow.npy is not a readable .npy file")

    def test_pickled_objects_are_refused_and_not_loaded(self, folder):
        for name in ("snow", "labels"):
            np.save(folder / f"{name}.npy", np.array([{}, 1], object), allow_pickle=True)
            refused(lambda: opened(folder), f"{name}.npy", "pickled Python objects")

    @pytest.mark.parametrize(
        ("rows", "parts"),
        [
            (np.zeros((50, 32, 32, 3), np.float32), ("float32 (50, 32, 32, 3)", "uint8 (images, 32, 32, 3)")),
            (np.zeros((50, 3, 32, 32), np.uint8), ("uint8 (50, 3, 32, 32)",)),
            (np.zeros((50, 32, 32), np.uint8), ("uint8 (50, 32, 32)",)),
            (np.zeros((0, 32, 32, 3), np.uint8), ("uint8 (0, 32, 32, 3)",)),
            (np.asfortranarray(np.zeros((50, 32, 32, 3), np.uint8)), ("Fortran order",)),
        ],
    )
    def test_a_wrong_type_or_shape(self, folder, rows, parts):
        np.save(folder / "snow.npy", rows)
        refused(lambda: opened(folder), "snow.npy", *parts)

    @pytest.mark.parametrize(
        ("labels", "parts"),
        [
            (np.tile(np.arange(9), 5), ("labels 9 images", "clean test set has 10")),
            (np.arange(48) % 10, ("48 labels", "5 times over")),
            (np.zeros(0, int), ("0 labels",)),
            (np.arange(50) % 7, ("row 10 has label 3", "row 0, of the same image, 0")),
            (np.tile(np.arange(1, 11), 5), ("row 9 has label 10", "0 to 9")),
            (np.tile(np.arange(-1, 9), 5), ("row 0 has label -1", "0 to 9")),
            (np.tile(np.arange(10)[::-1], 5), ("row 0 has label 9", "clean test set 0", "(10 differ)")),
            (np.zeros(50), ("float64 (50,)", "one whole number per image")),
            (np.zeros((50, 1), int), ("int64 (50, 1)",)),
        ],
    )
    def test_wrong_labels(self, folder, labels, parts):
        np.save(folder / "labels.npy", labels)
        refused(lambda: opened(folder, cifar()), "labels.npy", *parts)

    def test_the_test_set_of_other_classes(self, folder):
        np.save(folder / "labels.npy", np.tile(np.arange(10) * 11, 5))
        refused(lambda: opened(folder, cifar()), "row 1 has label 11", "0 to 9: 9 of 10 are not")


class TestRefusedFolders:
    """The same for class folders."""

    @pytest.fixture
    def folder(self, tmp_path):
        write_imagenet_c(tmp_path, ("weather/fog", "weather/snow"))
        return tmp_path

    def test_a_missing_corruption(self, folder):
        refused(lambda: opened(folder, corruptions=("sno",)), "no 'sno'", "did you mean 'snow'?")
        for cell in (folder / "weather").iterdir():
            shutil.rmtree(cell)
        refused(lambda: opened(folder), "no 'fog'", "unpack the published files")

    def test_a_corruption_that_is_there_twice(self, folder):
        shutil.copytree(folder / "weather" / "fog", folder / "fog")
        refused(lambda: opened(folder), "are both there")

    def test_a_missing_severity(self, folder):
        shutil.rmtree(folder / "weather" / "snow" / "3")
        refused(lambda: opened(folder), "snow has no folder 3", "found: 1, 2, 4, 5")
        opened(folder, severities=(1, 2))

    @pytest.mark.parametrize("cell", ["fog/1", "snow/5"])
    def test_a_class_too_few(self, folder, cell):
        clean = open_folder(folder / "weather" / "fog" / "3", ("n01", "n02"))
        shutil.rmtree(folder / "weather" / cell / "n02")
        refused(lambda: opened(folder, clean), cell, "1 class folders and 2 are expected", "'n02' is missing")

    def test_a_class_too_many(self, folder):
        (folder / "weather" / "snow" / "5" / "n03").mkdir()
        refused(lambda: opened(folder), "snow/5 has 3 class folders and 2", "'n03' is none of them")

    def test_one_class_folder_renamed(self, folder):
        at = folder / "weather" / "snow" / "5"
        (at / "n02").rename(at / "n03")
        refused(lambda: opened(folder), "'n02' is missing, 'n03' is none of them")

    def test_a_cell_with_an_image_less_or_of_another_name(self, folder):
        at = folder / "weather" / "snow" / "3" / "n02"
        (at / "ILSVRC2012_val_00010001.JPEG").unlink()
        refused(lambda: opened(folder), "snow/3/n02 has 2 files", "fog/1/n02 3", "has not ILSVRC2012_val_00010001.JPEG")
        (at / "ILSVRC2012_val_00019999.JPEG").touch()
        refused(lambda: opened(folder), "snow/3/n02 has 3 files", "has not ILSVRC2012_val_00010001.JPEG")

    def test_class_folders_without_images(self, folder):
        for path in folder.rglob("*.JPEG"):
            path.unlink()
        refused(lambda: opened(folder), "2 class folders", "no file")

    def test_the_clean_classes_are_not_these(self, folder):
        refused(lambda: opened(folder, cifar()), "2 class folders and 10 are expected", "'cat' is missing")

    def test_a_clean_validation_folder_given_as_the_corruption_set(self, folder):
        refused(lambda: opened(folder / "weather" / "fog" / "1"), "no 'fog'", "choose one of n01, n02")
