"""The example's settings, but for how soon it notices that a server is paused."""

from example_project import settings
from example_project.settings import *  # noqa: F403  # settings are a module's names

settings.CHANNEL_LAYERS["default"]["CONFIG"] |= {"ping_interval": 1, "connect_timeout": 1}
