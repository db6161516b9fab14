"""The plugin as a client sees it: over stdio, in both revisions of the protocol."""

import asyncio
import sys
import tempfile
from pathlib import Path

from mcp import Client, StdioServerParameters

PLUGIN = Path(__file__).with_name("notes.py")


async def notes_are_found(mode: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        plugin = StdioServerParameters(command=sys.executable, args=[str(PLUGIN), folder])
        async with Client(plugin, mode=mode) as client:
            for n in range(25):
                added = await client.call_tool("add_note", {"name": f"n-{n:02}", "text": "a word"})
                assert not added.is_error, added
            first = (await client.call_tool("find_notes", {"query": "word"})).structured_content
            assert (first["total"], first["next_cursor"]) == (25, 20), first
            rest = await client.call_tool("find_notes", {"query": "word", "cursor": 20})
            assert len(rest.structured_content["notes"]) == 5, rest
            wrong = await client.call_tool("add_note", {"name": "../x", "text": ""})
            assert wrong.is_error and "letters" in wrong.content[0].text, wrong


def test_notes() -> None:
    for mode in ("legacy", "2026-07-28"):
        asyncio.run(notes_are_found(mode))


if __name__ == "__main__":
    test_notes()
