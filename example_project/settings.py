"""Settings of the example. They are for a development machine, not for a server."""

import os
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent

# Fixed, so that the example starts without any preparation. A real project keeps its key secret.
SECRET_KEY = "the-key-of-an-example-that-has-nothing-to-hide"

DEBUG = os.environ.get("DJANGO_DEBUG", "1").lower() in ("1", "true", "yes", "on")

# The names this site answers to. Channels checks a WebSocket's Origin against the same list.
# Reached by another name or address, say from a phone: DJANGO_ALLOWED_HOSTS=192.168.1.20
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]"]
ALLOWED_HOSTS += [host for host in [os.environ.get("HOST")] if host]
ALLOWED_HOSTS += os.environ.get("DJANGO_ALLOWED_HOSTS", "").replace(",", " ").split()

INSTALLED_APPS = [
    "daphne",  # first: its runserver speaks WebSocket
    "django.contrib.staticfiles",
    "mpx_channels",  # before channels: its runworker is the better one
    "channels",
    "example_project.chat",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "example_project.urls"
ASGI_APPLICATION = "example_project.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
    },
]

STATIC_URL = "static/"

# What the chat remembers is in Redis, so there is no database.
DATABASES = {}

USE_TZ = True
TIME_ZONE = "UTC"

# The one setting this example is about. "embedded://" starts a Valkey server of its own;
# to use a server you have: REDIS_URL=redis://localhost:6379
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "mpx_channels.layer.MpxChannelLayer",
        "CONFIG": {
            "hosts": [os.environ.get("REDIS_URL") or "embedded://"],
            # Rooms keep their last messages, until a day after the last one.
            "history": {"chat.*": {"size": 1000, "ttl": 86400}},
        },
    },
}

# With REDIS_CLUSTER=1 that server is any node of a cluster, or the cluster is one of its own.
if os.environ.get("REDIS_CLUSTER", "").lower() in ("1", "true", "yes", "on"):
    CHANNEL_LAYERS["default"]["CONFIG"] |= {
        "hosts": [os.environ.get("REDIS_URL") or "embedded+cluster://"],
        "cluster": True,
        # Or else there are no wildcard groups, which the page of mentions is made with.
        "sharded_pubsub": False,
    }
