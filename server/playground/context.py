"""What the page is handed: the server's parts that it works with."""

from dataclasses import dataclass
from pathlib import Path

from pipelines.files.catalog import Catalog, ModelChoice
from server.jobs.service import EditService
from server.media.outputs import OutputStore
from server.media.uploads import UploadStore
from server.net.fetch import Fetcher
from server.playground import examples
from server.settings import Settings
from server.workers.executor import Executor

# What its jobs are listed under, as those of a contract are.
NAME = "page"
ENDPOINT = "edits"


@dataclass(frozen=True, slots=True)
class PageContext:
    """The parts, and what of the settings concerns the page."""

    settings: Settings
    choice: ModelChoice
    catalog: Catalog
    service: EditService
    executor: Executor
    outputs: OutputStore
    uploads: UploadStore
    fetcher: Fetcher

    @property
    def folder(self) -> Path:
        """The page's own folder."""
        return self.settings.data_dir.absolute() / "page"

    @property
    def cache(self) -> Path:
        """Where Gradio keeps what browsers send and are shown; it is empty after a start."""
        return self.folder / "cache"

    @property
    def shown_folders(self) -> tuple[Path, ...]:
        """Folders whose files the page may show: images and nothing else.

        Gradio serves its own cache besides.
        """
        data = self.settings.data_dir.absolute()
        return examples.FOLDER, data / "outputs", data / "uploads"

    @property
    def has_keys(self) -> bool:
        """Whether clients need a key."""
        return bool(self.settings.all_api_keys())
