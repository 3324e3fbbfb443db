"""The Django app: in INSTALLED_APPS it has CHANNEL_LAYERS checked at start-up."""

from django.apps import AppConfig
from django.core.checks import register


class MpxChannelsConfig(AppConfig):
    """Registers the system checks."""

    name = "mpx_channels"
    verbose_name = "mpx-channels"

    def ready(self) -> None:
        from .checks import check_channel_layers

        register(check_channel_layers)
