"""A project whose Redis is not there."""

from asgiref.testing import ApplicationCommunicator

# Channels' test clients give up after a second, which is little on a busy machine.
for name in ("receive_output", "wait"):
    function = getattr(ApplicationCommunicator, name)

    async def patient(self, timeout=1, function=function):
        return await function(self, timeout * 30)

    setattr(ApplicationCommunicator, name, patient)

SECRET_KEY = "not one"
ALLOWED_HOSTS = ["testserver"]
INSTALLED_APPS = ["daphne", "mpx_channels", "channels"]
ASGI_APPLICATION = "asgi.application"
ROOT_URLCONF = "asgi"
STATIC_URL = "static/"
USE_TZ = True
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": "db.sqlite3",
        "TEST": {"NAME": "test.sqlite3"},
    }
}
NOWHERE = "redis://127.0.0.1:1"
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "mpx_channels.layer.MpxChannelLayer",
        "CONFIG": {"hosts": [NOWHERE], "prefix": "chat", "capacity": 7},
    },
    "same names": {
        "BACKEND": "mpx_channels.layer.MpxChannelLayer",
        "CONFIG": {"hosts": [NOWHERE], "prefix": "chat", "capacity": 1000},
    },
    "other names": {
        "BACKEND": "mpx_channels.layer.MpxChannelLayer",
        "CONFIG": {"hosts": [NOWHERE], "prefix": "mail"},
    },
    "in memory": {"BACKEND": "channels.layers.InMemoryChannelLayer"},
}
