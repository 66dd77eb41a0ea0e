"""cluster.yaml: Ray's own offline validation, and that it means what the pipeline asks for."""

from pathlib import Path

import pytest
import yaml

from pipeline.blocks import PREPROCESS_LABEL
from pipeline.train import TRAIN_LABEL

CLUSTER = Path(__file__).resolve().parents[1] / "cluster.yaml"


@pytest.fixture
def cluster() -> dict:
    return yaml.safe_load(CLUSTER.read_text())


def test_ray_accepts_it(cluster):
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(cluster))


def test_rays_validation_would_notice_a_mistake(cluster):
    from ray.autoscaler._private.util import prepare_config, validate_config

    cluster["available_node_types"]["head"]["resources"] = {"CPU": "none"}
    with pytest.raises(Exception, match="none"):
        validate_config(prepare_config(cluster))


def test_the_labels_are_the_pipelines_and_the_head_does_no_work(cluster):
    types = cluster["available_node_types"]
    assert PREPROCESS_LABEL.items() <= types["preprocess"]["labels"].items()
    assert TRAIN_LABEL.items() <= types["train"]["labels"].items()
    assert types[cluster["head_node_type"]]["resources"] == {"CPU": 0, "GPU": 0}
    assert types["preprocess"]["min_workers"] == 0 < types["preprocess"]["max_workers"]
    assert "GPU" not in types["preprocess"]["resources"]
    assert types["train"]["resources"]["GPU"] > 0


def test_the_dashboard_stays_on_loopback_and_tokens_are_asked_for(cluster):
    (head,) = [command for command in cluster["head_start_ray_commands"] if "ray start" in command]
    (worker,) = [command for command in cluster["worker_start_ray_commands"] if "ray start" in command]
    assert "--dashboard-host=127.0.0.1" in head
    assert head.startswith("RAY_AUTH_MODE=token ") and worker.startswith("RAY_AUTH_MODE=token ")
    assert "~/.ray/auth_token" in cluster["file_mounts"]
