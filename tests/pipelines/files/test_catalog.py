"""Models and LoRAs under `weights/`: names that are found, and names that are refused."""

import os
from pathlib import Path

import pytest

from pipelines.api.errors import InvalidParameter, LoraNotFound, ModelNotFound
from pipelines.files.catalog import SHIPPED_DEMO, Catalog, HubLora, LoraEntry, RemoteLora
from pipelines.files.installation import SHIPPED_WEIGHTS
from pipelines.files.model_index import is_model_dir
from tests.fake_hub import OLDER, write_cache


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    (path / "models").mkdir(parents=True)
    (path / "loras").mkdir()
    return path


@pytest.fixture
def catalog(weights: Path) -> Catalog:
    return Catalog(weights)


def add_model(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "model_index.json").write_text("{}")
    return path


def add_lora(weights: Path, name: str, data: bytes = b"1234") -> Path:
    path = weights / "loras" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_default_model_is_the_shipped_demo(catalog: Catalog) -> None:
    choice = catalog.resolve_model(None)

    assert (choice.path, choice.is_demo) == (SHIPPED_DEMO, True)
    assert is_model_dir(choice.path)
    assert "there is no published model under" in choice.why


def test_demo_model_in_the_weights_folder_wins(catalog: Catalog, weights: Path) -> None:
    own = add_model(weights / "demo")

    assert catalog.resolve_model("demo").path == own


def test_missing_demo_model_is_refused_with_advice(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.files.catalog.SHIPPED_DEMO", tmp_path / "none")

    with pytest.raises(ModelNotFound, match="no model to serve") as refused:
        Catalog(weights).resolve_model(None)
    assert f"`qwen-edit pull 2511 --weights-dir {weights}`" in str(refused.value)


def test_default_model_is_the_only_one(catalog: Catalog, weights: Path) -> None:
    only = add_model(weights / "models" / "Qwen-Image-Edit-2511")

    choice = catalog.resolve_model(None)

    assert (choice.path, choice.is_demo) == (only, False)
    assert "--model" not in choice.why


def test_default_model_is_the_first_of_several_and_names_the_others(
    catalog: Catalog, weights: Path
) -> None:
    add_model(weights / "models" / "second")
    first = add_model(weights / "models" / "first")

    choice = catalog.resolve_model(None)

    assert choice.path == first
    assert "choose another with --model (also there: second)" in choice.why


def test_models_lists_nested_ones_and_no_other_folders(catalog: Catalog, weights: Path) -> None:
    nested = add_model(weights / "models" / "Qwen" / "Edit")
    flat = add_model(weights / "models" / "flat")
    (weights / "models" / "half-copied").mkdir()

    assert catalog.models() == [nested, flat]


def test_model_is_found_by_its_nested_name(catalog: Catalog, weights: Path) -> None:
    nested = add_model(weights / "models" / "Qwen" / "Edit")

    assert catalog.resolve_model("Qwen/Edit").path == nested


def test_model_is_found_by_its_path(catalog: Catalog, tmp_path: Path) -> None:
    elsewhere = add_model(tmp_path / "elsewhere")

    assert catalog.resolve_model(str(elsewhere)).path == elsewhere


def test_relative_path_of_a_model_becomes_absolute(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = add_model(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)

    assert catalog.resolve_model("elsewhere").path == elsewhere


def test_demo_is_found_by_name_beside_a_published_model(catalog: Catalog, weights: Path) -> None:
    add_model(weights / "models" / "published")

    assert catalog.resolve_model("demo").is_demo


def test_hub_id_means_main_in_the_cache_or_else_the_newest(
    catalog: Catalog, hub_cache: Path
) -> None:
    index = {"model_index.json": b"{}"}
    main = write_cache(hub_cache, "Qwen/Qwen-Image-Edit-2511", index)
    os.utime(main, (1, 1))
    write_cache(hub_cache, "Qwen/Qwen-Image-Edit-2511", index, commit=OLDER, ref="v2")
    older = write_cache(hub_cache, "owner/tagged", index, commit=OLDER, ref="v2")
    newest = write_cache(hub_cache, "owner/tagged", index, ref="v3")
    os.utime(older, (1, 1))

    assert catalog.resolve_model("Qwen/Qwen-Image-Edit-2511").path == main
    assert catalog.resolve_model("owner/tagged").path == newest


@pytest.mark.usefixtures("hub_cache")
def test_unknown_model_lists_the_known_ones(catalog: Catalog, weights: Path) -> None:
    add_model(weights / "models" / "one")
    add_model(weights / "models" / "owner" / "two")

    with pytest.raises(ModelNotFound, match=r"No model 'three'.*Found: one, owner/two, demo\.$"):
        catalog.resolve_model("three")


@pytest.mark.parametrize(
    "reference", ["style.safetensors", "style", "sub/other.safetensors", "sub/other"]
)
def test_lora_is_found_with_and_without_its_suffix(
    catalog: Catalog, weights: Path, reference: str
) -> None:
    add_lora(weights, "style.safetensors")
    add_lora(weights, "sub/other.safetensors")

    found = catalog.resolve_lora(reference)

    name = reference.removesuffix(".safetensors") + ".safetensors"
    assert found == LoraEntry(name, weights / "loras" / name, 4)


def test_lora_name_with_a_dot_needs_no_suffix(catalog: Catalog, weights: Path) -> None:
    path = add_lora(weights, "style-v1.5.safetensors")

    found = catalog.resolve_lora("style-v1.5")

    assert isinstance(found, LoraEntry)
    assert found.path == path


def test_symlinked_lora_is_found(catalog: Catalog, weights: Path, tmp_path: Path) -> None:
    (tmp_path / "far.safetensors").write_bytes(b"12")
    (weights / "loras" / "near.safetensors").symlink_to(tmp_path / "far.safetensors")

    assert [(entry.name, entry.size_bytes) for entry in catalog.loras()] == [
        ("near.safetensors", 2)
    ]
    assert isinstance(catalog.resolve_lora("near"), LoraEntry)


@pytest.mark.parametrize(
    "reference",
    ["../secret", "sub/../../secret", "..", "/etc/passwd", "/abs/style.safetensors"],
)
def test_lora_outside_the_folder_is_refused(
    catalog: Catalog, weights: Path, reference: str
) -> None:
    (weights / "secret.safetensors").write_bytes(b"1")

    with pytest.raises(InvalidParameter, match=r"^loras\.path must be a file name under") as caught:
        catalog.resolve_lora(reference)

    assert repr(reference) in str(caught.value)


def test_unknown_lora_lists_the_known_ones(catalog: Catalog, weights: Path) -> None:
    add_lora(weights, "b.safetensors")
    add_lora(weights, "a/c.safetensors")

    with pytest.raises(
        LoraNotFound, match=r"no LoRA 'z' under .*Found: a/c\.safetensors, b\.safetensors\.$"
    ):
        catalog.resolve_lora("z")


def test_unknown_lora_lists_none_when_there_are_none(catalog: Catalog) -> None:
    with pytest.raises(LoraNotFound, match=r"Found: none\.$"):
        catalog.resolve_lora("z")


def test_lora_with_a_name_longer_than_a_file_can_have_is_not_found(catalog: Catalog) -> None:
    with pytest.raises(LoraNotFound):
        catalog.resolve_lora("a" * 300)


def test_file_of_another_format_is_not_a_lora(catalog: Catalog, weights: Path) -> None:
    add_lora(weights, "style.pt")

    assert catalog.loras() == []
    with pytest.raises(LoraNotFound):
        catalog.resolve_lora("style.pt")


def test_folder_named_like_a_lora_is_not_one(catalog: Catalog, weights: Path) -> None:
    (weights / "loras" / "folder.safetensors").mkdir()

    assert catalog.loras() == []
    with pytest.raises(LoraNotFound):
        catalog.resolve_lora("folder")


def test_new_loras_are_listed_at_once_by_name(catalog: Catalog, weights: Path) -> None:
    assert catalog.loras() == []
    add_lora(weights, "b.safetensors")
    add_lora(weights, "a.safetensors", b"123456")

    listed = [(entry.name, entry.size_bytes) for entry in catalog.loras()]

    assert listed == [("a.safetensors", 6), ("b.safetensors", 4)]


def test_loras_are_none_when_the_folder_is_missing(tmp_path: Path) -> None:
    assert Catalog(tmp_path / "nowhere").loras() == []


def test_demo_loras_are_found_from_any_weights_folder(catalog: Catalog, weights: Path) -> None:
    add_lora(weights, "own.safetensors")

    found = catalog.with_loras_of(catalog.resolve_model("demo"))
    mosaic = found.resolve_lora("demo-mosaic")

    assert [(entry.name, entry.is_shipped) for entry in found.loras()] == [
        ("demo-mosaic.safetensors", True),
        ("demo-outline.safetensors", True),
        ("demo-sepia.safetensors", True),
        ("own.safetensors", False),
    ]
    assert isinstance(mosaic, LoraEntry)
    assert mosaic.path == SHIPPED_WEIGHTS / "loras" / "demo-mosaic.safetensors"
    assert catalog.loras() == [LoraEntry("own.safetensors", weights / "loras/own.safetensors", 4)]


def test_published_model_brings_no_demo_loras(catalog: Catalog, weights: Path) -> None:
    add_model(weights / "models" / "published")

    assert catalog.with_loras_of(catalog.resolve_model(None)).loras() == []


def test_own_lora_wins_over_a_demo_lora_of_the_same_name(catalog: Catalog, weights: Path) -> None:
    own = add_lora(weights, "demo-mosaic.safetensors")
    found = catalog.with_loras_of(catalog.resolve_model("demo"))

    entry = found.resolve_lora("demo-mosaic")

    assert entry == LoraEntry("demo-mosaic.safetensors", own, 4)
    assert entry in found.loras()


def test_other_loras_beside_the_demo_models_are_not_shipped(weights: Path, tmp_path: Path) -> None:
    add_lora(weights, "private.safetensors")
    add_lora(weights, "demo-style.safetensors")

    found = Catalog(tmp_path / "empty", shipped_loras=weights / "loras").loras()

    assert [entry.name for entry in found] == ["demo-style.safetensors"]


@pytest.mark.parametrize("url", ["https://host/x.safetensors", "HTTP://host/x"])
def test_lora_url_is_remote(catalog: Catalog, url: str) -> None:
    assert catalog.resolve_lora(url) == RemoteLora(url)


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("owner/repo", HubLora("owner/repo")),
        ("owner/repo/a.safetensors", HubLora("owner/repo", "a.safetensors")),
        ("owner/repo/sub/a b.safetensors", HubLora("owner/repo", "sub/a b.safetensors")),
        (
            "https://huggingface.co/owner/repo/blob/main/sub/a.safetensors",
            HubLora("owner/repo", "sub/a.safetensors", "main"),
        ),
        (
            "https://hf.co/owner/repo/resolve/v1/a%20b.safetensors?download=true",
            HubLora("owner/repo", "a b.safetensors", "v1"),
        ),
        ("https://huggingface.co/owner/repo", HubLora("owner/repo")),
        ("https://huggingface.co/owner/repo/tree/v1", HubLora("owner/repo", None, "v1")),
    ],
)
def test_hub_reference_names_repository_file_and_revision(
    catalog: Catalog, reference: str, expected: HubLora
) -> None:
    assert catalog.resolve_lora(reference) == expected


def test_local_file_wins_over_a_repository_of_the_same_name(
    catalog: Catalog, weights: Path
) -> None:
    add_lora(weights, "owner/repo.safetensors")

    assert isinstance(catalog.resolve_lora("owner/repo"), LoraEntry)


@pytest.mark.parametrize("reference", ["repo", "owner/repo/file.bin", "a/b/c", "-a/b/c d/"])
def test_other_text_is_not_a_hub_reference(catalog: Catalog, reference: str) -> None:
    with pytest.raises(LoraNotFound):
        catalog.resolve_lora(reference)


@pytest.mark.parametrize(
    "url",
    [
        "https://huggingface.co.evil.example/o/r/blob/main/a.safetensors",
        "https://huggingface.co/datasets/repo",
    ],
)
def test_url_outside_the_hub_stays_a_url(catalog: Catalog, url: str) -> None:
    assert catalog.resolve_lora(url) == RemoteLora(url)


@pytest.mark.parametrize(
    "url",
    ["http://[", "http://[::1/a", "https://", "https:///a", "http://host:port/", "http://h:99999/"],
)
def test_malformed_lora_url_is_refused_by_name(catalog: Catalog, url: str) -> None:
    with pytest.raises(InvalidParameter, match=r"^loras\.path must be a valid URL, got 'http"):
        catalog.resolve_lora(url)


@pytest.mark.parametrize(
    "path",
    [
        "blob/main/../x.safetensors",
        "resolve/main/sub/%2e%2e/%2e%2e/x.safetensors",
        "blob/../x.safetensors",
        "tree/..",
        "blob/main/./x.safetensors",
    ],
)
def test_hub_url_that_leaves_its_repository_is_refused(catalog: Catalog, path: str) -> None:
    with pytest.raises(InvalidParameter, match=r"^loras\.path must have no \. or \.\. in it"):
        catalog.resolve_lora(f"https://huggingface.co/owner/repo/{path}")


@pytest.mark.parametrize(
    "reference",
    [
        "nul\0byte",
        "two\nlines",
        "delete\x7f",
        "half\ud800",
        "line\u2028separator",
        "http://host/two\nlines",
        "https://huggingface.co/owner/repo/blob/main/%00.safetensors",
    ],
)
def test_lora_reference_with_control_characters_is_refused(
    catalog: Catalog, reference: str
) -> None:
    with pytest.raises(InvalidParameter, match=r"^loras\.path must have no control") as caught:
        catalog.resolve_lora(reference)

    assert str(caught.value).isprintable()


def test_lora_name_of_other_scripts_is_found(catalog: Catalog, weights: Path) -> None:
    name = "镜头转换\u3000v2 👩‍🎨.safetensors"
    add_lora(weights, name)

    assert isinstance(catalog.resolve_lora(name), LoraEntry)
    assert catalog.new_lora_path(name) == weights / "loras" / name


@pytest.mark.parametrize(
    "reference", ["owner/a--b", "owner/a..b", "owner/repo.git", "owner-/repo", f"owner/{'a' * 97}"]
)
def test_name_that_the_hub_forbids_is_not_a_hub_reference(catalog: Catalog, reference: str) -> None:
    for name in (reference, f"{reference}/a.safetensors"):
        with pytest.raises(LoraNotFound):
            catalog.resolve_lora(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "must end in .safetensors, got ''"),
        ("a.ckpt", "must end in .safetensors, got 'a.ckpt'"),
        (".a.safetensors", "must end in .safetensors, got '.a.safetensors'"),
        ("a.safetensors/b.safetensors", "must have no folder that starts with a dot or ends in"),
        (".parts/b.safetensors", "must have no folder that starts with a dot or ends in"),
        ("a" * 300 + ".safetensors", "must have at most 255 bytes between slashes"),
        ("é" * 130 + ".safetensors", "must have at most 255 bytes between slashes"),
        ("a/" * 2500 + "b.safetensors", "must have at most 8 folders"),
        ("a\nb.safetensors", "must have no control characters"),
        ("a\0.safetensors", "must have no control characters"),
        ("a\ud800.safetensors", "must have no control characters"),
        ("../a.safetensors", "must be a file name under"),
    ],
)
def test_bad_name_of_a_new_lora_is_refused(catalog: Catalog, name: str, message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        catalog.new_lora_path(name)

    assert caught.value.field == "name"
    assert str(caught.value).startswith(f"name {message}")
    assert len(str(caught.value)) < 300
