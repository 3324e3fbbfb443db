"""The example's settings, but for how soon it is seen that somebody has left."""

from example_project import settings
from example_project.settings import *  # noqa: F403  # settings are a module's names

settings.CHANNEL_LAYERS["default"]["CONFIG"] |= {"presence_linger": 6, "presence_lease": 32}
