from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse

from .rules import MAX_NAME, MAX_ROOM, MAX_TEXT, ROOM_RULE, clean_name, is_room


def lobby(request: HttpRequest) -> HttpResponse:
    """Asks for a name and a room. The form comes back here, and is sent on to the room."""
    name = request.GET.get("name", "")
    room = request.GET.get("room", "").strip()
    if is_room(room):
        query = urlencode({"name": clean_name(name)})
        return redirect(f"{reverse('room', args=[room])}?{query}")
    return _lobby_page(request, name, room, asked="room" in request.GET)


def room(request: HttpRequest, room: str) -> HttpResponse:
    """The room's page. The messages come over the WebSocket that its script opens."""
    name = clean_name(request.GET.get("name", ""))
    if not is_room(room):
        return _lobby_page(request, name, room, asked=True)
    return render(request, "chat/room.html", {"name": name, "room": room, "max_text": MAX_TEXT})


def _lobby_page(request: HttpRequest, name: str, room: str, asked: bool) -> HttpResponse:
    context = {
        "name": name,
        "room": room,
        "error": ROOM_RULE if asked else "",
        "max_name": MAX_NAME,
        "max_room": MAX_ROOM,
        "rooms": ["django", "python", "redis"],
    }
    return render(request, "chat/lobby.html", context, status=400 if asked else 200)
