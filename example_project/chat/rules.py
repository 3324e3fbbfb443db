"""What people, rooms and messages may be. The pages and the WebSocket share these rules."""

import re

MAX_NAME = 40
MAX_ROOM = 50
MAX_TEXT = 2000
ANONYMOUS = "anonymous"

ROOM_RULE = f"A room's name is 1 to {MAX_ROOM} letters, digits, hyphens, underscores or dots."


def is_room(room: str) -> bool:
    """Whether a group can carry this name: Channels allows it ASCII letters, digits, - _ and ."""
    return re.fullmatch(rf"[A-Za-z0-9._-]{{1,{MAX_ROOM}}}", room) is not None


def clean_name(name: str) -> str:
    """The name without stray white space, at most MAX_NAME characters, never empty."""
    return " ".join(name.split())[:MAX_NAME].strip() or ANONYMOUS
