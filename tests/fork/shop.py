"""The application that test_gunicorn.py preloads: a mesh, clients and threads at work before the workers are forked."""

import os
import threading
import time

import httpx

import meshlib

mesh = meshlib.Mesh.from_env()
client = httpx.Client(transport=mesh.transport(), timeout=10)
aclient = httpx.AsyncClient(transport=mesh.async_transport(), timeout=10)
mesh.wait_ready()


def keep_asking():
    while True:
        client.get("http://catalog/")
        time.sleep(0.005)


threading.Thread(target=keep_asking, daemon=True).start()  # in the master process alone


def wsgi(environ, start_response):
    response = client.get("http://catalog/")
    start_response(f"{response.status_code} OK", [("x-worker", str(os.getpid()))])
    return [response.content]


async def asgi(scope, receive, send):
    if scope["type"] != "http":
        return
    response = await aclient.get("http://catalog/")
    headers = [(b"x-worker", str(os.getpid()).encode())]
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": response.content})
