from django.urls import path, re_path

from example_project.chat import views
from example_project.chat.consumers import ChatConsumer
from example_project.chat.here import HereConsumer
from example_project.chat.mentions import MentionsConsumer, mentions
from example_project.chat.promises import resolve, wait

urlpatterns = [
    path("", views.lobby, name="lobby"),
    path("room/<str:room>/", views.room, name="room"),
]

# Any room matches: the consumer can tell the browser what is wrong with one, a missing route can't.
websocket_urlpatterns = [
    re_path(r"^ws/chat/(?P<room>.*)/$", ChatConsumer.as_asgi()),
]

# From here on, what the tutorial leaves out.
urlpatterns += [
    path("mentions/", mentions, name="mentions"),
    path("wait/<str:name>/", wait, name="wait"),
    path("resolve/<str:name>/", resolve, name="resolve"),
]

# The first route that matches counts: this ChatConsumer takes questions, too, and says who is here.
websocket_urlpatterns = [
    re_path(r"^ws/chat/(?P<room>.*)/$", HereConsumer.as_asgi()),
    re_path(r"^ws/mentions/$", MentionsConsumer.as_asgi()),
    *websocket_urlpatterns,
]
