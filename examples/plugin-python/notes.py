"""A plugin: notes in a folder, found by their words."""

import re
import sys
from pathlib import Path
from typing import Annotated, Any

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from pydantic import Field

PAGE = 20  # notes in one answer
NOTE_BYTES_MAX = 10_000

folder = Path(sys.argv[1])
server = MCPServer("notes", log_level="WARNING")


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def find_notes(
    query: str,
    cursor: Annotated[int, Field(ge=0, description="next_cursor of the answer before")] = 0,
) -> dict[str, Any]:
    """Names of the notes that have a text, 20 at a time."""
    found = sorted(note.name for note in folder.iterdir() if query in note.read_text())
    answer: dict[str, Any] = {"total": len(found), "notes": found[cursor : cursor + PAGE]}
    if cursor + PAGE < len(found):
        answer["next_cursor"] = cursor + PAGE
    return answer


@server.tool(annotations=ToolAnnotations(read_only_hint=False, destructive_hint=False))
def add_note(
    name: Annotated[str, Field(description="Letters, digits and - only")],
    text: str,
) -> dict[str, str]:
    """Writes a new note."""
    # What is raised as a ToolError is what the model reads.
    if not re.fullmatch(r"[A-Za-z0-9-]{1,60}", name):
        raise ToolError("name: up to 60 letters, digits and - are wanted")
    if len(text.encode()) > NOTE_BYTES_MAX:
        raise ToolError("text: too long; make two notes of it")
    try:
        with (folder / name).open("x") as file:
            file.write(text)
    except FileExistsError:
        raise ToolError("not added: there is one of that name; choose another") from None
    return {"added": name}


if __name__ == "__main__":
    server.run()  # stdio, until stdin is closed
