"""`make demo`: a complete edit with the provider's SDK."""

import re
import subprocess
import sys
from pathlib import Path

import PIL.Image

SCRIPT = Path(__file__).parent.parent / "docs" / "demo" / "edit.py"


def test_demo_edits_an_image_shows_each_step_and_leaves_no_process(tmp_path: Path) -> None:
    output = tmp_path / "edited.png"
    with subprocess.Popen(
        [sys.executable, str(SCRIPT), "--output", str(output)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A new session, so that processes left behind can be found.
        start_new_session=True,
    ) as demo:
        printed, _ = demo.communicate(timeout=300)

    assert demo.returncode == 0, printed
    with PIL.Image.open(output) as image:
        assert image.format == "PNG"
        red, green, blue = image.convert("RGB").getpixel((image.width // 2, image.height // 2))
        assert green > max(red, blue) + 40, "the red circle is green now"
    sheet = output.with_name("before-after.png")
    for text in ("The small demo model answers", str(output), str(sheet), "denoise", "deliver"):
        assert text in printed.replace("\n", ""), printed
    # Steps in quick succession are printed as one.
    assert len(set(re.findall(r"step (\d) of 8", printed))) >= 3
    assert _session_members(demo.pid) == []


def _session_members(session: int) -> list[int]:
    """Return the running processes of a session."""
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            members.append(int(stat.parent.name))
    return members
