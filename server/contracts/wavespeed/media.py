"""WaveSpeed's uploads: a ticket and a PUT, or one multipart POST."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, File, Request, UploadFile
from pydantic import BaseModel, Field

from server.contracts.wavespeed.schemas import Envelope
from server.contracts.wavespeed.views import iso
from server.errors import InvalidRequest
from server.media.uploads import ROUTE, TICKET_S
from server.store.uploads import Upload
from server.web.auth import caller
from server.web.contract import Services
from server.web.fields import LenientModel
from server.web.request import base_url
from server.web.unread_body import admit_body

TICKETS = "/api/v3/media/uploads"
CHUNK_BYTES = 1024 * 1024
# Larger sizes cannot be written as a float in the refusal of a file that is too large.
MAX_SIZE = 2**63 - 1
# For a form part without a file name.
NAMELESS = "upload"


class TicketRequest(LenientModel):
    """A file to upload."""

    filename: str = Field(min_length=1, max_length=1024)
    size: int = Field(ge=1, le=MAX_SIZE)
    content_type: str | None = Field(None, max_length=255, pattern=r"^[\x21-\x7e][\x20-\x7e]*$")


class MediaFile(BaseModel):
    """An uploaded file."""

    type: str
    download_url: str
    filename: str
    size: int


class UploadInstruction(BaseModel):
    """The request that uploads the bytes: exactly these headers, and no key."""

    method: str = "PUT"
    url: str
    headers: dict[str, str]
    expires_at: str


class Ticket(MediaFile):
    """A file's future URL, and how to upload it."""

    upload: UploadInstruction


def router(services: Services) -> APIRouter:
    """Return the routes that require a key."""
    uploads = services.uploads
    routes = APIRouter()

    @routes.post(TICKETS)
    async def create_upload(request: Request, body: TicketRequest) -> Envelope[Ticket]:
        """Create an upload: where to PUT the bytes, and the file's future URL."""
        base = base_url(request)
        upload = await uploads.create(
            body.filename, body.size, body.content_type, caller(request).owner
        )
        instruction = UploadInstruction(
            url=f"{base}{TICKETS}/{upload.token}",
            headers={"Content-Type": upload.content_type},
            expires_at=iso(upload.created_at + TICKET_S),
        )
        return Envelope(data=Ticket(**_file(upload, base).model_dump(), upload=instruction))

    async def upload_binary(
        request: Request, file: Annotated[UploadFile, File(description="The file")]
    ) -> Envelope[MediaFile]:
        """Store a file; its part needs no content type."""
        size = file.size or 0
        owner = caller(request).owner
        upload = await uploads.create(file.filename or NAMELESS, size, file.content_type, owner)
        stored = await uploads.write(upload, _chunks(file))
        return Envelope(data=_file(stored, base_url(request)))

    for version in ("v3", "v2"):
        path = f"/api/{version}/media/upload/binary"
        routes.add_api_route(path, upload_binary, methods=["POST"])
    return routes


def upload_router(services: Services) -> APIRouter:
    """Return the route that receives the bytes: the token in its URL is the key."""
    uploads = services.uploads
    routes = APIRouter(tags=["WaveSpeed"])

    @routes.put(TICKETS + "/{token}")
    async def put_upload(request: Request, token: str) -> Envelope[MediaFile]:
        """Store the raw body, which must match the ticket."""
        upload = await uploads.ticket(token)
        admit_body(request)
        received = request.headers.get("content-type", "")
        if _media_type(received) != _media_type(upload.content_type):
            raise InvalidRequest(
                f"the ticket is for Content-Type {upload.content_type!r}, got {received!r}: send "
                f"exactly the headers that it lists",
                field="content-type",
            )
        stored = await uploads.write(upload, request.stream())
        return Envelope(data=_file(stored, base_url(request)))

    return routes


def _file(upload: Upload, base: str) -> MediaFile:
    kind = upload.content_type.partition("/")[0].lower()
    if not upload.name.endswith(".bin"):
        kind = "image"
    return MediaFile(
        type=kind if kind in ("image", "video", "audio") else "file",
        download_url=f"{base}{ROUTE}/{upload.name}",
        filename=upload.filename,
        size=upload.size_bytes,
    )


def _media_type(header: str) -> str:
    return header.partition(";")[0].strip().lower()


async def _chunks(file: UploadFile) -> AsyncIterator[bytes]:
    while chunk := await file.read(CHUNK_BYTES):
        yield chunk
