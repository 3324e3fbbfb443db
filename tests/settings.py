"""Django settings of the test suite: the example's, on a server of the suite's own."""

import os
from urllib.parse import quote

from example_project.settings import *  # noqa: F403
from example_project.settings import BASE_DIR

ALLOWED_HOSTS = ["localhost"]

# Not the demo's server, which may be running, nor that of another process of pytest-xdist; nor the
# groups of another run of the suite.
folder = BASE_DIR / ".embedded" / f"tests-{os.environ.get('PYTEST_XDIST_WORKER', 'all')}"
CHANNEL_LAYERS["default"]["CONFIG"] |= {  # noqa: F405
    "hosts": ["embedded://" + quote(str(folder))],
    "prefix": f"tests-{os.getpid()}",
}
