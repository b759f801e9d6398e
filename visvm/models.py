"""Find models by name: the embedded world's, local directories, stores and the Hugging Face hub.

Nothing is loaded here, and torch is imported only where a model's configuration has to be read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from visvm import storage
from visvm.model_files import check_files
from visvm.server_policy.names import is_server

Kind = Literal["policy", "clip", "value"]
CLIP, SIGLIP = "ViT-L-14-336/openai", "ViT-SO400M-14-SigLIP-384/webli"
PAIRS = {"llava_onevision": SIGLIP}
WORLD = Path(__file__).parent / "world" / "weights"


def resolve(name: str, kind: Kind) -> str:
    """Return the directory (absolute, so that workers find it) or hub id that ``name`` stands for.

    "world" is the embedded default; a directory, also one in a store, stands for itself; anything else
    is a hub id.

    Raises:
        ValueError: a local path that is not a directory.
    """
    if name == "world":
        return str(_directory(WORLD / kind, "the embedded model"))
    if storage.is_remote(name):
        return storage.absolute(name)
    path = Path(name).expanduser()
    if path.is_dir() or _is_path(name):
        return str(_directory(path.absolute(), "model"))
    return name


def check_policy(name: str) -> str:
    """Return the resolved policy; ValueError if it is no whole VLM of a supported family."""
    from visvm.families import check_supported

    if is_server(name):
        raise ValueError(f"policy {name} is a server: this needs the weights, a directory or a hub id")
    resolved = resolve(name, "policy")
    check_supported(resolved)
    check_files(resolved, has_tokenizer=True)
    return resolved


def check_writer(name: str) -> str:
    """Return the resolved policy of a job that only writes: one as ``check_policy`` takes, or a server.

    Raises:
        ValueError: neither, with the reason.
    """
    if not is_server(name):
        return check_policy(name)
    from visvm.server_policy.probe import check_server

    return check_server(name)


def check_reward(name: str, *, policy: str) -> str:
    """Return the resolved reward model; ValueError if open_clip would not know it.

    "auto" is the model that the paper pairs with the family of ``policy``: CLIP ViT-L/14-336, or SigLIP
    so400m for LLaVA-OneVision; for the world's policy it is the world's CLIP. A head on the policy's states
    is a reward model too.
    """
    from visvm.reward import parse_name
    from visvm.storage import mirror
    from visvm.value.head import head_config

    if name == "auto":
        name = "world" if is_world(policy) else _pair(policy)
    resolved = resolve(name, "clip")
    if head_config(resolved) is not None:
        return resolved
    check_files(resolved, has_tokenizer=False)
    architecture, _ = parse_name(folder := mirror.settings(resolved))
    if architecture.startswith("local-dir:") and not Path(folder, "open_clip_config.json").is_file():
        raise ValueError(f"reward model {resolved}: no open_clip_config.json in it")
    return resolved


def default_value(policy: str) -> str | None:
    """Return the value model that comes with a policy: only the world's has one."""
    return "world" if is_world(policy) else None


def check_value(name: str | None, *, policy: str, predict: str) -> str:
    """Return the resolved value model; None stands for the one that comes with the policy.

    Raises:
        ValueError: none is given, it is not a value model, it does not predict ``predict`` ("value" or
            "future"), or it is of another family than ``policy``.
    """
    from visvm.families import check_supported
    from visvm.value import check_value_model
    from visvm.value.head import head_config

    if name is None and predict == "value":
        name = default_value(policy)
    if name is None:
        raise ValueError("this method needs a value model: give --value DIR (in Python value=DIR)")
    resolved = resolve(name, "value")
    if (own := predicts(resolved)) != predict:
        raise ValueError(f"value model {name} predicts {own!r}; this method needs {predict!r}")
    if head_config(resolved) is not None:
        if is_server(policy):
            raise ValueError(f"value model {name} is a head: it reads states that a server keeps to itself")
        return resolved  # the policy's weights tell whether it fits, once they are loaded
    check_files(resolved, has_tokenizer=True)
    if is_server(policy):
        return resolved  # it reads images and texts, whoever writes them
    family, base = (
        check_supported(resolve(policy, "policy")),
        check_supported(check_value_model(resolved).base_config),
    )
    if family != base:
        raise ValueError(f"value model {name} is a {base} model, the policy {policy} a {family} model")
    return resolved


def _pair(policy: str) -> str:
    """Return the reward model that the paper pairs with a policy's family."""
    from visvm.families import check_supported

    return CLIP if is_server(policy) else PAIRS.get(check_supported(resolve(policy, "policy")), CLIP)


def predicts(resolved: str) -> str:
    """Return what a value model or head predicts: "value" or "future".

    Raises:
        ValueError: the directory or hub id holds neither.
    """
    from visvm.value import check_value_model
    from visvm.value.head import head_config

    return "value" if head_config(resolved) else check_value_model(resolved).predict


def loading_of(device: str, dtype: str) -> dict[str, str]:
    """Return the device and dtype to load models with; "auto" is a GPU and bfloat16 where there is one.

    Raises:
        ValueError: "cuda" on a machine without a GPU, or an unknown device or dtype.
    """
    import torch

    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device = {device!r}: expected auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device = 'cuda', but torch finds no GPU on this machine; use cpu or auto")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype == "auto":
        dtype = "float32" if device == "cpu" else "bfloat16"
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"dtype = {dtype!r}: expected auto, float32, bfloat16 or float16")
    return {"device": device, "dtype": dtype}


def is_world(policy: str) -> bool:
    """Return whether ``policy`` is the embedded world's."""
    return policy == "world" or (is_local(policy) and resolve(policy, "policy") == resolve("world", "policy"))


def is_local(name: str) -> bool:
    """Return whether a policy, reward or value model is a directory of this machine (not an embedded one)."""
    is_elsewhere = name in ("world", "auto", "none") or storage.is_remote(name)
    return not is_elsewhere and (Path(name).expanduser().is_dir() or _is_path(name))


def _directory(path: Path, what: str) -> Path:
    if not path.is_dir():
        raise ValueError(f"{what} {path}: no such directory")
    return path


def _is_path(name: str) -> bool:
    """Return whether ``name`` reads as a path and not as a hub id: "org/name" or "name"."""
    first = Path(name).parts[0] if name else ""
    return name.startswith((".", "~", "/")) or name.count("/") != 1 or Path(first).exists()
