"""Networks by every way of naming them: the same answers as the original, and one line for everything that is wrong."""

import dataclasses
import json
import subprocess
import sys
import urllib.error
from contextlib import suppress
from pathlib import Path

import pytest
import ray.cloudpickle
import ray.train
import torch
from safetensors.torch import save_file
from torchvision import models

from augmix_core.models import build_model
from pipeline import checkpoint
from pipeline.config import DataConfig, ModelConfig, RunConfig
from pipeline.networks import find_checkpoint, from_checkpoint, open_network, starting_network
from pipeline.optimise import build_optimizer
from tests.pipeline.fixtures import write_snapshot

DATA = DataConfig()
IMAGES = torch.linspace(-2, 2, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)
ONE_LINE = r"\A.{1,800}\Z"
MINE = """
import torch
from torch import nn

class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 10)

    def forward(self, images):
        return self.head(images.mean((2, 3)))

def make():
    torch.manual_seed(1)
    return Mine()

def not_a_network():
    return "resnet50"

def fails():
    raise RuntimeError("no weights here\\nand a second line")
"""


def network(seed=3, name="convnet5", classes=10):
    torch.manual_seed(seed)
    return build_model(name, classes).eval()


def logits(model, images=IMAGES):
    with torch.no_grad():
        return model(images)


def refusal(*arguments, **keywords):
    """The one line that a wrong network ends in."""
    with pytest.raises(ValueError, match=ONE_LINE) as caught:
        open_network(*arguments, **keywords)
    return str(caught.value)


def write_checkpoint(folder, model):
    folder.mkdir(parents=True)
    meta = checkpoint.Meta(1, 1, "convnet5", 10, dataclasses.asdict(DATA))
    checkpoint.save(folder, model, build_optimizer(model, RunConfig()), meta)
    return folder


def write_method(folder, model):
    """A method's folder as Ray Train leaves it: one checkpoint and the list that names it."""
    write_checkpoint(folder / checkpoint.name_of(1), model)
    write_snapshot(folder, [checkpoint.name_of(1)])
    return folder


def test_a_checkpoint_is_found_by_its_folder_its_methods_and_its_runs(tmp_path, monkeypatch, capfd):
    model = network()
    method = write_method(tmp_path / "run" / "train" / "augmix", model)
    for path in (method / "step_000000001", method, tmp_path / "run"):
        found = find_checkpoint(path)
        assert found == method / "step_000000001"
        opened, meta = from_checkpoint(found)
        assert torch.equal(logits(opened.model), logits(model)) and meta.step == 1
    monkeypatch.chdir(tmp_path)
    assert find_checkpoint(Path("run/train/augmix")) == method / "step_000000001"
    assert find_checkpoint(Path("resnet50")) is None
    assert capfd.readouterr() == ("", "")  # Ray tells at length of the list that it finds


def test_a_list_of_checkpoints_that_ray_cannot_read_is_refused_in_one_line(tmp_path):
    method = write_method(tmp_path / "augmix", network())
    (method / checkpoint.SNAPSHOT).write_text('{"ray_version": "1.0.0"}')
    with pytest.raises(ValueError, match=ONE_LINE) as caught:
        find_checkpoint(method)
    assert "1.0.0" in str(caught.value) and f"name one of them: {method}/step_" in str(caught.value)


def test_a_run_with_two_networks_is_refused_naming_both(tmp_path):
    methods = [write_method(tmp_path / "train" / name, network()) for name in ("augmix", "standard")]
    with pytest.raises(ValueError, match=ONE_LINE) as caught:
        find_checkpoint(tmp_path)
    assert all(str(method) in str(caught.value) for method in methods)


def test_a_damaged_checkpoint_is_refused_in_one_line(tmp_path):
    folder = write_checkpoint(tmp_path / "step", network())
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"\Acheckpoint .* is damaged: model\.safetensors has \d+ bytes, \d+ were"):
        from_checkpoint(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"\Acheckpoint .* is damaged: model\.safetensors is missing\Z"):
        from_checkpoint(folder)


def wrappings(state):
    """A state dict as training scripts save it."""
    parallel = {f"module.{name}": value for name, value in state.items()}
    return {"plain": state, "parallel": parallel, "wrapped": {"epoch": 3, "state_dict": parallel}}


def test_weights_from_a_file_give_the_original_logits(tmp_path):
    model = network()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    for name, state in wrappings(model.state_dict()).items():
        torch.save(state, tmp_path / f"{name}.pt")
    for file in ("w.safetensors", "plain.pt", "parallel.pt", "wrapped.pt"):
        opened = open_network("convnet5", str(tmp_path / file), DATA, 10)
        assert not opened.model.training
        assert torch.equal(logits(opened.model), logits(model)), file
        assert (opened.mean, opened.std) == (DATA.mean, DATA.std)


def test_a_weights_file_may_be_named_without_a_folder(tmp_path, monkeypatch):
    torch.save(network().state_dict(), tmp_path / "mine.pt")
    monkeypatch.chdir(tmp_path)
    assert torch.equal(logits(open_network("convnet5", "mine.pt", DATA, 10).model), logits(network()))


def test_a_torchvision_network_takes_weights_from_a_file(tmp_path):
    model = network(name="resnet18", classes=7)
    torch.save(model.state_dict(), tmp_path / "w.pt")
    opened = open_network("resnet18", str(tmp_path / "w.pt"), DATA, 7)
    assert torch.equal(logits(opened.model), logits(model))
    assert "resnet18" in opened.origin and str(tmp_path) in opened.origin


@pytest.mark.parametrize(
    ("model", "weights", "said"),
    [
        ("resnet18", "IMAGENET1K_V11", "did you mean 'IMAGENET1K_V1'?"),
        ("resnet5O", "DEFAULT", "did you mean 'resnet50'?"),
        ("convnet", "DEFAULT", "did you mean 'convnet5'?"),
        ("resnet5O", "/w.pt", "model 'resnet5O' is unknown; did you mean 'resnet50'?"),
        ("/no/such/folder", "DEFAULT", "give a checkpoint folder, a torchvision name"),
        ("convnet5", "DEFAULT", "give the file with the weights of convnet5"),
        ("convnet5", "/no/such/file.pt", "No such file"),
        ("convnet5", "/no/such/file.safetensors", "No such file"),
    ],
)
def test_what_is_unknown_is_refused_with_the_remedy(model, weights, said):
    assert said in refusal(model, weights, DATA, 10)


class Marks:
    """What an unpickled file could do: here it makes a marker."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


@pytest.mark.parametrize("wrap", [lambda bomb: bomb, lambda bomb: {"state_dict": {"features.0.weight": bomb}}])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path, wrap):
    marker, file = tmp_path / "marker", tmp_path / "bomb.pt"
    torch.save(wrap(Marks(marker)), file)
    torch.load(file, weights_only=False)
    assert marker.exists()  # the bomb is live
    marker.unlink()
    assert "not a file of tensors alone" in refusal("convnet5", str(file), DATA, 10)
    assert not marker.exists()


def test_damaged_files_are_refused_in_one_line(tmp_path):
    state = network().state_dict()
    for name, write in (("w.safetensors", save_file), ("w.pt", torch.save)):
        path = tmp_path / name
        write(state, path)
        for kept in (0, 7, 500, path.stat().st_size // 2, path.stat().st_size - 1):
            cut = tmp_path / f"{kept}-{name}"
            cut.write_bytes(path.read_bytes()[:kept])
            assert f"weights {str(cut)!r} cannot be used: " in refusal("convnet5", str(cut), DATA, 10)
    for content in (torch.zeros(3), [1, 2], {3: torch.zeros(3)}, {"state_dict": 5}):
        torch.save(content, tmp_path / "other.pt")
        refusal("convnet5", str(tmp_path / "other.pt"), DATA, 10)
    (tmp_path / "text.pt").write_text("hello")
    refusal("convnet5", str(tmp_path / "text.pt"), DATA, 10)


def test_weights_of_another_network_are_refused_naming_a_weight(tmp_path):
    torch.save(network(classes=7).state_dict(), tmp_path / "w.pt")
    text = refusal("convnet5", str(tmp_path / "w.pt"), DATA, 10)
    assert "classifier.bias has shape (7,), not (10,), classifier.weight has shape (7, 128), not (10, 128)" in text
    torch.save(network(name="wrn40_2").state_dict(), tmp_path / "w.pt")
    text = refusal("convnet5", str(tmp_path / "w.pt"), DATA, 10)
    assert "does not fit ConvNet5: block1.layer.0.bn1.bias is unknown, " in text and " more; give the weights" in text
    sparse = network().state_dict()
    sparse["classifier.weight"] = sparse["classifier.weight"].to_sparse()
    torch.save(sparse, tmp_path / "w.pt")
    assert "classifier.weight is no dense tensor" in refusal("convnet5", str(tmp_path / "w.pt"), DATA, 10)


RELEASED_NAMES = {
    "wrn40_2": ("conv1.weight", "block1.layer.0.convShortcut.weight", "block3.layer.5.bn2.running_var", "fc.bias"),
    "allconv": ("features.0.weight", "features.1.num_batches_tracked", "features.29.running_mean", "classifier.bias"),
    "densenet40_12_released": ("dense1.11.conv1.weight", "trans2.bn1.weight", "bn1.running_mean", "fc.weight"),
    "resnext29_32x4": (
        *("conv_1_3x3.weight", "bn_1.bias", "stage_1.0.downsample.1.weight", "stage_3.2.conv_conv.weight"),
        *("stage_2.1.bn_reduce.running_var", "stage_2.0.bn.weight", "stage_1.2.bn_expand.bias", "classifier.weight"),
    ),
}
"""Some parameters of the networks of google-research/augmix, by the names that its training saves."""


@pytest.mark.parametrize("name", RELEASED_NAMES)
def test_weights_as_the_released_code_saves_them_load_into_our_networks(tmp_path, name):
    model = network(name=name)
    states = {f"module.{key}": value for key, value in model.state_dict().items()}
    assert {f"module.{key}" for key in RELEASED_NAMES[name]} <= states.keys()
    saved = {"epoch": 99, "model": name, "state_dict": states, "best_acc": 0.95, "optimizer": {"state": {}}}
    torch.save(saved, tmp_path / "released.pth.tar")
    opened = open_network(name, str(tmp_path / "released.pth.tar"), DATA, 10)
    assert torch.equal(logits(opened.model), logits(model))


def start(name="convnet5", weights="", classes=10):
    torch.manual_seed(8)
    return starting_network(ModelConfig(name=name, weights=str(weights)), DATA, classes)


def test_training_starts_from_the_weights_of_a_file(tmp_path):
    model = network()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "w.pt")
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    for file in ("w.pt", "w.safetensors"):
        started, said = start(weights=tmp_path / file)
        assert started.training and said == f"model: convnet5 starts from {tmp_path / file}"
        assert torch.equal(logits(started.eval()), logits(model))
    assert start()[1] == "" and not torch.equal(logits(start()[0].eval()), logits(model))


@pytest.mark.parametrize("name", ["convnet5", "wrn40_2", "resnet18", "mobilenet_v3_small", "squeezenet1_1"])
def test_a_head_of_other_classes_is_replaced_by_a_new_one_and_said(tmp_path, name):
    model = network(name=name, classes=12)
    torch.save(model.state_dict(), tmp_path / "w.pt")
    started, said = start(name, tmp_path / "w.pt", classes=7)
    assert said.endswith("; its head of 12 classes is replaced by a new one of 7")
    assert logits(started.eval(), torch.zeros(1, 3, 64, 64)).shape == (1, 7)
    fresh, before, after = start(name, classes=7)[0].state_dict(), model.state_dict(), started.state_dict()
    replaced = {key for key in after if after[key].shape != before[key].shape}
    assert len(replaced) == 2  # weight and bias
    assert all(torch.equal(after[key], (fresh if key in replaced else before)[key]) for key in after)


@pytest.mark.parametrize(
    ("name", "weights", "said"),
    [
        ("convnet5", "DEFAULT", "give the file with the weights of convnet5"),
        ("resnet18", "IMAGENET1K_V11", "model.weights 'IMAGENET1K_V11' of resnet18 is unknown; did you mean"),
        ("convnet5", "/no/such/file.pt", "model.weights '/no/such/file.pt' cannot be used: "),
        ("convnet5", "relative.pt", "model.weights is 'relative.pt'; give an absolute path"),
        ("convnet5", "OTHER", "does not fit ConvNet5: block1.layer.0.bn1.bias is unknown, "),
    ],
)
def test_weights_that_cannot_start_a_training_are_refused_in_one_line(tmp_path, name, weights, said):
    torch.save(network(name="wrn40_2").state_dict(), tmp_path / "other.pt")
    with pytest.raises(ValueError, match=ONE_LINE) as caught:
        start(name, tmp_path / "other.pt" if weights == "OTHER" else weights)
    assert said in str(caught.value)


def test_published_weights_start_a_training_and_another_normalisation_is_said(monkeypatch):
    """All but the download itself."""
    weights = models.ResNet18_Weights.IMAGENET1K_V1
    published = network(name="resnet18", classes=1000)
    monkeypatch.setattr(type(weights), "get_state_dict", lambda *_, **__: published.state_dict())
    started, said = start("resnet18", "IMAGENET1K_V1")
    assert torch.equal(started.conv1.weight, published.conv1.weight)
    assert "trained with data.mean (0.485, 0.456, 0.406)" in said and "its head of 1000 classes" in said


def refused_answer(opened, classes, image_size):
    with pytest.raises(ValueError, match=ONE_LINE) as caught:
        opened.check_classes(classes, image_size)
    return str(caught.value)


def test_another_number_of_classes_is_refused(tmp_path):
    torch.save(network().state_dict(), tmp_path / "w.pt")
    opened = open_network("convnet5", str(tmp_path / "w.pt"), DATA, 10)
    opened.check_classes(10, 32)
    assert "the data set has 12 classes, so (2, 12) logits are needed" in refused_answer(opened, 12, 32)


def test_another_image_size_is_refused(tmp_path):
    torch.save(network(name="vit_b_32", classes=2).state_dict(), tmp_path / "w.pt")
    opened = open_network("vit_b_32", str(tmp_path / "w.pt"), DATA, 2)
    assert "does not take 3 x 32 x 32 images" in refused_answer(opened, 2, 32)


def test_weights_that_cannot_be_fetched_end_in_one_line_with_their_address(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    text = refusal("resnet18", "DEFAULT", DATA, 1000)
    assert models.ResNet18_Weights.DEFAULT.url in text
    assert "Name or service not known" in text and "give its path as --weights" in text


def test_a_download_that_stays_silent_is_given_up(tmp_path, monkeypatch):
    """torch sets no timeout, so the default of the sockets made by then decides."""
    import socket

    seen = []

    def connect(*_, **__):
        seen.append(socket.getdefaulttimeout())
        raise TimeoutError("timed out")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", connect)
    assert "timed out" in refusal("resnet18", "DEFAULT", DATA, 1000)
    assert seen == [30] and socket.getdefaulttimeout() is None


def test_a_damaged_file_in_the_cache_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    (cache / models.ResNet18_Weights.DEFAULT.url.rpartition("/")[2]).write_bytes(b"<html>proxy</html>")
    text = refusal("resnet18", "DEFAULT", DATA, 1000)
    assert f"remove a damaged copy below {tmp_path / 'hub'}" in text


def test_published_weights_bring_their_own_normalisation(tmp_path, monkeypatch):
    """The cache holds weights under the published name, as after a download."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    model = network(name="resnet18", classes=1000)
    torch.save(model.state_dict(), cache / models.ResNet18_Weights.DEFAULT.url.rpartition("/")[2])
    opened = open_network("resnet18", "DEFAULT", DATA, 1000)
    assert opened.mean == (0.485, 0.456, 0.406) and opened.std == (0.229, 0.224, 0.225)
    assert torch.equal(logits(opened.model), logits(model))
    assert opened.origin == "torchvision's resnet18, weights IMAGENET1K_V1"


@pytest.fixture
def in_my_folder(tmp_path, monkeypatch):
    """The current folder is the user's, and holds a module of a name that is free."""
    known = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    (tmp_path / "my_layers.py").write_text(MINE)
    (tmp_path / "my_network.py").write_text("from my_layers import make, not_a_network, fails\n")
    (tmp_path / "my_broken.py").write_text("def make(:\n")
    (tmp_path / "my_failing.py").write_text("1 / 0\n")
    yield tmp_path
    for name in set(sys.modules) - known:
        if name.startswith("my_"):
            with suppress(ValueError):  # one that was refused is not registered
                ray.cloudpickle.unregister_pickle_by_value(sys.modules[name])
            del sys.modules[name]


def test_a_function_of_the_current_folder_makes_the_network(in_my_folder):
    opened = open_network("my_network:make", "DEFAULT", DATA, 10)
    opened.check_classes(10, 32)
    assert not opened.model.training and opened.origin == "my_network:make"
    state = {name: value + 1 for name, value in opened.model.state_dict().items()}
    torch.save(state, in_my_folder / "mine.pt")
    filled = open_network("my_network:make", "mine.pt", DATA, 10)
    assert torch.equal(filled.model.head.weight, opened.model.head.weight + 1)


def test_a_network_of_the_current_folder_reaches_workers_that_lack_its_files(in_my_folder, tmp_path_factory):
    opened = open_network("my_network:make", "DEFAULT", DATA, 10)
    elsewhere = tmp_path_factory.mktemp("worker")
    (elsewhere / "network").write_bytes(ray.cloudpickle.dumps(opened.model))
    code = "import pickle, torch; print(pickle.load(open('network', 'rb'))(torch.ones(1, 3, 8, 8)).tolist())"
    done = subprocess.run([sys.executable, "-c", code], cwd=elsewhere, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == logits(opened.model, torch.ones(1, 3, 8, 8)).tolist()


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("my_nothing:make", "'my_nothing' cannot be imported from"),
        ("my_broken:make", "'my_broken' cannot be imported from"),
        ("my_failing:make", "ZeroDivisionError: division by zero"),
        (":make", "'' cannot be imported from"),
        ("my_network:mak", "my_network has no function 'mak'"),
        ("my_network:", "my_network has no function ''"),
        ("my_network:not_a_network", "not_a_network() returned str, not an nn.Module"),
        ("my_network:fails", "fails() failed: RuntimeError: no weights here and a second line"),
    ],
)
def test_a_wrong_import_path_is_refused_in_one_line(in_my_folder, model, said):
    assert said in refusal(model, "DEFAULT", DATA, 10)


def test_named_weights_of_a_function_are_refused(in_my_folder):
    assert "make() loads its own" in refusal("my_network:make", "IMAGENET1K_V1", DATA, 10)


def test_the_digest_is_that_of_weights_layers_and_normalisation(tmp_path):
    model = network()
    torch.save(model.state_dict(), tmp_path / "w.pt")
    opened, again = (open_network("convnet5", str(tmp_path / "w.pt"), DATA, 10) for _ in range(2))
    before = opened.digest
    assert again.digest == before
    with torch.no_grad():
        next(again.model.parameters()).view(-1)[5] += 1e-6
    assert again.digest != before
    assert dataclasses.replace(opened, mean=(0.5, 0.5, 0.4)).digest != before
    strided = open_network("convnet5", str(tmp_path / "w.pt"), DATA, 10)
    next(m for m in strided.model.modules() if isinstance(m, torch.nn.Conv2d)).stride = (2, 2)
    assert strided.digest != before  # the same state dict, other answers


def test_timm_is_named_where_it_is_missing(monkeypatch):
    found = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "timm" else found(name))
    assert "pip install timm" in refusal("timm:resnet10t", "DEFAULT", DATA, 10)
    assert "pip install timm" in refusal("resnet10tt.c3_in1k", "DEFAULT", DATA, 10)


def test_a_network_of_timm_takes_weights_from_a_file(tmp_path):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=7).eval()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    for name in ("timm:resnet10t", "resnet10t"):
        opened = open_network(name, str(tmp_path / "w.safetensors"), DATA, 7)
        assert torch.equal(logits(opened.model), logits(model))
    assert "did you mean 'resnet10t" in refusal("timm:resnet10tt", "DEFAULT", DATA, 7)
    assert "part of the name" in refusal("timm:resnet10t", "IMAGENET1K_V1", DATA, 7)
