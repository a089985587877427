"""OFT files in the layouts of their trainers; each writer returns the changes in fp64."""

from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.lora_files import Linears
from tests.pipelines.engine.lora.conftest import MODULES, base_weight


def of_lycoris(
    size: int, alpha: float, is_rescaled: bool, path: Path, linears: Linears
) -> dict[str, torch.Tensor]:
    """Diag-OFT: W' = rescale · Rᵀ W, R = (I + Q)(I - Q)⁻¹, |Q| at most alpha · rows."""
    generator = torch.Generator().manual_seed(0)
    tensors, expected = {}, {}
    for name in MODULES:
        weight = base_weight(name, linears[name]).double()
        count = len(weight) // size
        blocks = 0.2 * torch.randn(count, size, size, generator=generator)
        stem = f"lycoris_{name.replace('.', '_')}"
        tensors |= {f"{stem}.oft_blocks": blocks, f"{stem}.alpha": torch.tensor(alpha)}
        skew = blocks.double() - blocks.double().transpose(1, 2)
        if alpha:
            skew = skew * min(1, alpha * len(weight) / float(skew.norm()))
        identity = torch.eye(size, dtype=torch.float64)
        rotation = torch.block_diag(*((identity + q) @ torch.inverse(identity - q) for q in skew))
        changed = rotation.T @ weight
        if is_rescaled:
            tensors[f"{stem}.rescale"] = 1 + 0.3 * torch.rand(len(weight), 1, generator=generator)
            changed = tensors[f"{stem}.rescale"] * changed
        expected[name] = changed - weight
    save_file(tensors, path)
    return expected


def of_onetrainer(
    size: int, is_shared: bool, is_scaled: bool, path: Path, linears: Linears
) -> dict[str, torch.Tensor]:
    """OFTv2: the input times R = I + 2Q + 2Q² + 2Q³ + Q⁴ in blocks, so W' = W Rᵀ."""
    generator = torch.Generator().manual_seed(0)
    tensors, expected = {}, {}
    for name in MODULES:
        weight = base_weight(name, linears[name]).double()
        count = weight.shape[1] // size
        entries = 0.2 * torch.randn(
            1 if is_shared else count, size * (size - 1) // 2, generator=generator
        )
        tensors[f"transformer.{name}.oft_R.weight"] = entries
        values = entries.double()
        if is_scaled:
            tensors[f"transformer.{name}.oft_R.scaled_oft"] = torch.tensor(True)
            values = values / (2 * (size - 1) ** 0.5)
        rotations = []
        for row in values:
            skew = torch.zeros(size, size, dtype=torch.float64)
            skew[torch.triu(torch.ones(size, size), 1).bool()] = row
            skew = skew - skew.T
            power = torch.linalg.matrix_power
            rotations.append(
                torch.eye(size)
                + 2 * skew
                + 2 * power(skew, 2)
                + 2 * power(skew, 3)
                + power(skew, 4)
            )
        every = rotations * count if is_shared else rotations
        expected[name] = weight @ torch.block_diag(*every).T - weight
    save_file(tensors, path)
    return expected


OFTS = {
    "OFT of LyCORIS": partial(of_lycoris, 8, 0.0, False),
    "OFT of LyCORIS, bounded": partial(of_lycoris, 8, 0.001, False),
    "OFT of LyCORIS, rescaled": partial(of_lycoris, 16, 0.0, True),
    "OFT of OneTrainer": partial(of_onetrainer, 8, False, False),
    "OFT of OneTrainer, scaled": partial(of_onetrainer, 16, False, True),
    "OFT of OneTrainer, shared": partial(of_onetrainer, 32, True, False),
}
