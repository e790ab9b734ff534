"""Check the configurations in examples/cluster against Ray Serve, KubeRay and Kubernetes."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from kubernetes import client as kubernetes
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import (
    DeploymentSchema,
    HTTPOptionsSchema,
    RayActorOptionsSchema,
    ServeApplicationSchema,
    ServeDeploySchema,
)

FOLDER = Path(__file__).parents[2] / "examples" / "cluster"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the sdist has no examples")

# Fields of KubeRay's ray.io/v1 types, with the types of their values.
POD = "V1PodTemplateSpec"
RAY_SERVICE = {
    "serveConfigV2": str,
    "excludeHeadPodFromServeSvc": bool,
    "rayClusterConfig": {
        "rayVersion": str,
        "enableInTreeAutoscaling": bool,
        "authOptions": {"mode": str},
        "gcsFaultToleranceOptions": {"redisAddress": str, "externalStorageNamespace": str},
        "headGroupSpec": {"rayStartParams": dict, "template": POD},
        "workerGroupSpecs": [
            {
                "groupName": str,
                "replicas": int,
                "minReplicas": int,
                "maxReplicas": int,
                "rayStartParams": dict,
                "template": POD,
            }
        ],
    },
}


def manifests() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / "chroma.yaml").read_text()))


def ray_service() -> dict[str, Any]:
    service: dict[str, Any] = yaml.safe_load((FOLDER / "rayservice.yaml").read_text())
    return service


def serve_configs() -> dict[str, dict[str, Any]]:
    return {
        "serve.yaml": yaml.safe_load((FOLDER / "serve.yaml").read_text()),
        "rayservice.yaml": yaml.safe_load(ray_service()["spec"]["serveConfigV2"]),
    }


def check_fields(value: Any, kind: Any) -> None:
    """Check a value against a table such as `RAY_SERVICE`."""
    if kind == POD:
        check_kubernetes(value, kind)
    elif isinstance(kind, dict):
        assert set(value) <= set(kind)
        for name, part in value.items():
            check_fields(part, kind[name])
    elif isinstance(kind, list):
        for part in value:
            check_fields(part, kind[0])
    else:
        assert isinstance(value, kind), (value, kind)


def check_kubernetes(value: dict[str, Any], kind: str) -> None:
    """Check a value against a model of Kubernetes' client, which has every field and its type."""
    getattr(kubernetes, kind).model_validate(value)


@pytest.mark.parametrize("name", ["serve.yaml", "rayservice.yaml"])
def test_ray_serve_accepts_the_configuration(name: str) -> None:
    config = serve_configs()[name]
    assert set(config) <= set(ServeDeploySchema.model_fields)
    assert set(config["http_options"]) <= set(HTTPOptionsSchema.model_fields)
    schema = ServeDeploySchema.model_validate(config)
    (application,) = config["applications"]
    assert set(application) <= set(ServeApplicationSchema.model_fields)
    for deployment in application["deployments"]:
        assert set(deployment) <= set(DeploymentSchema.model_fields)
        assert set(deployment["ray_actor_options"]) <= set(RayActorOptionsSchema.model_fields)
        assert set(deployment["autoscaling_config"]) <= set(AutoscalingConfig.model_fields)
        AutoscalingConfig.model_validate(deployment["autoscaling_config"])
    assert schema.applications[0].import_path == application["import_path"]


@pytest.mark.parametrize("name", ["serve.yaml", "rayservice.yaml"])
def test_the_configuration_builds_and_configures_the_deployment(name: str) -> None:
    (application,) = serve_configs()[name]["applications"]
    module, _, attribute = application["import_path"].partition(":")
    built = getattr(importlib.import_module(module), attribute)(application["args"])
    deployment = built._bound_deployment
    (options,) = application["deployments"]
    assert options.pop("name") == deployment.name
    configured = deployment.options(**options)
    assert configured.max_queued_requests == 64
    # Otherwise the autoscaler would never reach its target.
    target = options["autoscaling_config"]["target_ongoing_requests"]
    assert 0 < target < configured.max_ongoing_requests


def test_both_configurations_agree() -> None:
    on_servers, on_kubernetes = serve_configs().values()
    ((here,), (there,)) = (config["applications"] for config in (on_servers, on_kubernetes))
    assert here["deployments"] == there["deployments"]
    for name in ("limits", "mode", "model"):
        assert here["args"][name] == there["args"][name]


@pytest.mark.slow
def test_kuberay_accepts_every_field() -> None:
    service = ray_service()
    assert (service["apiVersion"], set(service)) == (
        "ray.io/v1",
        {"apiVersion", "kind", "metadata", "spec"},
    )
    check_fields(service["spec"], RAY_SERVICE)
    cluster = service["spec"]["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert group["template"]["spec"]["containers"][0]["image"]
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    (worker,) = cluster["workerGroupSpecs"]
    assert worker["minReplicas"] <= worker["replicas"] <= worker["maxReplicas"]


def test_the_workers_have_the_resources_of_the_replicas() -> None:
    config = serve_configs()["rayservice.yaml"]
    options = config["applications"][0]["deployments"][0]
    (worker,) = ray_service()["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    limits = worker["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert int(limits["nvidia.com/gpu"]) >= options["ray_actor_options"]["num_gpus"]
    assert int(limits["cpu"]) >= options["ray_actor_options"]["num_cpus"]
    assert worker["maxReplicas"] >= options["autoscaling_config"]["max_replicas"]


def test_the_file_of_tenants_is_mounted() -> None:
    config = serve_configs()["rayservice.yaml"]
    (worker,) = ray_service()["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    pod = worker["template"]["spec"]
    mounted = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    tenants = Path(config["applications"][0]["args"]["tenants"])
    assert str(tenants.parent) == mounted["tenants"]
    assert {volume["name"] for volume in pod["volumes"]} == set(mounted)


def test_kubernetes_accepts_the_other_manifests() -> None:
    kinds = {"StatefulSet": "V1StatefulSet", "Service": "V1Service"}
    objects = {manifest["kind"]: manifest for manifest in manifests()}
    assert set(objects) == set(kinds)
    for kind, manifest in objects.items():
        check_kubernetes(manifest, kinds[kind])
    labels = objects["StatefulSet"]["spec"]["template"]["metadata"]["labels"]
    assert objects["Service"]["spec"]["selector"] == labels


def test_all_servers_that_the_cluster_needs_are_among_the_manifests() -> None:
    (application,) = serve_configs()["rayservice.yaml"]["applications"]
    redis = ray_service()["spec"]["rayClusterConfig"].get("gcsFaultToleranceOptions")
    needed = {urlsplit(application["args"]["store"]).hostname}
    needed |= set() if redis is None else {redis["redisAddress"].partition(":")[0]}
    services = {each["metadata"]["name"] for each in manifests() if each["kind"] == "Service"}
    assert needed <= services


def test_kubernetes_sets_no_variables_that_chroma_takes_for_its_own() -> None:
    """For a service named chroma it sets CHROMA_PORT=tcp://..., with which Chroma fails."""
    (server,) = (each for each in manifests() if each["kind"] == "StatefulSet")
    assert server["spec"]["template"]["spec"]["enableServiceLinks"] is False


def test_a_misspelt_field_is_rejected() -> None:
    pod = ray_service()["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]
    pod["spec"]["containers"][0]["imagee"] = "other"
    with pytest.raises(ValueError, match="imagee"):
        check_kubernetes(pod, POD)
    with pytest.raises(AssertionError):
        check_fields({"rayClusterConfigs": {}}, RAY_SERVICE)
