"""AugMix for torch's DataLoader: a torchvision v2 transform, a dataset around a dataset, and what a step needs.

Images are PIL images of any mode, or uint8 tensors (3 or 1, H, W). Views come as uint8 (V, 3, H, W), view 0 clean:
a float copy would be four times as large on its way to the device.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from augmix_core.decode import pillow_rgb
from augmix_core.errors import missing_extra
from augmix_core.philox import Purpose, check_range, words
from augmix_core.views import AugMixConfig, augmix

try:
    import torch
    from torch.utils.data import Dataset
except ImportError as error:
    raise missing_extra("torch", "score") from error
try:
    from torchvision import tv_tensors
    from torchvision.transforms import v2
    from torchvision.transforms.v2.functional import is_pure_tensor
except ImportError as error:
    raise missing_extra("torchvision", "score") from error


class AugMixViews(v2.Transform):
    """Turn each image of a sample into its views; labels and all else pass untouched.

    PIL image or uint8 tensor (3 or 1, H, W) -> uint8 (V, 3, H, W); batch (N, 3 or 1, H, W) -> (N, V, 3, H, W).
    A torchvision transform knows neither sample nor epoch, so each image draws from torch's generator:
    `torch.manual_seed` and the DataLoader's worker seeds govern it, and it is reproducible as they are. For pixels that
    are a function of (seed, epoch, index) take AugMixDataset.

    Args:
        config: AugMixConfig() when omitted.
    Raises:
        ValueError: On use, an image that is floating point or of a wrong shape.
    """

    _transformed_types = (Image.Image, tv_tensors.Image, is_pure_tensor)

    def __init__(self, config: AugMixConfig | None = None) -> None:
        super().__init__()
        self.config = config or AugMixConfig()

    def transform(self, inpt: Any, params: dict[str, Any]) -> torch.Tensor:
        """Augment one image, or one batch of images."""
        images = as_rgb(inpt)
        batch = images if images.ndim == 4 else images[np.newaxis]
        drawn_ids = torch.randint(2**62, (len(batch),)).numpy()
        views = views_of(batch, drawn_ids, epoch=0, seed=0, config=self.config)
        views = views if images.ndim == 4 else views[0]
        return views if is_pure_tensor(inpt) else tv_tensors.Image(views)


class AugMixDataset(Dataset[tuple[Any, ...]]):
    """A map-style dataset of (image, label) as one of (views, label): views (V, 3, H, W) uint8.

    Pixels are a pure function of (seed, epoch, index): not of workers, batch size or order. While a sample is read,
    torch's CPU generator is seeded by the same three, so that random crops and flips, in `transform` or in the
    dataset's own, are part of that function; all views share them. Python's and NumPy's global generators are not
    seeded: what draws from those stays as random as it was.

    Args:
        dataset: yields tuples whose first element is the image; the others are handed on.
        config: AugMixConfig() when omitted.
        seed: 0 <= seed < 2**64.
        transform: what is done to the image before AugMix, as in v2.Compose([v2.RandomCrop(32, 4), ...]).
    Raises:
        ValueError: The seed is out of range; on use, an image that is floating point or of a wrong shape.
    """

    def __init__(
        self,
        dataset: Any,
        config: AugMixConfig | None = None,
        *,
        seed: int = 0,
        transform: Callable[[Any], Any] | None = None,
    ) -> None:
        check_range("seed", seed, 64)
        self.dataset = dataset
        self.config = config or AugMixConfig()
        self.seed = seed
        self.transform = transform
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, as with DistributedSampler: before the loader is iterated.

        The number lies in shared memory, so that persistent workers see it too.
        """
        check_range("epoch", epoch, 32)
        self._epoch.fill_(epoch)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._epoch.share_memory_()  # a pickled copy has left shared memory; in a worker this changes nothing

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Any, ...]]:
        """Return many samples at once, as the DataLoader asks for them; images of one size share a call of `augmix`."""
        epoch = int(self._epoch)
        images, others = self._read(indices, epoch)
        by_shape = defaultdict(list)
        for place, image in enumerate(images):
            by_shape[image.shape].append(place)
        samples: list[tuple[Any, ...]] = [()] * len(indices)
        for places in by_shape.values():
            stacked, ids = np.stack([images[i] for i in places]), [indices[i] for i in places]
            views = views_of(stacked, ids, epoch=epoch, seed=self.seed, config=self.config)
            for place, sample_views in zip(places, views, strict=True):
                samples[place] = (sample_views, *others[place])
        return samples

    def _read(self, indices: Sequence[int], epoch: int) -> tuple[list[NDArray[np.uint8]], list[list[Any]]]:
        """Return the images, (H, W, 3) uint8 after `transform`, and what else the samples hold."""
        drawn = words(np.asarray(indices), seed=self.seed, purpose=Purpose.CROP, epoch=epoch)
        images, others = [], []
        with torch.random.fork_rng(devices=[]):
            for index, crop_seed in zip(indices, drawn[:, 0].tolist(), strict=True):
                torch.default_generator.manual_seed(crop_seed)  # it uses 32 bits; torch.manual_seed would reach CUDA's
                image, *other = self.dataset[index]
                images.append(as_rgb(self.transform(image) if self.transform else image))
                others.append(other)
        return images, others


def normalize_views(views: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Return the network's input, views first, on the device of `views`.

    Args:
        views: (B, V, 3, H, W) uint8, as default_collate stacks them.
        mean: of each channel, in [0, 1].
        std: of each channel, in [0, 1].
    Returns:
        (V, B, 3, H, W) float32, contiguous: `flatten(0, 1)` is the batch of a joint forward pass.
    Raises:
        ValueError: Another number of axes or another dtype.
    """
    if views.ndim != 5 or views.dtype != torch.uint8:
        raise ValueError(f"views must be uint8 of shape (B, V, 3, H, W); got {views.dtype} {tuple(views.shape)}")
    views_VBCHW = views.transpose(0, 1).contiguous()
    return v2.functional.normalize(v2.functional.to_dtype(views_VBCHW, torch.float32, scale=True), mean, std)


def views_of(
    images: NDArray[np.uint8], sample_ids: ArrayLike, *, epoch: int, seed: int, config: AugMixConfig
) -> torch.Tensor:
    """(N, H, W, 3) uint8 -> (N, V, 3, H, W) uint8."""
    return torch.from_numpy(augmix(images, sample_ids, epoch=epoch, seed=seed, config=config, layout="CHW"))


def as_rgb(image: Any) -> NDArray[np.uint8]:
    """PIL image of any mode, or uint8 tensor (..., 3 or 1, H, W) -> (..., H, W, 3) uint8."""
    if isinstance(image, Image.Image):
        return pillow_rgb(image)
    if not isinstance(image, torch.Tensor):
        raise ValueError(f"AugMix takes PIL images or uint8 tensors, got {type(image).__name__}; put ToImage before it")
    if image.dtype != torch.uint8:
        raise ValueError(
            f"AugMix takes uint8 images, got {image.dtype}; put it before ToDtype and Normalize, in place of ToTensor"
        )
    if image.ndim not in (3, 4) or image.shape[-3] not in (1, 3):
        raise ValueError(
            f"AugMix takes images of shape (3, H, W), (1, H, W) or a batch of these, got {tuple(image.shape)}"
        )
    return image.expand(*image.shape[:-3], 3, -1, -1).movedim(-3, -1).contiguous().numpy()
