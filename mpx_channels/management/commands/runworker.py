"""`runworker`, with a worker that takes a message only when it is ready to handle it.

Django uses this one when "mpx_channels" stands before "channels" in INSTALLED_APPS.
"""

from channels.management.commands.runworker import Command as ChannelsCommand

from mpx_channels.worker import MpxWorker


class Command(ChannelsCommand):
    """Channels' command; only the worker differs."""

    help = "Runs the consumers of plain channels, one message at a time for each channel."
    worker_class = MpxWorker
