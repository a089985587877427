"""The messages between the server and a decoder."""

import struct
from enum import IntEnum

# The length of an image.
REQUEST_HEAD = struct.Struct(">I")
# The kind of a frame and the length of its payload.
FRAME_HEAD = struct.Struct(">BI")
# Width and height.
SIZE = struct.Struct(">II")
# Longer than a strip of RGB.
MAX_PAYLOAD_BYTES = 8 * 2**20


class Frame(IntEnum):
    """The kinds of frames that a decoder sends."""

    SIZE = 1
    RGB = 2
    END = 3
    REFUSED = 4
    OUT_OF_MEMORY = 5
