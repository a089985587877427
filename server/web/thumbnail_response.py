"""A thumbnail of a LoRA as a response."""

from fastapi import Response

from pipelines.files.lora_format.thumbnail import Thumbnail

# The image belongs to a file that can be replaced under its name.
MAX_AGE_S = 60


def thumbnail_response(thumbnail: Thumbnail) -> Response:
    """Return the image, which a browser shows as an image and as nothing else."""
    return Response(
        thumbnail.data,
        media_type=thumbnail.media_type,
        headers={
            "Cache-Control": f"private, max-age={MAX_AGE_S}",
            "Content-Security-Policy": "default-src 'none'; sandbox",
            "X-Content-Type-Options": "nosniff",
        },
    )
