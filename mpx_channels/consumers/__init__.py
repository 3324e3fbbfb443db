"""What a Django developer subclasses, or puts before a consumer of Channels."""

from .mixin import MpxConsumerMixin
from .promises import PromiseMixin
from .subscriptions import ChannelSubscriptionMixin, PatternSubscriptionMixin

__all__ = [
    "ChannelSubscriptionMixin",
    "MpxConsumerMixin",
    "PatternSubscriptionMixin",
    "PromiseMixin",
]
