"""As much of Azure's resource manager as a tool needs to sign in: it lists one subscription.

Listens at https://management.azure.com, which must lead to this machine, and tells whose tokens came.
"""

import base64
import http.server
import json
import os
import shutil
import ssl
import subprocess
import tempfile
import threading

HOST = "management.azure.com"
SUBSCRIPTION = {
    "id": "/subscriptions/00000000-0000-0000-0000-000000000001",
    "subscriptionId": "00000000-0000-0000-0000-000000000001",
    "tenantId": "10000000-0000-0000-0000-000000000001",
    "displayName": "demo",
    "state": "Enabled",
}


def claims_of(token):
    payload = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return {name: claims.get(name) for name in ("appid", "oid", "aud")}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        known = scheme == "Bearer" and self.path.startswith("/subscriptions?")
        if known:
            self.server.seen.append(claims_of(token))
        body = json.dumps({"value": [SUBSCRIPTION]} if known else {"error": {"code": "NotFound"}})
        self.send_response(200 if known else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


class ResourceManager:
    """Serves while it is entered. `certificate` is the file of what signed its own."""

    audience = f"https://{HOST}/"

    def __enter__(self):
        self._folder = tempfile.mkdtemp()
        self.certificate = os.path.join(self._folder, "certificate.pem")
        key = os.path.join(self._folder, "key.pem")
        subprocess.run(
            ["openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", f"/CN={HOST}"]
            + ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
            + ["-addext", f"subjectAltName=DNS:{HOST}", "-keyout", key, "-out", self.certificate],
            check=True,
            capture_output=True,
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, key)
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 443), Handler)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.seen = self._server.seen = []
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        shutil.rmtree(self._folder)
