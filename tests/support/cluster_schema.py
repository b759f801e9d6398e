"""Strict schemas for what Ray's own schema does not check: provider fields and KubeRay's manifests."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Cpu = Annotated[str, StringConstraints(pattern=r"^\d+(m|\.\d+)?$")]
Memory = Annotated[str, StringConstraints(pattern=r"^\d+(Ki|Mi|Gi|Ti)$")]
Count = Annotated[str, StringConstraints(pattern=r"^[1-9]\d*$")]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]


class Strict(BaseModel):
    """Unknown fields and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", strict=True)


class AwsProvider(Strict):
    type: Literal["aws"]
    region: Annotated[str, StringConstraints(pattern=r"^[a-z]{2}-[a-z]+-\d$")]
    availability_zone: str
    cache_stopped_nodes: bool = True


class GcpProvider(Strict):
    type: Literal["gcp"]
    region: Annotated[str, StringConstraints(pattern=r"^[a-z]+-[a-z]+\d$")]
    availability_zone: str
    project_id: str

    @model_validator(mode="after")
    def _zone_is_in_region(self) -> GcpProvider:
        assert self.availability_zone.startswith(self.region + "-")
        return self


class GcpDiskParams(Strict):
    diskSizeGb: int = Field(ge=50)
    sourceImage: Annotated[str, StringConstraints(pattern=r"^projects/[\w-]+/global/images/family/[\w-]+$")]


class GcpDisk(Strict):
    boot: Literal[True]
    autoDelete: Literal[True]
    type: Literal["PERSISTENT"]
    initializeParams: GcpDiskParams


class GcpScheduling(Strict):
    provisioningModel: Literal["SPOT", "STANDARD"]
    instanceTerminationAction: Literal["DELETE", "STOP"]
    onHostMaintenance: Literal["TERMINATE"]


class GcpNode(Strict):
    machineType: Annotated[str, StringConstraints(pattern=r"^[a-z]\d[a-z]?-[a-z]+-\d+g?$")]
    disks: list[GcpDisk] = Field(min_length=1)
    scheduling: GcpScheduling | None = None


class Metadata(Strict):
    name: Name


class Amounts(Strict):
    cpu: Cpu
    memory: Memory
    gpu: Count | None = Field(None, alias="nvidia.com/gpu")


class Resources(Strict):
    limits: Amounts
    requests: Amounts

    @model_validator(mode="after")
    def _are_equal(self) -> Resources:
        assert self.limits == self.requests, "Ray plans by the limits: requests must be the same"
        return self


class Reference(Strict):
    name: Name


class EnvFrom(Strict):
    secretRef: Reference


class Mount(Strict):
    name: Name
    mountPath: str


class Container(Strict):
    name: Name
    image: Annotated[str, StringConstraints(pattern=r"^[a-z0-9./-]+:[\w.-]+$")]
    envFrom: list[EnvFrom] = Field(default=[])
    resources: Resources
    volumeMounts: list[Mount] = Field(default=[])


class EmptyDir(Strict):
    medium: Literal["Memory"]
    sizeLimit: Memory


class Volume(Strict):
    name: Name
    emptyDir: EmptyDir


class Toleration(Strict):
    key: str
    operator: Literal["Exists"]
    effect: Literal["NoSchedule"]


class PodSpec(Strict):
    containers: list[Container] = Field(min_length=1, max_length=1)
    nodeSelector: dict[str, str] = Field(default={})
    tolerations: list[Toleration] = Field(default=[])
    volumes: list[Volume] = Field(default=[])

    @model_validator(mode="after")
    def _mounts_have_volumes(self) -> PodSpec:
        mounted = {mount.name for mount in self.containers[0].volumeMounts}
        assert mounted == {volume.name for volume in self.volumes}
        return self


class Pod(Strict):
    spec: PodSpec


class HeadParams(Strict):
    num_cpus: Literal["0"] = Field(alias="num-cpus")


class Head(Strict):
    rayStartParams: HeadParams
    template: Pod

    @model_validator(mode="after")
    def _has_no_gpu(self) -> Head:
        assert self.template.spec.containers[0].resources.limits.gpu is None
        return self


class Workers(Strict):
    groupName: Name
    replicas: int = Field(ge=0)
    minReplicas: int = Field(ge=0)
    maxReplicas: int = Field(ge=1)
    rayStartParams: dict[str, str]
    template: Pod

    @model_validator(mode="after")
    def _is_gpu_group(self) -> Workers:
        assert self.minReplicas <= self.maxReplicas and self.replicas <= self.maxReplicas
        assert self.template.spec.containers[0].resources.limits.gpu, "a GPU group has nvidia.com/gpu limits"
        return self


class Auth(Strict):
    mode: Literal["token"]


class Autoscaler(Strict):
    idleTimeoutSeconds: int = Field(ge=1)
    upscalingMode: Literal["Default", "Aggressive", "Conservative"]


class ClusterSpec(Strict):
    rayVersion: str
    authOptions: Auth
    enableInTreeAutoscaling: bool
    autoscalerOptions: Autoscaler
    headGroupSpec: Head
    workerGroupSpecs: list[Workers] = Field(min_length=1)


class JobSpec(Strict):
    submissionMode: Literal["K8sJobMode"]
    backoffLimit: int = Field(ge=0)
    shutdownAfterJobFinishes: bool
    ttlSecondsAfterFinished: int = Field(ge=0)
    entrypoint: str
    runtimeEnvYAML: str
    rayClusterSpec: ClusterSpec


class ServiceSpec(Strict):
    serveConfigV2: str
    rayClusterConfig: ClusterSpec


class Manifest(Strict):
    apiVersion: Literal["ray.io/v1"]
    metadata: Metadata


class RayCluster(Manifest):
    kind: Literal["RayCluster"]
    spec: ClusterSpec


class RayJob(Manifest):
    kind: Literal["RayJob"]
    spec: JobSpec


class RayService(Manifest):
    kind: Literal["RayService"]
    spec: ServiceSpec


MANIFESTS: dict[str, type[Manifest]] = {"raycluster": RayCluster, "rayjob": RayJob, "rayservice": RayService}


def cluster_of(manifest: Any) -> ClusterSpec:
    """The cluster of a manifest of any kind."""
    spec = manifest.spec
    return getattr(spec, "rayClusterSpec", None) or getattr(spec, "rayClusterConfig", None) or spec
