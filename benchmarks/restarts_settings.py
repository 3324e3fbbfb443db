"""The project that `benchmarks.restarts` and `benchmarks.slow` serve: RESTARTS_STACK and _REDIS."""

import os

STACK = os.environ.get("RESTARTS_STACK", "mpx")
SECRET_KEY = "of a benchmark"
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = ["mpx_channels", "channels"]
ROOT_URLCONF = "benchmarks.restarts_server"
ROOM = "room"
LAYERS = {
    "mpx": {
        "BACKEND": "mpx_channels.layer.MpxChannelLayer",
        "CONFIG": {"history": {ROOM: {"size": 10_000, "ttl": 600}}},
    },
    "stock": {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer", "CONFIG": {}},
}
CHANNEL_LAYERS = {"default": LAYERS[STACK]}
CHANNEL_LAYERS["default"]["CONFIG"] |= {
    "hosts": [os.environ.get("RESTARTS_REDIS", "redis://localhost:6379")],
    "prefix": f"restarts-{STACK}",
}
