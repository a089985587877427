"""Draw `input.png`, the image that the demo edits: a red circle on a yellow gradient."""

from pathlib import Path

from demo_model.scenes import Backdrop, Scene, Shape, draw

SCENE = Scene(Backdrop("yellow", "gradient", seed=4), (Shape("circle", "red", 0.5, 0.52, 0.22),))
SIDE = 384

if __name__ == "__main__":
    draw(SCENE, SIDE, SIDE).save(Path(__file__).with_name("input.png"), optimize=True)
