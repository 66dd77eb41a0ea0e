"""The torchvision transform and the DataLoader wrapper."""

import copy
import pickle
import runpy
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from augmix_core import AugMixConfig, augmix, transforms
from augmix_core.transforms import AugMixDataset, AugMixViews, normalize_views

CROP_AND_FLIP = v2.Compose([v2.RandomCrop((20, 36)), v2.RandomHorizontalFlip()])
SIZES = [(24, 40), (16, 16), (24, 40), (40, 24), (16, 16)]


def chw(images):
    """(..., H, W, 3) array -> (..., 3, H, W) tensor."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, -1, -3)))


@pytest.fixture
def labelled(images):
    """Five (image (3, 24, 40), label) of torch's own dataset type."""
    return TensorDataset(chw(images), torch.arange(10, 15))


@pytest.fixture
def sized(images):
    """Five (PIL image, label) of three sizes."""
    return [
        (Image.fromarray(image[:height, :width]), label)
        for label, (image, (height, width)) in enumerate(
            zip(np.pad(images, ((0, 0), (0, 16), (0, 0), (0, 0)), mode="wrap"), SIZES, strict=True)
        )
    ]


def by_label(loader):
    """All views of a loader's pass, in the order of the labels."""
    views, labels = zip(*loader, strict=True)
    return torch.cat(views)[torch.cat(labels).argsort()]


def test_a_sample_of_the_dataset_is_augmix_of_its_index(labelled, images):
    config = AugMixConfig(views=4, width=2)
    dataset = AugMixDataset(labelled, config, seed=3)
    dataset.set_epoch(7)
    views, label = dataset[2]
    assert torch.equal(views, chw(augmix(images[2:3], [2], epoch=7, seed=3, config=config)[0]))
    assert label == 12


def test_view_0_is_the_image_after_the_transform(labelled):
    flip = v2.RandomHorizontalFlip(p=1)
    views, _ = AugMixDataset(labelled, transform=flip)[1]
    assert torch.equal(views[0], flip(labelled[1][0]))


def test_pixels_do_not_depend_on_workers_batches_or_order(labelled):
    dataset = AugMixDataset(labelled, seed=1, transform=CROP_AND_FLIP)
    one_by_one = by_label(DataLoader(dataset, batch_size=1))
    torch.manual_seed(5)
    shuffled = by_label(DataLoader(dataset, batch_size=2, shuffle=True, num_workers=2))
    assert torch.equal(one_by_one, shuffled)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_persistent_workers_follow_the_epoch(labelled, start):
    dataset = AugMixDataset(labelled, transform=CROP_AND_FLIP)
    loader = DataLoader(dataset, batch_size=3, num_workers=1, persistent_workers=True, multiprocessing_context=start)
    seen = []
    for epoch in (0, 1, 0):
        dataset.set_epoch(epoch)
        seen.append(by_label(loader))
        assert torch.equal(seen[-1], by_label(DataLoader(dataset, batch_size=5)))
    assert torch.equal(seen[0], seen[2]) and not torch.equal(seen[0], seen[1])


def test_samples_fetched_together_equal_samples_fetched_alone(sized):
    dataset = AugMixDataset(sized, transform=v2.RandomHorizontalFlip())
    indices = [4, 0, 3, 2, 1]
    together = dataset.__getitems__(indices)
    for index, (views, label) in zip(indices, together, strict=True):
        height, width = SIZES[index]
        assert label == index and views.shape == (3, 3, height, width)
        assert torch.equal(views, dataset[index][0])


def test_the_crop_is_new_in_every_epoch_and_for_every_seed(labelled):
    def clean(seed, epoch):
        dataset = AugMixDataset(labelled, AugMixConfig(views=1), seed=seed, transform=CROP_AND_FLIP)
        dataset.set_epoch(epoch)
        return torch.cat([views for views, _ in dataset])

    assert not torch.equal(clean(0, 0), clean(0, 1))
    assert not torch.equal(clean(0, 0), clean(1, 0))


def test_random_transforms_of_the_wrapped_dataset_are_seeded_too(labelled):
    class Cropping(TensorDataset):
        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return CROP_AND_FLIP(image), label

    inside = AugMixDataset(Cropping(*labelled.tensors))
    outside = AugMixDataset(labelled, transform=CROP_AND_FLIP)
    assert torch.equal(inside[3][0], outside[3][0])


def test_reading_leaves_torchs_generator_as_it_was(labelled):
    dataset = AugMixDataset(labelled, transform=CROP_AND_FLIP)
    before = torch.get_rng_state()
    _ = dataset[0]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda dataset: pickle.loads(pickle.dumps(dataset))])
def test_a_copy_gives_the_same_pixels_and_shares_its_epoch_with_its_workers(labelled, duplicate):
    dataset = AugMixDataset(labelled, seed=9)
    dataset.set_epoch(4)
    twin = duplicate(dataset)
    assert torch.equal(twin[1][0], dataset[1][0])
    assert twin._epoch.is_shared()


def test_all_that_follows_the_image_is_handed_on(images):
    dataset = AugMixDataset([(Image.fromarray(images[0]), "label", {"path": "a.png"})])
    assert dataset[0][1:] == ("label", {"path": "a.png"})


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_out_of_range_is_refused(labelled, seed):
    with pytest.raises(ValueError, match="seed"):
        AugMixDataset(labelled, seed=seed)


def test_an_epoch_out_of_range_is_refused(labelled):
    with pytest.raises(ValueError, match="epoch"):
        AugMixDataset(labelled).set_epoch(-1)


def test_it_composes_between_a_crop_and_a_normalisation_and_passes_labels(image):
    pipeline = v2.Compose(
        [
            v2.RandomResizedCrop((16, 20)),
            AugMixViews(AugMixConfig(views=4)),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
        ]
    )
    boxes = tv_tensors.BoundingBoxes([[1, 2, 3, 4]], format="XYXY", canvas_size=(24, 40))
    sample = {"image": Image.fromarray(image), "label": 3, "soft": torch.ones(5), "path": "a.png"}
    result = pipeline(sample)
    assert isinstance(result["image"], tv_tensors.Image) and result["image"].shape == (4, 3, 16, 20)
    assert result["image"].dtype == torch.float32 and -1 <= result["image"].min() <= result["image"].max() <= 1
    assert result["label"] == 3 and result["path"] == "a.png" and torch.equal(result["soft"], torch.ones(5))
    assert torch.equal(AugMixViews()(chw(image), boxes)[1], boxes)


def test_manual_seed_governs_the_transform(image):
    def draw(seed):
        torch.manual_seed(seed)
        return torch.stack([AugMixViews()(chw(image)) for _ in range(2)])

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert not torch.equal(*draw(1))


def test_every_kind_of_image_gives_the_same_views(image):
    def draw(picture):
        torch.manual_seed(1)
        return AugMixViews()(picture)

    views = draw(chw(image))
    assert type(views) is torch.Tensor and views.dtype == torch.uint8 and torch.equal(views[0], chw(image))
    for picture in (Image.fromarray(image), tv_tensors.Image(chw(image))):
        assert isinstance(draw(picture), tv_tensors.Image) and torch.equal(draw(picture), views)


def test_each_image_of_a_batch_is_drawn_on_its_own(image):
    batch = chw(image).repeat(2, 1, 1, 1)
    views = AugMixViews()(batch)
    assert views.shape == (2, 3, 3, 24, 40) and torch.equal(views[:, 0], batch)
    assert not torch.equal(views[0], views[1])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_pil_images_of_every_mode_come_out_rgb(image, mode):
    picture = Image.fromarray(image).convert(mode)
    assert torch.equal(AugMixViews()(picture)[0], chw(np.asarray(picture.convert("RGB"))))


def test_a_grey_tensor_comes_out_rgb(image):
    grey = chw(image)[:1]
    assert torch.equal(AugMixViews()(grey)[0], grey.repeat(3, 1, 1))


@pytest.mark.parametrize(
    ("wrong", "remedy"),
    [
        (torch.zeros(3, 8, 8), "before ToDtype and Normalize"),
        (torch.zeros(2, 8, 8, dtype=torch.uint8), r"\(3, H, W\)"),
        (torch.zeros(8, 8, dtype=torch.uint8), r"\(3, H, W\)"),
    ],
)
def test_other_tensors_are_refused_with_the_remedy(wrong, remedy):
    with pytest.raises(ValueError, match=remedy):
        AugMixViews()(wrong)
    with pytest.raises(ValueError, match=remedy):
        AugMixDataset([(wrong, 0)])[0]


def test_arrays_in_a_dataset_are_refused_with_the_remedy(image):
    with pytest.raises(ValueError, match="put ToImage before it"):
        AugMixDataset([(image, 0)])[0]
    assert torch.equal(AugMixDataset([(image, 0)], transform=v2.ToImage())[0][0][0], chw(image))


def test_the_transform_survives_pickling(image):
    transform = AugMixViews(AugMixConfig(views=2))
    assert pickle.loads(pickle.dumps(transform)).config == transform.config


def test_normalized_views_come_views_first(images):
    views = torch.stack([AugMixViews()(chw(image)) for image in images])
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    normalized = normalize_views(views, mean, std)
    assert normalized.shape == (3, 5, 3, 24, 40) and normalized.is_contiguous()
    expected = (views[4, 1] / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert torch.allclose(normalized[1, 4], expected, atol=1e-6)


@pytest.mark.parametrize("wrong", [torch.zeros(2, 3, 3, 8, 8), torch.zeros(2, 3, 8, 8, dtype=torch.uint8)])
def test_what_no_loader_of_views_gives_is_refused(wrong):
    with pytest.raises(ValueError, match="B, V, 3, H, W"):
        normalize_views(wrong, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.mark.parametrize("package", ["torch", "torchvision"])
def test_a_missing_package_names_the_extra(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"^{package} is not installed.*augmix-ray\[score\]"):
        runpy.run_path(transforms.__file__)
