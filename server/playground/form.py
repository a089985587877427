"""The values of the page's fields, and the edit they describe."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.api.errors import InvalidParameter
from pipelines.api.params import LORA_SCALE_RANGE, SEED_RANGE, EditParams, LoraRef
from pipelines.api.sizes import SizeBounds, parse_size
from server.job import Job, OutputFormat

BOUNDS = SizeBounds()
AUTO_SIZE = "auto"
CUSTOM_SIZE = "free"
# Labels, and sizes as requests write them.
NAMED_SIZES: tuple[tuple[str, str], ...] = (
    ("Like the last image", AUTO_SIZE),
    ("Small square · 256 × 256", "256*256"),
    ("Square · 512 × 512", "512*512"),
    ("Square · 1024 × 1024", "1024*1024"),
    ("Landscape 4:3 · 1152 × 864", "1152*864"),
    ("Landscape 3:2 · 1248 × 832", "1248*832"),
    ("Landscape 16:9 · 1536 × 864", "1536*864"),
    ("Portrait 3:4 · 864 × 1152", "864*1152"),
    ("Portrait 2:3 · 832 × 1248", "832*1248"),
    ("Portrait 9:16 · 864 × 1536", "864*1536"),
    ("Custom…", CUSTOM_SIZE),
)
DEFAULT_SIDE = 512
# The first choice of the preset menu.
NO_PRESET = ("None", "")
SLOTS = 3
# The fields, in the order in which a browser sends their values.
FIELDS = (
    "image_1", "image_2", "image_3", "prompt", "preset", "negative_prompt",
    "size", "width", "height", "lora_1", "scale_1", "lora_2", "scale_2", "lora_3", "scale_3",
    "seed", "is_seed_locked", "num_inference_steps", "true_cfg_scale", "output_format",
    "num_outputs",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class SlotImage:
    """An image in a slot: the path of the upload, and the name of the original file."""

    path: str
    name: str


@dataclass(frozen=True, slots=True)
class LoraField:
    """A row of the LoRA list; an empty reference means no LoRA."""

    reference: str = ""
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Form:
    """The values of the fields; None is an empty number."""

    images: tuple[SlotImage | None, ...] = (None, None, None)
    prompt: str = ""
    preset: str = ""
    negative_prompt: str = ""
    size: str = AUTO_SIZE
    width: float | None = DEFAULT_SIDE
    height: float | None = DEFAULT_SIDE
    loras: tuple[LoraField, ...] = (LoraField(), LoraField(), LoraField())
    seed: float | None = None
    is_seed_locked: bool = False
    num_inference_steps: float | None = None
    true_cfg_scale: float | None = None
    output_format: OutputFormat = OutputFormat.PNG
    num_outputs: float | None = 1

    def params(self, draw_seed: Callable[[], int], sizes: SizeBounds = BOUNDS) -> EditParams:
        """The edit that the form describes; `sizes` are those that the page offers.

        Raises InvalidParameter, which names the field.
        """
        if self.is_seed_locked and self.seed is None:
            raise InvalidParameter("seed", "is locked and empty: enter a seed or unlock it")
        seed = _whole(self.seed, "seed") if self.is_seed_locked else draw_seed()
        count = _whole(self.num_outputs, "num_outputs")
        return EditParams(
            prompt=self.prompt,
            seed=draw_seed() if seed is None else seed,
            negative_prompt=self.negative_prompt if self.negative_prompt.strip() else None,
            size=self._chosen_size(sizes),
            bounds=BOUNDS,
            num_inference_steps=_whole(self.num_inference_steps, "num_inference_steps"),
            true_cfg_scale=self.true_cfg_scale,
            num_outputs=1 if count is None else count,
            loras=tuple(
                _lora(lora, index) for index, lora in enumerate(self.loras) if lora.reference
            ),
        )

    def _chosen_size(self, sizes: SizeBounds) -> tuple[int, int] | None:
        if self.size == AUTO_SIZE:
            return None
        if self.size != CUSTOM_SIZE:
            return parse_size(self.size, sizes)
        width, height = _whole(self.width, "size"), _whole(self.height, "size")
        if width is None or height is None:
            raise InvalidParameter("size", "needs a width and a height")
        if (width, height) not in sizes:
            got = f"got {width} × {height}"
            raise InvalidParameter("size", f"must be {sizes} pixels a side, {got}")
        return width, height

    @property
    def image_slots(self) -> tuple[int, ...]:
        """The index of the slot of each image."""
        return tuple(index for index, image in enumerate(self.images) if image is not None)

    @property
    def lora_rows(self) -> tuple[int, ...]:
        """The index of the row of each LoRA."""
        return tuple(index for index, lora in enumerate(self.loras) if lora.reference)


def sizes_within(bounds: SizeBounds) -> list[tuple[str, str]]:
    """The named sizes within `bounds`, and those without a size of their own."""
    return [
        (label, value)
        for label, value in NAMED_SIZES
        if value in (AUTO_SIZE, CUSTOM_SIZE) or parse_size(value, BOUNDS) in bounds
    ]


def is_custom(size: Any) -> bool:
    """Return whether width and height are typed."""
    return bool(size == CUSTOM_SIZE)


def random_seed() -> int:
    """Draw a seed."""
    return secrets.randbelow(SEED_RANGE[1] + 1)


def form_of_job(job: Job, images: Sequence[SlotImage | None]) -> Form:
    """The form that repeats a job, with its seed.

    `images` are those of the job that are still stored.
    """
    params = job.request.params
    size = "*".join(map(str, params.size)) if params.size else AUTO_SIZE
    is_named = size in {value for _, value in NAMED_SIZES}
    loras = [LoraField(lora.path, lora.scale) for lora in params.own_loras]
    width, height = params.size or (DEFAULT_SIDE, DEFAULT_SIDE)
    return Form(
        images=_padded(images, None),
        prompt=params.prompt,
        preset=job.request.preset or "",
        negative_prompt=params.negative_prompt or "",
        size=size if is_named else CUSTOM_SIZE,
        width=width,
        height=height,
        loras=_padded(loras, LoraField()),
        seed=params.seed,
        is_seed_locked=True,
        num_inference_steps=params.num_inference_steps,
        true_cfg_scale=params.true_cfg_scale,
        output_format=job.request.output_format,
        num_outputs=params.num_outputs,
    )


def form_of_values(values: Sequence[Any]) -> Form:
    """Read the form from what a browser sent, in the order of `FIELDS`.

    Values may have any type: browsers are not trusted. Raises InvalidParameter.
    """
    of = dict(zip(FIELDS, values, strict=True))
    return Form(
        images=images_of_values(values[:SLOTS]),
        prompt=_text(of["prompt"]),
        preset=_text(of["preset"]),
        negative_prompt=_text(of["negative_prompt"]),
        size=_text(of["size"]) or AUTO_SIZE,
        width=_number(of["width"], "size"),
        height=_number(of["height"], "size"),
        loras=tuple(
            LoraField(_text(of[f"lora_{row + 1}"]).strip(), _scale(of[f"scale_{row + 1}"], row))
            for row in range(3)
        ),
        seed=_number(of["seed"], "seed"),
        is_seed_locked=of["is_seed_locked"] is True,
        num_inference_steps=_number(of["num_inference_steps"], "num_inference_steps"),
        true_cfg_scale=_number(of["true_cfg_scale"], "true_cfg_scale"),
        output_format=_format(of["output_format"]),
        num_outputs=_number(of["num_outputs"], "num_outputs"),
    )


def images_of_values(values: Sequence[Any]) -> tuple[SlotImage | None, ...]:
    """Read the images from what a browser sent for the slots."""
    return tuple(_image(value) for value in values)


def values_of_form(form: Form) -> list[Any]:
    """The values to show in the fields, in the order of `FIELDS`; images as paths."""
    return [
        *(image.path if image else None for image in form.images),
        form.prompt, form.preset, form.negative_prompt, form.size, form.width, form.height,
        *(value for lora in form.loras for value in (lora.reference or None, lora.scale)),
        form.seed, form.is_seed_locked,
        form.num_inference_steps, form.true_cfg_scale, form.output_format, form.num_outputs,
    ]  # fmt: skip


def as_offered(values: Sequence[Any], sizes: SizeBounds) -> dict[str, Any]:
    """Name `values`, which are in the order of `FIELDS`, with a size that the page offers.

    A named size beyond `sizes`, of an edit by a larger model, becomes a custom size.
    """
    of = dict(zip(FIELDS, values, strict=True))
    if of["size"] in {value for _, value in sizes_within(sizes)}:
        return of
    try:
        width, height = parse_size(str(of["size"]), BOUNDS)
    except InvalidParameter:
        return {**of, "size": AUTO_SIZE}
    return {**of, "size": CUSTOM_SIZE, "width": width, "height": height}


def _lora(lora: LoraField, row: int) -> LoraRef:
    try:
        return LoraRef(lora.reference, lora.scale)
    except InvalidParameter as exc:
        # the engine does not know the rows of the page
        low, high = LORA_SCALE_RANGE
        raise InvalidParameter(
            f"loras.{row}.scale", f"must be between {low:g} and {high:g}, got {lora.scale:g}"
        ) from exc


def _padded(items: Sequence[Any], filler: Any) -> tuple[Any, ...]:
    return (*items[:3], *[filler] * (3 - len(items)))


def _image(value: Any) -> SlotImage | None:
    if not isinstance(value, dict) or not isinstance(value.get("path"), str):
        return None
    return SlotImage(value["path"], str(value.get("orig_name") or value["path"].rpartition("/")[2]))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _number(value: Any, field: str) -> float | None:
    """Read a number or its text; None for an empty field."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        return float(value)
    except (ValueError, OverflowError) as exc:
        raise InvalidParameter(field, f"must be a number, got {str(value)[:80]!r}") from exc


def _scale(value: Any, row: int) -> float:
    number = _number(value, f"loras.{row}.scale")
    return 1.0 if number is None else number


def _whole(value: float | None, field: str) -> int | None:
    if value is None:
        return None
    if value != value or abs(value) == float("inf") or value != int(value):
        raise InvalidParameter(field, f"must be a whole number, got {value:g}")
    return int(value)


def _format(value: Any) -> OutputFormat:
    try:
        return OutputFormat(value)
    except ValueError as exc:
        allowed = ", ".join(OutputFormat)
        raise InvalidParameter("output_format", f"must be one of {allowed}, got {value!r}") from exc
