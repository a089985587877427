"""The contract whose error shape a path gets."""

import itertools

import pytest
from fastapi import APIRouter
from fastapi.responses import JSONResponse

from server.contracts import CONTRACTS
from server.web.contract import Contract, Services, find_contract
from server.web.problem import Problem


def no_routes(_: Services) -> APIRouter:
    return APIRouter()


def plain(problem: Problem) -> JSONResponse:
    return JSONResponse(problem.message, problem.status)


def contract(name: str, *prefixes: str) -> Contract:
    return Contract(name, prefixes, no_routes, plain, {})


ALL = (
    contract("models", "/v1/models", "/v1/images"),
    contract("queue", "/v1/queue", "/fal-ai"),
    contract("version", "/v1"),
    contract("root", "/"),
)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/models", "models"),
        ("/v1/models/", "models"),
        ("/v1/models/a/b", "models"),
        ("/v1/images/edits", "models"),
        ("/v1/modelsX", "version"),
        ("/v1/models.json", "version"),
        ("/v1", "version"),
        ("/v1X", "root"),
        ("/v10/models", "root"),
        ("/fal-ai/app/requests/1", "queue"),
        ("/fal-air", "root"),
        ("/x/v1/models", "root"),
        ("/", "root"),
        ("*", "root"),
    ],
)
def test_longest_prefix_of_whole_segments_wins_in_every_order(path: str, expected: str) -> None:
    for contracts in itertools.permutations(ALL):
        assert find_contract(contracts, path).name == expected


def test_path_without_a_contract_is_an_error() -> None:
    with pytest.raises(LookupError, match="/v2/models"):
        find_contract([contract("models", "/v1/models")], "/v2/models")


def test_contracts_have_distinct_names_and_prefixes() -> None:
    names = [each.name for each in CONTRACTS]
    prefixes = [prefix for each in CONTRACTS for prefix in each.prefixes]

    assert len(set(names)) == len(names)
    assert len(set(prefixes)) == len(prefixes)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/api/v3/predictions/1", "wavespeed"),
        ("/apiary", "native"),
        ("/v1/queue/qwen_image_edit_plus", "provider_queue"),
        ("/model/v1/queue/qwen_image_edit_plus", "provider_queue"),
        ("/fal-ai/qwen-image-edit-plus", "provider_queue"),
        ("/run/fal-ai/qwen-image-edit-plus", "provider_queue"),
        ("/v1/images/edits", "openai"),
        ("/v1/models", "openai"),
        ("/v1/modelsX", "native"),
        ("/v1/edits", "native"),
        ("/health", "native"),
        ("/nowhere", "native"),
    ],
)
def test_each_path_has_the_contract_of_its_clients(path: str, expected: str) -> None:
    assert find_contract(CONTRACTS, path).name == expected
