"""Pages served at `/` in place of the playground: login, starting, missing, broken."""

import html

_FRAME = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>qwen-edit</title>{head}
<style>
  :root {{ color-scheme: light dark; }}
  body {{ margin: 0; min-height: 100vh; display: grid; place-items: center;
         font: 16px/1.5 system-ui, sans-serif; }}
  main {{ max-width: 26rem; padding: 1.5rem; }}
  h1 {{ font-size: 1.3rem; margin: 0 0 .5rem; }}
  p {{ margin: .5rem 0; }}
  code {{ overflow-wrap: anywhere; }}
  input, button {{ font: inherit; padding: .55rem .8rem; border-radius: .5rem;
                  border: 1px solid #8888; box-sizing: border-box; width: 100%; }}
  button {{ margin-top: .7rem; background: #4f46e5; color: #fff; border: 0; cursor: pointer; }}
  :focus-visible {{ outline: 3px solid #818cf8; outline-offset: 2px; }}
  .bad {{ color: #dc2626; }}
</style></head><body><main>{body}</main></body></html>
"""


def starting() -> str:
    """The page during the seconds until the playground is built. It reloads itself."""
    head = '<meta http-equiv="refresh" content="1">'
    body = '<h1>Starting…</h1><p role="status">The page opens in a few seconds.</p>'
    return _FRAME.format(head=head, body=body)


def missing() -> str:
    """The page where Gradio is not installed."""
    body = (
        "<h1>The page is not installed</h1><p>The API works. The page needs one more "
        "package:</p><p><code>pip install -c constraints.txt -e '.[page]'</code></p>"
        '<p>Install it and restart the server. <a href="docs">API reference</a></p>'
    )
    return _FRAME.format(head="", body=body)


def broken(reason: str) -> str:
    """The page where building the playground failed."""
    body = (
        f"<h1>The page could not start</h1><p>{html.escape(reason)}</p>"
        '<p>The API works. See the server log for details. <a href="docs">API reference</a></p>'
    )
    return _FRAME.format(head="", body=body)


def login(problem: str | None) -> str:
    """The form that asks for an API key."""
    message = f'<p class="bad" role="alert">{html.escape(problem)}</p>' if problem else ""
    body = (
        '<h1>This server needs a key</h1><form method="post" action="login">'
        '<p><label for="key">API key</label></p>'
        '<input id="key" name="key" type="password" autocomplete="current-password" required '
        f"autofocus>{message}"
        "<button>Open the page</button></form>"
    )
    return _FRAME.format(head="", body=body)
