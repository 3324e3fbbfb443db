from django.urls import path, re_path

from example_project.chat import views
from example_project.chat.consumers import ChatConsumer

urlpatterns = [
    path("", views.lobby, name="lobby"),
    path("room/<str:room>/", views.room, name="room"),
]

# Any room matches: the consumer can tell the browser what is wrong with one, a missing route can't.
websocket_urlpatterns = [
    re_path(r"^ws/chat/(?P<room>.*)/$", ChatConsumer.as_asgi()),
]
