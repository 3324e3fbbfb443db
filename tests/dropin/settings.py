"""Django settings for Channels' own tests."""

import os

SECRET_KEY = "not one"
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "channels",
]
# A file, for connections of several threads at once.
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": "db.sqlite3",
        "TEST": {"NAME": os.path.abspath("test.sqlite3")},
    }
}
USE_TZ = True
