"""The documents have no dead links and cover every setting, endpoint and command."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.settings import PREFIX, Settings
from tests.server.test_app import built_app

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("weights/**/README.md")]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CALL = re.compile(r"`(GET|POST|PUT|DELETE) (/\S*?)`")
METHODS = {"get", "post", "put", "delete"}
# Served, but not in the OpenAPI document.
UNDESCRIBED = {"/", "/metrics", "/outputs/{name}", "/uploads/{name}", "/docs", "/openapi.json"}


def read(name: str) -> str:
    return (ROOT / name).read_text()


def headings(path: Path) -> set[str]:
    """Return the anchors of a document, in GitHub's spelling."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def dead_links(path: Path) -> Iterator[str]:
    for link in LINK.findall(path.read_text()):
        target, _, anchor = link.partition("#")
        if re.match(r"\w+:", link):
            continue
        file = path.parent / target if target else path
        if not file.exists() or (anchor and anchor not in headings(file)):
            yield f"{path.relative_to(ROOT)}: {link}"


def test_documents_have_no_dead_links() -> None:
    assert len(DOCUMENTS) > 8
    assert [link for path in DOCUMENTS for link in dead_links(path)] == []


def test_contributing_names_files_that_exist() -> None:
    paths = re.findall(r"`([\w./]+/[\w.]+\.\w+)`", read("CONTRIBUTING.md"))

    assert len(paths) > 10
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_no_paragraph_appears_in_two_documents() -> None:
    places: dict[str, set[str]] = {}
    for path in DOCUMENTS:
        for paragraph in path.read_text().split("\n\n"):
            if len(paragraph) > 120:
                places.setdefault(" ".join(paragraph.split()), set()).add(path.name)

    assert {text: names for text, names in places.items() if len(names) > 1} == {}


def test_every_setting_is_documented() -> None:
    rows = [line for line in read("docs/settings.md").splitlines() if line.startswith("| `")]
    documented = [row.split("`")[1] for row in rows]

    assert documented == [f"{PREFIX}{name.upper()}" for name in Settings.model_fields]


def pattern(path: str) -> re.Pattern[str]:
    """Match the routes that a documented path covers; `{endpoint}` may contain slashes."""
    parts = re.split(r"(\{\w+\})", path)
    matches = {"{endpoint}": ".+"}
    return re.compile(
        "".join(matches.get(p, "[^/]+") if p.startswith("{") else re.escape(p) for p in parts)
    )


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> set[tuple[str, str]]:
    """Return each method and path of the OpenAPI document."""
    with built_app(tmp_path_factory.mktemp("data")) as app:
        paths = app.openapi()["paths"]
    return {
        (method.upper(), path) for path, found in paths.items() for method in METHODS & found.keys()
    }


def test_every_endpoint_is_documented(routes: set[tuple[str, str]]) -> None:
    calls = CALL.findall(read("docs/endpoints.md"))

    assert [
        f"{method} {path}"
        for method, path in sorted(routes)
        if not any(verb == method and pattern(call).fullmatch(path) for verb, call in calls)
    ] == []


def test_every_documented_endpoint_exists(routes: set[tuple[str, str]]) -> None:
    calls = CALL.findall(read("docs/endpoints.md"))

    assert [
        f"{verb} {call}"
        for verb, call in calls
        if call not in UNDESCRIBED
        and not any(verb == method and pattern(call).fullmatch(path) for method, path in routes)
    ] == []
