"""The parts of the server that the page works with."""

from dataclasses import dataclass
from pathlib import Path

from pipelines.files.catalog import Catalog, ModelChoice
from server.jobs.service import EditService
from server.loras.presets import Presets
from server.loras.reports import LoraReports
from server.media.decoder_pool import DecoderPool
from server.media.outputs import OutputStore
from server.media.uploads import UploadStore
from server.net.fetch import Fetcher
from server.playground import examples
from server.settings import Settings
from server.web.auth import KeyCheck
from server.workers.executor import Executor

# The contract and endpoint that the page's jobs are listed under.
NAME = "page"
ENDPOINT = "edits"


@dataclass(frozen=True, slots=True)
class PageContext:
    """The server as the page sees it, and the paths that the page uses."""

    settings: Settings
    choice: ModelChoice
    catalog: Catalog
    service: EditService
    executor: Executor
    outputs: OutputStore
    uploads: UploadStore
    fetcher: Fetcher
    decoders: DecoderPool
    keys: KeyCheck
    presets: Presets
    reports: LoraReports

    @property
    def cache(self) -> Path:
        """Gradio's folder for uploads and displayed files. It is emptied at every start."""
        return self.settings.data_dir.absolute() / "page" / "cache"

    @property
    def shown_folders(self) -> tuple[Path, ...]:
        """Folders that hold nothing but images, all of which the page may show.

        Gradio serves its own cache besides.
        """
        data = self.settings.data_dir.absolute()
        return examples.FOLDER, data / "outputs", data / "uploads"
