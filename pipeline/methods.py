"""What a method is: what is done to a sample's image, how many views the network sees, and which loss it gets.

The one table of methods. `training_views.with_views` makes their images, `loss.loss_of` their losses.
"""

from dataclasses import dataclass
from typing import Literal

MethodName = Literal[
    "standard",
    "cutout",
    "mixup",
    "cutmix",
    "autoaugment",
    "random_autoaugment",
    "random_autoaugment_jsd",
    "augmix_no_jsd",
    "augmix",
    "pgd",
]


@dataclass(frozen=True, slots=True)
class Method:
    """One way to train."""

    images: Literal["clean", "cutout", "mixup", "cutmix", "autoaugment", "random_autoaugment", "augmix"] = "clean"
    """What is done to the cropped image."""
    consistency: bool = False
    """The clean view and augmented ones, augmix.views in all, with the consistency loss; otherwise one view."""
    adversarial: bool = False
    """The worker replaces the view by an adversarial example."""

    @property
    def from_stored_views(self) -> bool:
        """Whether the method's views are the first ones of AugMix's, view 0 clean, and so can come from a store."""
        return self.images == "clean" or (self.images == "augmix" and self.consistency)


METHODS: dict[MethodName, Method] = {
    "standard": Method(),
    "cutout": Method("cutout"),
    "mixup": Method("mixup"),
    "cutmix": Method("cutmix"),
    "autoaugment": Method("autoaugment"),
    "random_autoaugment": Method("random_autoaugment"),
    "random_autoaugment_jsd": Method("random_autoaugment", consistency=True),
    "augmix_no_jsd": Method("augmix"),
    "augmix": Method("augmix", consistency=True),
    "pgd": Method(adversarial=True),
}
MIXED = ("mixup", "cutmix")
"""Values of Method.images that show a second sample, and so have two labels."""
