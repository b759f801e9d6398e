"""What a ``policy``, ``reward`` or ``value`` field of a job's config names."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import visvm
from visvm import storage

Kind = Literal["policy", "clip", "value"]
CLIP, SIGLIP = "ViT-L-14-336/openai", "ViT-SO400M-14-SigLIP-384/webli"
PAIRS = {"llava_onevision": SIGLIP}
WORLD = Path(visvm.__file__).parent / "world" / "weights"


def resolve(name: str, kind: Kind) -> str:
    """The directory (absolute, so that workers find it) or hub id that ``name`` stands for.

    "world" is the embedded default; a directory, also one in a store, is itself; the rest are hub ids.

    Raises:
        ValueError: a local path that is no directory.
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
    """Resolve a policy and look that it is a VLM of a supported family; ValueError if not."""
    from visvm.families import check_supported

    resolved = resolve(name, "policy")
    check_supported(resolved)
    return resolved


def check_reward(name: str, *, policy: str) -> str:
    """Resolve a reward model and look that open_clip would know it; ValueError if not.

    "auto" is the model that the paper pairs with the family of ``policy``: CLIP ViT-L/14-336, and
    SigLIP so400m with LLaVA-OneVision.
    """
    from visvm.families import check_supported
    from visvm.reward import parse_name
    from visvm.storage import mirror

    if name == "auto":
        name = "world" if _is_world(policy) else PAIRS.get(check_supported(resolve(policy, "policy")), CLIP)
    resolved = resolve(name, "clip")
    architecture, _ = parse_name(folder := mirror.settings(resolved))
    if architecture.startswith("local-dir:") and not Path(folder, "open_clip_config.json").is_file():
        raise ValueError(f"reward model {resolved}: no open_clip_config.json in it")
    return resolved


def default_value(policy: str) -> str | None:
    """The value model that comes with a policy: the world has one."""
    return "world" if _is_world(policy) else None


def check_value(name: str | None, *, policy: str, predict: str) -> str:
    """Resolve a value model and look that it predicts what is needed and fits ``policy``'s family.

    None is the one that comes with the policy.

    Raises:
        ValueError: none is given, it is no value model, or it does not fit.
    """
    from visvm.families import check_supported
    from visvm.value import check_value_model

    if name is None and predict == "value":
        name = default_value(policy)
    if name is None:
        raise ValueError("this method needs a value model: give --value DIR")
    resolved = resolve(name, "value")
    config = check_value_model(resolved)
    if config.predict != predict:
        raise ValueError(f"value model {name} predicts {config.predict!r}; this method needs {predict!r}")
    family, base = check_supported(resolve(policy, "policy")), check_supported(config.base_config)
    if family != base:
        raise ValueError(f"value model {name} is a {base} model, the policy {policy} a {family} model")
    return resolved


def _is_world(policy: str) -> bool:
    return resolve(policy, "policy") == resolve("world", "policy")


def _directory(path: Path, what: str) -> Path:
    if not path.is_dir():
        raise ValueError(f"{what} {path}: no such directory")
    return path


def is_local(name: str) -> bool:
    """Whether a policy, reward or value model is a directory of the machine that the job starts on."""
    is_elsewhere = name in ("world", "auto") or storage.is_remote(name)
    return not is_elsewhere and (Path(name).expanduser().is_dir() or _is_path(name))


def _is_path(name: str) -> bool:
    """Whether ``name`` reads as a path and not as a hub id: "org/name" or "name"."""
    first = Path(name).parts[0] if name else ""
    return name.startswith((".", "~", "/")) or name.count("/") != 1 or Path(first).exists()
