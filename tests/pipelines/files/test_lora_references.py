"""References to LoRAs elsewhere: pages and ids of the hub, of Civitai and of ModelScope."""

from pathlib import Path

import pytest

from pipelines.api.errors import InvalidParameter, LoraNotFound
from pipelines.files.catalog import Catalog, HubLora, LoraEntry, ModelScopeLora, RemoteLora

CIVITAI = "https://civitai.com/api/download/models/2"
MODELSCOPE = "https://www.modelscope.cn"
FILE = f"{MODELSCOPE}/models/owner/repo/resolve"


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    (tmp_path / "loras").mkdir()
    return Catalog(tmp_path)


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("owner/repo@v1.0", HubLora("owner/repo", None, "v1.0")),
        ("owner/repo@v1/a.safetensors", HubLora("owner/repo", "a.safetensors", "v1")),
        ("a/b@refs/pr/3/s/a.safetensors", HubLora("a/b", "s/a.safetensors", "refs/pr/3")),
        ("hf://owner/repo", HubLora("owner/repo")),
        ("hf://owner/repo/sub/镜头 1.safetensors", HubLora("owner/repo", "sub/镜头 1.safetensors")),
        ("hf://owner/repo@main/a.safetensors", HubLora("owner/repo", "a.safetensors", "main")),
        ("urn:air:qwen:lora:huggingface:owner/repo@main", HubLora("owner/repo", None, "main")),
    ],
)  # fmt: skip
def test_hub_reference_names_a_revision(
    catalog: Catalog, reference: str, expected: HubLora
) -> None:
    assert catalog.resolve_lora(reference) == expected


@pytest.mark.parametrize(
    "reference",
    [
        "https://civitai.com/models/1?modelVersionId=2",
        "https://www.civitai.com/models/1?modelVersionId=2",
        "https://civitai.com/models/1/my-style?modelVersionId=2&type=Model#images",
        "https://civitai.com/model-versions/2",
        "https://civitai.com/api/v1/model-versions/2",
        "civitai:1@2",
        "urn:air:sdxl:lora:civitai:1@2",
        "URN:AIR:qwen:LoRA:civitai:1@2",
        "air:qwen:lora:civitai:1@2",
        "urn:air:qwen:lora:civitai:1@2:layer.safetensor",
    ],
)
def test_page_and_air_id_of_civitai_mean_the_download_of_the_version(
    catalog: Catalog, reference: str
) -> None:
    found = catalog.resolve_lora(reference)

    assert isinstance(found, RemoteLora)
    assert found.url.replace("www.", "") == CIVITAI


def test_page_of_another_civitai_site_stays_on_that_site(catalog: Catalog) -> None:
    found = catalog.resolve_lora("https://civitai.red/models/1?modelVersionId=2")

    assert found == RemoteLora("https://civitai.red/api/download/models/2")


@pytest.mark.parametrize(
    "reference",
    [
        "https://civitai.com/models/1",
        "https://civitai.com/models/1/my-style?modelVersionId=two",
        "https://civitai.com/models/1?modelVersionId=２",
        "civitai:1",
        "urn:air:qwen:lora:civitai:1",
    ],
)
def test_civitai_model_without_a_version_is_refused_with_advice(
    catalog: Catalog, reference: str
) -> None:
    with pytest.raises(InvalidParameter, match=r"^loras\.path must name a version") as caught:
        catalog.resolve_lora(reference)

    assert "?modelVersionId=, or civitai:MODEL@VERSION" in str(caught.value)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://modelscope.cn/models/owner/repo", ModelScopeLora(MODELSCOPE, "owner/repo")),
        ("https://modelscope.cn/models/owner/repo/", ModelScopeLora(MODELSCOPE, "owner/repo")),
        (
            "https://www.modelscope.ai/models/owner/repo/summary",
            ModelScopeLora("https://www.modelscope.ai", "owner/repo"),
        ),
        ("https://modelscope.cn/models/owner/repo/files", ModelScopeLora(MODELSCOPE, "owner/repo")),
        (
            "https://modelscope.cn/models/owner/repo/tree/v1/",
            ModelScopeLora(MODELSCOPE, "owner/repo", "v1"),
        ),
        (
            "https://modelscope.cn/models/owner/repo/file/view/master/sub%2Fa%20b.safetensors?id=1",
            RemoteLora(f"{FILE}/master/sub/a%20b.safetensors"),
        ),
        (
            "https://modelscope.cn/models/owner/repo/file/view/v1?fileName=s%252Fa.safetensors",
            RemoteLora(f"{FILE}/v1/s/a.safetensors"),
        ),
        (
            "https://modelscope.cn/models/owner/repo/resolve/master/镜头.safetensors",
            RemoteLora(f"{FILE}/master/%E9%95%9C%E5%A4%B4.safetensors"),
        ),
    ],
)
def test_page_and_link_of_modelscope_mean_its_file(
    catalog: Catalog, url: str, expected: RemoteLora | ModelScopeLora
) -> None:
    assert catalog.resolve_lora(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "https://modelscope.cn/models/owner/repo/file/view/master/../a.safetensors",
        "https://modelscope.cn/models/owner/repo/file/view/v1?fileName=..%252Fa.safetensors",
        "https://civitai.com/models/../1?modelVersionId=2",
    ],
)
def test_page_that_leaves_its_folder_is_refused(catalog: Catalog, url: str) -> None:
    with pytest.raises(InvalidParameter, match=r"^loras\.path must have no \. or \.\. in it"):
        catalog.resolve_lora(url)


@pytest.mark.parametrize(
    "url",
    [
        CIVITAI,
        "https://civitai.com/images/7",
        "https://civitai.com.evil.example/models/1?modelVersionId=2",
        "https://user@civitai.com/models/1?modelVersionId=2",
        "https://modelscope.cn/api/v1/models/owner/repo/repo?FilePath=a.safetensors",
        "https://modelscope.cn/models/owner/repo/file/view/master",
        "https://modelscope.cn/datasets/owner/repo",
    ],
)
def test_other_url_stays_as_it_is(catalog: Catalog, url: str) -> None:
    assert catalog.resolve_lora(url) == RemoteLora(url)


def test_mirror_takes_the_place_of_its_site(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIVITAI_ENDPOINT", "http://mirror:8080/")
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://other:9090")

    civitai = [
        catalog.resolve_lora(reference)
        for reference in ("civitai:1@2", "http://mirror:8080/models/1?modelVersionId=2")
    ]
    modelscope = [
        catalog.resolve_lora(f"{site}/models/owner/repo")
        for site in (MODELSCOPE, "http://other:9090")
    ]

    assert civitai == [RemoteLora("http://mirror:8080/api/download/models/2")] * 2
    assert modelscope == [ModelScopeLora("http://other:9090", "owner/repo")] * 2


@pytest.mark.parametrize("name", ["civitai:1@2", "owner/repo@v1", "hf://owner/repo"])
def test_local_file_wins_over_a_reference(catalog: Catalog, tmp_path: Path, name: str) -> None:
    path = tmp_path / "loras" / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"1234")

    assert isinstance(catalog.resolve_lora(name), LoraEntry)


@pytest.mark.parametrize(
    "reference",
    ["owner/repo@", "owner/repo@-v", "owner/repo@v1/a.bin", "hf:/owner/repo", "civitai:a@2", "@v1"],
)
def test_other_text_is_no_reference(catalog: Catalog, reference: str) -> None:
    with pytest.raises(LoraNotFound):
        catalog.resolve_lora(reference)
