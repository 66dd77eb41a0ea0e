"""The compiled kernels: Pillow's pixels, the reference's plans and views, whatever the batch, the thread and the input.

What a processor cannot run is skipped, by name.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from augmix_core import AugMixConfig, augmix, backends
from augmix_core.crop import resize
from augmix_core.ops import ALL_OPS, apply_op
from augmix_core.philox import Purpose, words
from augmix_core.plan import draw_packed_plans, draw_plans, packed_rules
from augmix_core.reference import q15_weights
from tests.conftest import BACKENDS, VARIANTS, natural, needs_exact_pillow, skip_unless_it_runs
from tests.core.compare_pixels import SIZES, compare

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(params=VARIANTS)
def variant(request):
    skip_unless_it_runs(request.param)
    return request.param


@st.composite
def configs(draw):
    dialect = draw(st.sampled_from(["official", "released", "torchvision", "timm"]))
    return AugMixConfig(
        width=draw(st.integers(1, 8)),
        depth=draw(st.sampled_from([-1, 1, 2, 3, 5, 8])),
        aug_severity=draw(st.integers(1, 10) if dialect == "torchvision" else st.floats(0.1, 10)),
        alpha=draw(st.one_of(st.just(1.0), st.floats(0.01, 1000))),
        views=draw(st.integers(1, 4)),
        fill=0 if dialect == "released" else draw(st.integers(0, 255)),
        ops=draw(st.sampled_from(["standard", "all"])),
        dialect=dialect,
    )


sizes = st.one_of(st.sampled_from([s for s in SIZES if s[0] < 100]), st.tuples(st.integers(1, 70), st.integers(1, 70)))


@needs_exact_pillow
@pytest.mark.parametrize("name", ALL_OPS)
@pytest.mark.parametrize("size", SIZES)
def test_every_op_has_pillows_pixels(name, size, variant):
    for _, _, what, _, different in compare(np.random.default_rng(5), (name,), (variant,), size):
        assert different == 0, what


@settings(max_examples=150, deadline=None)
@given(configs(), sizes, st.integers(0, 2**63 - 3), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1))
def test_plans_are_those_of_the_reference(config, image_size, sample_id, epoch, seed):
    skip_unless_it_runs("native")
    law = {"epoch": epoch, "seed": seed, "config": config, "image_size": image_size}
    ids = np.array([sample_id, sample_id + 1, 7])
    wanted = draw_plans(ids, **law)
    for variant in backends.VARIANTS:
        found = draw_packed_plans(ids, **law, variant=variant)
        for n, sample_plans in enumerate(wanted):
            for v, plan in enumerate(sample_plans):
                assert_equal_plans(found[n, v], plan, config.width)


def assert_equal_plans(found, wanted, width):
    assert found["skip_weight"] == wanted.skip_weight
    assert tuple(found["mixture_weight"][:width]) == wanted.mixture_weights
    assert found["q15_weight"][: width + 1].tolist() == q15_weights(wanted.skip_weight, wanted.mixture_weights)
    for c, chain in enumerate(wanted.chains):
        depth = found["depth"][c]
        assert [ALL_OPS[op] for op in found["op"][c, :depth]] == [call.name for call in chain]
        assert found["magnitude"][c, :depth].tolist() == [call.magnitude for call in chain]


def test_ties_of_the_weights_are_settled_alike():
    """With one chain, a skip weight whose 1/32768 end in a half leaves two equal remainders."""
    skip_unless_it_runs("native")
    config = AugMixConfig(width=1, views=2)
    skip_words = words(np.arange(400_000), seed=0, purpose=Purpose.PLAN, view=1)[:, 0]
    tied = np.flatnonzero(skip_words % 2**17 == 2**16)
    assert len(tied)
    law = {"epoch": 0, "seed": 0, "config": config, "image_size": (8, 8)}
    plans = draw_packed_plans(tied, **law, variant="portable")
    for (found,), (wanted,) in zip(plans, draw_plans(tied, **law), strict=True):
        assert_equal_plans(found, wanted, 1)


@needs_exact_pillow
@settings(max_examples=60, deadline=None)
@given(configs(), sizes, st.integers(0, 2**62))
def test_views_are_those_of_the_reference(config, size, sample_id):
    skip_unless_it_runs("native")
    images, ids = natural(2, *size), [sample_id, sample_id + 1]
    wanted = augmix(images, ids, epoch=3, seed=4, config=config, backend="reference")
    for variant in backends.VARIANTS:
        assert (augmix(images, ids, epoch=3, seed=4, config=config, backend=variant) == wanted).all(), variant


@needs_exact_pillow
def test_views_of_large_images_are_those_of_the_reference(variant):
    images = np.concatenate(
        [natural(2, 224, 224), np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)]
    )
    for config in (AugMixConfig(), AugMixConfig(aug_severity=1.0), AugMixConfig(aug_severity=10.0, ops="all")):
        wanted = augmix(images, range(4), config=config, backend="reference")
        assert (augmix(images, range(4), config=config, backend=variant) == wanted).all()


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_views_depend_on_no_batch_no_order_and_no_thread(data):
    skip_unless_it_runs("native")
    count = data.draw(st.integers(1, 12))
    order = data.draw(st.permutations(range(count)))
    cuts = sorted(data.draw(st.lists(st.integers(0, count), max_size=4)))
    threads = data.draw(st.integers(1, 4))
    images, ids = natural(count, 19, 33), np.arange(count) * 10**12
    epochs = np.array(data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count)))
    whole = augmix(images, ids, epoch=epochs, seed=8)
    parts = [np.array(part, int) for part in np.split(np.array(order), cuts)]
    with ThreadPoolExecutor(threads) as pool:
        views = list(pool.map(lambda part: augmix(images[part], ids[part], epoch=epochs[part], seed=8), parts))
    assert (np.concatenate(views) == whole[np.array(order)]).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_layout_moves_axes_and_nothing_else(backend, images):
    skip_unless_it_runs(backend)
    chw = augmix(images, range(5), backend=backend, layout="CHW")
    assert chw.shape == (5, 3, 3, 24, 40)
    assert (np.moveaxis(chw, 2, -1) == augmix(images, range(5), backend=backend)).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_normalised_views_are_torchvisions_to_rounding_and_equal_on_all_backends(backend, images):
    skip_unless_it_runs(backend)
    views = augmix(images, range(5), backend="reference")
    wanted = (views / 255 - MEAN) / STD
    found = augmix(images, range(5), backend=backend, normalize=(MEAN, STD))
    assert found.dtype == np.float32
    assert np.abs(found - wanted).max() < 1e-6
    assert (found == augmix(images, range(5), backend="reference", normalize=(MEAN, STD))).all()
    chw = augmix(images, range(5), backend=backend, layout="CHW", normalize=(MEAN, STD))
    assert (np.moveaxis(chw, 2, -1) == found).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "relayout",
    [
        lambda images: images[:, ::-1, ::2],
        lambda images: np.asfortranarray(images),
        lambda images: np.moveaxis(np.ascontiguousarray(np.moveaxis(images, -1, 1)), 1, -1),
        lambda images: np.broadcast_to(images[:1], images.shape),
        lambda images: images[:0],
    ],
    ids=["strided", "fortran", "planar", "broadcast and read-only", "empty"],
)
def test_any_memory_layout_of_the_images_works(backend, relayout, images):
    skip_unless_it_runs(backend)
    given_images = relayout(images)
    wanted = augmix(given_images.copy(), np.arange(len(given_images)), backend="reference")
    assert (augmix(given_images, np.arange(len(given_images)), backend=backend) == wanted).all()
    if len(given_images):
        assert (
            apply_op("rotate", given_images[0], 9.0, backend=backend) == apply_op("rotate", given_images[0], 9.0)
        ).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"images": np.zeros((2, 8, 8, 3), np.float32)}, "uint8 array of shape"),
        ({"images": np.zeros((2, 8, 8, 4), np.uint8)}, "uint8 array of shape"),
        ({"images": np.zeros((8, 8, 3), np.uint8)}, "uint8 array of shape"),
        ({"images": np.zeros((2, 0, 8, 3), np.uint8)}, "at least 1 pixel"),
        ({"sample_ids": [1]}, "one id for each of the 2 images"),
        ({"sample_ids": [1.0, 2.0]}, "sample ids must be integers"),
        ({"sample_ids": [-1, 2]}, "sample ids must be integers from 0"),
        ({"sample_ids": np.array([2**63, 0], np.uint64)}, "sample ids must be integers from 0"),
        ({"epoch": [1, 2, 3]}, "epoch has shape"),
        ({"epoch": 2**32}, "epoch is 4294967296"),
        ({"seed": -1}, "seed is -1"),
        ({"layout": "NCHW"}, "layout 'NCHW' is unknown; did you mean 'CHW'"),
        ({"normalize": (MEAN, (1.0, 0.0, 1.0))}, "three finite numbers each, std above 0"),
        ({"normalize": (0.5, 0.5)}, "three finite numbers each"),
    ],
)
def test_wrong_input_is_refused_alike_by_all_backends(backend, arguments, complaint):
    skip_unless_it_runs(backend)
    with pytest.raises(ValueError, match=complaint):
        augmix(**{"images": np.zeros((2, 8, 8, 3), np.uint8), "sample_ids": [1, 2], "backend": backend, **arguments})


def random_images(count, height, width):
    """The same on every machine: Philox words."""
    values = height * width * 3
    drawn = words(np.arange(count)[:, None], seed=1, purpose=Purpose.PLAN, block=np.arange(values // 16 + 1))
    return drawn.astype("<u4").view(np.uint8).reshape(count, -1)[:, :values].reshape(count, height, width, 3)


def test_pixels_are_the_same_on_every_machine(variant):
    """Digests made on x86-64, where all variants equal Pillow. They change with STREAM_VERSION, and never otherwise."""
    images = random_images(6, 37, 65)
    found = {}
    for dialect in ("official", "torchvision", "timm"):
        config = AugMixConfig(dialect=dialect, ops="all", aug_severity=9, alpha=0.7, width=4)
        found[dialect] = hashlib.sha256(augmix(images, range(6), config=config, backend=variant)).hexdigest()[:16]
    resized = resize(images[0], (29, 50), box=(3, 1, 60, 36), backend=variant)
    found["resize"] = hashlib.sha256(np.ascontiguousarray(resized)).hexdigest()[:16]
    assert found == {
        "official": "d8df7b1391c81a63",
        "torchvision": "c972418ecd12b7bd",
        "timm": "c834fd49e8804064",
        "resize": "e8a2f5de54b0103c",
    }


def test_the_module_itself_refuses_sizes_that_do_not_fit_its_buffers():
    skip_unless_it_runs("native")
    image, target = np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)
    native = backends.NATIVE
    for size in ((5, 5), (4, 4), (0, 5), (-4, -5), (2**30, 2**30)):
        with pytest.raises(ValueError, match=r"must be|at least 1"):
            native.apply_op(image, target, *size, 0, 0.0, 0, 0)
    with pytest.raises(ValueError, match="out of range"):
        native.apply_op(image, target, 4, 5, len(ALL_OPS), 0.0, 0, 0)
    with pytest.raises(ValueError, match="out of range"):
        native.apply_op(image, target, 4, 5, ALL_OPS.index("posterize"), float("nan"), 0, 0)
    with pytest.raises(RuntimeError, match="lacks the instructions"):
        native.apply_op(image, target, 4, 5, 0, 0.0, 0, 9)
    with pytest.raises(ValueError, match="inside the image"):
        native.resize_box(image, target, 4, 5, 1, 0, 5, 4, 4, 5, False, 0)
    sound = packed_rules("official", "standard", (4, 5))
    for rules, width, depth in ((sound, 3, 0), (sound, 9, 1), (sound[:, :6].copy(), 3, 1)):
        ids, epochs, plans = np.zeros(1, np.int64), np.zeros(1, np.uint32), np.zeros(1, backends.PLAN).view(np.uint8)
        with pytest.raises(ValueError, match=r"out of range|must be Rule"):
            native.draw_plans(ids, epochs, rules, plans, 0, 2, width, depth, 1.0, 0.1, 3.0, 10.0, False, 0)
    plans = np.zeros(1, backends.PLAN)  # weights that do not add up
    with pytest.raises(ValueError, match="malformed"):
        native.render(
            image, plans.view(np.uint8), np.zeros(120, np.uint8), 4, 5, 2, 1, 0, 0, True, False, (1, 1, 1), (0, 0, 0)
        )


def test_kernels_of_another_version_are_not_used(monkeypatch):
    skip_unless_it_runs("native")
    monkeypatch.setattr(backends, "INTERFACE", -1)
    assert backends.load_native() == (None, "the compiled kernels belong to another version of augmix-ray")
