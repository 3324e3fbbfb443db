"""The part of scripts/demo that needs .venv: serves the example until it is told to stop."""

import signal

# First of all, and until `run` catches it: INT comes ignored from scripts/demo or a shell's &.
signal.signal(signal.SIGINT, signal.SIG_DFL)

import os  # noqa: E402
import shlex  # noqa: E402
import socket  # noqa: E402
import sys  # noqa: E402

from _run import run  # noqa: E402

TOLD_TO_STOP = [128 + s for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)]


def main(cluster: bool) -> int | str:
    """Exit status, or what went wrong."""
    host = os.environ.get("HOST") or "127.0.0.1"
    port = os.environ.get("PORT") or "8000"
    try:
        # Daphne would report a taken port from under its reloader, and stay.
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, int(port)), family=family).close()
    except (ValueError, OverflowError):
        return f"PORT must be a number from 1 to 65535, not {port!r}."
    except OSError as error:
        reason = str(error.strerror).partition(" (while")[0]
        return (
            f"The demo can't listen on {host}, port {port}: {reason}. Set HOST or PORT to another."
        )

    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    print(f"Chat at http://{address} (Ctrl-C ends it)", flush=True)
    if cluster:
        os.environ["REDIS_CLUSTER"] = "1"  # as the settings read it
    embedded_url = "embedded+cluster://" if cluster else "embedded://"
    if cluster and not os.environ.get("REDIS_URL"):
        nodes = pid_file(embedded_url)
        print(f"Kill one of its nodes and look on: kill -9 $(cat {nodes})", flush=True)
    print(f"Look inside from another terminal: {look_inside()}", flush=True)
    os.environ["HOST"] = host  # the settings allow it as the site's name
    os.environ["DJANGO_SETTINGS_MODULE"] = "example_project.settings"
    os.environ["PYTHONUNBUFFERED"] = "1"
    # TERM, because INT gives a traceback if Django is still being imported.
    status = run([sys.executable, "manage.py", "runserver", address], ending=signal.SIGTERM)

    if not os.environ.get("REDIS_URL"):
        from mpx_channels import embedded

        if not embedded.wait_stopped(embedded_url):
            what = "cluster" if cluster else "server"
            print(f"The embedded {what} goes on: something else uses it.")
    return 0 if status in TOLD_TO_STOP else status


def pid_file(url: str) -> str:
    """The one of a cluster's first node."""
    from mpx_channels.embedded_places import place_of

    return str(place_of(url, None).sockets[0].with_name("valkey.pid"))


def look_inside() -> str:
    """The command that shows this demo's processes, from the same folder."""
    command = ".venv/bin/python manage.py mpx top"
    for name in ("REDIS_URL", "REDIS_CLUSTER", "MPX_EMBEDDED_DIR"):
        if value := os.environ.get(name):
            # No password that was given to us comes to the terminal.
            shown = "..." if name == "REDIS_URL" and "@" in value else shlex.quote(value)
            command = f"{name}={shown} {command}"
    return command


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] == ["--cluster"]))
