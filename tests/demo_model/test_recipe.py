"""The demo model's recipe with a few training steps."""

from dataclasses import replace
from pathlib import Path

import PIL.Image
import pytest
import torch

from demo_model.recipe import Drawn, Recipe, Stage, make_model
from pipelines.api.params import EditParams
from pipelines.engine.pipeline import EditPipeline

SIZE = (128, 128)
FEW_STEPS = Recipe(
    stages=(Stage(((Drawn(SIZE, 1, seed=0), 1),), 1, 2, (1e-3, 1e-3), seed=0, compiles=True),),
    vae_steps=2,
    decoder_steps=(2, 2),
)

# raised by torch itself when its compiler is imported
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The folder of an old model with its card."""
    path = tmp_path / "models" / "demo"
    path.mkdir(parents=True)
    (path / "README.md").write_text("# the card")
    (path / "model_index.json").write_text("old")
    (path / "old.json").write_text("old")
    return path


@pytest.mark.complete
def test_recipe_makes_a_model_that_edits_and_keeps_the_card(old: Path) -> None:
    # compiling would take minutes
    with torch.compiler.set_stance("force_eager"):
        make_model(old, FEW_STEPS)
    pipeline = EditPipeline.load(old, device="cpu", dtype=torch.float32)
    params = EditParams(prompt="Make the circle green", seed=1, size=(256, 256))
    made = pipeline.edit(params, [PIL.Image.new("RGB", SIZE)]).images

    assert [image.size for image in made] == [(256, 256)]
    assert (old / "README.md").read_text() == "# the card"
    assert not (old / "old.json").exists()
    assert list(old.parent.iterdir()) == [old]


def test_old_model_stays_when_training_fails(old: Path) -> None:
    before = {path: path.read_text() for path in old.rglob("*")}

    with torch.compiler.set_stance("force_eager"), pytest.raises(ValueError, match="total_steps"):
        make_model(old, replace(FEW_STEPS, decoder_steps=(2, 0)))

    assert {path: path.read_text() for path in old.rglob("*")} == before
    assert list(old.parent.iterdir()) == [old]
