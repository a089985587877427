"""From a folder in the published layout to a model on a device."""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DiffusionPipeline

from pipelines.api.errors import ModelUnusable, without_paths
from pipelines.api.load_options import Offload
from pipelines.api.model_spec import ModelSpec
from pipelines.engine.families import FAMILIES, EngineFamily
from pipelines.files.spec_file import read_spec


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model's components, in diffusers' pipeline object, and how they are used."""

    pipe: DiffusionPipeline
    family: EngineFamily
    spec: ModelSpec


def load_model(path: Path, dtype: torch.dtype) -> LoadedModel:
    """The model in `path`, in host memory.

    Raises ModelUnusable, with the library's own message when a component cannot be loaded.
    """
    spec = read_spec(path)
    family = FAMILIES[spec.family]
    try:
        pipe = family.pipeline_class.from_pretrained(
            path,
            # Without a dtype the weights load as fp32: twice the memory, and slow.
            dtype=dtype,
            local_files_only=True,
            # otherwise a folder without safetensors would be read as pickles
            use_safetensors=True,
            **family.load_components(path),
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as exc:
        reason = without_paths(str(exc))
        raise ModelUnusable(f"The model {path.name} cannot be loaded: {reason}") from exc
    family.repair(pipe)
    pipe.set_progress_bar_config(disable=True)
    return LoadedModel(pipe, family, spec)


def place(pipe: DiffusionPipeline, device: torch.device, offload: Offload) -> None:
    """Move the components to `device`, or have hooks move them there when they are used.

    Offload.MODEL keeps one component at a time on the device, Offload.GROUP one layer and the next.
    """
    if offload is Offload.NONE:
        pipe.to(device)
    elif offload is Offload.MODEL:
        pipe.enable_model_cpu_offload(device=device)
    else:
        pipe.enable_group_offload(
            onload_device=device,
            offload_type="leaf_level",
            # a stream copies the next layer while this one computes; only CUDA has streams
            use_stream=device.type == "cuda",
        )
