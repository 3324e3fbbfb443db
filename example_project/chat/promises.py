"""Two plain views, for curl: one waits for a promise, the other one resolves it."""

import json

import redis
from channels.layers import get_channel_layer
from django.http import HttpRequest, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST

from mpx_channels.layer import PromiseRejected

TIMEOUT = 20
LONGEST = 300


@require_GET
async def wait(request: HttpRequest, name: str) -> JsonResponse:
    """
    Waits until somebody resolves the promise, and shows the value::

        $ curl 'http://127.0.0.1:8000/wait/tea/?timeout=20'
        {"value": {"tea": "ready"}}

    Otherwise ``{"error": REASON}`` with one of these: 504 after ``timeout`` seconds (20 unless
    told; 300 at most), 409 if it was rejected, 503 if the connection to Redis broke, 400 for a
    bad name or timeout. A promise has no memory: what was resolved before nobody gets.
    """
    try:
        timeout = float(request.GET.get("timeout", TIMEOUT))
    except ValueError:
        timeout = 0
    if not 0 < timeout <= LONGEST:
        return error(400, f"timeout is a number of seconds up to {LONGEST}, and more than 0.")

    try:
        value = await get_channel_layer().promise(name, timeout)
    except TypeError as bad_name:
        return error(400, bad_name)
    except TimeoutError:
        return error(504, f"Nobody resolved {name!r} in {timeout:g} s.")
    except PromiseRejected as reason:
        return error(409, reason)
    except redis.ConnectionError as broken:
        return error(503, broken)
    return JsonResponse({"value": value})


# No token is needed where nothing can be forged: there are no cookies here and no users, and a
# page of another site could do no more than what anybody may do with curl.
@csrf_exempt
@require_POST
def resolve(request: HttpRequest, name: str) -> JsonResponse:
    """
    Resolves the promise with the body, which is JSON, and shows how many waited for it::

        $ curl 'http://127.0.0.1:8000/resolve/tea/' -d '{"tea": "ready"}'
        {"waiters": 1}

    Otherwise ``{"error": REASON}``: 400 for a bad body or name, 503 without Redis.
    """
    try:
        value = json.loads(request.body)
    except (ValueError, RecursionError) as reason:
        return error(400, f"The body must be JSON, as in -d '\"ready\"', but: {reason}")
    try:
        waiters = get_channel_layer().sync.resolve(name, value)
    except TypeError as bad_name_or_value:
        return error(400, bad_name_or_value)
    except redis.ConnectionError as broken:
        return error(503, broken)
    return JsonResponse({"waiters": waiters})


def error(status: int, reason: object) -> JsonResponse:
    return JsonResponse({"error": str(reason)}, status=status)
