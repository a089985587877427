"""`qwen-edit presets`, over a running server."""

from rich.markup import escape
from rich.table import Table

from server.cli.client import Client
from server.cli.console import DEFAULT_SERVER, Key, Server, out


def presets(server: Server = DEFAULT_SERVER, key: Key = None) -> None:
    """List the presets of a running server, and what is wrong with broken ones."""
    with Client(server, key) as client:
        found = client.presets()["items"]
    if not found:
        out.print("No presets: put .toml files into the server's weights/presets folder.")
        return
    table = Table("name", "title", box=None, pad_edge=False)
    for preset in found:
        problem = preset["problem"]
        shown = f"[red]{escape(problem)}[/red]" if problem else escape(preset["title"])
        table.add_row(escape(preset["name"]), shown)
    out.print(table)
