"""Settings of a project under diagnosis: CHANNEL_LAYERS as JSON in the environment."""

import json
import os

from example_project.settings import *  # noqa: F403

CHANNEL_LAYERS = json.loads(os.environ["MPX_CHANNEL_LAYERS"])
