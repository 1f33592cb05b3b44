"""Stores to test with: an object store on loopback, one in memory that fails, a web server."""

import contextlib
import functools
import http.server
import os
import threading
from unittest import mock

import fsspec
from fsspec.implementations.memory import MemoryFileSystem


@contextlib.contextmanager
def object_store():
    """Runs moto's server, to which s3fs talks over HTTP: a bucket `s3://shop`."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
    }
    try:
        with mock.patch.dict(os.environ, settings):
            fsspec.filesystem("s3").clear_instance_cache()
            system = fsspec.filesystem("s3")
            system.mkdir("shop")
            yield system
    finally:
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        server.stop()


class Failing(MemoryFileSystem):
    """Files in memory, behind `failing://`, whose next calls fail as often as asked for."""

    protocol = "failing"
    store = {}
    pseudo_dirs = [""]
    failures = 0
    calls = 0

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("failing://"))

    def _may_fail(self):
        Failing.calls += 1
        if Failing.failures:
            Failing.failures -= 1
            raise ConnectionResetError("the other side went away")

    def cat_file(self, path, start=None, end=None, **kwargs):
        self._may_fail()
        return super().cat_file(path, start, end, **kwargs)

    def put_file(self, lpath, rpath, **kwargs):
        self._may_fail()
        super().put_file(lpath, rpath, **kwargs)

    def find(self, path, **kwargs):
        self._may_fail()
        return super().find(path, **kwargs)


@contextlib.contextmanager
def failing_store():
    """`failing://`, empty, and without waiting between tries."""
    from tfmoe import remote

    fsspec.register_implementation("failing", Failing, clobber=True)
    Failing.clear_instance_cache()
    Failing.store, Failing.pseudo_dirs = {}, [""]
    Failing.failures = Failing.calls = 0
    with mock.patch.object(remote, "FIRST_WAIT", 0):
        yield Failing()


@contextlib.contextmanager
def web_server(folder):
    """Serves a folder; yields its URL. Ranges it does not know."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
