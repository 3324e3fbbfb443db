"""The example's settings, but for how soon it notices that a server is paused."""

from example_project.settings import *  # noqa: F403

CHANNEL_LAYERS["default"]["CONFIG"] |= {"ping_interval": 1, "connect_timeout": 1}  # noqa: F405
