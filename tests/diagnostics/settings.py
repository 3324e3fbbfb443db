"""Settings of a project under diagnosis: CHANNEL_LAYERS as JSON in the environment."""

import json
import os

from example_project.settings import *  # noqa: F403

CHANNEL_LAYERS = json.loads(os.environ["MPX_CHANNEL_LAYERS"])
# Most tests send to what is no consumer, messages for which the example's have no handlers.
application = None
ASGI_APPLICATION = os.environ.get("MPX_ASGI_APPLICATION", f"{__name__}.application")
