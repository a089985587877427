"""Bad requests to every route: a good one with a few things changed, by a seed."""

import base64
import itertools
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.fuzz.bad_files import bad_image
from tests.fuzz.odd_forms import form_body, good_form_body
from tests.fuzz.odd_http import Draft, change
from tests.fuzz.odd_json import dump, json_body
from tests.fuzz.raw_http import RawRequest
from tests.fuzz.targets import ID, KINDS, TOKEN, Target

IMAGE_FIELDS = ("images", "image", "image_urls", "image_url")
# The share of submits with a damaged image in place of an odd value.
IMAGE_SHARE = 0.3


@dataclass(slots=True)
class Known:
    """What earlier responses named: a job, and the token of an upload."""

    job_id: str = "0" * 32
    token: str = "0" * 64


def good_requests(known: Known, key: str | None) -> Iterator[RawRequest]:
    """An unchanged request to every route that takes a body; each should be accepted."""
    for target in itertools.chain.from_iterable(KINDS.values()):
        draft = _draft(target, known, key)
        if target.form:
            kind, draft.body = good_form_body(target.form)
            draft.headers.append((b"Content-Type", kind))
        elif target.json is not None:
            draft.body = dump(dict(target.json))
            draft.headers.append((b"Content-Type", b"application/json"))
        else:
            continue
        yield draft.finished()


def bad_request(rng: random.Random, known: Known, key: str | None) -> RawRequest:
    """A request to any route; few of them are good by chance."""
    target = rng.choice(KINDS[rng.choice(sorted(KINDS))])
    draft = _draft(target, known, key)
    if target.form:
        kind, draft.body = form_body(rng, target.form)
        draft.headers.append((b"Content-Type", kind))
    elif target.raw is not None:
        draft.body = rng.choice((target.raw, bad_image(rng), b"", target.raw + b"a"))
    elif target.json is not None:
        draft.body = _json(rng, target.json, known)
        draft.headers.append((b"Content-Type", b"application/json"))
    # a body is bad already
    for _ in range(rng.choice((0, 0, 0, 1) if draft.body else (1, 1, 2))):
        change(rng, draft)
    return draft.finished()


def _draft(target: Target, known: Known, key: str | None) -> Draft:
    """A request to the route, without its body."""
    path = target.path.replace(ID, known.job_id).replace(TOKEN, known.token)
    headers = [(name.encode(), value.encode()) for name, value in target.headers.items()]
    if key is not None:
        headers.append((b"X-API-Key", key.encode()))
    return Draft(target.method, path.encode(), headers)


def _json(rng: random.Random, good: Mapping[str, Any], known: Known) -> bytes:
    fields = dict(good)
    if "ids" in fields:
        fields["ids"] = [known.job_id, "b"]
    names = [name for name in IMAGE_FIELDS if name in fields]
    if not names or rng.random() > IMAGE_SHARE:
        return json_body(rng, fields)
    text = "data:image/png;base64," + base64.b64encode(bad_image(rng)).decode()
    for name in names:
        fields[name] = [text] if isinstance(fields[name], list) else text
    return dump(fields)
